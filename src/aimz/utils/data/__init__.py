"""Arrays in: what the user passes -> arrays that are safe to hand to the device."""

from aimz.utils.data.array_dataset import ArrayDataset
from aimz.utils.data.array_loader import ArrayLoader
from aimz.utils.data.arrays import fingerprint, is_array, read_array, read_count
from aimz.utils.data.calls import Call, read_call
from aimz.utils.data.sources import BatchReader, Field, Rows, is_batches, is_shuffled

__all__ = [
    "ArrayDataset",
    "ArrayLoader",
    "BatchReader",
    "Call",
    "Field",
    "Rows",
    "fingerprint",
    "is_array",
    "is_batches",
    "is_shuffled",
    "read_array",
    "read_call",
    "read_count",
]

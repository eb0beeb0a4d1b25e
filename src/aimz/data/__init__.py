"""Arguments in: what the user passes -> arrays, rows and keys that are safe to hand on."""

from aimz.data.arrays import differences, fingerprint, is_array, read_array, read_count
from aimz.data.batches import ArrayBatches, Batches, IterableBatches, count_rows
from aimz.data.calls import Call, read_call
from aimz.data.keys import read_key
from aimz.data.paths import read_output_dir
from aimz.data.sources import BatchReader, Field, Rows, Stacked, is_batches, is_shuffled

__all__ = [
    "ArrayBatches",
    "BatchReader",
    "Batches",
    "Call",
    "Field",
    "IterableBatches",
    "Rows",
    "Stacked",
    "count_rows",
    "differences",
    "fingerprint",
    "is_array",
    "is_batches",
    "is_shuffled",
    "read_array",
    "read_call",
    "read_count",
    "read_key",
    "read_output_dir",
]

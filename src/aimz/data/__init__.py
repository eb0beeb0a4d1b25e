"""Arguments in: what the user passes -> arrays, rows and keys that are safe to hand on."""

from aimz.data.arrays import differences, fingerprint, is_array, read_array, read_count
from aimz.data.batches import ArrayBatches, Batches, IterableBatches, count_rows
from aimz.data.calls import Call, check_aligned, read_call
from aimz.data.frames import index_of, is_plain_range
from aimz.data.keys import read_key
from aimz.data.paths import read_input_dir, read_output_dir
from aimz.data.pieces import Pieces, open_pieces
from aimz.data.reader import BatchReader
from aimz.data.shares import Share, share
from aimz.data.sources import Field, Rows, Stacked, is_batches, is_shuffled
from aimz.data.tables import Parameters, Table, named_columns, open_table

__all__ = [
    "ArrayBatches",
    "BatchReader",
    "Batches",
    "Call",
    "Field",
    "IterableBatches",
    "Parameters",
    "Pieces",
    "Rows",
    "Share",
    "Stacked",
    "Table",
    "check_aligned",
    "count_rows",
    "differences",
    "fingerprint",
    "index_of",
    "is_array",
    "is_batches",
    "is_plain_range",
    "is_shuffled",
    "named_columns",
    "open_pieces",
    "open_table",
    "read_array",
    "read_call",
    "read_count",
    "read_input_dir",
    "read_key",
    "read_output_dir",
    "share",
]

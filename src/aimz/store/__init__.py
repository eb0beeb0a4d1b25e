"""Where results land: blocks -> arrays, on disk or in memory.

Imported when a result is stored, since it brings zarr.
"""

from aimz.store.journal import JOURNAL, Journal, differences
from aimz.store.location import Home, new_directory, read_output_dir
from aimz.store.memory_sink import MemorySink
from aimz.store.reading import StoredArray, open_result
from aimz.store.sink import Group, Sink, Variable
from aimz.store.zarr_sink import ZarrSink

__all__ = [
    "JOURNAL",
    "Group",
    "Home",
    "Journal",
    "MemorySink",
    "Sink",
    "StoredArray",
    "Variable",
    "ZarrSink",
    "differences",
    "new_directory",
    "open_result",
    "read_output_dir",
]

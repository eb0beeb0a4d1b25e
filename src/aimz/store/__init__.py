"""Where results land: blocks -> arrays, on disk or in memory.

Imported when a result is stored, since it brings zarr.
"""

from aimz.ahead import await_imports

await_imports()

from aimz.store.average_sink import AverageSink  # noqa: E402
from aimz.store.chunk_writer import ChunkWriter  # noqa: E402
from aimz.store.home import Home  # noqa: E402
from aimz.store.journal import JOURNAL, Journal  # noqa: E402
from aimz.store.location import Directory, Location, located, new_call  # noqa: E402
from aimz.store.memory_sink import MemorySink  # noqa: E402
from aimz.store.prefix import Prefix  # noqa: E402
from aimz.store.reading import STATE, StoredArray, check_result  # noqa: E402
from aimz.store.sink import Group, Sink, SinkPart, Variable  # noqa: E402
from aimz.store.spill_sink import SpillSink  # noqa: E402
from aimz.store.urls import locate  # noqa: E402
from aimz.store.zarr_sink import ZarrSink  # noqa: E402

__all__ = [
    "JOURNAL",
    "STATE",
    "AverageSink",
    "ChunkWriter",
    "Directory",
    "Group",
    "Home",
    "Journal",
    "Location",
    "MemorySink",
    "Prefix",
    "Sink",
    "SinkPart",
    "SpillSink",
    "StoredArray",
    "Variable",
    "ZarrSink",
    "check_result",
    "locate",
    "located",
    "new_call",
]

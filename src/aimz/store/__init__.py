"""Where results land: blocks -> arrays, on disk or in memory.

Imported when a result is stored, since it brings zarr.
"""

from aimz._imports import await_imports

await_imports()

from aimz.store.accumulator import SumAccumulator  # noqa: E402
from aimz.store.base import Group, ResultStore, StorePart, Variable  # noqa: E402
from aimz.store.chunk_writer import ChunkWriter  # noqa: E402
from aimz.store.guest_sink import GuestSink  # noqa: E402
from aimz.store.journal import JOURNAL, Journal  # noqa: E402
from aimz.store.location import Directory, Location, located, new_call  # noqa: E402
from aimz.store.memory import InMemoryStore  # noqa: E402
from aimz.store.object_store import ObjectStoreLocation  # noqa: E402
from aimz.store.stored_array import STATE, StoredArray, check_result  # noqa: E402
from aimz.store.temporary_directory import ResultHome  # noqa: E402
from aimz.store.temporary_file import TemporaryFileStore  # noqa: E402
from aimz.store.urls import locate  # noqa: E402
from aimz.store.zarr_store import ZarrStore  # noqa: E402

__all__ = [
    "JOURNAL",
    "STATE",
    "ChunkWriter",
    "Directory",
    "Group",
    "GuestSink",
    "InMemoryStore",
    "Journal",
    "Location",
    "ObjectStoreLocation",
    "ResultHome",
    "ResultStore",
    "StorePart",
    "StoredArray",
    "SumAccumulator",
    "TemporaryFileStore",
    "Variable",
    "ZarrStore",
    "check_result",
    "locate",
    "located",
    "new_call",
]

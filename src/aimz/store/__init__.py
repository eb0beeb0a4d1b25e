"""Stores of streamed results: a directory, an object store, memory, or sums over rows.

Imported when the first result is stored, since it imports zarr.
"""

from aimz._imports import await_imports

await_imports()

from aimz.store.accumulator import SumAccumulator
from aimz.store.base import Group, NullPart, ResultStore, StorePart, Variable
from aimz.store.check_accumulator import CheckAccumulator
from aimz.store.chunk_writer import ChunkWriter
from aimz.store.journal import Journal
from aimz.store.location import JOURNAL, Directory, Location, as_location, new_call_location
from aimz.store.memory import InMemoryStore
from aimz.store.object_store import ObjectStoreLocation
from aimz.store.stored_array import StoredArray
from aimz.store.stored_result import STATE, StoredResult, check_result, is_unfinished, reporting_damage
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.temporary_file import TemporaryFileStore
from aimz.store.urls import read_location
from aimz.store.zarr_store import ZarrStore

__all__ = [
    "JOURNAL",
    "STATE",
    "CheckAccumulator",
    "ChunkWriter",
    "Directory",
    "Group",
    "InMemoryStore",
    "Journal",
    "Location",
    "NullPart",
    "ObjectStoreLocation",
    "ResultStore",
    "StorePart",
    "StoredArray",
    "StoredResult",
    "SumAccumulator",
    "TemporaryDirectory",
    "TemporaryFileStore",
    "Variable",
    "ZarrStore",
    "as_location",
    "check_result",
    "is_unfinished",
    "new_call_location",
    "read_location",
    "reporting_damage",
]

"""Stand-in store of a process that does not coordinate; replaced by the ``ChunkWriter`` that it receives."""

__all__ = ["GuestSink"]

from typing import Any

import numpy as np

from aimz.store.base import Group, ResultStore, StorePart
from aimz.store.location import Location
from aimz.store.stored_array import StoredArray


class GuestSink(ResultStore):
    """Writes only through the part received from the coordinator."""

    whole_chunks = True

    def __init__(self, location: Location, name: str) -> None:
        self._location = location
        self._name = name
        self._part: StorePart | None = None

    def open(self, group: Group) -> None:
        """Do nothing."""

    def receive(self, part: StorePart) -> None:
        """Set the part that writes the rows of this process."""
        self._part = part

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Do nothing."""

    def finish(self, length: int) -> None:
        """Do nothing."""

    def fail(self, error: BaseException) -> BaseException:
        """Add a note on how the call is resumed."""
        error.add_note(self._location.resume_advice)
        return error

    def part(self, _start: int, _stop: int, /) -> StorePart:
        """Return the received part, the same for all rows."""
        assert self._part is not None
        return self._part

    def add(self, payload: Any) -> None:
        """Do nothing."""

    def read(self, name: str) -> StoredArray:
        """Return a reader of a variable."""
        return StoredArray(self._location, f"{self._name}/{name}")

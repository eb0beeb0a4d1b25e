"""A result that another process stores."""

__all__ = ["GuestSink"]

from typing import Any

import numpy as np

from aimz.store.base import Group, ResultStore, StorePart
from aimz.store.location import Location
from aimz.store.stored_array import StoredArray


class GuestSink(ResultStore):
    """Writes by the part it was sent, and nothing but by that.

    Parameters
    ----------
    location
        Where the call lies.
    name
        Name of the streamed group.
    """

    whole_chunks = True

    def __init__(self, location: Location, name: str) -> None:
        self._location = location
        self._name = name
        self._part: StorePart | None = None

    def open(self, group: Group) -> None:
        """Do nothing: the arrays are made elsewhere."""

    def receive(self, part: StorePart) -> None:
        """Take the part that writes what is computed here."""
        self._part = part

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Do nothing: what all processes compute is written by another."""

    def finish(self, length: int) -> None:
        """Do nothing: another process says that it is complete."""

    def fail(self, error: BaseException) -> BaseException:
        """Say how to go on."""
        error.add_note(self._location.resume_advice)
        return error

    def part(self, start: int, stop: int) -> StorePart:  # noqa: ARG002 (it writes whatever comes)
        """Return the part that was sent, the same for all rows."""
        assert self._part is not None
        return self._part

    def add(self, payload: Any) -> None:
        """Do nothing: chunks lie in their places."""

    def read(self, name: str) -> StoredArray:
        """Return a reader that raises where something is missing."""
        return StoredArray(self._location, f"{self._name}/{name}")

"""Writer of the chunks of an unfinished result, for any process."""

__all__ = ["ChunkWriter"]

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import zarr

from aimz.errors import IncompleteResultError
from aimz.statistics import has_missing, missing_code
from aimz.store.base import StorePart, Variable
from aimz.store.location import OWNER, Location
from aimz.store.stored_array import FILL_VALUE, StoredArray
from aimz.store.zarr_metadata import zarr_settings


class ChunkWriter(StorePart):
    """Writes and reads chunks of a streamed group.

    Several writers may run concurrently, in several processes, if no two of them write parts of the same chunk.  An
    unpickled writer opens the arrays on first use, after checking that its run may still write.

    Parameters
    ----------
    location
        Location of the result.
    group
        Name of the streamed group.
    variables
        Variables of the group.
    owner
        Content of the file ``OWNER`` as long as this writer may write.
    """

    whole_chunks = True

    def __init__(self, location: Location, group: str, variables: Mapping[str, Variable], owner: str = "") -> None:
        self.max_writers = location.max_writers
        self._location = location
        self._group = group
        self._variables = dict(variables)
        self._owner = owner
        self._arrays: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._with_missing: set[str] = set()
        """Arrays of integers in which this process has written missing values."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the open arrays."""
        return ChunkWriter, (self._location, self._group, self._variables, self._owner)

    def set_array(self, name: str, array: Any) -> None:
        """Set the zarr array of a variable."""
        self._arrays[name] = array

    def array(self, name: str) -> Any:
        """Return the zarr array of a variable.

        Raises
        ------
        IncompleteResultError
            If the location is not accessible from this process, or the run may no longer write.
        """
        with self._lock:
            if name not in self._arrays:
                if not self._arrays:
                    self._check_owner()
                with zarr_settings():
                    self._arrays[name] = zarr.open_array(self._location.store_path(f"{self._group}/{name}"), mode="r+")
            return self._arrays[name]

    def _check_owner(self) -> None:
        found = self._location.get(OWNER)
        if found is not None and found.decode() == self._owner:
            return
        if found is None and not self._location.exists():
            msg = (
                f"The result is to be written into {self._location}, which does not exist for this process. All "
                "processes must reach one location under the same name: make the call again with an `output_dir` on a "
                "shared disk or in an object store, such as 's3://bucket/results'."
            )
        else:
            msg = (
                f"This process belongs to a call that no longer writes the result in {self._location}: that call has "
                f"ended, or another run has resumed it. Make the call again with {self._location.resume}."
            )
        raise IncompleteResultError(msg)

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Write a piece that covers whole chunks; each chunk is written atomically."""
        stored, variable = self.array(name), self._variables[name]
        where, piece = variable.place(array, start)
        if variable.axis is not None and variable.shape[variable.axis] is None:
            end = start + piece.shape[variable.axis]
            if end > stored.shape[variable.axis]:
                stored.resize((*stored.shape[: variable.axis], end, *stored.shape[variable.axis + 1 :]))
                self.mark_missing(name)
        stored[where] = piece.astype(variable.dtype, copy=False)
        if variable.may_be_missing and name not in self._with_missing and has_missing(piece):
            self._with_missing.add(name)
            self.mark_missing(name)

    def mark_missing(self, name: str) -> None:
        """Record in the metadata of an array that it has missing integers, which xarray then reads as NaN."""
        if name not in self._with_missing:
            return
        path = f"{self._group}/{name}/zarr.json"
        node = json.loads(self._location.get(path) or b"{}")
        node["attributes"] = {**node.get("attributes", {}), FILL_VALUE: missing_code(self._variables[name].dtype)}
        self._location.put(path, json.dumps(node, indent=2).encode())

    def payload(self) -> None:
        """Return None: the chunks are in the store already."""

    def read(self, name: str) -> StoredArray:
        """Return a reader of a variable of the complete result."""
        return StoredArray(self._location, f"{self._group}/{name}", array=self.opened(name))

    def opened(self, name: str) -> Any:
        """Return the open zarr array of a variable, unless its metadata were changed by a process that writes it."""
        node = self._location.get(f"{self._group}/{name}/zarr.json") if self._variables[name].may_be_missing else None
        changed = node is not None and FILL_VALUE in json.loads(node).get("attributes", {})
        return None if changed else self._arrays.get(name)

    def fail(self, error: BaseException) -> BaseException:
        """Add a note to an error on how the call is resumed, and return it."""
        error.add_note(self._location.resume_advice)
        return error

    def length(self, name: str) -> int:
        """Return the current length of the streamed axis of a variable."""
        axis = self._variables[name].axis
        return 0 if axis is None else int(self.array(name).shape[axis])

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of chunks that are missing or damaged.

        With ``start`` and ``stop``, only chunks that overlap this range of the streamed axis are checked; if that is
        the axis of the draws, the range counts through all chains.  A variable without such an axis belongs to index 0.
        """
        stored = self.array(name)
        positions = list(_positions(self._variables[name], stored, start, stop))

        def is_whole(position: tuple[int, ...]) -> bool:
            try:
                stored[tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, stored.chunks, strict=True))]
            except self._location.read_errors:
                return False
            return True

        if self.max_writers == 1 or len(positions) < 2:
            yield from (position for position in positions if not is_whole(position))
            return
        with ThreadPoolExecutor(self.max_writers, thread_name_prefix="aimz-reader") as pool:
            found = list(pool.map(is_whole, positions))
        yield from (position for position, whole in zip(positions, found, strict=True) if not whole)


def _positions(variable: Variable, stored: Any, start: int, stop: int | None) -> Iterator[tuple[int, ...]]:
    """Yield the grid positions of chunks that overlap a range of the streamed axis."""
    axis, shape, chunks = variable.axis, stored.shape, stored.chunks
    grid = [range(ceil(size / chunk)) for size, chunk in zip(shape, chunks, strict=True)]
    if axis is None:
        yield from product(*grid) if start == 0 else ()
        return
    if axis > 1 and stop is not None:
        grid[axis] = range(start // chunks[axis], min(ceil(stop / chunks[axis]), len(grid[axis])))
    for position in product(*grid):
        # If draws are streamed, the chains are separate chunks; an axis of statistics, also first, is never split.
        first = position[axis] * chunks[axis] + (position[0] * shape[1] if axis == 1 else 0)
        length = min(chunks[axis], shape[axis] - position[axis] * chunks[axis])
        if first + length > start and (stop is None or first < stop):
            yield position

"""Writer of the chunks of an unfinished result, for any process."""

__all__ = ["ChunkWriter"]

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import ceil
from typing import Any

import google_crc32c
import numpy as np
from zarr.storage import StorePath

from aimz.errors import IncompleteResultError
from aimz.statistics import has_missing
from aimz.store.base import StorePart, Variable
from aimz.store.checksums import TAIL, ChunkChecksums, ChunkStore, chunk_number, grid_of
from aimz.store.journal import Journal
from aimz.store.location import OWNER, Directory, Location
from aimz.store.plain_chunks import cut_chunks, is_plain
from aimz.store.stored_array import StoredArray
from aimz.store.stored_result import check_result
from aimz.store.zarr_metadata import array_document, open_chunks

type Payload = tuple[list[tuple[str, int, int]], set[str]]
"""Name, number and checksum of each chunk that a writer has written, and the arrays with missing integers."""


class ChunkWriter(StorePart):
    """Writes and reads chunks of a streamed group.

    Several writers may run concurrently, in several processes, if no two of them write parts of the same chunk.  An
    unpickled writer checks on first use that its run may still write.

    Parameters
    ----------
    location
        Location of the result.
    group
        Name of the streamed group.
    variables
        Variables of the group.
    owner
        Content of the file ``OWNER`` as long as this writer may write; "" for the writer of the process of the call.
    known
        Path to the checksums of the chunks that an interrupted run recorded, by number; None if it recorded none.
    journal
        Journal that records the chunks; None if the call cannot be resumed.
    """

    whole_chunks = True

    def __init__(
        self,
        location: Location,
        group: str,
        variables: Mapping[str, Variable],
        owner: str = "",
        known: Mapping[str, Mapping[int, int] | ChunkChecksums] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.max_writers = location.max_writers
        self._location = location
        self._group = group
        self._variables = dict(variables)
        self.paths = {name: variable.path or f"{group}/{name}" for name, variable in variables.items()}
        """Path of each variable."""
        self._names = {path: name for name, path in self.paths.items()}
        self._owner = owner
        self._known = known
        self._journal = journal
        self._lock = threading.Lock()
        self._checked = not owner
        self._arrays: dict[str, Any] = {}
        self.documents = {name: array_document(variable) for name, variable in self._variables.items()}
        """Metadata of each variable with its current length."""
        self.checksums = {name: ChunkChecksums() for name in self._variables}
        """Variable to the checksums of its chunks that are known in this process."""
        for path, numbers in (known or {}).items():
            for number, checksum in numbers.items() if path in self._names else ():
                self.checksums[self._names[path]].set(number, checksum)
        self._written: list[tuple[str, int, int]] = []
        self.with_missing: set[str] = set()
        """Arrays of integers in which missing values were found."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the open arrays and the chunks that this process has written."""
        journal = Journal.for_chunks if self._journal is not None and self._location.local else None
        return _unpickle, (self._location, self._group, self._variables, self._owner, self._known, journal)

    def known_between(self, start: int, stop: int) -> dict[str, dict[int, int]] | None:
        """Return the recorded checksums of the chunks of some rows; None if no chunks were recorded."""
        if self._known is None:
            return None
        found = {}
        for name, variable in self._variables.items():
            chunk = 1 if variable.axis is None else variable.chunks[variable.axis]
            rows = (0, None) if variable.axis is None else (start // chunk, ceil(stop / chunk))
            found[self.paths[name]] = dict(self.checksums[name].items(*rows))
        return found

    def array(self, name: str) -> Any:
        """Return the zarr array of a variable.

        Raises
        ------
        IncompleteResultError
            If the location is not accessible from this process, or the run may no longer write.
        """
        self._check_owner()
        with self._lock:
            if name not in self._arrays:
                root, path = self._location.store_path(""), self.paths[name]
                grids = {path: grid_of(self.documents[name])}
                store = ChunkStore(root.store, root.path, grids, on_write=self._record, on_read=self._compare)
                self._arrays[name] = open_chunks(StorePath(store, root.path) / path, self.documents[name])
            return self._arrays[name]

    def _record(self, path: str, number: int, checksum: int) -> None:
        """Record the checksum of a chunk that is written."""
        name = self._names[path]
        with self._lock:
            if self.checksums[name].get(number) != checksum:
                self.checksums[name].set(number, checksum)
                self._written.append((name, number, checksum))
                if self._journal is not None:
                    self._journal.record_chunk(path, number, checksum, self.length(name))

    def _compare(self, path: str, number: int, checksum: int) -> None:
        """Check that a chunk that was read is the recorded one."""
        known = self.checksums[self._names[path]].get(number)
        if known < 0:
            self._record(path, number, checksum)
        elif known != checksum:
            msg = f"Chunk {number} is not the chunk that was written there."
            raise ValueError(msg)

    def resize(self, name: str, length: int) -> None:
        """Set the length of the streamed axis of a variable whose number of rows was not known."""
        axis, document = self._variables[name].axis, self.documents[name]
        if axis is not None and document["shape"][axis] != length:
            with self._lock:
                document["shape"] = [length if i == axis else size for i, size in enumerate(document["shape"])]
                self._arrays.pop(name, None)

    def _check_owner(self) -> None:
        """Check on first use that the run may still write."""
        if self._checked:
            return
        found = self._location.get(OWNER)
        if found is not None and found.decode() == self._owner:
            self._checked = True
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
        variable = self._variables[name]
        where, piece = variable.place(array, start)
        if variable.axis is not None and variable.shape[variable.axis] is None:
            end = start + piece.shape[variable.axis]
            # A piece that ends within a chunk is the last one.
            self.resize(name, end if end % variable.chunks[variable.axis] else max(self.length(name), end))
        if variable.may_be_missing and has_missing(piece):
            self.with_missing.add(name)
        if isinstance(self._location, Directory) and is_plain(variable.dtype):
            self._check_owner()
            self._write_plain(self._location, name, where, piece)
        else:
            self.array(name)[where] = piece
        if self._journal is not None:
            self._journal.flush()

    def _write_plain(self, location: Directory, name: str, where: tuple[slice, ...], piece: np.ndarray) -> None:
        """Write the chunks of a piece as zarr does, without its copies of them."""
        document, path = self.documents[name], self.paths[name]
        grid = grid_of(document)
        whole = piece.astype(self._variables[name].dtype, copy=False)
        for position, content in cut_chunks(document, where, whole):
            checksum = google_crc32c.value(content)
            self._record(path, chunk_number(position, grid), checksum)
            file = "/".join([path, "c", *map(str, position)])
            location.put(file, content, checksum.to_bytes(TAIL, "little"))

    def payload(self) -> Payload:
        """Return the chunks that were written since the last call, and the arrays with missing integers."""
        with self._lock:
            written, self._written = self._written, []
        return written, self.with_missing

    def add(self, payload: Payload) -> None:
        """Add the chunks that another process has written."""
        written, with_missing = payload
        for name, number, checksum in written:
            self.checksums[name].set(number, checksum)
            if self._journal is not None and not self._location.local:
                self._journal.record_chunk(self.paths[name], number, checksum, self.length(name))
        self.with_missing |= with_missing
        if self._journal is not None:
            self._journal.flush()

    def read(self, name: str) -> StoredArray:
        """Return a reader of a variable of the complete result."""
        return check_result(self._location).array(self.paths[name])

    def fail(self, error: BaseException) -> BaseException:
        """Add a note to an error on how the call is resumed, and return it."""
        error.add_note(self._location.resume_advice)
        return error

    def length(self, name: str) -> int:
        """Return the current length of the streamed axis of a variable."""
        axis = self._variables[name].axis
        return 0 if axis is None else int(self.documents[name]["shape"][axis])

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of chunks that are missing, damaged or not the recorded ones.

        With ``start`` and ``stop``, only chunks that overlap this range of the streamed axis are checked; if that is
        the axis of the draws, the range counts through all chains.  A variable without such an axis belongs to index 0.
        """
        stored, variable = self.array(name), self._variables[name]
        positions = list(_positions(variable, stored, start, stop))
        grid, must_be_known = grid_of(self.documents[name]), self._known is not None and self._location.local

        def is_whole(position: tuple[int, ...]) -> bool:
            if must_be_known and self.checksums[name].get(chunk_number(position, grid)) < 0:
                return False
            try:
                found = stored[tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, stored.chunks, strict=True))]
            except self._location.read_errors:
                return False
            if variable.may_be_missing and has_missing(np.asarray(found)):
                self.with_missing.add(name)
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


def _unpickle(
    location: Location,
    group: str,
    variables: Mapping[str, Variable],
    owner: str,
    known: Mapping[str, Mapping[int, int] | ChunkChecksums] | None,
    journal: Callable[[Location], Journal] | None,
) -> ChunkWriter:
    """Return a writer in another process, which appends to a journal of its own."""
    return ChunkWriter(location, group, variables, owner, known, None if journal is None else journal(location))

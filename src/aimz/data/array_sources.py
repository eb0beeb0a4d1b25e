"""Where the numbers of an array lie, if another process can read them there: Dask and Zarr arrays."""

__all__ = [
    "ArraySource",
    "ColumnsSource",
    "InMemorySource",
    "ZarrSource",
    "check_length_known",
    "dask_arrays",
    "longest_chunk",
    "source_of",
]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from math import ceil, isnan
from pathlib import Path
from typing import Any

import numpy as np

from aimz.data.tables import Matrix


class ArraySource(ABC):
    """Rows that can be read by their numbers in the whole, in this process or in another."""

    is_lazy = True
    shape: tuple[int, ...]
    """Of the whole."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def key(self) -> str | None:
        """The same for the same numbers; None where that cannot be told without reading them."""
        return None

    @property
    def uses_dask(self) -> bool:
        """Whether Dask has to compute the rows."""
        return False

    @abstractmethod
    def cut(self, start: int, stop: int) -> "ArraySource":
        """Return what is needed for rows ``start:stop``."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows, by their numbers in the whole."""

    def opened(self, name: str) -> Any:  # noqa: ARG002
        """Return something that reads the rows; ``name`` is what to call it in an error."""
        return self


@dataclass(frozen=True, eq=False)
class InMemorySource(ArraySource):
    """Rows ``start:stop`` in memory, or a Dask array of them, which :func:`dask.delayed` brings into memory.

    A data class, since Dask looks for its arrays in those.
    """

    rows: Any
    start: int
    stop: int
    length: int
    """Number of rows of the whole."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the whole."""
        return (self.length, *self.rows.shape[1:])

    @property
    def key(self) -> str | None:
        """The name of a Dask array: Dask asks of whoever names one that no other has that name."""
        return getattr(self.rows, "name", None)

    @property
    def uses_dask(self) -> bool:
        """Whether Dask has to compute the rows."""
        return _dask_array(self.rows) is not None

    def cut(self, start: int, stop: int) -> "InMemorySource":
        """Return what is needed for rows ``start:stop``."""
        return InMemorySource(self.rows[start - self.start : stop - self.start], start, stop, self.length)

    def picked(self, places: Sequence[int]) -> "InMemorySource":
        """Return some columns of a matrix."""
        same = list(places) == list(range(self.rows.shape[1]))
        return self if same else replace(self, rows=self.rows[:, list(places)])

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return rows, by their numbers in the whole."""
        start, stop, _ = rows.indices(self.length)
        if start >= stop:
            return np.asarray(self.rows[0:0])
        if start < self.start or stop > self.stop:
            msg = f"Rows {start} to {stop} were asked for, and rows {self.start} to {self.stop} are here."
            raise IndexError(msg)
        if self.rows.shape[0] != self.stop - self.start:
            msg = (
                f"An array has {self.rows.shape[0]} rows where it said that it would have {self.stop - self.start}. "
                "Its chunks are not as long as was declared: see `chunks` of the function that made it."
            )
            raise ValueError(msg)
        return np.asarray(self.rows[start - self.start : stop - self.start])


@dataclass(frozen=True, eq=False)
class ZarrSource(ArraySource):
    """An array in a Zarr store, which is opened where it is read."""

    store: Any
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    grid: tuple[int, ...]
    """Shape of what one object of the store holds: a chunk, or a shard."""
    zarr_format: int
    places: tuple[int, ...] | None = None
    """Columns of a matrix to keep."""
    gaps: frozenset[tuple[int, ...]] | None = None
    """Positions in the grid where nothing is stored, so that the fill value stands there; None if not yet looked."""

    @staticmethod
    def of(array: Any) -> "ZarrSource":
        """Refer to a Zarr array."""
        store = array.store
        if isinstance(root := getattr(store, "root", None), Path):  # another process may be at work elsewhere
            store = type(store)(root.absolute())
        grid = tuple(array.shards or array.chunks)
        shape, chunks = tuple(array.shape), tuple(array.chunks)
        form = int(array.metadata.zarr_format)
        return ZarrSource(store.with_read_only(read_only=True), array.path, shape, array.dtype, chunks, grid, form)

    def cut(self, start: int, stop: int) -> "ZarrSource":
        """Return what is needed for rows ``start:stop``."""
        each = self.grid[0]
        return replace(self, gaps=frozenset(g for g in self._found_gaps if start // each <= g[0] < ceil(stop / each)))

    def picked(self, places: Sequence[int]) -> "ZarrSource":
        """Return some columns of a matrix."""
        same = list(places) == list(range(self.shape[1]))
        return self if same else replace(self, shape=(self.shape[0], len(places)), places=tuple(places))

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows."""
        part = self._read(rows)
        return part if self.places is None else part[:, list(self.places)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was opened: it is to be looked for where this arrives."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def _array(self) -> Any:
        """The array as it is here; a chunk that is not is an error."""
        import zarr

        where = f"the Zarr array {str(self.store)!r}" + (f", path {self.path!r}," if self.path else "")
        advice = "Put it where every process reaches it by that name (a shared file system, an object store)."
        try:
            found: Any = zarr.open_array(
                self.store,
                path=self.path,
                mode="r",
                zarr_format=2 if self.zarr_format == 2 else 3,
                config={"read_missing_chunks": False},
            )
        except (FileNotFoundError, ValueError) as error:
            msg = (
                f"This process cannot find {where} that the call was given ({type(error).__name__}: {error}). {advice}"
            )
            raise FileNotFoundError(msg) from error
        here = tuple(found.shape), np.dtype(found.dtype), tuple(found.chunks), tuple(found.shards or found.chunks)
        shape = (self.shape[0], found.shape[1]) if self.places is not None and found.ndim == 2 else self.shape
        if here != (shape, np.dtype(self.dtype), self.chunks, self.grid):
            msg = (
                f"This process finds another array under the name of {where}: got shape {here[0]} of {here[1]} in "
                f"chunks {here[2]}, and the call was given shape {shape} of {self.dtype} in chunks {self.chunks}. "
                + advice
            )
            raise FileNotFoundError(msg)
        return found

    def _read(self, rows: slice) -> np.ndarray:
        from zarr.errors import ChunkNotFoundError

        try:
            return np.asarray(self._array[rows])
        except ChunkNotFoundError as error:
            unseen = self._unseen(rows)
            if unseen:
                msg = (
                    f"This process finds the Zarr array {str(self.store)!r} {self.path!r} without its chunk "
                    f"{unseen[0]}, which was there when the call began; its rows would have been read as the fill "
                    "value. Put all of it where every process reaches it (a shared file system, an object store)."
                )
                raise FileNotFoundError(msg) from error
            return np.asarray(self._array.with_config({"read_missing_chunks": True})[rows])

    def _unseen(self, rows: slice) -> list[tuple[int, ...]]:
        """Return chunks of some rows that are not here, though they were there."""
        from zarr.errors import ChunkNotFoundError

        found = []
        start, stop, _ = rows.indices(self.shape[0])
        for position in self._positions(start, stop):
            if position in self._found_gaps:
                continue
            try:
                self._array[tuple(slice(p * g, p * g + 1) for p, g in zip(position, self.grid, strict=True))]
            except ChunkNotFoundError:
                found.append(position)
        return found

    def _positions(self, start: int, stop: int) -> "product[tuple[int, ...]]":
        """Return the positions in the grid of what holds some rows."""
        shape = self._array.shape
        across = (range(ceil(s / g)) for s, g in zip(shape[1:], self.grid[1:], strict=True))
        return product(range(start // self.grid[0], ceil(stop / self.grid[0])), *across)

    @cached_property
    def _found_gaps(self) -> frozenset[tuple[int, ...]]:
        """Positions at which nothing is stored: Zarr does not write chunks that hold nothing but the fill value."""
        if self.gaps is not None:
            return self.gaps
        array = self._array
        if array.nchunks_initialized == array.nchunks:
            return frozenset()
        # Which are there only the store itself can list, and that it does for those who await it.
        from zarr.core.sync import sync

        prefix = f"{self.path}/" if self.path else ""

        async def listed() -> set[str]:
            return {key.removeprefix(prefix) async for key in self.store.list_prefix(prefix)}

        there, encode = sync(listed()), array.metadata.encode_chunk_key
        return frozenset(p for p in self._positions(0, self.shape[0]) if encode(p) not in there)


@dataclass(frozen=True, eq=False)
class ColumnsSource(ArraySource):
    """Columns with an origin each, side by side as a :class:`Matrix` puts them."""

    columns: Mapping[str, ArraySource]
    name: str

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the whole."""
        return (next(iter(self.columns.values())).shape[0], len(self.columns))

    @property
    def key(self) -> str | None:
        """The keys of all columns, if each has one."""
        keys = [column.key for column in self.columns.values()]
        return None if None in keys else "\n".join(map(str, keys))

    @property
    def uses_dask(self) -> bool:
        """Whether Dask has to compute the rows of any."""
        return any(column.uses_dask for column in self.columns.values())

    def cut(self, start: int, stop: int) -> "ColumnsSource":
        """Return what is needed for rows ``start:stop``."""
        # Whole chunks are read together, of all columns as many rows as the longest chunk of one has.
        each = max((one.chunks[0] for one in self.columns.values() if isinstance(one, ZarrSource)), default=1)
        wide = start // each * each, min(ceil(stop / each) * each, self.shape[0])
        parts = {
            name: one.cut(*(wide if isinstance(one, ZarrSource) else (start, stop)))
            for name, one in self.columns.items()
        }
        return ColumnsSource(parts, self.name)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows."""
        return self.opened(self.name)[rows]

    def opened(self, name: str) -> Matrix:
        """Return the matrix."""
        return Matrix(self.columns, name, is_lazy=True)


def source_of(given: Any) -> ArraySource | None:
    """Return where another process can read an array, or None if it cannot.

    Of a matrix of columns it is enough that one can be read there; the others are in memory, and go along.
    """
    if isinstance(given, Matrix):
        if given.whole is not None:
            whole = source_of(given.whole)
            return whole.picked(given.places) if isinstance(whole, InMemorySource | ZarrSource) else None
        found = {name: (source_of(column), column) for name, column in given.parts.items()}
        if all(origin is None for origin, _ in found.values()):
            return None
        columns = {name: origin or _in_memory(column) for name, (origin, column) in found.items()}
        return ColumnsSource(columns, given.name)
    array = _dask_array(given)
    if array is not None:
        return InMemorySource(array, 0, int(array.shape[0]), int(array.shape[0]))
    return ZarrSource.of(given) if _is_zarr(given) and _is_open_to_others(given.store) else None


def _in_memory(array: Any) -> InMemorySource:
    rows = np.asarray(array)
    return InMemorySource(rows, 0, len(rows), len(rows))


def dask_arrays(given: Any) -> list[Any]:
    """Return the Dask arrays that an array stands on, as they were given."""
    parts = [given]
    if isinstance(given, Matrix):
        parts = [given.whole] if given.whole is not None else list(given.parts.values())
    return [found for part in parts if (found := _dask_array(part)) is not None]


def _dask_array(value: Any) -> Any:
    """Return the Dask array that a value is, or that an array of xarray stands on; None if there is none."""
    value = getattr(getattr(value, "variable", value), "_data", value)
    of_dask = type(value).__module__.startswith("dask.array") and hasattr(value, "numblocks")
    return value if of_dask and value.ndim else None


def _is_zarr(value: Any) -> bool:
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}" == "zarr.Array" and bool(value.ndim)


def _is_open_to_others(store: Any) -> bool:
    """Whether another process can open a store of Zarr."""
    from zarr.storage import FsspecStore, LocalStore, ObjectStore

    if isinstance(store, FsspecStore):
        files: Any = getattr(store.fs, "sync_fs", store.fs)
        return "memory" not in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)
    if isinstance(store, ObjectStore):
        return type(store.store).__name__ != "MemoryStore"
    return isinstance(store, LocalStore)


def longest_chunk(given: Any) -> int | None:
    """Return how many rows the longest chunk has, or None if there are no chunks."""
    if isinstance(given, Matrix):
        parts = [given.whole] if given.whole is not None else list(given.parts.values())
        return max((found for part in parts if (found := longest_chunk(part)) is not None), default=None)
    chunks = getattr(given, "chunks", None)
    if not isinstance(chunks, tuple) or not chunks:
        return None
    return max(chunks[0], default=0) if isinstance(chunks[0], tuple) else int(chunks[0])


def check_length_known(given: Any, name: str) -> None:
    """Refuse an array that does not know how many rows it has.

    Raises
    ------
    ValueError
        If it does not.
    """
    length = next(iter(given.shape), 0)
    if isinstance(length, float) and isnan(length):
        msg = (
            f"`{name}` must be an array of a known number of rows; got a Dask array whose chunks have unknown lengths, "
            f"as data frames and masks make them. Pass `frame.to_dask_array(lengths=True)`, or `{name}` after "
            f"`{name}.compute_chunk_sizes()`."
        )
        raise ValueError(msg)

"""Sources that any process can read an array from: Dask arrays, and Zarr arrays in stores that others can open."""

__all__ = [
    "ArraySource",
    "InMemorySource",
    "ZarrSource",
    "check_length_known",
    "check_written",
    "dask_array_of",
    "is_zarr",
    "longest_chunk",
    "source_of",
    "stored_arrays",
]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from math import ceil, isnan, prod
from pathlib import Path
from typing import Any, override

import numpy as np

from aimz._imports import zarr


class ArraySource(ABC):
    """Rows of an array, read by their numbers in the whole array; in this process or in another."""

    shape: tuple[int, ...]
    """Shape of the whole array."""
    chunk_rows = 1
    """Number of rows that are read together."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def key(self) -> str | None:
        """Text that is equal for equal values; None if that is unknown without reading them."""
        return None

    @property
    def uses_dask(self) -> bool:
        """Whether Dask computes the rows."""
        return False

    def arrays(self) -> Sequence[Any]:
        """Return the arrays that the rows are read from."""
        return (self,)

    def source(self) -> "ArraySource | None":
        """Return a source that any process can read; None if there is none."""
        return self

    @abstractmethod
    def cut(self, start: int, stop: int) -> "ArraySource":
        """Return a source of rows ``start:stop``."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows, by their numbers in the whole array."""


@dataclass(frozen=True, eq=False)
class InMemorySource(ArraySource):
    """Rows ``start:stop`` of an array, in memory, or as a Dask array that :func:`dask.delayed` computes.

    A data class, since Dask finds its arrays in the fields of data classes.
    """

    rows: Any
    start: int
    stop: int
    length: int
    """Number of rows of the whole array."""

    @staticmethod
    def of(array: Any) -> "InMemorySource":
        """Return a source of all rows of an array."""
        return InMemorySource(array, 0, int(array.shape[0]), int(array.shape[0]))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the whole array."""
        return (self.length, *self.rows.shape[1:])

    @property
    def key(self) -> str | None:
        """Name of a Dask array; Dask requires that no other array has it."""
        return getattr(self.rows, "name", None)

    @property
    def uses_dask(self) -> bool:
        """Whether Dask computes the rows."""
        return dask_array_of(self.rows) is not None

    @override
    def cut(self, start: int, stop: int) -> "InMemorySource":
        return InMemorySource(self.rows[start - self.start : stop - self.start], start, stop, self.length)

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self.rows.shape[0] != self.stop - self.start:
            msg = (
                f"An array has {self.rows.shape[0]} rows, but its chunks declare {self.stop - self.start}. Check the "
                "`chunks` that were passed to the function that made it."
            )
            raise ValueError(msg)
        start, stop, _ = rows.indices(self.length)
        return np.asanyarray(self.rows[start - self.start : stop - self.start])  # a mask is filled when it is read


@dataclass(frozen=True, eq=False)
class ZarrSource(ArraySource):
    """An array in a Zarr store, which each process opens when it first reads it."""

    store: Any
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    grid: tuple[int, ...]
    """Shape of the part in one object of the store: a chunk, or a shard."""
    zarr_format: int
    gaps: frozenset[tuple[int, ...]] | None = None
    """Grid positions of missing chunks, whose values are the fill value; None until they are listed."""

    @staticmethod
    def of(array: Any) -> "ZarrSource":
        """Return a reference to a Zarr array."""
        store = array.store
        if isinstance(root := getattr(store, "root", None), Path):  # another process may have another directory
            store = type(store)(root.absolute())
        grid = tuple(array.shards or array.chunks)
        shape, chunks = tuple(array.shape), tuple(array.chunks)
        form = int(array.metadata.zarr_format)
        return ZarrSource(store.with_read_only(read_only=True), array.path, shape, array.dtype, chunks, grid, form)

    @property
    def chunk_rows(self) -> int:  # type: ignore[override]
        """Number of rows of a chunk."""
        return self.chunks[0]

    @override
    def cut(self, start: int, stop: int) -> "ZarrSource":
        each = self.grid[0]
        return replace(
            self, gaps=frozenset(g for g in self.missing_chunks if start // each <= g[0] < ceil(stop / each))
        )

    def __getitem__(self, rows: slice) -> np.ndarray:
        try:
            return np.asarray(self._array[rows])
        except zarr.errors.ChunkNotFoundError as error:
            lost = self._lost_chunks(rows)
            if lost:
                msg = (
                    f"This process finds the Zarr array {str(self.store)!r} {self.path!r} without its chunk {lost[0]}, "
                    "which existed when the call began; its rows would be read as the fill value. Store the whole "
                    "array where every process can read it (a shared file system, an object store)."
                )
                raise FileNotFoundError(msg) from error
            return np.asarray(self._array.with_config({"read_missing_chunks": True})[rows])

    def __getstate__(self) -> dict[str, Any]:
        """Drop the opened array from the pickle; it is opened again in the process that reads it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _array(self) -> Any:
        """The array as this process finds it; reading a missing chunk of it raises."""
        where = f"the Zarr array {str(self.store)!r}" + (f", path {self.path!r}," if self.path else "")
        advice = "Store it under a name that every process can open (a shared file system, an object store)."
        try:
            found: Any = zarr.open_array(
                self.store,
                path=self.path,
                mode="r",
                zarr_format=2 if self.zarr_format == 2 else 3,
                config={"read_missing_chunks": False},
            )
        except (FileNotFoundError, ValueError) as error:
            msg = f"This process cannot find {where} that was passed to the call ({type(error).__name__}: {error}). "
            raise FileNotFoundError(msg + advice) from error
        here = tuple(found.shape), np.dtype(found.dtype), tuple(found.chunks), tuple(found.shards or found.chunks)
        if here != (self.shape, np.dtype(self.dtype), self.chunks, self.grid):
            msg = (
                f"This process finds another array in place of {where}: got shape {here[0]} of {here[1]} in "
                f"chunks {here[2]}, but the call was given shape {self.shape} of {self.dtype} in chunks {self.chunks}. "
            )
            raise FileNotFoundError(msg + advice)
        return found

    def _lost_chunks(self, rows: slice) -> list[tuple[int, ...]]:
        """Return grid positions of chunks that existed when the call began and are missing now."""
        found = []
        start, stop, _ = rows.indices(self.shape[0])
        for position in self._positions(start, stop):
            if position in self.missing_chunks:
                continue
            try:
                self._array[tuple(slice(p * g, p * g + 1) for p, g in zip(position, self.grid, strict=True))]
            except zarr.errors.ChunkNotFoundError:
                found.append(position)
        return found

    def _positions(self, start: int, stop: int) -> "product[tuple[int, ...]]":
        """Return the grid positions of rows ``start:stop``."""
        across = (range(ceil(s / g)) for s, g in zip(self.shape[1:], self.grid[1:], strict=True))
        return product(range(start // self.grid[0], ceil(stop / self.grid[0])), *across)

    @override
    def source(self) -> "ZarrSource | None":
        return self if _is_open_to_others(self.store) else None

    @property
    def n_parts(self) -> int:
        """Number of chunks, or of shards, that the array has when it is written."""
        return prod(ceil(s / g) for s, g in zip(self.shape, self.grid, strict=True))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @cached_property
    def missing_chunks(self) -> frozenset[tuple[int, ...]]:
        """Grid positions of missing chunks: Zarr does not write chunks that hold only the fill value."""
        if self.gaps is not None:
            return self.gaps
        array = self._array
        if array.nchunks_initialized == array.nchunks:
            return frozenset()
        # Only the store lists its chunks, and it does so asynchronously.
        prefix = f"{self.path}/" if self.path else ""

        async def stored() -> set[str]:
            return {key.removeprefix(prefix) async for key in self.store.list_prefix(prefix)}

        keys, encode = zarr.core.sync.sync(stored()), array.metadata.encode_chunk_key
        return frozenset(p for p in self._positions(0, self.shape[0]) if encode(p) not in keys)


def check_written(array: Any, name: str) -> None:
    """Raise ``ValueError`` if chunks of a Zarr array, or of the arrays it combines, are missing from their store.

    They would be read as the fill value.  A fill value of NaN is visible in every result, and needs no check.
    """
    for stored in stored_arrays(array):
        if not is_zarr(stored) or stored.fill_value is None or stored.fill_value != stored.fill_value:
            continue
        source = ZarrSource.of(stored)
        gaps = sorted(source.missing_chunks)
        if gaps:
            msg = (
                f"`{name}` must be a Zarr array whose chunks are all in the store; {len(gaps)} of {source.n_parts} are "
                f"missing{f' from {stored.path!r}' if stored.path else ''}, the first at row "
                f"{gaps[0][0] * source.grid[0]}, and would be read as the fill value {stored.fill_value}. Write these "
                "rows. If Zarr left them out because all their values are the fill value, as it does by default, pass "
                f"`aimz.utils.data.with_missing_chunks({name})`, or write with `config={{'write_empty_chunks': True}}`."
            )
            raise ValueError(msg)


def source_of(array: Any) -> ArraySource | None:
    """Return a source from which any process can read an array; None if there is none."""
    if isinstance(array, ArraySource):
        return array.source()
    lazy = dask_array_of(array)
    if lazy is not None:
        return InMemorySource.of(lazy)
    return ZarrSource.of(array) if is_zarr(array) and _is_open_to_others(array.store) else None


def stored_arrays(array: Any) -> Sequence[Any]:
    """Return the arrays that the rows of ``array`` are read from."""
    return array.arrays() if isinstance(array, ArraySource) else (array,)


def dask_array_of(value: Any) -> Any:
    """Return the Dask array that ``value`` is, or that an xarray object wraps; None if there is none."""
    value = getattr(getattr(value, "variable", value), "_data", value)
    is_dask = type(value).__module__.startswith("dask.array") and hasattr(value, "numblocks")
    return value if is_dask and value.ndim else None


def is_zarr(value: Any) -> bool:
    """Return whether a value is a Zarr array with a row axis."""
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}" == "zarr.Array" and bool(value.ndim)


def _is_open_to_others(store: Any) -> bool:
    """Return whether another process can open a Zarr store."""
    if isinstance(store, zarr.storage.FsspecStore):
        files: Any = getattr(store.fs, "sync_fs", store.fs)
        return "memory" not in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)
    if isinstance(store, zarr.storage.ObjectStore):
        return type(store.store).__name__ != "MemoryStore"
    return isinstance(store, zarr.storage.LocalStore)


def longest_chunk(array: Any) -> int | None:
    """Return the number of rows of the longest chunk of an array or its columns; None without chunks."""
    lengths = []
    for stored in stored_arrays(array):
        chunks = getattr(stored, "chunks", None)
        if isinstance(chunks, tuple) and chunks:
            lengths.append(max(chunks[0], default=0) if isinstance(chunks[0], tuple) else int(chunks[0]))
    return max(lengths, default=None)


def check_length_known(array: Any, name: str) -> None:
    """Raise ``ValueError`` if an array has an unknown number of rows, as Dask arrays of data frames have."""
    length = next(iter(array.shape), 0)
    if isinstance(length, float) and isnan(length):
        msg = (
            f"`{name}` must be an array of a known number of rows; got a Dask array whose chunks have unknown lengths, "
            f"as data frames and masks make them. Pass `frame.to_dask_array(lengths=True)`, or `{name}` after "
            f"`{name}.compute_chunk_sizes()`."
        )
        raise ValueError(msg)

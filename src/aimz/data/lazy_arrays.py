"""Rows that are taken when they are needed, so that nothing is loaded whole."""

__all__ = ["LazyArray", "LazySlice"]

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, override
from weakref import ref

import jax
import numpy as np

from aimz.data.array_sources import (
    ArraySource,
    InMemorySource,
    check_length_known,
    dask_arrays,
    longest_chunk,
    source_of,
)
from aimz.data.arrays import fingerprint, is_array, read_array
from aimz.data.dataframes import index_of
from aimz.data.row_readers import Batch, RowReader, RowSlice, check_acts_by_row

_LOOK = 2**24
"""Bytes to look at together when an array is read through."""
_CHUNK = 2**27
"""Bytes of a chunk that are kept at most."""
_DIGESTS: OrderedDict[tuple[Any, ...], tuple[list[ref[Any]], str]] = OrderedDict()
"""Digests of Dask arrays that were read, with the arrays they are of; those that were asked for last."""
_MOST_DIGESTS = 256


class LazyArray(RowReader):
    """An array argument of which any rows can be had.

    What is in memory is checked here, once; what is not (a :class:`numpy.memmap`, a Zarr or Dask array) is checked as
    it is read.

    Parameters
    ----------
    given : array_like
        Anything with a row axis.
    name : str
        What to call it in an error.
    function : callable, optional
        Applied to the rows as they are read.
    """

    axis = 0

    def __init__(self, given: Any, name: str, function: Callable[[Any], Any] | None = None) -> None:
        self.columns: tuple[str, ...] = getattr(given, "columns", ())
        self.index = index_of(given)
        self.is_lazy = bool(
            isinstance(given, np.memmap)
            or getattr(given, "is_lazy", False)
            or (hasattr(given, "ndim") and is_array(given) and hasattr(given, "chunks"))
        )
        if not self.is_lazy and not isinstance(given, np.ndarray | jax.Array):
            given = read_array(given, name)
        check_length_known(given, name)
        self._given = np.asarray(given) if isinstance(given, jax.Array) else given
        self.name = name
        self.function = function
        """Applied to the rows as they are read."""
        self.longest_chunk = longest_chunk(given)
        """Number of rows of the longest chunk; None where there are no chunks."""
        self._chunk = _worth_keeping(given, self.longest_chunk)
        self._held: tuple[int, np.ndarray] | None = None
        """The chunk that was read last, and where it begins."""
        # An empty slice has the dtype everything will have, and is refused for what the whole would be.
        sample = self.read(0, 0) if self._given.ndim else read_array(self._given, name)
        self.shape: tuple[int, ...] = (*self._given.shape[:1], *sample.shape[1:])
        self.dtype = sample.dtype
        if not self.is_lazy and self._given.ndim and self._given.dtype != self.dtype:
            for _ in self.stretches():
                pass

    @override
    def read(self, start: int, stop: int, batch: Batch | None = None) -> np.ndarray:
        return self._checked(self._part(slice(start, stop)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        return np.asarray(self[:] if self.ndim else read_array(self._given, self.name), dtype)

    def stretches(self) -> Iterator[np.ndarray]:
        """Yield all rows, some at a time."""
        # The same stretches for every dtype, so that digests of equal numbers agree.
        step = max(1, _LOOK // max(1, 8 * int(np.prod(self.shape[1:]))))
        for start in range(0, self.shape[0], step):
            yield self.read(start, start + step)
            self.release(start, start + step)
        self._held = None

    @cached_property
    def source(self) -> ArraySource | None:
        """Source from which any process can read the rows, before ``function``; None if there is none."""
        return source_of(self._given) if self.is_lazy else None

    @property
    def by_reference(self) -> bool:  # type: ignore[override]
        """Whether any process can read the rows from their source."""
        return self.source is not None

    @property
    def uses_dask(self) -> bool:  # type: ignore[override]
        """Whether Dask computes the rows."""
        return self.source is not None and self.source.uses_dask

    @override
    def slice_for_worker(self, start: int, stop: int) -> RowSlice:
        if self.source is not None:
            source = self.source.cut(start, stop)
        elif self.function is not None:
            rows = np.asarray(read_array(self._part(slice(start, stop)), self.name))
            source = InMemorySource(rows, start, stop, self.shape[0])
        else:
            return RowSlice(self.read(start, stop), 0, start, stop, self.shape, self.dtype, self.name)
        described = source, 0, start, stop, self.shape, self.dtype, self.name
        return LazySlice(*described, function=self.function, by_reference=self.by_reference)

    @cached_property
    def digest(self) -> str:
        """What :func:`fingerprint` says of all rows; read once, though several scenarios or calls may ask."""
        key = None if self.source is None or self.function is not None else self.source.key
        if key is None:
            return fingerprint(self.stretches())
        # An array is known by itself and its name: a file that is written anew is read under the same name by another
        # array, and an array that is assigned to takes another name.
        arrays = dask_arrays(self._given)
        one = key, tuple(map(id, arrays)), self.shape, str(self.dtype)
        known, found = _DIGESTS.pop(one, ([], ""))
        if not known or any(array() is not now for array, now in zip(known, arrays, strict=True)):
            found = fingerprint(self.stretches())
        _DIGESTS[one] = [ref(array) for array in arrays], found
        if len(_DIGESTS) > _MOST_DIGESTS:
            _DIGESTS.popitem(last=False)
        return found

    def take(self, stretch: slice, index: np.ndarray) -> np.ndarray:
        """Return rows ``index`` of a stretch, and let go of the stretch."""
        part = self._part(stretch)
        found = self._checked(np.asarray(part[index]))
        self.release(stretch.start, stretch.stop)
        return found

    @override
    def apply(self, function: Callable[[Any], Any]) -> Any:
        """Return ``function`` of the array: of all of it if it is in memory, else of the rows as they are read.

        Raises
        ------
        ValueError
            If it is not in memory, and the function of some rows depends on the others.
        """
        if not self.is_lazy:
            return function(np.asarray(self))
        check_acts_by_row(function, self[slice(0, 64)], self.name)
        before = self.function
        return LazyArray(self._given, self.name, function if before is None else lambda rows: function(before(rows)))

    @override
    def release(self, start: int, stop: int) -> None:
        given = self._given
        mapped = getattr(given, "_mmap", None)
        if mapped is None or getattr(given, "mode", None) not in ("r", "r+") or not hasattr(mapped, "madvise"):
            return
        part = given[start:stop]
        if part.size == 0 or not part.flags.c_contiguous:
            return
        begin = part.__array_interface__["data"][0] - np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first, begin + part.nbytes - first)

    def _part(self, rows: slice) -> np.ndarray:
        """Return rows as they are given; of chunks the last is kept, since the rows that follow are asked for next."""
        start, stop, _ = rows.indices(self._given.shape[0]) if self._chunk else (0, 0, 1)
        if not self._chunk or stop <= start:
            part = self._given[rows]
            return part if isinstance(part, np.ndarray) else np.asarray(part)
        at, held = self._held or (0, None)
        if held is None or not at <= start < at + len(held):
            at, held = start // self._chunk * self._chunk, None
        end = -(-stop // self._chunk) * self._chunk
        if held is None:
            self._held = None  # let go of it before the next is read
            held = np.asarray(self._given[at:end])
        elif stop > at + len(held):  # of what is held only the chunk of the first row is still needed
            begin = start // self._chunk * self._chunk
            held, at = np.concatenate([held[begin - at :], np.asarray(self._given[at + len(held) : end])]), begin
        self._held = at, held
        return held[start - at : stop - at]

    def _checked(self, part: np.ndarray) -> np.ndarray:
        if self.function is not None:
            part = np.asarray(self.function(np.asarray(read_array(part, self.name))))
        return np.asarray(read_array(part, self.name))


@dataclass(frozen=True, eq=False)
class LazySlice(RowSlice):
    """Rows ``start:stop`` of a lazy array, read where the slice is sent.

    ``rows`` is an :class:`ArraySource`.  A data class, so that ``dask.delayed(function)(rows)`` finds the Dask array in
    it, and passes ``function`` the rows of that array in memory.
    """

    function: Callable[[Any], Any] | None = None
    """Applied to the rows as they are read."""
    by_reference: bool = False

    @override
    def _take(self, start: int, stop: int) -> np.ndarray:
        return self._opened.read(start, stop)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened array out; it is opened again in the process that reads it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _opened(self) -> LazyArray:
        return LazyArray(self.rows.opened(self.name), self.name, self.function)


def _worth_keeping(given: Any, rows: int | None) -> int | None:
    """Return how many rows a chunk has that is worth keeping; None if there are no chunks, or they are large."""
    if not rows:
        return None
    row_bytes = int(np.prod(given.shape[1:], dtype=np.int64)) * np.dtype(given.dtype).itemsize
    return rows if rows * row_bytes <= _CHUNK else None

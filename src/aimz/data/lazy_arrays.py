"""Arrays whose rows are checked and converted when they are read."""

__all__ = ["LazyArray", "LazySlice"]

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
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
    check_written,
    dask_array_of,
    longest_chunk,
    source_of,
    stored_arrays,
)
from aimz.data.arrays import check_array, fill_masked, fingerprint, is_array
from aimz.data.dataframes import index_of
from aimz.data.row_findings import RoundedValues
from aimz.data.row_readers import Batch, RowReader, RowSlice, check_acts_by_row

_PIECE_BYTES = 2**24
"""Size of the pieces in which an array is read through."""
_CHUNK_BYTES = 2**27
"""Size of the largest chunk that is kept in memory."""
_DIGESTS: OrderedDict[tuple[Any, ...], tuple[list[ref[Any]], str]] = OrderedDict()
"""Digests of Dask arrays with references to the arrays, the most recently used last."""
_MAX_DIGESTS = 256


class LazyArray(RowReader):
    """An array whose rows are converted to the device's dtype when they are read.

    Arrays in memory are checked when the reader is made.  Others (a :class:`numpy.memmap`, a Zarr or Dask array) are
    checked as they are read.

    Parameters
    ----------
    given : array_like
        Anything with a row axis.
    name : str
        Name of the argument in error messages.
    function : callable, optional
        Applied to the rows as they are read.
    """

    axis = 0

    def __init__(self, given: Any, name: str, function: Callable[[Any], Any] | None = None) -> None:
        self.columns: tuple[str, ...] = getattr(given, "columns", ())
        self.categories = getattr(given, "categories", ())
        self.index = index_of(given)
        has_chunks = hasattr(given, "chunks") and hasattr(given, "ndim") and is_array(given)
        self.is_lazy = isinstance(given, np.memmap | ArraySource) or has_chunks
        self._chunk_rows: int | None = None
        if self.is_lazy:
            check_length_known(given, name)
            check_written(given, name)
            self.longest_chunk = longest_chunk(given)
            self._chunk_rows = _rows_to_keep(given, self.longest_chunk)
        elif not isinstance(given, np.ndarray):
            given = check_array(given, name)
        if isinstance(given, jax.Array | np.ma.MaskedArray):
            given = fill_masked(np.asanyarray(given), name)
        self._given = given
        self.name = name
        self.function = function
        self.rounding: RoundedValues = RoundedValues()
        self._is_ready = False
        """Whether the given array is in memory and needs no conversion."""
        self._kept: tuple[int, np.ndarray] | None = None
        """First row of the chunks that were read last, and the chunks."""
        # An empty slice has the dtype of all rows, and raises for what would be wrong with all of them.
        if self._given.ndim and (self.is_lazy or function is not None):
            sample: Any = self.read(0, 0)
        else:
            sample = check_array(self._given[:0] if self._given.ndim else self._given, name)
        self.shape: tuple[int, ...] = (*self._given.shape[:1], *sample.shape[1:])
        self.dtype = sample.dtype
        self._is_ready = not self.is_lazy and function is None and bool(self.shape) and self._given.dtype == self.dtype
        if not self.is_lazy and self._given.ndim and self._given.dtype != self.dtype:
            with self.rounding.recording():
                for _ in self.pieces():
                    pass

    @override
    def read(self, start: int, stop: int, batch: Batch | None = None) -> np.ndarray:
        if self._is_ready:
            return self._given[start:stop]  # type: ignore[no-any-return]
        with self.rounding.recording() if self.is_lazy else nullcontext():
            return self._converted(self._raw(start, stop))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[:] if self.ndim else check_array(self._given, self.name), dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all rows, some at a time."""
        # Pieces do not depend on the dtype, so that digests of equal numbers agree.
        step = max(1, _PIECE_BYTES // max(1, 8 * int(np.prod(self.shape[1:]))))
        for start in range(0, self.shape[0], step):
            yield self.read(start, start + step)
            self.release(start, start + step)
        self._kept = None

    @cached_property
    def source(self) -> ArraySource | None:
        """Source from which any process can read the rows, before ``function``; None if there is none."""
        return source_of(self._given) if self.is_lazy else None

    @property
    def is_stored(self) -> bool:  # type: ignore[override]
        """Whether the rows are read from a file, a store or Dask, not from memory."""
        return self.source is not None or isinstance(self._given, np.memmap)

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
            rows = np.asarray(check_array(self._raw(start, stop), self.name))
            source = InMemorySource(rows, start, stop, self.shape[0])
        else:
            return RowSlice(self.read(start, stop), 0, start, stop, self.shape, self.dtype, self.name)
        whole = source, 0, start, stop, self.shape, self.dtype, self.name
        return LazySlice(*whole, function=self.function, by_reference=self.by_reference)

    @cached_property
    def digest(self) -> str:
        """Fingerprint of all rows, which are read once."""
        key = None if self.source is None or self.function is not None else self.source.key
        if key is None:
            return fingerprint(self.pieces())
        # Dask names an array by the file it reads, but a file that is written again makes another array object; an
        # array that is assigned to gets another name.  Both together identify the values.
        arrays = [dask_array_of(array) for array in stored_arrays(self._given)]
        identity = key, tuple(map(id, arrays)), self.shape, str(self.dtype)
        known, found = _DIGESTS.pop(identity, ([], ""))
        if not known or any(array() is not now for array, now in zip(known, arrays, strict=True)):
            found = fingerprint(self.pieces())
        _DIGESTS[identity] = [ref(array) for array in arrays], found
        if len(_DIGESTS) > _MAX_DIGESTS:
            _DIGESTS.popitem(last=False)
        return found

    def take(self, start: int, stop: int, index: np.ndarray) -> np.ndarray:
        """Return rows ``index`` of rows ``start:stop``, and free the memory of the others."""
        with self.rounding.recording():
            found = self._converted(np.asarray(self._raw(start, stop)[index]))
        self.release(start, stop)
        return found

    @override
    def apply(self, function: Callable[[Any], Any]) -> Any:
        if not self.is_lazy:
            return function(np.asarray(self))
        check_acts_by_row(function, self[:64], self.name)
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

    def _raw(self, start: int, stop: int) -> np.ndarray:
        """Return rows as they are stored, and keep their last chunk for the read that continues in it."""
        each = self._chunk_rows
        if each:
            start, stop, _ = slice(start, stop).indices(self._given.shape[0])
        if not each or stop <= start:
            return self._load(start, stop)
        first, kept = self._kept or (0, None)
        if kept is None or not first <= start < first + len(kept):
            first, kept = start // each * each, None
        end = -(-stop // each) * each
        if kept is None:
            self._kept = None  # free it before the next chunk is read
            kept = self._load(first, end)
        elif stop > first + len(kept):  # of the kept chunks only the one with row `start` is still needed
            begin, end_of_kept = start // each * each, first + len(kept)
            kept = np.concatenate([kept[begin - first :], self._load(end_of_kept, end)])
            first = begin
        self._kept = first, kept
        return kept[start - first : stop - first]

    def _load(self, start: int, stop: int) -> np.ndarray:
        """Return rows of the given array in memory, without a mask."""
        part = self._given[start:stop]
        lazy = dask_array_of(part)
        return fill_masked(np.asanyarray(part if lazy is None else lazy.compute()), self.name, start)

    def _converted(self, part: np.ndarray) -> np.ndarray:
        if self.function is not None:
            part = self.function(np.asarray(check_array(part, self.name)))
        return np.asarray(check_array(part, self.name))


@dataclass(frozen=True, eq=False)
class LazySlice(RowSlice):
    """Rows ``start:stop`` of a lazy array, read in the process that the slice is sent to.

    ``rows`` is an :class:`ArraySource`.  A data class, so that ``dask.delayed(function)(rows)`` finds the Dask array in
    it, and passes ``function`` the rows of that array in memory.
    """

    function: Callable[[Any], Any] | None = None
    """Applied to the rows as they are read."""
    by_reference: bool = False
    is_lazy: bool = True

    @override
    def _take(self, start: int, stop: int) -> np.ndarray:
        return self._opened.read(start, stop)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the opened array from the pickle; it is opened again in the process that reads it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def rounding(self) -> RoundedValues:  # type: ignore[override]
        """Values that may become equal when rows are cast."""
        return self._opened.rounding

    @cached_property
    def _opened(self) -> LazyArray:
        return LazyArray(self.rows, self.name, self.function)


def _rows_to_keep(given: Any, longest: int | None) -> int | None:
    """Return the number of rows of a chunk; None without chunks, or if chunks are too large to be kept in memory."""
    if not longest:
        return None
    row_bytes = int(np.prod(given.shape[1:], dtype=np.int64)) * np.dtype(given.dtype).itemsize
    return longest if longest * row_bytes <= _CHUNK_BYTES else None

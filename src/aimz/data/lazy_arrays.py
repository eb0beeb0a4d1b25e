"""Rows that are taken when they are needed, so that nothing is loaded whole."""

__all__ = ["BatchField", "LazyArray", "StackedArrays", "is_batches", "is_shuffled"]

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

import jax
import numpy as np

from aimz.data.array_sources import ArraySource, check_length_known, dask_arrays, longest_chunk, origin_of
from aimz.data.arrays import fingerprint, is_array, read_array
from aimz.data.dataframes import index_of
from aimz.data.tables import open_table

_LOOK = 2**24
"""Bytes to look at together when an array is read through."""
_CHUNK = 2**27
"""Bytes of a chunk that are kept at most."""
_DIGESTS: OrderedDict[tuple[Any, ...], tuple[list[ref[Any]], str]] = OrderedDict()
"""Digests of Dask arrays that were read, with the arrays they are of; those that were asked for last."""
_MOST_DIGESTS = 256


class LazyArray:
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

    def __init__(self, given: Any, name: str, function: Callable[[Any], Any] | None = None) -> None:
        self.columns: tuple[str, ...] = getattr(given, "columns", ())
        self.index = index_of(given)
        self.lazy = bool(
            isinstance(given, np.memmap)
            or getattr(given, "lazy", False)
            or (hasattr(given, "ndim") and is_array(given) and hasattr(given, "chunks"))
        )
        if not self.lazy and not isinstance(given, np.ndarray | jax.Array):
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
        sample = self._read(slice(0, 0)) if self._given.ndim else read_array(self._given, name)
        self.shape: tuple[int, ...] = (*self._given.shape[:1], *sample.shape[1:])
        self.dtype = sample.dtype
        self.ndim = len(self.shape)
        if not self.lazy and self._given.ndim and self._given.dtype != self.dtype:
            for _ in self.stretches():
                pass

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._read(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        return np.asarray(self._read(slice(None)) if self.ndim else read_array(self._given, self.name), dtype)

    def stretches(self) -> Iterator[np.ndarray]:
        """Yield all rows, some at a time."""
        # The same stretches for every dtype, so that digests of equal numbers agree.
        step = max(1, _LOOK // max(1, 8 * int(np.prod(self.shape[1:]))))
        for start in range(0, self.shape[0], step):
            rows = slice(start, start + step)
            yield self._read(rows)
            self.release(rows)
        self._held = None

    @cached_property
    def origin(self) -> ArraySource | None:
        """Where another process can read the rows as they are given, before ``function``; None if it cannot."""
        return origin_of(self._given) if self.lazy else None

    @property
    def by_reference(self) -> bool:
        """Whether another process can read the rows without this one."""
        return self.origin is not None

    def given(self, rows: slice) -> np.ndarray:
        """Read rows as they are given, before ``function``."""
        return np.asarray(read_array(self._part(rows), self.name))

    @cached_property
    def digest(self) -> str:
        """What :func:`fingerprint` says of all rows; read once, though several scenarios or calls may ask."""
        key = None if self.origin is None or self.function is not None else self.origin.key
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
        self.release(stretch)
        return found

    def apply(self, function: Callable[[Any], Any]) -> Any:
        """Return ``function`` of the array: of all of it if it is in memory, else of the rows as they are read.

        Raises
        ------
        ValueError
            If it is not in memory, and the function of some rows depends on the others.
        """
        if not self.lazy:
            return function(np.asarray(self))
        check_by_row(function, self[slice(0, 64)], self.name)
        before = self.function
        return LazyArray(self._given, self.name, function if before is None else lambda rows: function(before(rows)))

    def release(self, rows: slice) -> None:
        """Let go of the memory that reading these rows of a file took; they are read again if they are needed."""
        given = self._given
        mapped = getattr(given, "_mmap", None)
        if mapped is None or getattr(given, "mode", None) not in ("r", "r+") or not hasattr(mapped, "madvise"):
            return
        part = given[rows]
        if part.size == 0 or not part.flags.c_contiguous:
            return
        begin = part.__array_interface__["data"][0] - np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first, begin + part.nbytes - first)

    def _read(self, rows: slice) -> np.ndarray:
        return self._checked(self._part(rows))

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
class StackedArrays:
    """Versions of one argument with the same rows, side by side along a last axis.

    Parameters
    ----------
    parts : sequence of array_like
        Arrays, :class:`LazyArray` or :class:`BatchField`, alike in shape and type.
    """

    parts: Sequence[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of a part, and their number."""
        return (*self.parts[0].shape, len(self.parts))

    @property
    def dtype(self) -> Any:
        """That of all parts."""
        return self.parts[0].dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        return np.stack([np.asarray(part, dtype) for part in self.parts], axis=-1)


def _worth_keeping(given: Any, rows: int | None) -> int | None:
    """Return how many rows a chunk has that is worth keeping; None if there are no chunks, or they are large."""
    if not rows:
        return None
    row_bytes = int(np.prod(given.shape[1:], dtype=np.int64)) * np.dtype(given.dtype).itemsize
    return rows if rows * row_bytes <= _CHUNK else None


def check_by_row(function: Callable[[Any], Any], some: np.ndarray, name: str) -> None:
    """Refuse a function that needs all rows at once, where there are only some."""
    both, every_other = np.asarray(function(some)), np.asarray(function(some[::2]))
    if both.shape[:1] != some.shape[:1] or not np.array_equal(both[::2], every_other, equal_nan=both.dtype.kind == "f"):
        msg = (
            f"A callable intervention on `{name}`, which is read in parts, must act on each row alone; this one gives "
            "other values for the same rows if others are left out. Compute what it needs beforehand (a mean, say)."
        )
        raise ValueError(msg)


def is_batches(value: Any) -> bool:
    """Whether ``value`` yields batches, rather than being an array."""
    if is_array(value) or isinstance(value, str | bytes | Mapping):
        return False
    if isinstance(value, list | tuple):
        first = value[0] if value else None
        if isinstance(first, tuple | list):
            return any(is_array(part) or isinstance(part, Mapping) for part in first)
        return isinstance(first, Mapping) or (first is not None and open_table(first, "X") is not None)
    return isinstance(value, Iterable)


def is_shuffled(loader: Any) -> bool:
    """Whether a loader says that its rows come in an order of its own."""
    sampler = type(getattr(loader, "sampler", None)).__name__
    return getattr(loader, "shuffle", None) is True or sampler == "RandomSampler"


class BatchField:
    """An argument that comes with the batches of an iterable; it has a type, and rows only as they come by."""

    lazy = True

    def __init__(
        self,
        name: str,
        some: np.ndarray,
        n_obs: int,
        function: Callable[[Any], Any] | None = None,
        columns: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.columns = columns
        self.shape = (n_obs, *some.shape[1:])
        self.dtype = some.dtype
        self.ndim = some.ndim
        self.function = function
        """Applied to the rows as they come."""
        self._some = some

    def apply(self, function: Callable[[Any], Any]) -> "BatchField":
        """Return what ``function`` will make of the rows; refuse one that needs them all."""
        check_by_row(function, self._some, self.name)
        return BatchField(
            self.name, np.asarray(read_array(np.asarray(function(self._some)), self.name)), len(self), function
        )

    def __len__(self) -> int:
        """Return the number of rows, as far as it is known."""
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Refuse: what has gone by is gone."""
        msg = f"The rows of `{self.name}` come from an iterable and cannot be looked up. Pass an array."
        raise TypeError(msg)

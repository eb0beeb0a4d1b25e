"""Rows that are taken when they are needed, so that nothing is loaded whole."""

__all__ = ["BatchReader", "Field", "Rows", "Stacked", "is_batches", "is_shuffled"]

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data.arrays import fingerprint, is_array, read_array
from aimz.data.frames import index_of
from aimz.data.tables import Matrix, Parameters, open_table

_LOOK = 2**24
"""Bytes to look at together when an array is read through."""
_CHUNK = 2**27
"""Bytes of a chunk that are kept at most."""


class Rows:
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
        self._given = np.asarray(given) if isinstance(given, jax.Array) else given
        self._name = name
        self._function = function
        self._chunk = _chunk_length(given)
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
        return np.asarray(self._read(slice(None)) if self.ndim else read_array(self._given, self._name), dtype)

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
    def digest(self) -> str:
        """What :func:`fingerprint` says of all rows; read once, though several scenarios may ask."""
        return fingerprint(self.stretches())

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
        check_by_row(function, self[slice(0, 64)], self._name)
        before = self._function
        return Rows(self._given, self._name, function if before is None else lambda rows: function(before(rows)))

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
        if self._function is not None:
            part = np.asarray(self._function(np.asarray(read_array(part, self._name))))
        return np.asarray(read_array(part, self._name))


class Stacked:
    """Versions of one argument with the same rows, side by side along a last axis.

    Parameters
    ----------
    parts : sequence of array_like
        Arrays, :class:`Rows` or :class:`Field`, alike in shape and type.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)
        self.shape: tuple[int, ...] = (*self.parts[0].shape, len(self.parts))
        self.dtype = self.parts[0].dtype
        self.ndim = len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        return np.stack([np.asarray(part, dtype) for part in self.parts], axis=-1)


def _chunk_length(given: Any) -> int | None:
    """Return how many rows a chunk has that is worth keeping; None if there are no chunks, or they are large."""
    chunks = getattr(given, "chunks", None)
    if not isinstance(chunks, tuple) or not chunks:
        return None
    rows = max(chunks[0], default=0) if isinstance(chunks[0], tuple) else int(chunks[0])
    row_bytes = max(1, int(np.prod(given.shape[1:], dtype=np.int64)) * np.dtype(given.dtype).itemsize)
    return rows if 0 < rows * row_bytes <= _CHUNK else None


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


class Field:
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

    def apply(self, function: Callable[[Any], Any]) -> "Field":
        """Return what ``function`` will make of the rows; refuse one that needs them all."""
        check_by_row(function, self._some, self.name)
        return Field(
            self.name, np.asarray(read_array(np.asarray(function(self._some)), self.name)), len(self), function
        )

    def __len__(self) -> int:
        """Return the number of rows, as far as it is known."""
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Refuse: what has gone by is gone."""
        msg = f"The rows of `{self.name}` come from an iterable and cannot be looked up. Pass an array."
        raise TypeError(msg)


class BatchReader:
    """Re-cuts batches of any size; rows are read in order, and each once.

    Parameters
    ----------
    batches : iterable
        Yields a mapping of field to array, a pair of such a mapping and the number of rows it was padded by, a
        data frame, a sequence of arrays, the input first, or one array for the input.
    parameters : Parameters
        Those of the kernel: arrays without names are the input and the output, columns of a data frame are matched by
        name.
    """

    def __init__(self, batches: Iterable[Any], parameters: Parameters) -> None:
        self._batches = iter(batches)
        self._parameters = parameters
        self._fields = parameters.input, parameters.output
        self.named = False
        """Whether batches are tables, whose columns were matched by name with the parameters."""
        self._ready: list[dict[str, np.ndarray]] = []
        self._at = 0
        self._last: dict[str, np.ndarray] = {}
        self.first = self._next()
        if self.first is None:
            msg = f"`{self._fields[0]}` must not be empty; got an iterable without a batch."
            raise ValueError(msg)
        self._ready.append(self.first)

    @property
    def tables(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the columns of arguments that are tables."""
        return self._parameters.known

    def fields(self, n_obs: int) -> dict[str, Field]:
        """Return what stands for each field."""
        return {
            name: Field(name, array[:64], n_obs, columns=self._parameters.known.get(name, ()))
            for name, array in (self.first or {}).items()
        }

    def length_up_to(self, most: int) -> int | None:
        """Return the number of rows if it is ``most`` or less, by reading that far; None if it is not."""
        ready = sum(map(_length, self._ready))
        while ready <= most:
            batch = self._next()
            if batch is None:
                return ready
            self._ready.append(batch)
            ready += _length(batch)
        return None

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the rows from ``start`` on, fewer at the end; those passed over are dropped."""
        while self._at < start:
            if not self._take(min(start - self._at, 2**16)):
                break
        self._last = self._take(stop - start)
        return self._last

    def rewind(self) -> None:
        """Take back what was read last, to be read again."""
        if self._last:
            self._ready.insert(0, self._last)
            self._at -= _length(self._last)
            self._last = {}

    def _take(self, count: int) -> dict[str, np.ndarray]:
        parts: list[dict[str, np.ndarray]] = []
        while count:
            batch = self._ready.pop(0) if self._ready else self._next()
            if batch is None:
                break
            length = _length(batch)
            if length > count:
                self._ready.insert(0, {name: array[count:] for name, array in batch.items()})
                batch, length = {name: array[:count] for name, array in batch.items()}, count
            parts.append(batch)
            count -= length
            self._at += length
        if not parts:
            return {}
        return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}

    def _next(self) -> dict[str, np.ndarray] | None:
        for given in self._batches:
            batch = self._sorted(given)
            if _length(batch):
                return batch
        return None

    def _sorted(self, given: Any) -> dict[str, np.ndarray]:
        n_pad = 0
        if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Mapping):
            given, n_pad = given[0], int(given[1])
        table = open_table(given, self._fields[0])
        if table is not None:
            given, self.named = self._parameters.fields(table), True
        if is_array(given):
            given = (given,)
        if isinstance(given, tuple | list):
            if len(given) > len(self._fields):
                msg = (
                    f"A batch without names must be {self._fields} at most, in that order; got {len(given)} arrays. "
                    "Yield a mapping of field to array."
                )
                raise ValueError(msg)
            given = dict(zip(self._fields, given, strict=False))
        if not isinstance(given, Mapping):
            msg = (
                "Batches must be mappings of field to array, pairs of such a mapping and a number of padded rows, or "
                f"tuples of arrays; got {type(given).__name__}."
            )
            raise TypeError(msg)
        given = {str(name): self._parameters.matched(str(name), value) for name, value in given.items()}
        seen = {name: value.columns for name, value in given.items() if isinstance(value, Matrix)}
        self._parameters = replace(self._parameters, known={**seen, **self._parameters.known})
        # Copies, since an iterable may fill the same memory again for its next batch.
        batch = {name: np.array(read_array(np.asarray(a) if name in seen else a, name)) for name, a in given.items()}
        lengths = {name: array.shape[0] if array.ndim else None for name, array in batch.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            listed = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
            msg = f"Arrays of a batch must have the same number of rows (length of the first axis); got {listed}."
            raise ValueError(msg)
        batch = self._like_first(batch)
        return {name: array[: len(array) - n_pad] for name, array in batch.items()} if n_pad else batch

    def _like_first(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a batch with the types of the first; whole numbers are fine where that had others beside them."""
        first = getattr(self, "first", None) or batch
        apart = sorted(first.keys() ^ batch.keys())
        if apart:
            msg = f"Batches must be alike; `{apart[0]}` is missing from one. Yield the same fields each time."
            raise ValueError(msg)
        for name, array in batch.items():
            wanted = first[name].dtype
            if array.dtype != wanted and jnp.promote_types(array.dtype, wanted) != wanted:
                msg = (
                    f"Batches must be alike; `{name}` is {array.dtype} in one and {wanted} in the first. A column of "
                    "whole numbers with a missing value is one of floats: fill it, or make it one in all batches."
                )
                raise ValueError(msg)
        return {name: array.astype(first[name].dtype, copy=False) for name, array in batch.items()}


def _length(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values()))) if batch else 0

"""Batches of any size, cut anew: rows of an iterable, in order."""

__all__ = ["BatchReader", "is_batches", "is_shuffled"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from aimz.data.arrays import is_array, read_array
from aimz.data.row_readers import BatchField
from aimz.data.tables import KernelParameters, Matrix, open_table


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
    first_row : int
        The number of the row that the batches begin with; rows are read by their numbers in the whole.
    types : mapping of str to numpy.dtype, optional
        Types of the fields, where batches have come before; those of the first batch otherwise.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        parameters: KernelParameters,
        *,
        first_row: int = 0,
        types: Mapping[str, np.dtype] | None = None,
    ) -> None:
        self._batches = iter(batches)
        self._parameters = parameters
        self._fields = parameters.input, parameters.output
        self.named = False
        """Whether batches are tables, whose columns were matched by name with the parameters."""
        self._ready: list[dict[str, np.ndarray]] = []
        self._at = self._first_row = first_row
        self._last: dict[str, np.ndarray] = {}
        self.types = {} if types is None else dict(types)
        """Types of the fields, once they are known."""
        self.first = self._next()
        if self.first is None:
            msg = f"`{self._fields[0]}` must not be empty; got an iterable without a batch."
            raise ValueError(msg)
        self.types = {name: array.dtype for name, array in self.first.items()}
        self._ready.append(self.first)

    @property
    def parameters(self) -> KernelParameters:
        """Those of the kernel, with the columns that tables have shown."""
        return self._parameters

    @property
    def tables(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the columns of arguments that are tables."""
        return self._parameters.known

    def fields(self, n_obs: int) -> dict[str, BatchField]:
        """Return what stands for each field."""
        return {
            name: BatchField(name, array[:64], n_obs, columns=self._parameters.known.get(name, ()))
            for name, array in (self.first or {}).items()
        }

    def length_up_to(self, most: int) -> int | None:
        """Return the number of rows if it is ``most`` or less, by reading that far; None if it is not."""
        ready = self._at + sum(map(_length, self._ready))
        while ready <= most:
            batch = self._next()
            if batch is None:
                return ready
            self._ready.append(batch)
            ready += _length(batch)
        return None

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the rows from ``start`` on, fewer at the end; those passed over are dropped."""
        if start < self._first_row:
            msg = f"Row {start} was asked for, and the batches begin with row {self._first_row}."
            raise IndexError(msg)
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
        types = self.types or {name: array.dtype for name, array in batch.items()}
        apart = sorted(types.keys() ^ batch.keys())
        if apart:
            msg = f"Batches must be alike; `{apart[0]}` is missing from one. Yield the same fields each time."
            raise ValueError(msg)
        for name, array in batch.items():
            wanted = types[name]
            if array.dtype != wanted and jnp.promote_types(array.dtype, wanted) != wanted:
                msg = (
                    f"Batches must be alike; `{name}` is {array.dtype} in one and {wanted} in the first. A column of "
                    "whole numbers with a missing value is one of floats: fill it, or make it one in all batches."
                )
                raise ValueError(msg)
        return {name: array.astype(types[name], copy=False) for name, array in batch.items()}


def _length(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values()))) if batch else 0


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

"""Re-cut batches of an iterable, and recognise iterables of batches."""

__all__ = ["BatchReader", "is_batches", "is_shuffled"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from aimz.data.arrays import check_array, is_array
from aimz.data.axis_labels import check_axes
from aimz.data.categories import EncodedColumn
from aimz.data.row_findings import RoundedValues
from aimz.data.row_readers import BatchField
from aimz.data.tables import KernelParameters, open_table, table_columns


class BatchReader:
    """Reader of the rows of an iterable of batches, in order and once.

    Parameters
    ----------
    batches : iterable
        Yields a mapping of field to array, a pair of such a mapping and the number of padded rows, a data frame, a
        sequence of arrays with the input first, or one array for the input.
    parameters : KernelParameters
        Parameters of the kernel.  Arrays without names are the input and the output, columns of a data frame are
        matched by name.
    first_row : int
        Number of the first row of the batches in the whole data set.
    types : mapping of str to numpy.dtype, optional
        Dtypes of the fields; by default the dtypes of the first batch.
    rounding : RoundedValues, optional
        Records values that may become equal when batches are cast.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        parameters: KernelParameters,
        *,
        first_row: int = 0,
        types: Mapping[str, np.dtype] | None = None,
        rounding: RoundedValues | None = None,
    ) -> None:
        self.rounding = rounding or RoundedValues()
        self.not_finite: str | None = None
        """Number of the first row with a value that is not finite, its batch and its argument, in words."""
        self._n_batches = 0
        self._batches = iter(batches)
        # Later batches cannot have new categories, since arrays of their number are made before they are read.
        self.parameters = replace(parameters, grows=False)
        """Parameters of the kernel, with the columns and categories of the tables that were read."""
        self._fields = parameters.input, parameters.output
        self.named = False
        """Whether batches are tables, whose columns are matched by name with the parameters."""
        self._ready: list[dict[str, np.ndarray]] = []
        self._at = self._first_row = first_row
        self._last: dict[str, np.ndarray] = {}
        self.types = {} if types is None else dict(types)
        """Dtypes of the fields, once they are known."""
        self.first = self._next()
        if self.first is None:
            msg = f"`{self._fields[0]}` must not be empty; got an iterable without a batch."
            raise ValueError(msg)
        self.types = {name: array.dtype for name, array in self.first.items()}
        self._ready.append(self.first)

    def fields(self, n_obs: int) -> dict[str, BatchField]:
        """Return a placeholder of each field."""
        return {
            name: BatchField(
                name,
                array[:64],
                n_obs,
                columns=self.parameters.known.get(name, ()),
                categories=self.parameters.categories.get(name, ()),
            )
            for name, array in (self.first or {}).items()
        }

    def length_up_to(self, most: int) -> int | None:
        """Return the number of rows if it is at most ``most``, else None; reads that many rows ahead."""
        ready = self._at + sum(map(_length, self._ready))
        while ready <= most:
            batch = self._next()
            if batch is None:
                return ready
            self._ready.append(batch)
            ready += _length(batch)
        return None

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows ``start:stop``, fewer at the end; earlier rows that were not read are dropped."""
        if start < self._first_row:
            msg = f"Row {start} was requested, but the batches begin with row {self._first_row}. Read rows in order."
            raise IndexError(msg)
        while self._at < start:
            if not self._take(min(start - self._at, 2**16)):
                break
        self._last = self._take(stop - start)
        return self._last

    def rewind(self) -> None:
        """Restore the rows that were read last, so that they are read again."""
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
        with self.rounding.recording():  # a loader may cast its batches, too
            for given in self._batches:
                batch = self._by_field(given)
                self.not_finite = self.not_finite or _first_not_finite(batch, self._n_batches)
                self._n_batches += 1
                if _length(batch):
                    return batch
        return None

    def _by_field(self, given: Any) -> dict[str, np.ndarray]:
        n_pad = 0
        if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Mapping):
            given, n_pad = given[0], int(given[1])
        table = open_table(given, self._fields[0])
        if table is not None:
            given, self.named = self.parameters.fields(table), True
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
                f"tuples of arrays; got {type(given).__name__}. Yield a mapping."
            )
            raise TypeError(msg)
        given = self.parameters.by_parameter({str(name): value for name, value in given.items()})
        axes = {**check_axes(given), **self.parameters.axes}
        self.parameters = replace(self.parameters, axes=axes)
        given = {name: self.parameters.matched(name, value) for name, value in given.items()}
        tables = table_columns(given)
        found = {name: value.categories for name, value in given.items() if isinstance(value, EncodedColumn)}
        categories = {**found, **self.parameters.categories}
        self.parameters = replace(self.parameters, known={**tables, **self.parameters.known}, categories=categories)
        # Copies, since an iterable may reuse the memory for its next batch.
        batch = {n: np.array(check_array(np.asarray(a) if n in tables else a, n)) for n, a in given.items()}
        lengths = {name: array.shape[0] if array.ndim else None for name, array in batch.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            listed = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
            msg = f"Arrays of a batch must have the same number of rows (length of the first axis); got {listed}."
            raise ValueError(msg)
        batch = self._in_first_dtypes(batch)
        return {name: array[: len(array) - n_pad] for name, array in batch.items()} if n_pad else batch

    def _in_first_dtypes(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a batch in the dtypes of the first batch; raise ``ValueError`` if fields or dtypes do not match."""
        types = self.types or {name: array.dtype for name, array in batch.items()}
        unmatched = sorted(types.keys() ^ batch.keys())
        if unmatched:
            msg = f"All batches must have the same fields; `{unmatched[0]}` is missing from a batch. Yield it in each."
            raise ValueError(msg)
        for name, array in batch.items():
            dtype = types[name]
            if array.dtype != dtype and jnp.promote_types(array.dtype, dtype) != dtype:
                msg = (
                    f"Batches must have equal dtypes; `{name}` is {array.dtype} in a batch and {dtype} in the first. A "
                    "column of integers with a missing value becomes floats: fill it, or use floats in all batches."
                )
                raise ValueError(msg)
        return {name: array.astype(types[name], copy=False) for name, array in batch.items()}


def _length(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values()))) if batch else 0


def _first_not_finite(batch: Mapping[str, np.ndarray], number: int) -> str | None:
    """Return the first row of a batch with a value that is not finite, in words, or None."""
    for name, rows in batch.items():
        if rows.dtype.kind != "f" or not rows.size:
            continue
        flat = rows.ravel(order="K")
        with np.errstate(over="ignore", invalid="ignore"):  # a single pass, unless squares overflow
            if np.isfinite(np.dot(flat, flat)):
                continue
        bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        if bad.any():
            return f"first in row {int(bad.argmax()):,} of batch {number:,} of `{name}` (both counted from 0)"
    return None


def is_batches(value: Any) -> bool:
    """Return whether ``value`` yields batches, rather than being an array."""
    if is_array(value) or isinstance(value, str | bytes | Mapping):
        return False
    if isinstance(value, list | tuple):
        first = value[0] if value else None
        if isinstance(first, tuple | list):
            return any(is_array(part) or isinstance(part, Mapping) for part in first)
        return isinstance(first, Mapping) or (first is not None and open_table(first, "X") is not None)
    return isinstance(value, Iterable)


def is_shuffled(loader: Any) -> bool:
    """Return whether a loader shuffles its rows."""
    sampler = type(getattr(loader, "sampler", None)).__name__
    return getattr(loader, "shuffle", None) is True or sampler == "RandomSampler"

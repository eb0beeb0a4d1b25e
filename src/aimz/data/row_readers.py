"""The protocol for reading rows of an argument, for arrays in memory, stacks of arrays and fields of batches."""

__all__ = ["BatchField", "RowReader", "RowSlice", "StackedArrays", "check_acts_by_row", "open_rows"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, override

import numpy as np

from aimz.data.arrays import check_array
from aimz.data.row_findings import RoundedValues

type Batch = Mapping[str, np.ndarray]
"""Field name to rows that were read from an iterable of batches."""


class RowReader(ABC):
    """Rows of one argument, read by their numbers."""

    shape: tuple[int, ...]
    """Shape of the whole argument, whichever rows are held."""
    dtype: Any
    name: str = ""
    """Name of the argument in error messages."""
    axis: int
    """Axis of the rows."""
    columns: tuple[str, ...] = ()
    """Names of the columns, if the argument is a table."""
    categories: tuple[str | int, ...] = ()
    """Categories, if the argument was text or categorical."""
    is_lazy: bool = False
    """Whether the rows are converted or read only when they are needed."""
    is_stored: bool = False
    """Whether the rows are read from a file, a store or Dask."""
    by_reference: bool = False
    """Whether any process can read the rows from their source.  They are digested while they are streamed."""
    uses_dask: bool = False
    """Whether Dask computes the rows."""
    is_constant: bool = False
    """Whether all rows are equal and one is stored; any number of rows can be read."""
    from_batches: bool = False
    """Whether an iterable of batches supplies the rows."""
    longest_chunk: int | None = None
    """Number of rows of the longest chunk; None without chunks."""
    rounding: RoundedValues | None = None
    """Values that may become equal when rows are cast; None if rows are in the type of the device."""

    @cached_property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None if it adapts to the other arguments, as that of constants and batches does."""
        return None if self.is_constant or self.from_batches else self.shape[self.axis]

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return prod(size for axis, size in enumerate(self.shape) if axis != self.axis) * int(self.dtype.itemsize)

    def leaves(self) -> Sequence["RowReader"]:
        """Return the readers that this one combines, or the reader itself."""
        return (self,)

    @abstractmethod
    def read(self, start: int, stop: int, batch: Batch | None = None) -> np.ndarray:
        """Read rows ``start:stop``; ``batch`` has these rows of the fields of an iterable."""

    def release(self, start: int, stop: int) -> None:  # noqa: B027
        """Free the memory that reading these rows took."""

    @abstractmethod
    def slice_for_worker(self, start: int, stop: int) -> "RowReader":
        """Return a picklable reader of rows ``start:stop``: the rows in memory, or a reference to their source."""

    def apply(self, function: Callable[[Any], Any]) -> Any:
        """Return ``function`` of the array: of all rows if they are in memory, else a reader that applies it."""
        return function(np.asarray(self))

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[self.axis])
        return self.read(start, stop)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def open_rows(array: Any, axis: int = 0) -> RowReader:
    """Return a reader of an array in memory, or the reader that ``array`` is."""
    if isinstance(array, RowReader):
        return array
    is_constant = isinstance(array, np.ndarray) and array.strides[axis] == 0
    return RowSlice(array, axis, 0, array.shape[axis], tuple(array.shape), array.dtype, is_constant=is_constant)


@dataclass(frozen=True, eq=False)
class RowSlice(RowReader):
    """Rows ``start:stop`` of an array, in memory, under their numbers in the whole array."""

    rows: Any
    axis: int
    start: int
    stop: int
    shape: tuple[int, ...]
    """Shape of the whole array."""
    dtype: Any
    name: str = ""
    is_constant: bool = False

    @override
    def read(self, start: int, stop: int, batch: Batch | None = None) -> np.ndarray:
        if self.is_constant:
            row = np.asarray(self.rows)[self._index(0, 1)]
            return np.broadcast_to(row, (*row.shape[: self.axis], stop - start, *row.shape[self.axis + 1 :]))
        start, stop, _ = slice(start, stop).indices(self.shape[self.axis])
        if start >= stop:
            return self._take(self.start, self.start)
        if start < self.start or stop > self.stop:
            msg = (
                f"Rows {start} to {stop} of `{self.name}` were requested; this slice has rows {self.start} to "
                f"{self.stop} only. Read rows of the slice."
            )
            raise IndexError(msg)
        return self._take(start, stop)

    def _take(self, start: int, stop: int) -> np.ndarray:
        """Return rows that the slice has."""
        return np.asarray(self.rows)[self._index(start - self.start, stop - self.start)]

    def _index(self, start: int, stop: int) -> tuple[slice, ...]:
        return (*(slice(None),) * self.axis, slice(start, stop))

    @override
    def slice_for_worker(self, start: int, stop: int) -> "RowSlice":
        rows = np.asarray(self.rows)[self._index(0, 1)] if self.is_constant else self._take(start, stop)
        return RowSlice(rows, self.axis, start, stop, self.shape, self.dtype, self.name, self.is_constant)


@dataclass(eq=False)
class StackedArrays(RowReader):
    """Versions of one argument, stacked along a new last axis."""

    parts: Sequence[RowReader]
    """Readers of equal shape and dtype.  A data class, so that Dask finds its arrays in them."""

    def __post_init__(self) -> None:
        first = self.parts[0]
        self.shape, self.dtype, self.axis = (*first.shape, len(self.parts)), first.dtype, first.axis
        self.is_constant = all(part.is_constant for part in self.parts)
        self.is_lazy = any(part.is_lazy for part in self.parts)
        self.by_reference = any(part.by_reference for part in self.parts)

    @property
    def n_rows(self) -> int | None:
        """Number of rows of the parts; None if all of them adapt."""
        return next((part.n_rows for part in self.parts if part.n_rows is not None), None)

    @override
    def leaves(self) -> Sequence[RowReader]:
        return self.parts

    @override
    def read(self, start: int, stop: int, batch: Batch | None = None) -> np.ndarray:
        return np.stack([part.read(start, stop, batch) for part in self.parts], axis=-1)

    @override
    def release(self, start: int, stop: int) -> None:
        for part in self.parts:
            part.release(start, stop)

    @override
    def slice_for_worker(self, start: int, stop: int) -> "StackedArrays":
        return StackedArrays(tuple(part.slice_for_worker(start, stop) for part in self.parts))


class BatchField(RowReader):
    """Argument whose rows are supplied by an iterable of batches.

    Parameters
    ----------
    name : str
        Name of the field.
    sample : numpy.ndarray
        Some rows.
    n_obs : int
        Number of rows, as far as it is known.
    function : callable, optional
        Applied to each batch.
    columns : tuple of str
        Names of the columns, if the field is a table.
    categories : tuple of str or int
        Categories, if the field was text or categorical.
    """

    axis = 0
    is_lazy = True
    from_batches = True

    def __init__(
        self,
        name: str,
        sample: np.ndarray,
        n_obs: int,
        function: Callable[[Any], Any] | None = None,
        columns: tuple[str, ...] = (),
        categories: tuple[str | int, ...] = (),
    ) -> None:
        self.name = name
        self.columns = columns
        self.categories = categories
        self.shape = (n_obs, *sample.shape[1:])
        self.dtype = sample.dtype
        self.function = function
        self._sample = sample

    @override
    def read(self, start: int, stop: int, batch: Batch | None = None) -> np.ndarray:
        if batch is None:
            msg = f"The rows of `{self.name}` come from an iterable, which cannot be indexed. Pass an array."
            raise TypeError(msg)
        rows = batch[self.name]
        return rows if self.function is None else np.asarray(check_array(self.function(rows), self.name))

    @override
    def apply(self, function: Callable[[Any], Any]) -> "BatchField":
        check_acts_by_row(function, self._sample, self.name)
        sample = np.asarray(check_array(function(self._sample), self.name))
        return BatchField(self.name, sample, self.shape[0], function)

    @override
    def slice_for_worker(self, start: int, stop: int) -> "BatchField":
        return self


def check_acts_by_row(function: Callable[[Any], Any], sample: np.ndarray, name: str) -> None:
    """Raise if a row's value of ``function`` depends on other rows, since it is applied to some rows at a time."""
    both, every_other = np.asarray(function(sample)), np.asarray(function(sample[::2]))
    is_float = both.dtype.kind == "f"
    if both.shape[:1] != sample.shape[:1] or not np.array_equal(both[::2], every_other, equal_nan=is_float):
        msg = (
            f"A callable intervention on `{name}`, which is read in parts, must act on each row alone; this one gives "
            "other values for the same rows if others are left out. Compute what it needs beforehand (a mean, say)."
        )
        raise ValueError(msg)

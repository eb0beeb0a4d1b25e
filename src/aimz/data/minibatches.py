"""Minibatches of a data set for each epoch of a fit."""

__all__ = ["ArrayBatches", "Batches", "IterableBatches", "count_rows"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, override

import numpy as np

from aimz.data.axis_labels import AxisLabels
from aimz.data.categories import Categories
from aimz.data.lazy_arrays import LazyArray
from aimz.data.rebatching import BatchReader, is_shuffled
from aimz.data.row_findings import RoundedValues
from aimz.data.row_readers import RowReader, open_rows
from aimz.data.tables import KernelParameters

_WINDOW_BYTES = 3 * 2**27
"""Size of the rows that are gathered in one pass over a file."""
_PIECE_BYTES = 2**24
"""Size of the pieces in which the file is read in that pass."""


type Buffers = Mapping[str, np.ndarray]
"""Argument name to memory for its rows."""


class EpochReader(ABC):
    """Reader of the rows of one epoch, each once."""

    @abstractmethod
    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        """Fill rows ``start:stop`` of the buffers; return the number of rows, which is smaller at the end."""


class Batches(ABC):
    """A data set that is read in minibatches."""

    n_obs: int
    """Number of rows that an epoch represents."""
    batch_size: int
    """Number of rows of a batch."""
    templates: Mapping[str, np.ndarray]
    """Sample rows of each argument, with the shape and dtype of all rows."""
    begun = 0
    """Number of epochs that were begun or skipped."""
    tables: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Names of the columns of arguments that are tables."""
    axes: Mapping[str, AxisLabels] = MappingProxyType({})
    """Names and labels of the axes of arguments that are xarray arrays."""
    categories: Mapping[str, Categories] = MappingProxyType({})
    """Categories of arguments that are text or categorical."""
    description: Any = None
    """Description of the rows of the fit, to which the first epoch adds them."""
    observe: "Callable[[Buffers], None] | None" = None
    """Called with the rows of the first epoch that is read, some at a time; None once that epoch has started."""

    @property
    @abstractmethod
    def rounding(self) -> RoundedValues:
        """Values that may have become equal when rows were cast."""

    @abstractmethod
    def epoch(self, number: int) -> EpochReader:
        """Start an epoch; the first has number 0."""

    @abstractmethod
    def skip_epoch(self, number: int) -> None:
        """Skip an epoch that was completed before the fit was interrupted."""

    @abstractmethod
    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch of the first epoch, without consuming it."""

    def _observed(self, reader: EpochReader) -> EpochReader:
        """Return the reader of an epoch, which passes its rows on if it is the first that is read."""
        observe, self.observe = self.observe, None
        return reader if observe is None else _ObservedReader(reader, observe)

    def empty_buffers(self, n_rows: int) -> dict[str, np.ndarray]:
        """Return buffers for ``n_rows`` rows."""
        return {name: np.empty((n_rows, *some.shape[1:]), some.dtype) for name, some in self.templates.items()}


@dataclass
class _ObservedReader(EpochReader):
    """Reader that passes the rows that it reads on to a function."""

    reader: EpochReader
    observe: Callable[[Buffers], None]

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        got = self.reader.fill(buffers, start, stop)
        if got:
            self.observe({name: rows[start : start + got] for name, rows in buffers.items()})
        return got


class ArrayBatches(Batches):
    """Batches of arrays, which may be in files larger than memory.

    Parameters
    ----------
    rows : mapping of str to LazyArray
        Arguments with a row axis.
    batch_size : int
        Number of rows of a batch; the last batch of an epoch may have fewer.
    order : callable
        Function of the number of an epoch that returns a permutation of its rows, or None for the order of the arrays.
    """

    def __init__(
        self, rows: Mapping[str, LazyArray], batch_size: int, order: Callable[[int], np.ndarray | None] = lambda _: None
    ) -> None:
        # Arrays in memory are converted once; others are converted as they are read.
        self.rows = {name: array if array.is_lazy else open_rows(np.asarray(array)) for name, array in rows.items()}
        self.n_obs = next(iter(rows.values())).shape[0]
        self.batch_size = min(batch_size, self.n_obs)
        self.templates = {name: array[:1] for name, array in rows.items()}
        self._order = order
        self._ordered: tuple[int, np.ndarray | None] | None = None
        """Number of the last epoch, and the order of its rows."""

    @property
    def rounding(self) -> RoundedValues:
        """Values that may have become equal when rows were cast."""
        found = RoundedValues()
        for rows in self.rows.values():
            if rows.rounding is not None:
                found.merge(rows.rounding)
        return found

    def epoch(self, number: int) -> EpochReader:
        """Start an epoch."""
        self.begun = number + 1
        return self._observed(self._reader(number, self.n_obs))

    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch of the first epoch."""
        buffers = self.empty_buffers(self.batch_size)
        self._reader(0, self.batch_size).fill(buffers, 0, self.batch_size)
        return buffers

    def _reader(self, number: int, n_rows: int) -> EpochReader:
        if self._ordered is None or self._ordered[0] != number:
            self._ordered = number, self._order(number)
        return _ArrayReader(self.rows, self._ordered[1], self.n_obs, n_rows)

    def skip_epoch(self, number: int) -> None:
        """Count the epoch, whose order depends on its number alone."""
        self.begun = number + 1


@dataclass
class _ArrayReader(EpochReader):
    rows: Mapping[str, RowReader]
    order: np.ndarray | None
    n_obs: int
    n_rows: int
    """Number of rows that are read at most."""
    at: int = 0
    _window: "_Window | None" = None

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        begin, self.at = self.at, min(self.at + stop - start, self.n_obs)
        got = self.at - begin
        to = {name: buffers[name][start : start + got] for name in self.rows}
        if self.order is None:
            for name, array in self.rows.items():
                to[name][:] = array.read(begin, self.at)
                array.release(begin, self.at)
            return got
        lazy: dict[str, Any] = {name: array for name, array in self.rows.items() if array.is_lazy}
        for name in self.rows.keys() - lazy.keys():  # mode "clip" avoids a copy; no index is out of range
            np.take(np.asarray(self.rows[name]), self.order[begin : self.at], axis=0, out=to[name], mode="clip")
        if lazy:
            self._window = self._window or _Window(lazy, self.order[: self.n_rows])
            self._window.fill(buffers, start, begin, self.at)
        return got


class _Window:
    """Permuted rows of arguments in files, gathered in one pass over each file.

    As many rows as fit into memory are held, in the order of the file, and permuted when they are copied out.
    """

    def __init__(self, rows: Mapping[str, LazyArray], order: np.ndarray) -> None:
        size = sum(array.row_bytes for array in rows.values())
        self._rows = rows
        self._order = order
        self._length = min(len(order), max(1, _WINDOW_BYTES // max(1, size)))
        self._held = {n: np.empty((self._length, *a.shape[1:]), a.dtype) for n, a in rows.items()}
        self._rank = np.empty(0, np.intp)
        """Position in ``_held`` of each row of the window."""
        self._from = 0

    def fill(self, buffers: Buffers, to: int, start: int, stop: int) -> None:
        """Copy rows ``order[start:stop]`` to position ``to`` of the buffers."""
        at = start
        while at < stop:
            if at >= self._from + len(self._rank):
                self._gather(at)
            end = min(stop, self._from + len(self._rank))
            rank = self._rank[at - self._from : end - self._from]
            for name, held in self._held.items():
                np.take(held, rank, axis=0, out=buffers[name][to : to + end - at], mode="clip")
            to, at = to + end - at, end

    def _gather(self, at: int) -> None:
        index = self._order[at : at + self._length]
        places = np.argsort(index)
        ordered = index[places]
        self._rank, self._from = np.empty(len(index), np.intp), at
        self._rank[places] = np.arange(len(index))
        for name, array in self._rows.items():
            step = max(1, _PIECE_BYTES // max(1, array.row_bytes))
            for begin in range(0, array.shape[0], step):
                within = slice(*np.searchsorted(ordered, [begin, begin + step]))
                if within.stop > within.start:
                    self._held[name][within] = array.take(begin, begin + step, ordered[within] - begin)


class IterableBatches(Batches):
    """Batches of an iterable, re-cut to ``batch_size`` or to the length of its first batch.

    Parameters
    ----------
    batches : iterable
        Batches as :class:`BatchReader` reads them.
    parameters : KernelParameters
        Parameters of the kernel.
    batch_size : int or callable, optional
        Number of rows of a batch, or a function of the number of rows of an epoch.
    n_obs : callable
        Function that returns the number of rows of an epoch; called once.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        parameters: KernelParameters,
        batch_size: int | Callable[[int], int] | None,
        n_obs: Callable[[], int],
    ) -> None:
        self._batches = batches
        self._parameters = parameters
        self.n_obs = n_obs()
        self._rounding = RoundedValues()
        self._first_reader = BatchReader(batches, parameters, rounding=self._rounding)
        self.tables = self._first_reader.parameters.known
        self.axes = self._first_reader.parameters.axes
        self.categories = self._first_reader.parameters.categories
        self._parameters = replace(parameters, categories=self.categories)
        first = self._first_reader.first or {}
        size = batch_size(self.n_obs) if callable(batch_size) else batch_size or len(next(iter(first.values())))
        self.batch_size = min(size, self.n_obs)
        self.templates = {name: array[:1] for name, array in first.items()}
        self._unread: BatchReader | None = self._first_reader
        self.reader = self._first_reader
        """Reader of the epoch that was started last."""
        self.check: Callable[[Mapping[str, np.ndarray], int], None] = lambda _rows, _start: None
        """Called with each batch that is read, and the number of its first row."""

    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch, without consuming it."""
        found = self._first_reader.read(0, self.batch_size)
        self._first_reader.rewind()
        return found

    @override
    def epoch(self, number: int) -> EpochReader:
        """Start the next epoch; the first one continues the reader whose first batch was read."""
        reader = self._unread or BatchReader(self._batches, self._parameters, rounding=self._rounding)
        self.reader, self._unread = reader, None
        return self._observed(_Iterated(reader, self.check))

    @property
    def rounding(self) -> RoundedValues:
        """Values that may have become equal when rows were cast."""
        return self._rounding

    def all_rows(self) -> dict[str, np.ndarray]:
        """Return every row, read in an extra pass; empty if rows cannot be read again in the same order."""
        if isinstance(self._batches, Iterator) or is_shuffled(self._batches):
            return {}
        return BatchReader(self._batches, self._parameters).read(0, 1 << 62)

    def skip_epoch(self, number: int) -> None:
        """Read an epoch and drop it, so that a shuffling loader reaches the state it had."""
        reader = self.epoch(number)
        buffers = self.empty_buffers(self.batch_size)
        while reader.fill(buffers, 0, self.batch_size) == self.batch_size:
            pass


@dataclass
class _Iterated(EpochReader):
    reader: BatchReader
    check: Callable[[Mapping[str, np.ndarray], int], None]
    at: int = 0

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        got = self.reader.read(self.at, self.at + stop - start)
        length = len(next(iter(got.values()))) if got else 0
        if got:
            self.check(got, self.at)
        for name, rows in got.items():
            buffers[name][start : start + length] = rows
        self.at += length
        return length


def count_rows(batches: Iterable[Any], parameters: KernelParameters) -> int:
    """Count the rows of an iterable by reading all of it."""
    reader, at = BatchReader(batches, parameters), 0
    while got := reader.read(at, at + 2**16):
        at += len(next(iter(got.values())))
    return at

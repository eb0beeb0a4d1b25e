"""A data set in batches, epoch after epoch: rows in the order in which a fit takes them."""

__all__ = ["ArrayBatches", "Batches", "IterableBatches", "count_rows"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from aimz.data.lazy_arrays import LazyArray
from aimz.data.rebatching import BatchReader, is_shuffled
from aimz.data.row_readers import RowReader, open_rows
from aimz.data.tables import KernelParameters

_WINDOW = 3 * 2**27
"""Bytes of rows that are gathered from a file in one pass over it."""
_STRETCH = 2**24
"""Bytes of a file that are looked at together meanwhile."""


type Buffers = Mapping[str, np.ndarray]
"""Name of an argument to room for rows."""


class Reader(ABC):
    """The rows of one epoch, in order, each once."""

    @abstractmethod
    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        """Put the next rows at ``start:stop`` of the buffers; return how many there were, fewer at the end."""


class Batches(ABC):
    """A data set as a fit reads it."""

    n_obs: int
    """Number of rows a whole epoch stands for."""
    batch_size: int
    templates: Mapping[str, np.ndarray]
    """For each argument some rows, which say what all are like."""
    begun = 0
    """How many epochs were begun, or passed over."""
    tables: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Names of the columns of arguments that are tables."""

    @abstractmethod
    def epoch(self, number: int) -> Reader:
        """Begin an epoch, counted from 0."""

    @abstractmethod
    def pass_over(self, number: int) -> None:
        """Let an epoch go by whose steps were taken already."""

    @abstractmethod
    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch of the first epoch, which will be read again."""

    def room(self, n_rows: int) -> dict[str, np.ndarray]:
        """Return buffers for so many rows."""
        return {name: np.empty((n_rows, *some.shape[1:]), some.dtype) for name, some in self.templates.items()}


class ArrayBatches(Batches):
    """Batches of arrays, which may lie in files larger than memory.

    Parameters
    ----------
    rows : mapping of str to Rows
        Arguments with a row axis.
    batch_size : int
        Number of rows in a batch; the last one of an epoch may have fewer.
    order : callable
        Number of an epoch to the order of its rows, or None for the order they have.
    """

    def __init__(
        self, rows: Mapping[str, LazyArray], batch_size: int, order: Callable[[int], np.ndarray | None] = lambda _: None
    ) -> None:
        # What is in memory is converted once; what lies in files is read as it is needed.
        self.rows = {name: array if array.is_lazy else open_rows(np.asarray(array)) for name, array in rows.items()}
        self.n_obs = next(iter(rows.values())).shape[0]
        self.batch_size = min(batch_size, self.n_obs)
        self.templates = {name: array[:1] for name, array in rows.items()}
        self._order = order
        self._ordered: tuple[int, np.ndarray | None] | None = None
        """The epoch whose order was asked for last, and that order."""

    def epoch(self, number: int) -> Reader:
        """Begin an epoch."""
        self.begun = number + 1
        return self._reader(number, self.n_obs)

    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch of the first epoch, and no more of it."""
        buffers = self.room(self.batch_size)
        self._reader(0, self.batch_size).fill(buffers, 0, self.batch_size)
        return buffers

    def _reader(self, number: int, most: int) -> Reader:
        if self._ordered is None or self._ordered[0] != number:
            self._ordered = number, self._order(number)
        order = self._ordered[1]
        return _InOrder(self.rows, self.n_obs) if order is None else _Permuted(self.rows, order, most)

    def pass_over(self, number: int) -> None:
        """Count it: each epoch has an order of its own."""
        self.begun = number + 1


@dataclass
class _InOrder(Reader):
    rows: Mapping[str, RowReader]
    n_obs: int
    at: int = 0

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        taken = slice(self.at, min(self.at + stop - start, self.n_obs))
        got = taken.stop - taken.start
        for name, array in self.rows.items():
            buffers[name][start : start + got] = array[taken]
            array.release(taken.start, taken.stop)
        self.at = taken.stop
        return got


@dataclass
class _Permuted(Reader):
    rows: Mapping[str, RowReader]
    order: np.ndarray
    most: int
    """Most rows that will be asked for."""
    at: int = 0
    _window: "_Window | None" = None

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        got = min(stop - start, len(self.order) - self.at)
        index = self.order[self.at : self.at + got]
        lazy: dict[str, Any] = {name: array for name, array in self.rows.items() if array.is_lazy}
        for name in self.rows.keys() - lazy.keys():  # mode "clip" avoids a copy; no index is out of range
            np.take(np.asarray(self.rows[name]), index, axis=0, out=buffers[name][start : start + got], mode="clip")
        if lazy and self._window is None:
            self._window = _Window(lazy, self.order[: self.most])
        if self._window is not None:
            self._window.fill(buffers, start, self.at, self.at + got)
        self.at += got
        return got


class _Window:
    """Rows in an order of their own, of arguments that lie in files: so many as fit, gathered in one pass over each.

    They are held in the order of the file, and put into their own when they are handed out.
    """

    def __init__(self, rows: Mapping[str, LazyArray], order: np.ndarray) -> None:
        size = sum(array.row_bytes for array in rows.values())
        self._rows = rows
        self._order = order
        self._length = min(len(order), max(1, _WINDOW // max(1, size)))
        self._held = {n: np.empty((self._length, *a.shape[1:]), a.dtype) for n, a in rows.items()}
        self._rank = np.empty(0, np.intp)
        """Where each row of the window is held."""
        self._from = 0

    def fill(self, buffers: Buffers, to: int, start: int, stop: int) -> None:
        """Put rows ``order[start:stop]`` at ``to`` of the buffers."""
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
            step = max(1, _STRETCH // max(1, array.row_bytes))
            for begin in range(0, array.shape[0], step):
                within = slice(*np.searchsorted(ordered, [begin, begin + step]))
                if within.stop > within.start:
                    self._held[name][within] = array.take(slice(begin, begin + step), ordered[within] - begin)


class IterableBatches(Batches):
    """Batches of an iterable; they are cut anew to the length of its first, or to ``batch_size``.

    Parameters
    ----------
    batches : iterable
        What :class:`BatchReader` reads.
    parameters : Parameters
        Those of the kernel.
    batch_size : int or callable, optional
        Rows in a batch, or a function of the number of rows.
    n_obs : callable
        Returns the number of rows of an epoch; called once.
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
        self._began = BatchReader(batches, parameters)
        self.tables = self._began.tables
        first = self._began.first or {}
        size = batch_size(self.n_obs) if callable(batch_size) else batch_size or len(next(iter(first.values())))
        self.batch_size = min(size, self.n_obs)
        self.templates = {name: array[:1] for name, array in first.items()}
        self._at_start: BatchReader | None = self._began

    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch, and keep it to be read again."""
        found = self._began.read(0, self.batch_size)
        self._began.rewind()
        return found

    def epoch(self, number: int) -> Reader:  # noqa: ARG002 (an iterable has its own order)
        """Begin an epoch: the one whose first batch was looked at, then one after the other."""
        reader, self._at_start = self._at_start or BatchReader(self._batches, self._parameters), None
        return _Iterated(reader)

    def all_rows(self) -> dict[str, np.ndarray]:
        """Return every row in one more pass; nothing if they cannot be read again, or have another order each time."""
        if isinstance(self._batches, Iterator) or is_shuffled(self._batches):
            return {}
        return BatchReader(self._batches, self._parameters).read(0, 1 << 62)

    def pass_over(self, number: int) -> None:
        """Read an epoch and drop it, so that a loader that shuffles comes to where it was."""
        reader = self.epoch(number)
        room = self.room(self.batch_size)
        while reader.fill(room, 0, self.batch_size) == self.batch_size:
            pass


@dataclass
class _Iterated(Reader):
    reader: BatchReader
    at: int = 0

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        got = self.reader.read(self.at, self.at + stop - start)
        length = len(next(iter(got.values()))) if got else 0
        for name, rows in got.items():
            buffers[name][start : start + length] = rows
        self.at += length
        return length


def count_rows(batches: Iterable[Any], parameters: KernelParameters) -> int:
    """Return the number of rows of an iterable, by reading all of it once."""
    reader, at = BatchReader(batches, parameters), 0
    while got := reader.read(at, at + 2**16):
        at += len(next(iter(got.values())))
    return at

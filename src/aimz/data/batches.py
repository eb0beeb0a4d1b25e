"""A data set in batches, epoch after epoch: rows in the order in which a fit takes them."""

__all__ = ["ArrayBatches", "Batches", "IterableBatches", "count_rows"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.data.sources import BatchReader, Rows, is_shuffled

_WINDOW = 2**28
"""Bytes of rows that are gathered from a file in one pass over it."""
_STRETCH = 2**26
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

    @abstractmethod
    def epoch(self, number: int) -> Reader:
        """Begin an epoch, counted from 0."""

    @abstractmethod
    def pass_over(self, number: int) -> None:
        """Let an epoch go by whose steps were taken already."""

    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch of the first epoch, to be read again."""
        buffers = self.room(self.batch_size)
        got = self.epoch(0).fill(buffers, 0, self.batch_size)
        return {name: array[:got] for name, array in buffers.items()}

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
        self, rows: Mapping[str, Rows], batch_size: int, order: Callable[[int], np.ndarray | None] = lambda _: None
    ) -> None:
        # What is in memory is converted once; what lies in files is read as it is needed.
        self.rows = {name: array if array.lazy else np.asarray(array) for name, array in rows.items()}
        self.n_obs = next(iter(rows.values())).shape[0]
        self.batch_size = min(batch_size, self.n_obs)
        self.templates = {name: array[:1] for name, array in rows.items()}
        self._order = order

    def epoch(self, number: int) -> Reader:
        """Begin an epoch."""
        order = self._order(number)
        return _InOrder(self.rows, self.n_obs) if order is None else _Permuted(self.rows, order)

    def pass_over(self, number: int) -> None:
        """Do nothing: each epoch has an order of its own."""


@dataclass
class _InOrder(Reader):
    rows: Mapping[str, np.ndarray | Rows]
    n_obs: int
    at: int = 0

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        taken = slice(self.at, min(self.at + stop - start, self.n_obs))
        got = taken.stop - taken.start
        for name, array in self.rows.items():
            buffers[name][start : start + got] = array[taken]
            if isinstance(array, Rows):
                array.release(taken)
        self.at = taken.stop
        return got


@dataclass
class _Permuted(Reader):
    rows: Mapping[str, np.ndarray | Rows]
    order: np.ndarray
    at: int = 0
    _from: int = 0
    _window: dict[str, np.ndarray] | None = None
    """Rows ``order[_from:]``, so many as fit, of arguments that lie in files."""

    def fill(self, buffers: Buffers, start: int, stop: int) -> int:
        got = min(stop - start, len(self.order) - self.at)
        index = self.order[self.at : self.at + got]
        for name, array in self.rows.items():
            if not isinstance(array, Rows):  # "clip" spares a copy, and there is nothing to clip
                np.take(array, index, axis=0, out=buffers[name][start : start + got], mode="clip")
        at, from_files = self.at, any(isinstance(array, Rows) for array in self.rows.values())
        while from_files and at < self.at + got:
            held = self._held(at)
            length = min(len(next(iter(held.values()))), self.at + got - at)
            for name, rows in held.items():
                buffers[name][start + at - self.at : start + at - self.at + length] = rows[:length]
            at += length
        self.at += got
        return got

    def _held(self, at: int) -> dict[str, np.ndarray]:
        """Return rows from ``order[at]`` on of what lies in files, gathered in one pass over each file."""
        if self._window is None or at >= self._from + len(next(iter(self._window.values()))):
            lazy = {name: array for name, array in self.rows.items() if isinstance(array, Rows)}
            size = sum(_row_bytes(array) for array in lazy.values())
            index = self.order[at : at + max(1, _WINDOW // size)]
            self._window = None  # before there is room for the next
            self._window = {name: _gathered(array, index) for name, array in lazy.items()}
            self._from = at
        return {name: rows[at - self._from :] for name, rows in self._window.items()}


def _row_bytes(array: Rows) -> int:
    return max(1, int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize)


def _gathered(array: Rows, index: np.ndarray) -> np.ndarray:
    """Return the rows ``index``; the file is read from its beginning to its end, a stretch at a time."""
    found = np.empty((len(index), *array.shape[1:]), array.dtype)
    places = np.argsort(index, kind="stable")
    ordered = index[places]
    step = max(1, _STRETCH // _row_bytes(array))
    for begin in range(0, array.shape[0], step):
        within = slice(*np.searchsorted(ordered, [begin, begin + step]))
        if within.stop > within.start:
            found[places[within]] = array.take(slice(begin, begin + step), ordered[within] - begin)
    return found


class IterableBatches(Batches):
    """Batches of an iterable; they are cut anew to the length of its first, or to ``batch_size``.

    Parameters
    ----------
    batches : iterable
        What :class:`BatchReader` reads.
    fields : sequence of str
        Names of the input and the output.
    batch_size : int, optional
        Rows in a batch.
    n_obs : callable
        Returns the number of rows of an epoch; called once.
    """

    def __init__(
        self, batches: Iterable[Any], fields: tuple[str, str], batch_size: int | None, n_obs: Callable[[], int]
    ) -> None:
        self._batches = batches
        self._fields = fields
        self.n_obs = n_obs()
        self._began = BatchReader(batches, fields)
        first = self._began.first or {}
        self.batch_size = min(batch_size or len(next(iter(first.values()))), self.n_obs)
        self.templates = {name: array[:1] for name, array in first.items()}
        self._at_start: BatchReader | None = self._began

    def first(self) -> dict[str, np.ndarray]:
        """Return the first batch, and keep it to be read again."""
        found = self._began.read(0, self.batch_size)
        self._began.rewind()
        return found

    def epoch(self, number: int) -> Reader:  # noqa: ARG002 (an iterable has its own order)
        """Begin an epoch: the one whose first batch was looked at, then one after the other."""
        reader, self._at_start = self._at_start or BatchReader(self._batches, self._fields), None
        return _Iterated(reader)

    def all_rows(self) -> dict[str, np.ndarray]:
        """Return every row in one more pass; nothing if they cannot be read again, or have another order each time."""
        if isinstance(self._batches, Iterator) or is_shuffled(self._batches):
            return {}
        return BatchReader(self._batches, self._fields).read(0, 1 << 62)

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


def count_rows(batches: Iterable[Any], fields: tuple[str, str]) -> int:
    """Return the number of rows of an iterable, by reading all of it once."""
    reader, at = BatchReader(batches, fields), 0
    while got := reader.read(at, at + 2**16):
        at += len(next(iter(got.values())))
    return at

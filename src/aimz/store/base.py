"""Contract of the stores that a stream writes to."""

__all__ = ["Group", "ResultStore", "StorePart", "Variable"]

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Variable:
    """An array of a group, and the axis along which a stream fills it."""

    dims: tuple[str, ...]
    """Names of the axes; a streamed array starts with chain and draw, or with the statistics over them."""
    shape: tuple[int | None, ...]
    """Length of each axis; None if it is known only when the stream ends."""
    dtype: np.dtype
    chunks: tuple[int, ...]
    axis: int | None = None
    """Axis along which pieces are written; None for an array that is written as a whole."""
    may_be_missing: bool = False
    """Whether the least integer of the type represents NaN."""
    path: str | None = None
    """Path of an array in another group than the streamed one; None for the name of the array in that group."""

    def place(self, array: np.ndarray, start: int) -> tuple[tuple[slice, ...], np.ndarray]:
        """Return the index of a piece in the array, and the piece with the axes of the array.

        A piece has one axis for the draws of all chains, where the array has two.  ``start`` is an index along the
        streamed axis; if that is the axis of the draws, it counts through all chains.
        """
        by_chain = len(self.shape) > array.ndim
        if self.axis == 1 and by_chain:
            chain, first = divmod(start, self.shape[1] or 1)
            where = (slice(chain, chain + 1), slice(first, first + array.shape[0]))
            return where + (slice(None),) * (array.ndim - 1), array[None]
        whole = array.reshape(self.shape[0] or 1, -1, *array.shape[1:]) if by_chain else array
        index = [slice(None)] * whole.ndim
        if self.axis is not None:
            index[self.axis] = slice(start, start + whole.shape[self.axis])
        return tuple(index), whole

    def ending_at(self, length: int) -> "Variable":
        """Return the variable with a known length of the streamed axis."""
        return replace(self, shape=tuple(length if size is None else size for size in self.shape))


@dataclass(frozen=True)
class Group:
    """A group of arrays with its labels and attributes."""

    variables: Mapping[str, Variable]
    coords: Mapping[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]] = field(default_factory=dict)
    """Name of a coordinate to its dimensions, labels and attributes."""
    attrs: Mapping[str, Any] = field(default_factory=dict)


class StorePart(ABC):
    """Writer of some of the rows, in the process that computes them; can be pickled."""

    whole_chunks: bool
    """Whether each piece has to cover whole chunks."""
    max_writers: int = 1
    """Number of threads that may write concurrently."""

    @abstractmethod
    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Write a piece, as :meth:`ResultStore.write` does."""

    @abstractmethod
    def payload(self) -> Any:
        """Return the message for :meth:`ResultStore.add`; None if the pieces are in the store already."""


class NullPart(StorePart):
    """Discards rows that another process writes."""

    whole_chunks = False

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Discard a piece."""

    def payload(self) -> None:
        """Return None: there is nothing to send."""


class ResultStore(ABC):
    """Store of a streamed group: ``open``, then ``write`` for each piece in any order, then ``finish`` and ``read``.

    ``fail`` may be called at any point; the result then never reads as complete.
    """

    whole_chunks: bool
    """Whether each piece has to cover whole chunks."""
    max_writers: int = 1
    """Number of threads that may write concurrently once the store is open."""

    @abstractmethod
    def open(self, group: Group) -> None:
        """Allocate the variables of ``group``."""

    @abstractmethod
    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Write a piece of the variable ``name``; the caller may reuse the memory of ``array`` afterwards."""

    @abstractmethod
    def finish(self, length: int) -> None:
        """Complete the result; ``length`` is the length of the streamed axis."""

    def update_attrs(self, attrs: Mapping[str, Any]) -> None:  # noqa: B027 (stores without attributes)
        """Update attributes of the group before :meth:`finish`."""

    def fail(self, error: BaseException) -> BaseException:
        """Return the error to raise: ``error``, or one that also lists the stored chunks and explains how to resume."""
        return error

    def part(self, start: int, stop: int, /) -> StorePart:
        """Return a writer of the rows from ``start`` to ``stop`` for another process."""
        raise NotImplementedError

    def add(self, payload: Any) -> None:
        """Add the payload of a part."""
        raise NotImplementedError

    @abstractmethod
    def read(self, name: str) -> Any:
        """Return a variable of the complete result as an array, or as a reader of one."""

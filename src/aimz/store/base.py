"""Where a stream lands: one contract, one class for each place."""

__all__ = ["Group", "ResultStore", "StorePart", "Variable"]

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Variable:
    """One array of a group, and how a stream fills it."""

    dims: tuple[str, ...]
    """Names of the axes; a streamed array begins with chain and draw, or with the statistics over them."""
    shape: tuple[int | None, ...]
    """None where the length is known only when the stream ends."""
    dtype: np.dtype
    chunks: tuple[int, ...]
    axis: int | None = None
    """The axis the stream fills piece by piece; None for an array that is written at once."""

    def place(self, array: np.ndarray, start: int) -> tuple[tuple[slice, ...], np.ndarray]:
        """Return where a piece belongs, and the piece with the axes of the whole.

        A piece has one axis of draws, all chains after one another, where the whole has two; ``start`` counts along the
        streamed axis, which if it is that of the draws also runs through all chains.
        """
        by_chain = len(self.shape) > array.ndim
        if self.axis == 1 and by_chain:
            chain, first = divmod(start, self.shape[1] or 1)
            where = (slice(chain, chain + 1), slice(first, first + array.shape[0]))
            return where + (slice(None),) * (array.ndim - 1), array[None]
        whole = array.reshape(self.shape[0] or 1, -1, *array.shape[1:]) if by_chain else array
        cuts = [slice(None)] * whole.ndim
        if self.axis is not None:
            cuts[self.axis] = slice(start, start + whole.shape[self.axis])
        return tuple(cuts), whole

    def ending_at(self, length: int) -> "Variable":
        """Return the same with the length of the streamed axis known."""
        shape = tuple(length if size is None else size for size in self.shape)
        return Variable(self.dims, shape, self.dtype, self.chunks, self.axis)


@dataclass(frozen=True)
class Group:
    """A group of arrays with its labels and attributes."""

    variables: Mapping[str, Variable]
    coords: Mapping[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]] = field(default_factory=dict)
    """Name to dimensions, labels and attributes of the labels."""
    attrs: Mapping[str, Any] = field(default_factory=dict)


class StorePart(ABC):
    """Takes the pieces of some rows where they are computed, which may be in another process; can be pickled."""

    whole_chunks: bool
    """Whether pieces must come as whole chunks."""
    writers: int = 1
    """From how many threads pieces may come at once."""

    @abstractmethod
    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Keep a piece, as a sink does."""

    @abstractmethod
    def payload(self) -> Any:
        """Return what the sink has to be sent; None where it lies in its place."""


class ResultStore(ABC):
    """Takes the pieces of a stream, in any order and from as many threads as it says, and keeps them.

    ``open`` first, ``write`` for each piece, then ``finish``; or ``fail`` at any point, after which nothing reads as
    complete.
    """

    whole_chunks: bool
    """Whether pieces must come as whole chunks."""
    writers: int = 1
    """How many threads may write at once, after ``open``; more than one where a write mostly waits."""

    @abstractmethod
    def open(self, group: Group) -> None:
        """Make room for the variables of ``group``."""

    @abstractmethod
    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Keep a piece of the variable ``name``; the array belongs to the sink from now on only while it is written."""

    @abstractmethod
    def finish(self, length: int) -> None:
        """Declare the result complete; ``length`` is that of the streamed axis."""

    @abstractmethod
    def fail(self, error: BaseException) -> BaseException:
        """Give up, and return ``error`` or a better one: with what was kept, and how to go on."""

    def part(self, start: int, stop: int) -> StorePart:
        """Return what takes the rows from ``start`` to ``stop`` elsewhere, if rows are to be divided."""
        raise NotImplementedError

    def add(self, payload: Any) -> None:
        """Take what a part has sent."""
        raise NotImplementedError

    @abstractmethod
    def read(self, name: str) -> Any:
        """Return the variable ``name`` of a complete result as an array, or something that reads as one."""

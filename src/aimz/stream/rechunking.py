"""Pieces of any length in, whole chunks out."""

__all__ = ["Chunker", "Piece"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Piece:
    """A stretch of the streamed axis, in all arrays that have it."""

    start: int
    stop: int
    arrays: Mapping[str, list[np.ndarray]]
    """Parts to be put end to end along the array's streamed axis."""
    axes: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Memory the parts take."""
        return sum(part.nbytes for parts in self.arrays.values() for part in parts)

    def joined(self, name: str) -> np.ndarray:
        """Return one array; a single part is not copied."""
        parts = self.arrays[name]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self.axes[name])


@dataclass
class Chunker:
    """Cuts consecutive pieces at multiples of ``chunk`` and joins what belongs to one chunk."""

    chunk: int
    axes: Mapping[str, int]
    """Name of an array to its streamed axis."""
    every: int | None = None
    """Where chunks begin anew besides: the draws of a chain."""
    _held: list[tuple[int, int, Mapping[str, np.ndarray]]] = field(default_factory=list)

    def add(self, start: int, stop: int, arrays: Mapping[str, np.ndarray]) -> Iterator[Piece]:
        """Take a piece; yield the chunks it completes."""
        at = start
        while at < stop:
            end = min(stop, self._end_of_chunk(at))
            part = arrays if (at, end) == (start, stop) else self._cut(arrays, at - start, end - start)
            self._held.append((at, end, part))
            if end == self._end_of_chunk(at):
                yield self._release()
            at = end

    def _end_of_chunk(self, at: int) -> int:
        begin = 0 if self.every is None else at // self.every * self.every
        end = begin + ((at - begin) // self.chunk + 1) * self.chunk
        return end if self.every is None else min(end, begin + self.every)

    def end(self) -> Iterator[Piece]:
        """Yield the last chunk, which may be shorter."""
        if self._held:
            yield self._release()

    def _cut(self, arrays: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: array[(slice(None),) * self.axes[name] + (slice(start, stop),)] for name, array in arrays.items()}

    def _release(self) -> Piece:
        held, self._held = self._held, []
        parts = {name: [part[name] for _, _, part in held] for name in held[0][2]}
        return Piece(held[0][0], held[-1][1], parts, self.axes)

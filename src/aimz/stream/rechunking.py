"""Cuts consecutive pieces of any length into whole chunks."""

__all__ = ["Chunker", "Piece"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Arrays of a range of the streamed axis."""

    start: int
    stop: int
    arrays: Mapping[str, list[np.ndarray]]
    """Name of an array to its parts, which are concatenated along its streamed axis."""
    axes: Mapping[str, int]
    """Name of an array to its streamed axis."""

    @property
    def nbytes(self) -> int:
        """Memory of all parts."""
        return sum(part.nbytes for parts in self.arrays.values() for part in parts)

    def joined(self, name: str) -> np.ndarray:
        """Return one array; a single part is not copied."""
        parts = self.arrays[name]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self.axes[name])


@dataclass
class Chunker:
    """Cuts consecutive pieces at multiples of ``chunk``, and joins the parts of a chunk."""

    chunk: int
    axes: Mapping[str, int]
    """Name of an array to its streamed axis."""
    period: int | None = None
    """Length after which chunks start again: the number of draws of a chain."""
    _parts: list[tuple[int, int, Mapping[str, np.ndarray]]] = field(default_factory=list)
    """Parts of the current chunk."""

    def add(self, start: int, stop: int, arrays: Mapping[str, np.ndarray]) -> Iterator[Piece]:
        """Add a piece; yield the chunks that it completes."""
        at = start
        while at < stop:
            chunk_end = self._end_of_chunk(at)
            end = min(stop, chunk_end)
            part = arrays if (at, end) == (start, stop) else self._cut(arrays, at - start, end - start)
            self._parts.append((at, end, part))
            if end == chunk_end:
                yield from self.end()
            at = end

    def _end_of_chunk(self, at: int) -> int:
        begin = 0 if self.period is None else at // self.period * self.period
        end = begin + ((at - begin) // self.chunk + 1) * self.chunk
        return end if self.period is None else min(end, begin + self.period)

    def _cut(self, arrays: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: array[(slice(None),) * self.axes[name] + (slice(start, stop),)] for name, array in arrays.items()}

    def end(self) -> Iterator[Piece]:
        """Yield the current chunk, which may be shorter than the others."""
        if self._parts:
            parts, self._parts = self._parts, []
            arrays = {name: [part[name] for _, _, part in parts] for name in parts[0][2]}
            yield Piece(parts[0][0], parts[-1][1], arrays, self.axes)

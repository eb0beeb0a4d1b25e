"""Store of sums over rows, for averages."""

__all__ = ["SumAccumulator"]

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.store.base import Group, ResultStore, StorePart


@dataclass(kw_only=True, eq=False)
class SumAccumulator(ResultStore, StorePart):
    """Adds up sums of tiles of rows, computed in single precision, in double precision.

    Each tile has a sum for every scenario and cell (a group of rows).  Parts for other processes are accumulators too.
    """

    whole_chunks = False

    n_draws: int
    n_scenarios: int
    n_cells: int
    tile: int
    """Number of rows in a tile."""
    codes: np.ndarray | None
    """Cell of each row; None if all rows are in the same one."""
    width: int
    """Number of sums of a tile: one for each cell, or one for each cell that occurs in the tile, in order."""
    by_draws: bool
    """Whether a piece has all tiles of some draws, rather than all draws of some tiles."""
    same: AbstractSet[str]
    """Names of variables without rows, whose values are kept as they are."""
    first_row: int = 0
    """Row of the first entry of ``codes``."""
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    """Site to its sums."""

    def open(self, group: Group) -> None:
        """Return at once: arrays are allocated when their first sums are written."""

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Add a piece ``(n_draws, n_tiles, 1 + n_scenarios, ..., width)``, or the values of a constant."""
        draws = slice(start, start + len(array)) if self.by_draws else slice(None)
        if name in self.same:
            whole = self.sums.setdefault(name, np.zeros((self.n_draws, *array.shape[1:])))
            whole[draws] = array
            return
        if name not in self.sums:
            self.sums[name] = np.zeros((self.n_draws, 1 + self.n_scenarios, *array.shape[3:-1], self.n_cells))
        sums = self.sums[name][draws]
        first = 0 if self.by_draws else start // self.tile
        with np.errstate(invalid="ignore"):  # infinite values of both signs
            for i in range(array.shape[1]):
                row = (first + i) * self.tile - self.first_row
                cells = self._cells(row, row + self.tile)
                if cells is None:
                    sums += array[:, i]
                else:
                    sums[..., cells] += array[:, i, ..., : len(cells)]

    def _cells(self, start: int | None = None, stop: int | None = None) -> np.ndarray | None:
        """Return the cells that occur in some of the rows; None if tiles have a sum for every cell."""
        return None if self.codes is None or self.width >= self.n_cells else np.unique(self.codes[start:stop])

    def finish(self, length: int) -> None:
        """Return at once: the sums are complete."""

    def fail(self, error: BaseException) -> BaseException:
        """Drop all sums."""
        self.sums.clear()
        return error

    def part(self, start: int, stop: int, /) -> "SumAccumulator":
        """Return an accumulator for some of the rows, with their cells if tiles list only the cells that occur."""
        codes = None if self.codes is None or self.width >= self.n_cells else self.codes[start:stop]
        return replace(self, codes=codes, first_row=start, sums={})

    def payload(self) -> Any:
        """Return the cells that occur in the rows, or None for all cells, and the sums of these cells."""
        cells = self._cells()
        if cells is None:
            return None, self.sums
        return cells, {n: sums if n in self.same else sums[..., cells] for n, sums in self.sums.items()}

    def add(self, payload: Any) -> None:
        """Add sums over other rows."""
        cells, found = payload
        with np.errstate(invalid="ignore"):  # infinite values of both signs
            for name, sums in found.items():
                if name in self.same:
                    self.sums[name] = sums
                    continue
                whole = self.sums.setdefault(name, np.zeros((*sums.shape[:-1], self.n_cells)))
                whole[..., slice(None) if cells is None else cells] += sums

    def read(self, name: str) -> np.ndarray:
        """Return the sums ``(n_draws, n_scenarios, ..., n_cells)``, or the values of a constant."""
        sums = self.sums[name]
        if name in self.same:
            return sums
        with np.errstate(invalid="ignore"):
            found: np.ndarray = sums[:, :1] + sums[:, 1:]
        return found

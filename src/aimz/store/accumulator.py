"""Sums over rows, kept instead of the rows."""

__all__ = ["SumAccumulator"]

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aimz.store.base import Group, ResultStore, StorePart


class _Sums(StorePart):
    """The sums over some of the rows."""

    whole_chunks = False

    def __init__(self, sink: "SumAccumulator") -> None:
        self._sink = sink

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Add a piece."""
        self._sink.write(name, array, start)

    def payload(self) -> tuple[np.ndarray | None, Mapping[str, np.ndarray]]:
        """Return the sums; of many cells those that occur in these rows, and which they are."""
        cells = self._sink.cells
        if cells is None:
            return None, self._sink.sums
        same = self._sink.same
        return cells, {name: found if name in same else found[..., cells] for name, found in self._sink.sums.items()}


class SumAccumulator(ResultStore):
    """Adds up in double precision what arrives tile by tile in single precision.

    Parameters
    ----------
    n_draws, n_scenarios, n_cells
        Sizes.
    tile
        Rows in a tile.
    codes
        The cell of each row; None where all rows are in one.
    width
        How many sums a tile has: one for each cell, or for each that occurs in it, in order.
    by_draws
        Whether a piece has all tiles of some draws, rather than all draws of some tiles.
    same
        Variables that are the same in all rows.
    first
        The row ``codes`` begin with.
    """

    whole_chunks = False

    def __init__(
        self,
        *,
        n_draws: int,
        n_scenarios: int,
        n_cells: int,
        tile: int,
        codes: np.ndarray | None,
        width: int,
        by_draws: bool,
        same: Iterable[str],
        first: int = 0,
    ) -> None:
        self._sizes = n_draws, n_scenarios, n_cells
        self._tile = tile
        self._codes = codes
        self._local = codes is not None and width < n_cells
        self._by_draws = by_draws
        self.same = frozenset(same)
        self._first = first
        self.sums: dict[str, np.ndarray] = {}
        """Site to its sums."""

    @property
    def cells(self) -> np.ndarray | None:
        """The cells that occur, where rows are looked up among many; else None."""
        return np.unique(self._codes) if self._local and self._codes is not None else None

    def open(self, group: Group) -> None:
        """Do nothing: rooms are made as sums come."""

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Add a piece: ``(n_draws, n_tiles, 1 + n_scenarios, ..., width)``, or one without tiles and rows."""
        n_draws, n_scenarios, n_cells = self._sizes
        draws = slice(start, start + len(array)) if self._by_draws else slice(None)
        if name in self.same:
            whole = self.sums.setdefault(name, np.zeros((n_draws, *array.shape[1:])))
            whole[draws] = array
            return
        shape = (n_draws, 1 + n_scenarios, *array.shape[3:-1], n_cells)
        if name not in self.sums:
            self.sums[name] = np.zeros(shape)
        sums = self.sums[name][draws]
        first = 0 if self._by_draws else start // self._tile
        with np.errstate(invalid="ignore"):  # infinite values of both signs
            for i in range(array.shape[1]):
                if self._local:
                    assert self._codes is not None
                    at = (first + i) * self._tile - self._first
                    cells = np.unique(self._codes[at : at + self._tile])
                    sums[..., cells] += array[:, i, ..., : len(cells)]
                else:
                    sums += array[:, i]

    def finish(self, length: int) -> None:
        """Do nothing: there is no file to close."""

    def fail(self, error: BaseException) -> BaseException:
        """Forget everything."""
        self.sums.clear()
        return error

    def part(self, start: int, stop: int) -> StorePart:
        """Return what adds up some of the rows; it takes their cells along where it has to look them up."""
        n_draws, n_scenarios, n_cells = self._sizes
        codes = self._codes[start:stop] if self._local and self._codes is not None else None
        part = SumAccumulator(
            n_draws=n_draws,
            n_scenarios=n_scenarios,
            n_cells=n_cells,
            tile=self._tile,
            codes=codes,
            width=0 if self._local else n_cells,
            by_draws=self._by_draws,
            same=self.same,
            first=start,
        )
        return _Sums(part)

    def add(self, payload: Any) -> None:
        """Add sums over other rows."""
        cells, sums = payload
        with np.errstate(invalid="ignore"):  # infinite values of both signs
            for name, found in sums.items():
                if name in self.same:
                    self.sums[name] = found
                    continue
                whole = self.sums.setdefault(name, np.zeros((*found.shape[:-1], self._sizes[2])))
                whole[..., slice(None) if cells is None else cells] += found

    def read(self, name: str) -> np.ndarray:
        """Return the sums, ``(n_draws, n_scenarios, ..., n_cells)``; of a variable without rows, its values."""
        if name in self.same:
            return self.sums[name]
        sums = self.sums[name]
        with np.errstate(invalid="ignore"):
            found: np.ndarray = sums[:, :1] + sums[:, 1:]
        return found

"""Moments and extremes of data sets, one for each draw, by group of rows, added up as rows are streamed."""

__all__ = ["DrawMoments"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

type RowStatistic = Callable[[np.ndarray], np.ndarray]


@dataclass(eq=False)
class DrawMoments:
    """Counts, means, squared deviations, shares of zeros and extremes, of shape ``(n_groups, n_draws)`` each."""

    n_groups: int
    n_draws: int
    row_statistics: Mapping[str, RowStatistic]
    """Functions of the values of rows that are averaged over the rows."""

    def __post_init__(self) -> None:
        shape = self.n_groups, self.n_draws
        self.count = np.zeros((self.n_groups, 1))
        self.mean, self.squares, self.zeros = np.zeros((3, *shape))
        self.low, self.high = np.full(shape, np.inf), np.full(shape, -np.inf)
        self.sums = {name: np.zeros(shape) for name in self.row_statistics}

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation of each data set, divided by the number of values."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.sqrt(self.squares / self.count))

    def average(self, sums: np.ndarray) -> np.ndarray:
        """Return averages over the values; NaN for groups without values."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums / self.count)

    def add(self, values: np.ndarray, codes: np.ndarray | None) -> None:
        """Add values ``(n_draws, n_values)`` in float64; ``codes`` are their groups, or None for one group."""
        if not values.shape[1]:
            return
        groups, starts = np.zeros(1, np.int64), np.zeros(1, np.int64)
        if codes is not None:
            order = np.argsort(codes, kind="stable")
            values = values[:, order]
            groups, starts = np.unique(codes[order], return_index=True)
        count = np.diff(starts, append=values.shape[1])[:, None].astype(np.float64)

        def total(array: np.ndarray) -> np.ndarray:
            return np.add.reduceat(array, starts, axis=1, dtype=np.float64).T

        with np.errstate(invalid="ignore", over="ignore"):
            mean = total(values) / count
            spread = np.repeat(mean.T, count[:, 0].astype(np.int64), axis=1)
            squares = total(np.square(values - spread))
            self._combine(groups, count, mean, squares)
        self.zeros[groups] += total(values == 0)
        self.low[groups] = np.fmin(self.low[groups], np.minimum.reduceat(values, starts, axis=1).T)
        self.high[groups] = np.fmax(self.high[groups], np.maximum.reduceat(values, starts, axis=1).T)
        for name, function in self.row_statistics.items():
            found = np.asarray(function(values.reshape(-1)), np.float64)
            self.sums[name][groups] += total(found.reshape(values.shape))

    def _combine(self, groups: np.ndarray, count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        """Add counts, means and squared deviations of some groups (Chan, Golub and LeVeque 1983)."""
        before = self.count[groups]
        after = before + count
        shift = mean - self.mean[groups]
        share = np.divide(count, after, out=np.zeros_like(after), where=after > 0)
        self.mean[groups] += shift * share
        self.squares[groups] += squares + np.square(shift) * before * share
        self.count[groups] = after

    def merge(self, other: "DrawMoments") -> None:
        """Add the values of other rows."""
        with np.errstate(invalid="ignore"):
            self._combine(np.arange(self.n_groups), other.count, other.mean, other.squares)
        self.zeros += other.zeros
        self.low, self.high = np.fmin(self.low, other.low), np.fmax(self.high, other.high)
        for name, sums in other.sums.items():
            self.sums[name] += sums

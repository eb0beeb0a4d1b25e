"""Comparison of observed rows with draws of their predictions, added up as rows are streamed."""

__all__ = ["COVERAGE", "PredictiveChecks"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.statistics.loo import UNSEEN
from aimz.statistics.moments import DrawMoments
from aimz.statistics.pit import Calibration
from aimz.statistics.psis import psis_weights

COVERAGE = 0.9
_TILE_VALUES = 2**20
"""Number of predicted values that are compared together, which bounds the memory of temporary arrays."""
_GOOD_K = 0.7


@dataclass(eq=False)
class PredictiveChecks:
    """Moments of observed and predicted data by group, and the calibration of the predictions of single rows."""

    n_draws: int
    n_groups: int = 1
    r_eff: float | None = None
    """Relative effective sample size, for weights that leave out each row; None for equal weights."""
    has_probabilities: bool = False
    """Whether the log densities belong to a distribution of zeros and ones, without further factors."""
    row_statistics: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Numbers of the rows whose values are kept, in increasing order."""

    def __post_init__(self) -> None:
        self.observed = DrawMoments(self.n_groups, 1, self.row_statistics)
        self.drawn = DrawMoments(self.n_groups, self.n_draws, self.row_statistics)
        self.calibration = Calibration(leave_one_out=self.r_eff is not None)
        self.kept_parts: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(
        self, start: int, drawn: np.ndarray, observed: np.ndarray, density: np.ndarray | None, codes: np.ndarray | None
    ) -> None:
        """Add rows from row ``start`` on.

        Parameters
        ----------
        drawn
            Draws of shape ``(n_draws, n_rows, ...)``.
        observed
            Data of shape ``(n_rows, ...)``; values that are not finite are left out.
        density
            Log densities of the data, ``(n_draws, n_rows, ...)``, with as many axes as events; ``UNSEEN`` for masked
            data, which are left out.
        codes
            Group of each row; None for one group.
        """
        n_rows = len(observed)
        rows = np.searchsorted(self.kept, [start, start + n_rows])
        if rows[0] < rows[1]:
            chosen = self.kept[rows[0] : rows[1]] - start
            self.kept_parts.append((start, drawn[:, chosen].copy(), observed[chosen].copy()))
        each = max(1, int(_TILE_VALUES // (self.n_draws * max(1, observed[0].size)))) if n_rows else 1
        for first in range(0, n_rows, each):
            tile = slice(first, first + each)
            part = None if density is None else density[:, tile]
            self._add_tile(drawn[:, tile], observed[tile], part, None if codes is None else codes[tile])

    def _add_tile(
        self, drawn: np.ndarray, observed: np.ndarray, density: np.ndarray | None, codes: np.ndarray | None
    ) -> None:
        """Add a few rows."""
        n_rows, n_values = len(observed), observed[0].size
        x, y = drawn.reshape(self.n_draws, -1), observed.reshape(-1).astype(np.float64)
        seen, weights, khat = np.isfinite(y), None, None
        values_each = 1
        if density is not None:
            density = density.reshape(self.n_draws, -1)
            values_each = n_rows * n_values // density.shape[1]
            seen &= np.repeat((density != np.asarray(UNSEEN, density.dtype)).any(axis=0), values_each)
            if self.r_eff is not None:
                weights, khat = psis_weights(density, self.r_eff)
                weights, khat = (np.repeat(each, values_each, axis=-1)[..., seen] for each in (weights, khat))
        x, y = x[:, seen].astype(np.float64), y[seen]
        codes = None if codes is None else np.repeat(codes, n_values)[seen]
        self.observed.add(y[None], codes)
        self.drawn.add(x, codes)
        if not y.size:
            return
        self._add_calibration(x, y, weights, khat)
        if self.calibration.is_binary:
            p = x
            if self.has_probabilities and density is not None and values_each == 1:
                likelihood = np.exp(density[:, seen].astype(np.float64))
                p = np.where(y == 1, likelihood, 1 - likelihood)
            p = p.mean(axis=0) if weights is None else (weights * p).sum(axis=0)
            known = np.isfinite(p)
            self.calibration.add_probabilities(np.clip(p[known], 0.0, 1.0), y[known])

    def _add_calibration(
        self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, khat: np.ndarray | None
    ) -> None:
        """Add the PIT values of data, the coverage of their intervals, and whether they are discrete or binary."""
        found = self.calibration
        found.is_discrete &= bool((x == np.round(x)).all())
        found.is_binary &= bool(((x == 0) | (x == 1)).all() and ((y == 0) | (y == 1)).all())
        low, high = np.quantile(x, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
        found.covered += int(((low <= y) & (y <= high)).sum())
        found.n_covered += len(y)
        if weights is None:
            lower, at = (x < y).mean(axis=0), (x == y).mean(axis=0)
        else:
            lower, at = (np.where(x < y, weights, 0.0).sum(axis=0), np.where(x == y, weights, 0.0).sum(axis=0))
            lower = np.where(np.isnan(weights[0]), np.nan, lower)
        known = np.isfinite(lower) & ~np.isnan(x).any(axis=0)
        found.add_pit(lower[known], at[known])
        found.n_lost += int((~known).sum())
        if khat is not None:
            found.n_unreliable += int((khat > _GOOD_K).sum())

    def kept_values(self, codes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return draws, data and groups of the rows that were kept, in the order of the rows."""
        parts = sorted(self.kept_parts, key=lambda part: part[0])
        drawn = np.concatenate([part[1] for part in parts], axis=1)
        observed = np.concatenate([part[2] for part in parts])
        return drawn, observed, None if codes is None else codes[self.kept[: len(observed)]]

    def merge(self, other: "PredictiveChecks") -> None:
        """Add the sums over other rows."""
        self.observed.merge(other.observed)
        self.drawn.merge(other.drawn)
        self.calibration.merge(other.calibration)
        self.kept_parts += other.kept_parts

    def empty(self) -> Any:
        """Return checks of the same kind without rows."""
        return PredictiveChecks(
            self.n_draws, self.n_groups, self.r_eff, self.has_probabilities, self.row_statistics, self.kept
        )

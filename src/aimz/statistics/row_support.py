"""Support of the rows of a question by the rows of a fit: shares of rows outside of the data."""

__all__ = ["FAR_LEVERAGE", "TOLERATED_SHARE", "ColumnSupport", "Overlap", "RowSupport", "overlap_of"]

from dataclasses import dataclass, field

import numpy as np

from aimz.statistics.fit_support import FitSupport

TOLERATED_SHARE = 0.05
"""Share of rows outside of the data of the fit up to which an answer is supported."""
FAR_LEVERAGE = 1.5
"""Leverage of a row that is far from the data, in units of the 99th percentile of the leverage in the fit."""
_EDGE = 0.05
"""Share of its range by which a column may exceed it."""
_MARGIN = 0.1
"""Share of its range by which a column may exceed its range among rows with the same level."""
_MIN_ROWS = 20
"""Smallest number of rows of a level with which rows are compared."""


@dataclass
class ColumnSupport:
    """Counts of rows for one column that a question sets or changes."""

    name: str
    n: int = 0
    outside: int = 0
    """Rows with a value outside of the range of the fit by more than a twentieth of it, or none of two values."""
    apart: dict[str, int] = field(default_factory=dict)
    """Rows with a value outside of the range of the rows that are like them in another column, by this column."""
    far: int = 0
    """Rows whose leverage is above 1.5 times the 99th percentile of the fit."""
    similar: list[np.ndarray] = field(default_factory=list)
    """Number of rows of the fit that are worth as much as the data near each row, the inverse of its leverage."""

    def share(self, count: int) -> float:
        """Return a share of the rows."""
        return count / self.n if self.n else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """Other column with the largest share of rows outside of the range of rows like them, and the share."""
        name = max(self.apart, key=lambda one: self.apart[one], default="")
        return name, self.share(self.apart.get(name, 0))

    @property
    def similar_rows(self) -> float:
        """Median number of rows of the fit that are worth as much as the data near a row."""
        return float(np.median(np.concatenate(self.similar))) if self.similar else np.nan


@dataclass
class RowSupport:
    """Support of rows, added up block by block."""

    fit: FitSupport
    asked: tuple[int, ...]
    """Numbers of the columns that the question sets or changes."""
    columns: dict[int, ColumnSupport] = field(default_factory=dict)
    joint: ColumnSupport = field(default_factory=lambda: ColumnSupport("all columns"))

    def add(self, rows: np.ndarray) -> None:
        """Add rows ``(n_rows, n_columns)``."""
        if not len(rows):
            return
        assert self.fit.moments is not None
        continuous = [i for i in self.asked if not self._is_discrete(i)]
        leverage = self.fit.moments.leverage(rows) if continuous or len(self.asked) > 1 else None
        for i in self.asked:
            line = self.columns.setdefault(i, ColumnSupport(self.fit.names[i]))
            line.n += len(rows)
            if self._is_discrete(i) and len(self.asked) == 1:
                self._add_levels(line, rows, i)
            else:
                self._add_range(line, rows, i)
                _count_far(line, leverage, self.fit.far)
        if len(self.asked) > 1:
            self.joint.n += len(rows)
            _count_far(self.joint, leverage, self.fit.far)

    def _is_discrete(self, column: int) -> bool:
        return self.fit.levels[column] is not None

    def _add_range(self, line: ColumnSupport, rows: np.ndarray, column: int) -> None:
        """Count rows outside of the range of a column, overall and among rows with the same levels."""
        fit, values = self.fit, rows[:, column]
        line.outside += int(self.is_outside(values, column).sum())
        span = fit.high[column] - fit.low[column]
        for other, levels in enumerate(fit.levels):
            if other == column or not levels or len(levels) < 2:
                continue
            count = 0
            for value, level in levels.items():
                if level.moments.n >= _MIN_ROWS:
                    own = values[rows[:, other] == value]
                    count += int(_beyond(own, level.low[column], level.high[column], _MARGIN * span).sum())
            line.apart[fit.names[other]] = line.apart.get(fit.names[other], 0) + count

    def is_outside(self, values: np.ndarray, column: int) -> np.ndarray:
        """Return which values are outside of the fit: of its range, or another value than both of its values."""
        levels = self.fit.levels[column]
        if levels is not None and len(levels) <= 2:
            return ~np.isin(values, list(levels)) & ~np.isnan(values)
        low, high = self.fit.low[column], self.fit.high[column]
        return _beyond(values, low, high, max(_EDGE * (high - low), 1e-6 * max(abs(low), abs(high))))

    def _add_levels(self, line: ColumnSupport, rows: np.ndarray, column: int) -> None:
        """Count rows that differ in other columns from all rows of the fit with the same level."""
        fit, levels = self.fit, self.fit.levels[column] or {}
        line.outside += int(self.is_outside(rows[:, column], column).sum())
        span = fit.high - fit.low
        for value, level in levels.items():
            own = rows[rows[:, column] == value]
            if not len(own) or level.moments.n < _MIN_ROWS:
                continue
            for other in range(len(fit.names)):
                if other != column:
                    margin = _MARGIN * span[other]
                    count = int(_beyond(own[:, other], level.low[other], level.high[other], margin).sum())
                    line.apart[fit.names[other]] = line.apart.get(fit.names[other], 0) + count
            leverage = level.moments.without(column).leverage(np.delete(own, column, axis=1))
            _count_far(line, leverage, level.far)


def _beyond(values: np.ndarray, low: float, high: float, margin: float) -> np.ndarray:
    """Return which values are outside of an interval by more than a margin."""
    found: np.ndarray = (values < low - margin) | (values > high + margin)
    return found


def _count_far(line: ColumnSupport, leverage: np.ndarray | None, far: float) -> None:
    """Count rows that are far from the data."""
    assert leverage is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        line.far += int((leverage > FAR_LEVERAGE * far).sum())
        line.similar.append(1 / leverage[~np.isnan(leverage)])


@dataclass(frozen=True)
class Overlap:
    """Effective numbers of the rows without and with a binary treatment, as a comparison for the other rows."""

    n: tuple[int, int]
    """Numbers of rows without and with the treatment."""
    effective: tuple[float, float]
    """Effective numbers of these rows after weighting them by the odds of the other value."""

    @property
    def thin(self) -> tuple[int, ...]:
        """Values of the treatment whose effective number is below 10 % of the rows."""
        return tuple(i for i in (0, 1) if self.effective[i] < _FEW * self.n[i])


_FEW = 0.1
"""Share of the rows below which their effective number is too small."""


def overlap_of(treated: np.ndarray, covariates: np.ndarray, *, steps: int = 25) -> Overlap:
    """Return the effective numbers of rows after weighting them by the odds of the other value of the treatment.

    The odds are predicted by a logistic regression of the treatment on the covariates, fitted by Newton's method with a
    small ridge. The effective number of rows with weights w is ``(sum w)^2 / sum w^2`` (Kish, 1965).
    """
    scale = covariates.std(axis=0)
    kept = scale > 0
    design = np.column_stack([np.ones(len(treated)), (covariates[:, kept] - covariates[:, kept].mean(0)) / scale[kept]])
    ridge = 1e-6 * len(treated) * np.eye(design.shape[1])
    ridge[0, 0] = 0
    beta = np.zeros(design.shape[1])
    for _ in range(steps):
        mean = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        weight = np.maximum(mean * (1 - mean), 1e-10)
        step = np.linalg.solve(
            design.T @ (design * weight[:, None]) + ridge, design.T @ (treated - mean) - ridge @ beta
        )
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    numbers, effective = [], []
    for value, sign in ((0, 1), (1, -1)):
        logits = sign * (design[treated == value] @ beta)
        odds = np.exp(logits - logits.max())
        numbers.append(len(odds))
        effective.append(float(odds.sum() ** 2 / (odds**2).sum()))
    return Overlap((numbers[0], numbers[1]), (effective[0], effective[1]))

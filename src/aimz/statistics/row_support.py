"""Support of the rows of a question by the rows of a fit: shares of rows outside of the data."""

__all__ = ["FAR_LEVERAGE", "TOLERATED_SHARE", "ColumnSupport", "RowSupport", "SupportCounts"]

from dataclasses import dataclass, field

import numpy as np

from aimz.statistics.category_ranges import CategoryRanges
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
_KEPT = 2**14
"""Number of leverages that are kept for their median, up to twice as many."""


@dataclass
class ColumnSupport:
    """Weights of rows for one column that a question sets or changes."""

    name: str
    n: float = 0
    """Weight of all rows; their number without weights."""
    outside: float = 0
    """Rows with a value outside of the range of the fit by more than a twentieth of it, or none of two values."""
    apart: dict[str, float] = field(default_factory=dict)
    """Rows with a value outside of the range of the rows that are like them in another column, by this column."""
    far: float = 0
    """Rows whose leverage is above 1.5 times the 99th percentile of the fit."""
    similar: list[np.ndarray] = field(default_factory=list)
    """Number of rows of the fit that are worth as much as the data near a row, the inverse of its leverage."""
    step: int = 1
    """Every how many rows one is in ``similar``; a power of two."""

    def share(self, count: float) -> float:
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

    def add_apart(self, other: str, weight: float) -> None:
        """Add the weight of rows outside of the range of the rows that are like them in another column."""
        self.apart[other] = self.apart.get(other, 0) + weight

    def add_leverage(self, leverage: np.ndarray, weights: np.ndarray, far: float) -> None:
        """Count rows that are far from the data."""
        with np.errstate(divide="ignore", invalid="ignore"):
            self.far += float(weights[leverage > FAR_LEVERAGE * far].sum())
            self.similar.append(1 / leverage[~np.isnan(leverage)][:: self.step])
        while sum(map(len, self.similar)) > 2 * _KEPT:
            self.similar, self.step = [np.concatenate(self.similar)[::2]], 2 * self.step

    def merge(self, other: "ColumnSupport") -> None:
        """Add other rows."""
        self.n, self.outside, self.far = self.n + other.n, self.outside + other.outside, self.far + other.far
        for name, weight in other.apart.items():
            self.add_apart(name, weight)
        self.similar = [*self.similar, *other.similar]


@dataclass
class RowSupport:
    """Support of rows, added up block by block."""

    fit: FitSupport
    asked: tuple[int, ...]
    """Numbers of the columns that the question sets or changes; arguments with categories follow the columns."""
    columns: dict[int, ColumnSupport] = field(default_factory=dict)
    joint: ColumnSupport = field(default_factory=lambda: ColumnSupport("all columns"))
    n_rows: int = 0
    """Number of rows with a weight above 0."""

    def add(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add rows, as :meth:`FitSupport.rows_of` returns them, with weights above 0."""
        if not len(rows):
            return
        assert self.fit.moments is not None
        weights = np.ones(len(rows)) if weights is None else weights
        self.n_rows += len(rows)
        rows, codes = np.split(rows, [len(self.fit.names)], axis=1)
        columns = [i for i in self.asked if not self.is_category(i)]
        continuous = [i for i in columns if not self._is_discrete(i)]
        leverage = self.fit.moments.leverage(rows) if continuous or len(columns) > 1 else None
        for i in self.asked:
            line = self.columns.setdefault(i, ColumnSupport((*self.fit.names, *self.fit.categories)[i]))
            line.n += float(weights.sum())
            if self.is_category(i):
                self._add_category(line, rows, codes, weights, i - len(self.fit.names))
                continue
            self._add_categories(line, rows[:, i], codes, weights, i)
            if leverage is None or (self._is_discrete(i) and len(columns) == 1):
                self._add_levels(line, rows, weights, i)
            else:
                self._add_range(line, rows, weights, i)
                line.add_leverage(leverage, weights, self.fit.far)
        if leverage is not None and len(columns) > 1:
            self.joint.n += float(weights.sum())
            self.joint.add_leverage(leverage, weights, self.fit.far)

    def merge(self, other: "RowSupport") -> None:
        """Add the rows of another part."""
        self.n_rows += other.n_rows
        for i, line in other.columns.items():
            self.columns.setdefault(i, ColumnSupport(line.name)).merge(line)
        self.joint.merge(other.joint)

    def is_category(self, number: int) -> bool:
        """Return whether a number in ``asked`` denotes an argument with categories."""
        return number >= len(self.fit.names)

    def _is_discrete(self, column: int) -> bool:
        return self.fit.levels[column] is not None

    def _add_range(self, line: ColumnSupport, rows: np.ndarray, weights: np.ndarray, column: int) -> None:
        """Count rows outside of the range of a column, overall and among rows with the same levels."""
        fit, values = self.fit, rows[:, column]
        line.outside += float(weights[self.is_outside(values, column)].sum())
        span = fit.high[column] - fit.low[column]
        for other, levels in enumerate(fit.levels):
            if other == column or not levels or len(levels) < 2:
                continue
            found = np.zeros(len(rows), bool)
            for value, level in levels.items():
                if level.moments.n >= _MIN_ROWS:
                    beyond = _beyond(values, level.low[column], level.high[column], _MARGIN * span)
                    found |= beyond & (rows[:, other] == value)
            line.add_apart(fit.names[other], float(weights[found].sum()))

    def _add_categories(
        self, line: ColumnSupport, values: np.ndarray, codes: np.ndarray, weights: np.ndarray, column: int
    ) -> None:
        """Count rows outside of the range that a column has among the rows with the same category."""
        for name, ranges, own in zip(self.fit.categories, self.fit.ranges, codes.T, strict=True):
            if ranges is not None:
                line.add_apart(name, float(weights[self._is_apart(ranges, own, values, column)].sum()))

    def _add_category(
        self, line: ColumnSupport, rows: np.ndarray, codes: np.ndarray, weights: np.ndarray, number: int
    ) -> None:
        """Count rows with a category that no row of the fit had, or no row like them in another column or argument."""
        fit, own, ranges = self.fit, codes[:, number], self.fit.ranges[number]
        if ranges is None:
            return
        count = ranges.rows_of(own)
        line.outside += float(weights[count == 0].sum())
        with np.errstate(divide="ignore"):
            line.add_leverage(1 / count, weights, np.inf)
        for column, name in enumerate(fit.names):
            line.add_apart(name, float(weights[self._is_apart(ranges, own, rows[:, column], column)].sum()))
        for other, (name, its) in enumerate(zip(fit.categories, fit.ranges, strict=True)):
            if other != number and its is not None:
                first, second = sorted((number, other))
                earlier, later = (its, ranges) if other == first else (ranges, its)
                apart = later.are_apart(codes[:, second], first, codes[:, first], earlier)
                line.add_apart(name, float(weights[apart].sum()))

    def _is_apart(self, ranges: CategoryRanges, codes: np.ndarray, values: np.ndarray, column: int) -> np.ndarray:
        """Return which values of a column are outside of its range among the rows of the fit with their category."""
        fit = self.fit
        margin = _MARGIN * (fit.high[column] - fit.low[column])
        below, _ = fit.shares_beside(column, ranges.low[:, column])
        _, above = fit.shares_beside(column, ranges.high[:, column])
        low, high = ranges.limits(column, margin, below, above)
        place = np.where((codes >= 0) & (codes < len(low)), codes, len(low)).astype(np.int64)
        found: np.ndarray = (values < np.append(low, -np.inf)[place]) | (values > np.append(high, np.inf)[place])
        return found

    def is_outside(self, values: np.ndarray, column: int) -> np.ndarray:
        """Return which values are outside of the fit: of its range, or another value than both of its values."""
        levels = self.fit.levels[column]
        if levels is not None and len(levels) <= 2:
            return ~np.isin(values, list(levels)) & ~np.isnan(values)
        low, high = self.fit.low[column], self.fit.high[column]
        return _beyond(values, low, high, max(_EDGE * (high - low), 1e-6 * max(abs(low), abs(high))))

    def _add_levels(self, line: ColumnSupport, rows: np.ndarray, weights: np.ndarray, column: int) -> None:
        """Count rows that differ in other columns from all rows of the fit with the same level."""
        fit, levels = self.fit, self.fit.levels[column] or {}
        line.outside += float(weights[self.is_outside(rows[:, column], column)].sum())
        span = fit.high - fit.low
        for value, level in levels.items():
            chosen = rows[:, column] == value
            own, its = rows[chosen], weights[chosen]
            if not len(own) or level.moments.n < _MIN_ROWS:
                continue
            for other in range(len(fit.names)):
                if other != column:
                    beyond = _beyond(own[:, other], level.low[other], level.high[other], _MARGIN * span[other])
                    line.add_apart(fit.names[other], float(its[beyond].sum()))
            leverage = level.moments.without(column).leverage(np.delete(own, column, axis=1))
            line.add_leverage(leverage, its, level.far)


@dataclass
class SupportCounts:
    """Support of all rows of a question, and of each group."""

    whole: RowSupport
    cells: dict[int, RowSupport] = field(default_factory=dict)
    """Groups by their number; empty without groups."""

    def add(self, rows: np.ndarray, weights: np.ndarray | None = None, codes: np.ndarray | None = None) -> None:
        """Add rows, with their weights and the numbers of their groups."""
        if weights is not None and not (weights > 0).all():
            kept = weights > 0
            rows, weights, codes = rows[kept], weights[kept], None if codes is None else codes[kept]
        self.whole.add(rows, weights)
        for code in () if codes is None else np.unique(codes):
            own = codes == code
            cell = self.cells.setdefault(int(code), RowSupport(self.whole.fit, self.whole.asked))
            cell.add(rows[own], None if weights is None else weights[own])

    def merge(self, other: "SupportCounts") -> None:
        """Add the rows of another part, such as one of another worker."""
        self.whole.merge(other.whole)
        for code, cell in other.cells.items():
            self.cells.setdefault(code, RowSupport(cell.fit, cell.asked)).merge(cell)


def _beyond(values: np.ndarray, low: float, high: float, margin: float) -> np.ndarray:
    """Return which values are outside of an interval by more than a margin."""
    found: np.ndarray = (values < low - margin) | (values > high + margin)
    return found

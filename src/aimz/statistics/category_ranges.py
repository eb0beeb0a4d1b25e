"""Rows of a fit with each category of an argument: ranges of columns, and the categories of other arguments."""

__all__ = ["CategoryRanges"]

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

_EXPECTED = 5
"""Number of rows of a category that must be outside of its range on average for the range to be a limit."""
_MAX_PAIRS = 2**16
"""Largest number of pairs of categories of two arguments whose rows are counted."""
_RANGES = "count", "low", "high"
"""Names of the fields of :class:`CategoryRanges` with one entry for each category."""


@dataclass
class CategoryRanges:
    """Number of rows of each category, and the range of each column among them."""

    count: np.ndarray
    """Array of shape ``(n_categories,)``."""
    low: np.ndarray
    """Array of shape ``(n_categories, n_columns)``; NaN without rows."""
    high: np.ndarray
    pairs: dict[int, np.ndarray] = field(default_factory=dict)
    """Number of rows with each pair of categories, ``(n_categories, n_others)``, by the number of an earlier argument
    with categories; without arguments with too many pairs."""

    @staticmethod
    def of(codes: np.ndarray, rows: np.ndarray, earlier: np.ndarray) -> "CategoryRanges":
        """Return the ranges of rows ``(n_rows, n_columns)`` whose categories have these codes.

        ``earlier`` has the codes of the earlier arguments in its columns.
        """
        codes = codes.astype(np.int64)
        n_categories = int(codes.max()) + 1
        low, high = np.full((2, n_categories, rows.shape[1]), np.nan)
        order = np.argsort(codes, kind="stable")
        found, starts = np.unique(codes[order], return_index=True)
        with np.errstate(invalid="ignore"):
            low[found] = np.fmin.reduceat(rows[order], starts)
            high[found] = np.fmax.reduceat(rows[order], starts)
        pairs = {i: _pairs(codes, own.astype(np.int64)) for i, own in enumerate(earlier.T)}
        return CategoryRanges(np.bincount(codes), low, high, {i: own for i, own in pairs.items() if own is not None})

    def merged(self, other: "CategoryRanges") -> "CategoryRanges":
        """Return the ranges of the rows of both; either may have more categories."""
        short, long = sorted((self, other), key=lambda one: len(one.count))
        n = len(short.count)
        count, low, high = long.count.copy(), long.low.copy(), long.high.copy()
        count[:n] += short.count
        low[:n], high[:n] = np.fmin(low[:n], short.low), np.fmax(high[:n], short.high)
        both = self.pairs.keys() & other.pairs.keys()
        pairs = {i: _added(self.pairs[i], other.pairs[i]) for i in both}
        return CategoryRanges(count, low, high, {i: own for i, own in pairs.items() if own.size <= _MAX_PAIRS})

    def to_arrays(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays for a file, in which the argument has a number."""
        ranges = {f"category_{name}_{number}": getattr(self, name) for name in _RANGES}
        return {**ranges, **{f"category_pairs_{number}_{i}": own for i, own in self.pairs.items()}}

    @staticmethod
    def from_arrays(number: int, arrays: Mapping[str, np.ndarray]) -> "CategoryRanges | None":
        """Return the ranges whose arrays :meth:`to_arrays` returned; None if there are none."""
        names = [f"category_{name}_{number}" for name in _RANGES]
        if names[0] not in arrays:
            return None
        found = {i: arrays.get(f"category_pairs_{number}_{i}") for i in range(number)}  # none in earlier versions
        pairs = {i: own for i, own in found.items() if own is not None}
        count, low, high = (arrays[name] for name in names)
        return CategoryRanges(count, low, high, pairs)

    def rows_of(self, codes: np.ndarray) -> np.ndarray:
        """Return the number of rows of each category; 0 for categories that the fit did not have."""
        count = np.append(self.count, 0)
        own: np.ndarray = count[np.clip(codes, -1, len(self.count)).astype(np.int64)]
        return own

    def are_apart(self, codes: np.ndarray, other: int, others: np.ndarray, its: "CategoryRanges") -> np.ndarray:
        """Return which pairs of categories no row had; ``its`` are the rows by the categories of an earlier argument.

        Pairs of which fewer than 5 rows are expected if the arguments are independent are not counted.
        """
        own, beside = self.rows_of(codes), its.rows_of(others)
        pairs = self.pairs.get(other)
        if pairs is None:
            return np.zeros(len(codes), bool)
        known = (own > 0) & (beside > 0)
        found = np.zeros(len(codes), np.int64)
        found[known] = pairs[codes[known].astype(np.int64), others[known].astype(np.int64)]
        lacking: np.ndarray = known & (found == 0) & (own * beside >= _EXPECTED * self.count.sum())
        return lacking

    def limits(self, column: int, margin: float, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper limit of a column in each category.

        ``below`` and ``above`` are the shares of all rows outside of the range of the category. There is no limit where
        fewer than 5 rows of the category would be outside on average, since a few rows have no extremes by chance.
        """
        low = np.where(self.count * below >= _EXPECTED, self.low[:, column] - margin, -np.inf)
        high = np.where(self.count * above >= _EXPECTED, self.high[:, column] + margin, np.inf)
        return low, high


def _pairs(codes: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """Return the number of rows with each pair of codes; None for too many pairs."""
    shape = int(codes.max()) + 1, int(others.max()) + 1
    if shape[0] * shape[1] > _MAX_PAIRS:
        return None
    return np.bincount(codes * shape[1] + others, minlength=shape[0] * shape[1]).reshape(shape)


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the sum of two tables, either of which may have more rows and columns."""
    found = np.zeros(np.maximum(one.shape, other.shape), np.int64)
    for table in (one, other):
        found[: table.shape[0], : table.shape[1]] += table
    return found

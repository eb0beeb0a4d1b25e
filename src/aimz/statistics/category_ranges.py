"""Ranges of the columns of a fit among the rows of each category of an argument."""

__all__ = ["CategoryRanges"]

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_EXPECTED = 5
"""Number of rows of a category that must be outside of its range on average for the range to be a limit."""


@dataclass
class CategoryRanges:
    """Number of rows of each category, and the range of each column among them."""

    count: np.ndarray
    """Array of shape ``(n_categories,)``."""
    low: np.ndarray
    """Array of shape ``(n_categories, n_columns)``; NaN without rows."""
    high: np.ndarray

    @staticmethod
    def of(codes: np.ndarray, rows: np.ndarray) -> "CategoryRanges":
        """Return the ranges of rows ``(n_rows, n_columns)`` whose categories have these codes."""
        codes = codes.astype(np.int64)
        n_categories = int(codes.max()) + 1
        low, high = np.full((2, n_categories, rows.shape[1]), np.nan)
        order = np.argsort(codes, kind="stable")
        found, starts = np.unique(codes[order], return_index=True)
        with np.errstate(invalid="ignore"):
            low[found] = np.fmin.reduceat(rows[order], starts)
            high[found] = np.fmax.reduceat(rows[order], starts)
        return CategoryRanges(np.bincount(codes), low, high)

    def merged(self, other: "CategoryRanges") -> "CategoryRanges":
        """Return the ranges of the rows of both; either may have more categories."""
        short, long = sorted((self, other), key=lambda one: len(one.count))
        n = len(short.count)
        count, low, high = long.count.copy(), long.low.copy(), long.high.copy()
        count[:n] += short.count
        low[:n], high[:n] = np.fmin(low[:n], short.low), np.fmax(high[:n], short.high)
        return CategoryRanges(count, low, high)

    def to_arrays(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays for a file, in which the argument has a number."""
        return {f"category_{name}_{number}": array for name, array in vars(self).items()}

    @staticmethod
    def from_arrays(number: int, arrays: Mapping[str, np.ndarray]) -> "CategoryRanges | None":
        """Return the ranges whose arrays :meth:`to_arrays` returned; None if there are none."""
        names = [f"category_{name}_{number}" for name in ("count", "low", "high")]
        return CategoryRanges(*(arrays[name] for name in names)) if names[0] in arrays else None

    def limits(self, column: int, margin: float, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper limit of a column in each category.

        ``below`` and ``above`` are the shares of all rows outside of the range of the category. There is no limit where
        fewer than 5 rows of the category would be outside on average, since a few rows have no extremes by chance.
        """
        low = np.where(self.count * below >= _EXPECTED, self.low[:, column] - margin, -np.inf)
        high = np.where(self.count * above >= _EXPECTED, self.high[:, column] + margin, np.inf)
        return low, high

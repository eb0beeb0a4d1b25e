"""Moments of rows, and the leverage of a row in a linear model of other rows."""

__all__ = ["Moments", "complete_rows", "left_out"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SMALLEST = 1e-8
"""Smallest eigenvalue of a correlation matrix along which rows differ."""


def complete_rows(rows: np.ndarray) -> np.ndarray:
    """Return which rows have finite values only."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(rows.sum()):  # a single pass without temporary memory, which suffices for most data
            return np.ones(len(rows), bool)
    found: np.ndarray = np.isfinite(rows).all(axis=1)
    return found


@dataclass
class Moments:
    """Number, mean and centered cross products of rows without NaN, in double precision."""

    n: int
    mean: np.ndarray
    products: np.ndarray

    @staticmethod
    def of(rows: np.ndarray) -> "Moments":
        """Return the moments of rows ``(n_rows, n_columns)``."""
        complete = complete_rows(rows)
        rows = rows if complete.all() else rows[complete]
        mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
        centered = rows - mean
        return Moments(len(rows), mean, centered.T @ centered)

    def merged(self, other: "Moments") -> "Moments":
        """Return the moments of the rows of both (Chan, Golub and LeVeque, 1979)."""
        n = self.n + other.n
        if n == 0 or other.n == 0:
            return self
        shift = other.mean - self.mean
        products = self.products + other.products + np.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), products)

    def of_rows(self, n: int) -> "Moments":
        """Return the moments of more rows, of which these are a sample."""
        return self if self.n in (0, n) else Moments(n, self.mean, self.products * (n / self.n))

    def without(self, column: int) -> "Moments":
        """Return the moments of the other columns."""
        kept = [i for i in range(len(self.mean)) if i != column]
        return Moments(self.n, self.mean[kept], self.products[np.ix_(kept, kept)])

    def with_expected(self, rows: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Return rows with the expected values of some columns given the others, which add nothing to the leverage."""
        found, own = rows.copy(), list(columns)
        others = [i for i in range(len(self.mean)) if i not in columns]
        scale = np.sqrt(np.diag(self.products))[others]
        scale[scale == 0] = 1.0
        between, across = (self.products[np.ix_(others, to)] / scale[:, None] for to in (others, own))
        slopes = np.linalg.pinv(between / scale, hermitian=True) @ across
        found[:, own] = self.mean[own] + (rows[:, others] - self.mean[others]) / scale @ slopes
        return found

    def leverage(self, rows: np.ndarray) -> np.ndarray:
        """Return the leverage of rows in a linear model of these rows with an intercept, ``x' (X' X)^-1 x``.

        Infinite for rows outside of the space that the rows span, and NaN for rows with NaN.
        """
        if self.n < 2:
            return np.full(len(rows), np.inf)
        scale = np.sqrt(np.diag(self.products))
        varies = scale > 1e-6 * np.sqrt(self.n) * np.maximum(np.abs(self.mean), 1e-30)
        found = np.full(len(rows), 1.0 / self.n)
        if varies.any():
            scaled = (rows[:, varies] - self.mean[varies]) / scale[varies]
            values, vectors = np.linalg.eigh(
                self.products[np.ix_(varies, varies)] / np.outer(scale[varies], scale[varies])
            )
            along = scaled @ vectors
            null = values < _SMALLEST * len(values)
            found = found + (along[:, ~null] ** 2 / values[~null]).sum(axis=1)
            found[(np.abs(along[:, null]) * np.sqrt(self.n) > 1e-3).any(axis=1)] = np.inf
        fixed = ~varies
        moved = np.abs(rows[:, fixed] - self.mean[fixed]) > 1e-4 * np.maximum(np.abs(self.mean[fixed]), 1e-30)
        found[moved.any(axis=1)] = np.inf
        found[np.isnan(rows).any(axis=1)] = np.nan
        return found


def left_out(leverage: np.ndarray) -> np.ndarray:
    """Return the leverage that rows of the fit have in the model without them, ``h / (1 - h)``."""
    with np.errstate(divide="ignore"):
        return np.where(leverage >= 1 - 1e-9, np.inf, leverage / (1 - np.minimum(leverage, 1)))

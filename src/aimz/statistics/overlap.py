"""Overlap of the rows with and without a binary treatment: effective numbers of rows as a comparison for the others."""

__all__ = ["Overlap", "overlap_of"]

from dataclasses import dataclass, replace

import numpy as np

_FEW = 0.1
"""Share of the rows below which their effective number is too small."""


@dataclass(frozen=True)
class Overlap:
    """Effective numbers of the rows without and with a binary treatment, as a comparison for the other rows."""

    n: tuple[int, int]
    """Numbers of rows without and with the treatment."""
    effective: tuple[float, float]
    """Effective numbers of these rows after weighting them by the odds of the other value."""
    values: tuple[str, str] = ("0", "1")
    """Values of the treatment as text."""

    @property
    def thin(self) -> tuple[int, ...]:
        """Values of the treatment whose effective number is below 10 % of the rows."""
        return tuple(i for i in (0, 1) if self.effective[i] < _FEW * self.n[i])

    def of_rows(self, n: tuple[int, int]) -> "Overlap":
        """Return the overlap of more rows, of which these are a sample."""
        no, yes = (self.effective[i] * n[i] / self.n[i] for i in (0, 1))
        return replace(self, n=n, effective=(no, yes))


def overlap_of(rows: np.ndarray, n_columns: int, treatment: int) -> Overlap | None:
    """Return the overlap of rows by the value of a column; None without both values, or without other columns.

    ``rows`` have ``n_columns`` columns and then codes of categories, one of which may be the treatment.
    """
    rows = rows[np.isfinite(rows).all(axis=1)]
    treated, others = rows[:, treatment], [i for i in range(n_columns) if i != treatment]
    return _weighted(treated, rows[:, others]) if others and set(np.unique(treated)) == {0.0, 1.0} else None


def _weighted(treated: np.ndarray, covariates: np.ndarray, *, steps: int = 25) -> Overlap:
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

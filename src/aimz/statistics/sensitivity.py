"""Bias of a hidden common cause: partial R² and robustness values [1]_, and E-values [2]_, draw by draw.

.. [1] Cinelli and Hazlett (2020), Making sense of sensitivity, Journal of the Royal Statistical Society B 82.
.. [2] VanderWeele and Ding (2017), Sensitivity analysis in observational research, Annals of Internal Medicine 167.
"""

__all__ = [
    "BenchmarkStrength",
    "ConfoundingBias",
    "ResidualSums",
    "bounding_factor",
    "e_value",
    "inverse_products",
    "partial_strengths",
    "robustness_value",
    "treatment_left",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aimz.statistics.row_moments import Moments

_SMALLEST = 1e-10
"""Smallest eigenvalue of a correlation matrix along which rows differ."""


@dataclass(frozen=True)
class BenchmarkStrength:
    """Strength of an observed covariate, or of several together."""

    r2_treatment: float
    """Partial R² of the covariate with the treatment, given the other covariates."""
    f2_outcome: np.ndarray
    """Partial R² / (1 - R²) with the outcome, given the treatment and the other covariates, ``(n_draws,)``."""

    def bound(self, times: float) -> tuple[float, np.ndarray]:
        """Return the partial R² with treatment and outcome of a cause ``times`` as strong as the covariate.

        NaN if no cause can be that strong.
        """
        r2 = self.r2_treatment
        treatment = times * r2 / (1 - r2) if r2 < 1 else np.inf
        if treatment >= 1:
            return np.nan, np.full(len(self.f2_outcome), np.nan)
        induced = times * r2**2 / ((1 - times * r2) * (1 - r2))
        if induced >= 1:
            return np.nan, np.full(len(self.f2_outcome), np.nan)
        factor = (np.sqrt(times) + np.sqrt(induced)) ** 2 / (1 - induced)
        return float(treatment), np.minimum(factor * self.f2_outcome, 1.0)


@dataclass(frozen=True)
class ConfoundingBias:
    """Quantities that determine the bias of an effect by a hidden common cause, draw by draw."""

    effect: np.ndarray
    """Effect of one unit of the treatment, ``(n_draws,)``."""
    sd_outcome: np.ndarray
    """Standard deviation of the outcome given treatment and covariates, ``(n_draws,)``."""
    sd_treatment: float
    """Standard deviation of the treatment given the covariates."""
    benchmarks: Mapping[str, BenchmarkStrength]

    @property
    def sign(self) -> float:
        """Sign of the mean effect: -1 or 1."""
        return -1.0 if self.effect.mean() < 0 else 1.0

    @property
    def f(self) -> np.ndarray:
        """Cohen's partial f of the treatment with the outcome, with the sign of the effect."""
        found: np.ndarray = self.effect * self.sd_treatment / self.sd_outcome
        return found

    @property
    def partial_r2(self) -> np.ndarray:
        """Partial R² of the treatment with the outcome."""
        found: np.ndarray = self.f**2 / (1 + self.f**2)
        return found

    def robustness(self, q: float = 1.0) -> np.ndarray:
        """Return the partial R² with both treatment and outcome that removes the share ``q`` of the effect.

        It is 0 in draws whose effect has another sign than the mean effect.
        """
        return robustness_value(q * np.maximum(self.sign * self.f, 0.0))

    def bias(self, r2_treatment: float | np.ndarray, r2_outcome: float | np.ndarray) -> np.ndarray:
        """Return the size of the bias by a cause with these partial R²; the arguments broadcast with the draws."""
        with np.errstate(invalid="ignore"):
            strength = np.sqrt(r2_outcome * r2_treatment / (1 - np.asarray(r2_treatment)))
        found: np.ndarray = strength * self.sd_outcome / self.sd_treatment
        return found

    def adjusted(self, r2_treatment: float | np.ndarray, r2_outcome: float | np.ndarray) -> np.ndarray:
        """Return the effect without the bias of a cause that acts in the direction of the effect."""
        return self.effect - self.sign * self.bias(r2_treatment, r2_outcome)

    def tipping_point(self, r2_treatment: float) -> np.ndarray:
        """Return the partial R² with the outcome that makes the effect 0; above 1 if no cause can."""
        f = np.maximum(self.sign * self.f, 0.0)
        with np.errstate(divide="ignore"):
            found: np.ndarray = f**2 * np.divide(1 - r2_treatment, r2_treatment)
        return found


def robustness_value(f: np.ndarray) -> np.ndarray:
    """Return the robustness value for Cohen's partial f, at least 0."""
    found: np.ndarray = (np.sqrt(f**4 + 4 * f**2) - f**2) / 2
    return found


def e_value(ratio: np.ndarray | float) -> np.ndarray:
    """Return the E-value of a ratio of risks or rates: the ratio of a hidden cause with both that removes it."""
    away = np.where(np.asarray(ratio) < 1, 1 / np.maximum(ratio, 1e-300), ratio)
    found: np.ndarray = away + np.sqrt(away * (away - 1))
    return found


def bounding_factor(ratio_treatment: float, ratio_outcome: float) -> float:
    """Return the largest factor by which a hidden cause with these ratios biases a ratio (Ding and VanderWeele)."""
    return ratio_treatment * ratio_outcome / (ratio_treatment + ratio_outcome - 1)


@dataclass(frozen=True)
class ResidualSums:
    """Sums over rows, draw by draw, of the residuals of the outcome: observed minus expected."""

    n: int
    """Number of rows."""
    residual: np.ndarray
    """Sum of residuals, ``(n_draws,)``."""
    squared: np.ndarray
    """Sum of squared residuals, ``(n_draws,)``."""
    slopes: Mapping[int, np.ndarray]
    """Coefficient of some columns, by number, in the regression of the residual on all columns, ``(n_draws,)``."""


def treatment_left(moments: Moments) -> tuple[float, int]:
    """Return the residual sum of squares of the treatment given the covariates, and its degrees of freedom.

    ``moments`` have the treatment, the covariates and the outcome, in this order.

    Raises
    ------
    ValueError
        If there are not more rows than columns, or nothing is left of the treatment.
    """
    products = moments.products[:-1, :-1]
    left, rank = _left(products, [0], list(range(1, len(products))))
    degrees = moments.n - 2 - rank
    if degrees < 1:
        msg = (
            f"Sensitivity needs more rows than columns; got {moments.n:,} rows with an outcome, and "
            f"{rank + 2:,} columns with the treatment and the intercept. Name fewer in `covariates`."
        )
        raise ValueError(msg)
    if left[0, 0] <= 1e-8 * products[0, 0]:
        what = "has one value in all rows" if products[0, 0] <= 0 else "is determined by the covariates"
        msg = (
            f"The treatment {what}, so nothing of it is left to compare a hidden cause with. Leave out the covariates "
            "that determine it, with `covariates=[...]`, or pass rows that differ."
        )
        raise ValueError(msg)
    return float(left[0, 0]), degrees


def partial_strengths(
    moments: Moments, sums: ResidualSums, effect: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> ConfoundingBias:
    """Return the quantities of the bias from sums over rows.

    Parameters
    ----------
    moments
        Moments of the treatment, the covariates and the outcome, in this order.
    sums
        Residual sums; the columns are the treatment and the covariates.
    effect
        Effect of one unit of the treatment, ``(n_draws,)``.
    groups
        Numbers of the columns of each benchmark among the treatment and the covariates.
    """
    products, (left, degrees) = moments.products[:-1, :-1], treatment_left(moments)
    sd_outcome = np.sqrt(sums.squared / sums.n)
    fitted = inverse_products(products)[0] @ moments.products[:-1, -1]
    benchmarks = {}
    for name, group in groups.items():
        rest = [i for i in range(1, len(products)) if i not in group]
        without = _left(products, [0], rest)[0][0, 0]
        own = _left(products, list(group), [0, *rest])[0] / degrees
        slopes = np.stack([fitted[i] - sums.slopes[i] for i in group], axis=1)
        f2 = np.einsum("si,ij,sj->s", slopes, own, slopes) / sd_outcome**2
        benchmarks[name] = BenchmarkStrength(max(0.0, float(1 - left / without)), f2)
    return ConfoundingBias(effect, sd_outcome, float(np.sqrt(left / degrees)), benchmarks)


def inverse_products(products: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the pseudoinverse of cross products and their rank, computed from correlations."""
    size = np.sqrt(np.diag(products))
    scale = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(products / np.outer(scale, scale))
    kept = values > _SMALLEST * max(1, len(values))
    vectors = vectors[:, kept] / scale[:, None]
    return (vectors / values[kept]) @ vectors.T, int(kept.sum())


def _left(products: np.ndarray, of: list[int], given: list[int]) -> tuple[np.ndarray, int]:
    """Return the cross products of columns after their regression on others, and the rank of these."""
    own = products[np.ix_(of, of)]
    if not given:
        return own, 0
    inverse, rank = inverse_products(products[np.ix_(given, given)])
    across = products[np.ix_(given, of)]
    return own - across.T @ inverse @ across, rank

"""Standard deviations of the guide, compared with those under importance weights."""

__all__ = ["worst_sd_ratio"]

from collections.abc import Mapping

import numpy as np


def worst_sd_ratio(values: Mapping[str, np.ndarray], weights: np.ndarray) -> tuple[str, float]:
    """Return the site whose standard deviation differs most between weighted and plain draws, and their ratio."""
    site, worst = "", 1.0
    for name, draws in values.items():
        ratios = _sd_ratios(draws.astype(np.float64), weights)
        found = ratios[np.isfinite(ratios) & (ratios > 0)]
        if not found.size:
            continue
        ratio = float(found[np.abs(np.log(found)).argmax()])
        if abs(np.log(ratio)) > abs(np.log(worst)):
            site, worst = name, ratio
    return site, worst


def _sd_ratios(draws: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ratio of weighted to plain standard deviations of ``(n_draws, n_values)``, by value.

    Positive values are compared as logarithms, since few draws in a long tail would determine their variance.
    """
    draws = np.log(draws) if (draws > 0).all() else draws
    centered = draws - draws.mean(0)
    mean = weights @ centered / weights.sum()
    with np.errstate(invalid="ignore", divide="ignore"):  # values that do not vary
        ratios: np.ndarray = np.sqrt(weights @ (centered - mean) ** 2 / weights.sum()) / centered.std(0)
    return ratios

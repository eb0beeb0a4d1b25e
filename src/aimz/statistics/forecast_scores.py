"""Scores of forecasts, and the forecasts that they are compared with."""

__all__ = ["crps", "lagged_forecast"]

import numpy as np


def crps(draws: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the continuous ranked probability score of draws ``(n_draws, n)`` for ``n`` observed values.

    It is the score of the empirical distribution of the draws, ``E|x - y| - E|x - x'| / 2``; a single draw has its
    absolute error.
    """
    n_draws = len(draws)
    ordered = np.sort(draws.astype(np.float64), axis=0)
    weights = (2 * np.arange(n_draws) + 1 - n_draws) / n_draws**2
    spread = np.tensordot(weights, ordered, axes=1)
    score: np.ndarray = np.abs(ordered - observed).mean(axis=0) - spread
    return score


def lagged_forecast(history: np.ndarray, lag: int, ahead: int) -> np.ndarray:
    """Return draws of a later value of a series: the value ``lag`` steps before it, plus or minus past changes.

    ``ahead`` is the number of steps after the last one, and a change is that of the series over ``lag`` steps.  The
    result is empty if the value is missing, or if there is no change. ``history`` may have a second axis, of series
    with the same missing values; the draws then have it as well.
    """
    at = len(history) + ahead - 1 - lag
    if not 0 <= at < len(history):
        return np.empty((0, *history.shape[1:]))
    changes = history[lag:] - history[:-lag]
    changes = changes[~np.isnan(changes).any(axis=tuple(range(1, changes.ndim)))]
    found: np.ndarray = history[at] + np.concatenate([changes, -changes])
    return found if np.isfinite(history[at]).all() else found[:0]

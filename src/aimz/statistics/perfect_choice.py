"""The best action for each draw, as if the parameters were known: a search that treats all draws together, in NumPy."""

__all__ = ["best_by_draw"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_ROUNDS = 6
"""Number of evaluations of all draws."""
_STEP = 1 / 16
"""Distance between the points of the first parabolas, in units of the intervals."""
_SHRINK = 0.4
"""Factor of the distance between the points of a parabola from one round to the next."""
_REACH = 4.0
"""Largest step, in units of this distance."""


@dataclass(frozen=True)
class _Parabolas:
    """Actions ``(n_draws, n_levers, n_groups)`` with the parabola of the value along each lever."""

    action: np.ndarray
    value: np.ndarray
    """Values ``(n_draws, n_groups)``."""
    slope: np.ndarray
    curvature: np.ndarray

    def updated(self, other: "_Parabolas", better: np.ndarray) -> "_Parabolas":
        """Return the other parabolas for the draws and groups ``(n_draws, n_groups)`` in which they are better."""
        cells = better[:, None]
        return _Parabolas(
            np.where(cells, other.action, self.action),
            np.where(better, other.value, self.value),
            np.where(cells, other.slope, self.slope),
            np.where(cells, other.curvature, self.curvature),
        )


def best_by_draw(
    evaluate: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    bounds: np.ndarray,
    *,
    shares: np.ndarray,
    budget: float | None,
) -> np.ndarray:
    """Return the largest value ``(n_draws, n_groups)`` of each draw over actions between bounds, under a budget.

    Each draw has an action of its own, which a parabola along each lever improves, and the budget is allocated by its
    price. A step is kept only if the value increases, so the result is never above the maximum.

    Parameters
    ----------
    evaluate : callable
        Values ``(n_points, n_draws, n_groups)`` of actions ``(n_points, n_draws, n_levers, n_groups)``.
    start : ndarray of shape (n_draws, n_levers, n_groups)
        Feasible actions.
    bounds : ndarray of shape (n_levers, 2)
        Lowest and highest values.
    shares : ndarray of shape (n_groups,)
        Weights of the groups in the budget and the value.
    budget : float, optional
        Largest sum over levers, on average over groups.
    """
    low, high = bounds[:, :1], bounds[:, 1:]
    width, step = high - low, _STEP
    best = _fit_parabolas(evaluate, start, low, high, step * width)
    reach = np.full((len(start), 1, len(shares)), _REACH * step)
    for _ in range(_ROUNDS - 1):
        step *= _SHRINK
        action = _improved(best, low, high, reach * width, shares, budget)
        found = _fit_parabolas(evaluate, action, low, high, step * width)
        gain = found.value - best.value
        # Groups that share a budget move together.
        better = gain > 0 if budget is None else np.broadcast_to((gain @ shares > 0)[:, None], gain.shape)
        best = best.updated(found, better)
        reach = np.where(better[:, None], reach, reach / 4)
    return best.value


def _fit_parabolas(
    evaluate: Callable[[np.ndarray], np.ndarray],
    action: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    step: np.ndarray,
) -> _Parabolas:
    """Return the values at actions, and the parabola through these and two other points along each lever."""
    n_levers = action.shape[1]
    # At a bound, both points are on its inner side.
    first = np.where(action - step >= low, -step, 2 * step)
    second = np.where(action + step <= high, step, -2 * step)
    points = [action]
    for i in range(n_levers):
        along = np.zeros((n_levers, 1))
        along[i] = 1
        points += [action + along * first, action + along * second]
    values = evaluate(np.stack(points))
    value = values[0]
    one, two = (np.moveaxis(values[i::2] - value, 0, 1) for i in (1, 2))  # (n_draws, n_levers, n_groups)
    curvature = 2 * (two / second - one / first) / (second - first)
    return _Parabolas(action, value, one / first - curvature * first / 2, curvature)


def _improved(
    best: _Parabolas, low: np.ndarray, high: np.ndarray, reach: np.ndarray, shares: np.ndarray, budget: float | None
) -> np.ndarray:
    """Return the maximum of the parabolas within reach, between bounds and under a budget."""
    below, above = np.maximum(low - best.action, -reach), np.minimum(high - best.action, reach)

    def step_at(price: np.ndarray) -> np.ndarray:
        slope = best.slope - price[:, None, None]
        inner = slope / np.maximum(-best.curvature, 1e-30)
        found: np.ndarray = np.where(
            best.curvature < 0, np.clip(inner, below, above), np.where(slope > 0, above, below)
        )
        return found

    def spent(step: np.ndarray) -> np.ndarray:
        found: np.ndarray = (best.action + step).sum(axis=1) @ shares
        return found

    price = np.zeros(len(best.action))
    step = step_at(price)
    if budget is not None:
        most = np.full(len(price), float(np.abs(best.slope).max() + (np.abs(best.curvature) * reach).max()) + 1.0)
        too_much = spent(step) > budget
        for _ in range(60):
            middle = (price + most) / 2
            above_budget = spent(step_at(middle)) > budget
            price, most = np.where(above_budget, middle, price), np.where(above_budget, most, middle)
        step = np.where(too_much[:, None, None], step_at(most), step)
        # If the steps within reach cannot save enough, the action stays.
        step = np.where((spent(step) > budget * (1 + 1e-6) + 1e-9)[:, None, None], 0.0, step)
    action: np.ndarray = best.action + step
    return action

"""Choices among actions: utilities, grids, allocations of a budget, and search with derivatives, in NumPy and SciPy."""

__all__ = ["Utility", "allocate", "choose", "is_affine", "search"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import scipy

_SAME_SLOPE = 1e-3
"""Largest difference of equal slopes that are computed in single precision."""
_PROBES = (0.7, 1.0, 10.0, 1000.0)
"""Values of arguments at which a function is tested."""
_TOLERANCE = 1e-6
"""Largest violation of a constraint, in units of its value at the start if that is above 1."""
_SMALL_GAP = 1e-3
"""Largest difference from the bound of all allocations, in units of the mean range of the values of a group."""
_NODES = 10_000
"""Largest number of nodes of the search tree of an allocation."""
_STEPS = 60
"""Largest number of steps of a search."""


@dataclass(frozen=True)
class Utility:
    """Number by which draws of a value are ranked: their mean, the mean of the worst, or a function of them."""

    tail: float = 1.0
    """Share of the worst draws that are averaged; 1 for the mean."""
    function: Callable[[np.ndarray], float] | None = None

    def of(self, draws: np.ndarray) -> np.ndarray:
        """Return the utility of draws along the first axis."""
        if self.function is not None:
            return np.apply_along_axis(self.function, 0, draws)
        return np.sort(draws, axis=0)[: self.n_worst(len(draws))].mean(axis=0)

    def n_worst(self, n_draws: int) -> int:
        """Return how many draws are averaged."""
        return max(1, int(np.ceil(self.tail * n_draws - 1e-9)))

    def gradient(self, draws: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Return the derivatives ``(n_levers, n_groups)`` of the utility of draws ``(n_draws, n_groups)``.

        ``slopes`` are the derivatives of the draws, ``(n_draws, n_levers, n_groups)``.
        """
        worst = np.argsort(draws, axis=0, kind="stable")[: self.n_worst(len(draws))]
        found: np.ndarray = np.take_along_axis(slopes, worst[:, None], axis=0).mean(axis=0)
        return found


def is_affine(value: Callable[..., Any], names: Sequence[str], examples: Sequence[Mapping[str, float]]) -> bool:
    """Return whether a function is affine in its first argument, judged by its slopes from -2^20 to 2^20.

    ``examples`` are values of its other arguments; arguments that are not among them have several.
    """
    sizes = 2.0 ** np.arange(21)
    points = np.concatenate([-sizes[::-1], sizes])
    for example, other in product(examples, _PROBES):
        given = {name: np.float64(example.get(name, other)) for name in names}
        try:
            found = np.array([float(value(np.float64(y), **given)) for y in points])
        except Exception:  # noqa: BLE001, RUF100 (a function of the user may raise anything at numbers of our choosing)
            return False
        slopes = np.diff(found) / np.diff(points)
        if not np.ptp(slopes) <= _SAME_SLOPE * max(np.abs(slopes).max(), 1e-30):
            return False
    return True


def choose(values: np.ndarray, utility: Utility, feasible: np.ndarray) -> np.ndarray:
    """Return the number of the best feasible action of each group; values are ``(n_draws, n_actions, n_groups)``."""
    ranks = np.where(feasible[:, None], utility.of(values), -np.inf)
    return ranks.argmax(axis=0)


def allocate(values: np.ndarray, costs: np.ndarray, shares: np.ndarray, budget: float) -> np.ndarray:
    """Return the action of each group with the largest mean value that a budget allows.

    Values are the mean values ``(n_actions, n_groups)``, costs the costs of the actions, and shares the weights of the
    groups. A price of the budget is found by bisection (Everett, 1963); money that is left goes, step by step, to the
    group that gains most per unit. The price bounds the value of all allocations; if the bound is not reached, as with
    few groups and coarse costs, a mixed-integer program is solved.
    """

    def best_at(price: float) -> np.ndarray:
        return (values - price * costs[:, None]).argmax(axis=0)

    def spent(actions: np.ndarray) -> float:
        return float((shares * costs[actions]).sum())

    def worth(actions: np.ndarray) -> float:
        return float(shares @ values[actions, np.arange(len(actions))])

    low, high = 0.0, 0.0
    if spent(best_at(0.0)) > budget:
        high = float(np.ptp(values) / max(np.diff(np.unique(costs)).min(initial=np.inf), 1e-300)) + 1.0
        for _ in range(100):
            price = (low + high) / 2
            low, high = (price, high) if spent(best_at(price)) > budget else (low, price)
    chosen = _with_money_left(best_at(high), values, costs[:, None] * shares, shares, budget)
    bound = shares @ (values - high * costs[:, None]).max(axis=0) + high * budget
    if bound - worth(chosen) <= _SMALL_GAP * shares @ np.ptp(values, axis=0):
        return chosen
    exact = _allocate_exactly(values, costs[:, None] * shares, shares, budget)
    return chosen if exact is None or worth(exact) < worth(chosen) else exact


def _with_money_left(
    chosen: np.ndarray, values: np.ndarray, costs: np.ndarray, shares: np.ndarray, budget: float
) -> np.ndarray:
    """Return actions after the money that they leave went, step by step, to the group that gains most per unit."""
    groups = np.arange(len(chosen))
    while True:
        gains, extra = values - values[chosen, groups], costs - costs[chosen, groups]
        affordable = (gains > 0) & (extra > 0) & (extra <= budget - costs[chosen, groups].sum() + 1e-12)
        rate = np.where(affordable, gains * shares / np.maximum(extra, 1e-300), 0)
        if not (rate > 0).any():
            return chosen
        action, group = np.unravel_index(rate.argmax(), rate.shape)
        chosen[group] = action


def _allocate_exactly(values: np.ndarray, costs: np.ndarray, shares: np.ndarray, budget: float) -> np.ndarray | None:
    """Return the best actions that a budget allows, by mixed-integer programming; None if the solver finds none."""
    worth, unit = (values - values.min(axis=0)) * shares, np.abs(costs).max()
    if not worth.max() > 0:
        return None
    one_each = scipy.sparse.kron(np.ones((1, len(values))), scipy.sparse.eye_array(len(shares)))
    found = scipy.optimize.milp(
        -worth.ravel() / worth.max(),
        integrality=np.ones(worth.size),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_each, 1, 1),
            scipy.optimize.LinearConstraint(costs.reshape(1, -1) / unit, ub=budget / unit),
        ],
        options={"node_limit": _NODES},
    )
    return None if found.x is None else found.x.reshape(values.shape).argmax(axis=0)


def search(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    utility: Utility,
    start: np.ndarray,
    bounds: np.ndarray,
    *,
    shares: np.ndarray,
    budget: float | None,
    constraint: Callable[[np.ndarray], Any] | None,
) -> np.ndarray:
    """Return the action ``(n_levers, n_groups)`` with the largest utility between ``bounds``, ``(n_levers, 2)``.

    The utility is the average over groups of the utility of each. If the search ends below its start, the start is
    returned. ``evaluate`` returns the values ``(n_draws, n_groups)`` of an action and their derivatives ``(n_draws,
    n_levers, n_groups)``. Levers are scaled to their bounds and the utility to its derivative at the start, since
    solvers stop early at badly scaled problems.

    Raises
    ------
    ValueError
        If the search ends at an action that the budget or the constraint does not allow.
    """
    low, width = bounds[:, :1], np.diff(bounds, axis=1)
    shape = start.shape

    def action_of(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = low + width * x.reshape(shape)
        return found

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        values, slopes = evaluate(action_of(x))
        gradient = utility.gradient(values, slopes) * shares * width
        return -float(utility.of(values) @ shares), -gradient.ravel()

    x = np.clip((start - low) / width, 0, 1).ravel()
    at_start, gradient = objective(x)
    scale = max(float(np.abs(gradient).max()), 1e-12)

    def scaled(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(x)
        return value / scale, gradient / scale

    constraints: list[dict[str, Any]] = []
    if budget is not None:
        spending = (width * shares).ravel()
        fixed = float((low * shares).sum())
        constraints.append({"type": "ineq", "fun": lambda x: budget - fixed - spending @ x, "jac": lambda _: -spending})
    if constraint is not None:
        constraints.append({"type": "ineq", "fun": lambda x: np.atleast_1d(constraint(action_of(x)))})
    method = "SLSQP" if constraints else "L-BFGS-B"
    options = {"maxiter": _STEPS, "ftol": 1e-10}
    limits = [(0.0, 1.0)] * x.size
    found = scipy.optimize.minimize(
        scaled, x, jac=True, bounds=limits, constraints=constraints, method=method, options=options
    )
    best = np.clip(found.x, 0, 1)

    def is_feasible(action: np.ndarray) -> bool:
        limits = [
            (one["fun"](action), _TOLERANCE * max(1.0, float(np.abs(one["fun"](x)).max()))) for one in constraints
        ]
        return all(np.min(left) >= -slack for left, slack in limits)

    # NaN is not an improvement.
    if is_feasible(x) and not (is_feasible(best) and found.fun * scale <= at_start):
        return action_of(x)
    if not is_feasible(best):
        msg = f"No feasible action was found: {found.message}. Widen the levers, the budget or the constraint."
        raise ValueError(msg)
    return action_of(best)

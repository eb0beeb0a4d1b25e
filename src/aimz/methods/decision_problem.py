"""A choice of levers on some rows: its actions, their values, and the result."""

__all__ = ["LeverValues", "Problem", "read_lever_values", "read_utility"]

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from numbers import Real
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz._imports import xarray as xr
from aimz.errors import SupportWarning
from aimz.kernel import VALUE
from aimz.methods.decision_result import DecisionResult
from aimz.statistics import Utility, allocate, best_by_draw, choose, search

_STARTS = {1: 9, 2: 5}
"""Number of values of each lever from which a search starts, by the number of levers."""
_MAX_STARTS = 20
"""Largest number of actions of today from which a search starts."""
_MAX_ACTIONS = 5000
_MAX_BY_DRAW = 300
"""Largest number of actions that are compared at once to find the best one of each draw."""


@dataclass(frozen=True)
class LeverValues:
    """Values that levers may take: an interval of each, or a list of each."""

    names: tuple[str, ...]
    bounds: np.ndarray
    """Lowest and highest value of each lever, ``(n_levers, 2)``."""
    grids: tuple[tuple[float, ...], ...] = ()
    """Values of each lever; empty for intervals."""

    def actions(self) -> np.ndarray:
        """Return actions ``(n_actions, n_levers)``: all combinations of the lists, or starts of a search."""
        if self.grids:
            return np.array(list(product(*self.grids)))
        n_values = _STARTS.get(len(self.names))
        if n_values is None:
            return self.bounds.mean(axis=1)[None]
        return np.array(list(product(*(np.linspace(low, high, n_values) for low, high in self.bounds))))

    def examples(self) -> list[dict[str, float]]:
        """Return the lowest and the highest values."""
        return [dict(zip(self.names, values.tolist(), strict=True)) for values in self.bounds.T]


def read_lever_values(levers: Any, budget: Any, utility: Utility) -> LeverValues:
    """Return checked levers.

    Raises
    ------
    TypeError, ValueError
        If they are neither intervals nor lists of numbers, or options do not fit them.
    """
    if not isinstance(levers, Mapping) or not levers:
        msg = f"`levers` must map names to intervals or lists; got {levers!r}. Pass {{'price': (4.0, 9.0)}}."
        raise TypeError(msg)
    names = tuple(map(str, levers))
    grids: list[tuple[float, ...]] = []
    intervals: list[tuple[float, ...]] = []
    for name, given in levers.items():
        values = np.asarray(given, dtype=object if isinstance(given, str) else None)
        valid = values.ndim == 1 and values.dtype.kind in "iuf" and values.size > 0 and np.isfinite(values).all()
        if not valid or (isinstance(given, tuple) and not (values.size == 2 and values[0] < values[1])):
            msg = (
                f"`levers` must have an interval (low, high) or a list of numbers for `{name}`; got {given!r}. Pass "
                "(4.0, 9.0) or [4.0, 5.0, 6.0]."
            )
            raise ValueError(msg)
        (intervals if isinstance(given, tuple) else grids).append(tuple(float(one) for one in values))
    if grids and intervals:
        msg = (
            "`levers` must be all intervals or all lists; got both. Pass `numpy.linspace(low, high, 11)` for intervals."
        )
        raise ValueError(msg)
    if intervals and utility.function is not None:
        msg = "A function as `utility` needs lists of values; got intervals, which are searched with derivatives of "
        msg += "'mean' or ('cvar', q). Pass `numpy.linspace(low, high, 11)`."
        raise ValueError(msg)
    bounds = np.array(intervals) if intervals else np.array([(min(values), max(values)) for values in grids])
    if budget is not None and (not isinstance(budget, Real) or not float(budget) >= bounds[:, 0].sum()):
        msg = (
            f"`budget` must be a number that the lowest values of the levers, {bounds[:, 0].sum():g} in all, do not "
            f"exceed; got {budget!r}. Pass a larger one."
        )
        raise ValueError(msg)
    return LeverValues(names, bounds, tuple(grids))


def read_utility(utility: Any) -> Utility:
    """Return a checked utility.

    Raises
    ------
    ValueError
        If it is none of the known ones.
    """
    if utility == "mean":
        return Utility()
    if callable(utility):
        return Utility(function=utility)
    if isinstance(utility, tuple) and len(utility) == 2 and utility[0] == "cvar" and 0 <= utility[1] < 1:
        return Utility(tail=1 - float(utility[1]))
    msg = f"`utility` must be 'mean', ('cvar', q) with q from 0 to below 1, or a function of draws; got {utility!r}. "
    raise ValueError(msg + "Pass ('cvar', 0.9) for the mean of the worst tenth.")


@dataclass(frozen=True)
class Problem:
    """A choice of levers on some rows."""

    model: Any
    """Model with the value as a site."""
    check_support: Callable[[Mapping[str, Any]], tuple[str, Sequence[str]]]
    """Function that returns the verdict on an intervention and its reasons, after a warning about them."""
    levers: LeverValues
    given: Mapping[str, Any]
    """Arguments of each comparison: rows, groups, key and options."""
    extra: tuple[str, ...]
    """Levers that the kernel does not have."""
    now: Mapping[str, np.ndarray]
    """Values of the levers in each row of the data, of levers that are in memory."""
    weights: Any
    n_obs: int
    codes: np.ndarray | None
    """Number of the group of each row; None without groups."""
    labels: Mapping[str, np.ndarray]
    """Labels of the groups by the name of their dimension."""
    utility: Utility
    constraint: Callable[[Mapping[str, Any]], Any] | None
    budget: float | None

    @cached_property
    def shares(self) -> np.ndarray:
        """Share of the weight of each group."""
        codes = np.zeros(self.n_obs, np.int64) if self.codes is None else self.codes
        weights = None if self.weights is None else np.asarray(self.weights, float)
        counts = np.bincount(codes, weights, minlength=self.n_groups)
        found: np.ndarray = counts / counts.sum()
        return found

    @property
    def n_groups(self) -> int:
        """Number of groups; 1 without groups."""
        return int(np.prod([len(labels) for labels in self.labels.values()], dtype=int))

    def _values(self, actions: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return the values ``(n_draws, n_actions, n_groups)`` of actions.

        Raises
        ------
        ValueError
            If a group has no rows.
        """
        scenarios: dict[Any, Any] = {i: {"intervention": action} for i, action in enumerate(actions)}
        if len(scenarios) == 1:
            scenarios[1] = scenarios[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SupportWarning)
            tree = self.model.compare_scenarios(
                scenarios, baseline=0, **self.given, weights=self.weights, return_sites=VALUE, kind="outcome"
            )
        array = tree["scenarios"][VALUE]
        if array.ndim != 3 + len(self.labels):
            msg = f"`value` must return one number for each row; got further axes {array.dims[3:]}. Add them up in it."
            raise ValueError(msg)
        found: np.ndarray = array.values.reshape(-1, len(scenarios), self.n_groups)[:, : len(actions)]
        if np.isnan(found).any():
            msg = (
                "The value of an action is NaN in a group: it has no rows, or `value` has no value there. Leave it out."
            )
            raise ValueError(msg)
        return found

    def _values_by_draw(self, actions: np.ndarray) -> np.ndarray:
        """Return values ``(n_points, n_draws, n_groups)`` of actions ``(n_points, n_draws, n_levers, n_groups)``."""
        n_points, n_draws, _, n_groups = actions.shape
        asked = [
            {
                name: xr.DataArray(values.astype(np.float32), dims="draw")
                for name, values in zip(self.levers.names, actions[point, :, :, group].T, strict=True)
            }
            for point in range(n_points)
            for group in range(n_groups)
        ]
        values = self._values(asked).reshape(n_draws, n_points, n_groups, n_groups)
        return np.moveaxis(np.diagonal(values, axis1=2, axis2=3), 0, 1)

    def _by_row(self, action: np.ndarray) -> dict[str, Any]:
        """Return the levers of each row, or of all rows, under an action ``(n_levers, n_groups)``."""
        if self.codes is None:
            return self._named(action[:, 0].astype(np.float32))
        return self._named(action[:, self.codes].astype(np.float32))

    def _feasible(self, actions: np.ndarray) -> np.ndarray:
        """Return which actions ``(n_actions, n_levers)`` the constraint and the budget allow in all groups.

        Raises
        ------
        ValueError
            If there is none.
        """
        found = self._allowed(actions)
        if self.budget is not None:
            found &= actions.sum(axis=1) <= self.budget + 1e-9
        if not found.any():
            msg = f"None of the {len(actions):,} actions is feasible. Widen the levers, the budget or the constraint."
            raise ValueError(msg)
        return found

    def _allowed(self, actions: np.ndarray) -> np.ndarray:
        """Return which actions the constraint allows."""
        if self.constraint is None:
            return np.ones(len(actions), bool)
        return np.array([np.all(np.asarray(self.constraint(self._named(one))) >= 0) for one in actions], bool)

    def _named(self, action: np.ndarray) -> dict[str, Any]:
        return dict(zip(self.levers.names, action, strict=True))

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the best action ``(n_levers, n_groups)`` among lists, and the actions that it was compared with."""
        actions = self.levers.actions()
        if len(actions) > _MAX_ACTIONS:
            msg = f"The lists have {len(actions):,} combinations, of at most {_MAX_ACTIONS:,}. Pass intervals instead."
            raise ValueError(msg)
        feasible = self._feasible(actions)
        by_groups = self.budget is not None and self.n_groups > 1
        if by_groups:  # a group may spend more than the average that the budget allows
            allowed = self._allowed(actions)
            actions, feasible = actions[allowed], feasible[allowed]
        values = self._values([self._named(one) for one in actions])
        if by_groups:
            means = self.utility.of(values)
            best = allocate(means, actions.sum(axis=1), self.shares, float(self.budget or 0))
        else:
            best = choose(values, self.utility, feasible)
        return actions[best].T, actions[feasible]

    def search(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the best action ``(n_levers, n_groups)`` in intervals, and the actions from which the search began."""
        starts = self.levers.actions()
        if self.budget is not None and len(self.levers.names) not in _STARTS:
            low, width = self.levers.bounds[:, 0], np.diff(self.levers.bounds, axis=1)[:, 0]
            starts = (low + width * min(1.0, (self.budget - low.sum()) / width.sum()))[None]
        starts = np.concatenate([starts, self._now(starts)])
        first = np.zeros(self.n_groups, int)
        if len(starts) > 1:
            starts = starts[self._feasible(starts)]
            first = choose(self._values([self._named(one) for one in starts]), self.utility, np.ones(len(starts), bool))
        constraint = self.constraint
        action = search(
            self._slopes,
            self.utility,
            starts[first].T,
            self.levers.bounds,
            shares=self.shares,
            budget=self.budget,
            constraint=None if constraint is None else lambda one: constraint(self._named(one)),
        )
        return action, starts

    def _now(self, starts: np.ndarray) -> np.ndarray:
        """Return the average levers of each group in the data as further starts, if they are allowed."""
        if len(self.now) < len(self.levers.names):
            return starts[:0]
        codes = np.zeros(self.n_obs, np.int64) if self.codes is None else self.codes
        counts = np.bincount(codes, minlength=self.n_groups)
        sums = [np.bincount(codes, self.now[name], minlength=self.n_groups) for name in self.levers.names]
        found: np.ndarray = np.unique((np.array(sums) / np.maximum(counts, 1)).T, axis=0)
        low, high = self.levers.bounds.T
        kept = (found >= low).all(axis=1) & (found <= high).all(axis=1) & self._allowed(found)
        if self.budget is not None:
            kept &= found.sum(axis=1) <= self.budget
        allowed: np.ndarray = found[kept][:_MAX_STARTS]
        return allowed

    def _slopes(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values ``(n_draws, n_groups)`` and derivatives ``(n_draws, n_levers, n_groups)`` of an action."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SupportWarning)
            tree = self.model.slopes(
                list(self.levers.names),
                intervention=self._by_row(action),
                **self.given,
                weights=self.weights,
                return_sites=VALUE,
            )
        level = tree["scenarios"][VALUE].values.reshape(-1, self.n_groups)
        return level, tree["effect"][VALUE].values.reshape(len(level), len(self.levers.names), self.n_groups)

    def result(self, action: np.ndarray, others: np.ndarray, *, held_out: bool) -> DecisionResult:
        """Return the value of an action, of today and of other actions, on the rows of this problem."""
        asked = [self._named(one) for one in others] + [self._by_row(action)]
        values = self._values(asked if self.extra else [*asked, {}])
        today = None if self.extra else values[:, -1]
        compared, own = values[:, : len(asked)], values[:, len(others)]
        slack = 1e-6 * np.abs(own).max()
        if self.budget is None:
            chances = (own >= compared.max(axis=1) - slack).mean(axis=0)
            probability = float(chances @ self.shares)
        else:  # groups share the budget, so that only whole allocations can be compared
            probability = float((own @ self.shares >= (compared @ self.shares).max(axis=1) - slack).mean())
            chances = np.full(self.n_groups, probability)
        actions = [np.broadcast_to(one[:, None], action.shape) for one in others] + [action]
        regret = (self._best_of_draws(np.stack(actions), compared) - own) @ self.shares
        index = {name: list(labels) for name, labels in self.labels.items()}
        groups = pd.MultiIndex.from_product(index.values(), names=list(index)).to_frame(index=False) if index else None
        table = pd.DataFrame(dict(zip(self.levers.names, action, strict=True)))
        table["value"], table["probability_best"] = own.mean(axis=0), chances
        table = table if groups is None else pd.concat([groups, table], axis=1)
        return DecisionResult(
            table,
            own @ self.shares,
            None if today is None else today @ self.shares,
            probability,
            regret,
            tuple(self._notes(action, own, today, held_out=held_out)),
        )

    @property
    def _knows_best_of_draws(self) -> bool:
        """Whether the best action of each draw is found, and not only the best of the compared actions."""
        by_draw = (1 + 2 * len(self.levers.names)) * self.n_groups
        return bool(self.levers.grids) or (self.constraint is None and by_draw <= _MAX_BY_DRAW)

    def _best_of_draws(self, actions: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the values ``(n_draws, n_groups)`` of the best action for each draw.

        ``values`` are the values of the compared ``actions``, which have shape ``(n_actions, n_levers, n_groups)``.
        """
        whole = values @ self.shares
        best = (
            values.argmax(axis=1) if self.budget is None else np.repeat(whole.argmax(axis=1)[:, None], self.n_groups, 1)
        )
        found: np.ndarray = np.take_along_axis(values, best[:, None], axis=1)[:, 0]
        if self.levers.grids or not self._knows_best_of_draws:
            return found
        start = np.moveaxis(actions[best, :, np.arange(self.n_groups)], 1, 2)
        return best_by_draw(
            self._values_by_draw,
            start,
            self.levers.bounds,
            shares=self.shares,
            budget=self.budget,
        )

    def _notes(self, action: np.ndarray, own: np.ndarray, today: np.ndarray | None, *, held_out: bool) -> Iterator[str]:
        """Yield notes about bounds, support, today's levers, the value of information and optimism."""
        for name, values, (low, high) in zip(self.levers.names, action, self.levers.bounds, strict=True):
            for bound, what in ((low, "lowest"), (high, "highest")):
                if low < high and (np.abs(values - bound) <= 1e-3 * (high - low)).any():
                    yield f"`{name}` is at its {what} allowed value, {bound:g}: a better one may be beyond it"
        asked = {name: rows for name, rows in self._by_row(action).items() if name not in self.extra}
        if asked:
            verdict, reasons = self.check_support(asked)
            if verdict != "supported":
                yield f"Support of the data: {verdict}"
                yield from reasons
        if today is not None and self.utility.of(today) @ self.shares > self.utility.of(own) @ self.shares:
            yield "Leaving the levers as they are in each row is better than any action for all rows of a group"
        if not self._knows_best_of_draws:
            yield (
                "The value of perfect information is a lower bound, since only the starts of the search are compared; "
                "pass lists"
            )
        if not held_out:
            yield "The value is optimistic, since the same rows and draws chose the action; pass `holdout`"

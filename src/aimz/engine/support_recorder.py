"""Check of the support of rows while they are read for a prediction, for rows that are read once."""

__all__ = ["SupportCheck", "SupportRecorder", "record_support"]

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.data import RowReader
from aimz.engine.layout import InputLayout
from aimz.engine.prepared_call import PreparedCall
from aimz.engine.request import PredictionRequest
from aimz.engine.support_checks import (
    asked_while_read,
    rows_of_value,
    site_data,
    unknown_levers,
)
from aimz.engine.support_report import report_of
from aimz.forward import JointPass, PassSpec
from aimz.statistics import FitSupport, RowSupport, SupportCounts

_WHOLE = 2**10
"""Number of rows at the start of the data that are all checked, and of rows that are counted together."""
_EVERY = 127
"""Every how many of the later rows one is checked, and counts as many; a prime, since rows may have an order."""


@dataclass(frozen=True)
class _Scenario:
    """Columns of one scenario that are checked, and where the rows of a step have them."""

    asked: tuple[int, ...]
    keys: Mapping[str, tuple[Hashable, int | None]]
    """Argument to its key among the rows of a step, and its number among stacked scenarios."""
    values: Mapping[str, Any]
    """Arguments with one value for all rows, or one for each row in memory."""


@dataclass(frozen=True)
class SupportCheck:
    """Check of the rows of one call; the same in every process."""

    fit: FitSupport
    scenarios: Mapping[Any, _Scenario]
    n_obs: int | None

    @staticmethod
    def of(request: PredictionRequest, passes: PassSpec | JointPass, layout: InputLayout) -> "SupportCheck | None":
        """Return the check of the scenarios whose rows are read once; None if there are none."""
        posterior = request.first.settings.posterior
        fit = None if posterior is None else posterior.support
        if fit is None:
            return None
        found = {}
        for number, (name, prepared) in enumerate(request.scenarios.items()):
            asked = asked_while_read(fit, prepared)
            if asked:
                found[name] = _scenario(fit, asked, prepared, _keys_of(passes, layout, number))
        return SupportCheck(fit, found, request.n_obs) if found else None

    def recorder(self, layout: InputLayout) -> "SupportRecorder":
        """Return a recorder without rows."""
        return SupportRecorder(self, None if layout.groups is None else layout.groups.weights)


def _keys_of(passes: PassSpec | JointPass, layout: InputLayout, number: int) -> dict[str, tuple[Hashable, int | None]]:
    """Return the key of each argument with rows in one scenario, and the scenario's number among stacked arrays."""
    if not isinstance(passes, JointPass):
        return {str(name): (name, None) for name in layout.row_arrays}
    group = next(one for one in passes.scenario_groups if number in one.members)
    place = group.members.index(number)
    with_rows: set[Hashable] = set(layout.row_arrays)
    return {
        name: (key, place if key in group.mapped else None) for name, key in group.arrays.items() if key in with_rows
    }


def _scenario(
    fit: FitSupport,
    asked: tuple[int, ...],
    prepared: PreparedCall,
    keys: Mapping[str, tuple[Hashable, int | None]],
) -> _Scenario:
    values, call = site_data(prepared), prepared.call
    own = {name: keys[name] for name in fit.arguments if name in keys and name not in values}
    fixed = {
        name: values.get(name, call.arrays.get(name, call.static.get(name)))
        for name in fit.arguments
        if name not in own
    }
    return _Scenario(asked, own, {name: np.asarray(value) for name, value in fixed.items()})


@dataclass
class SupportRecorder:
    """Counts of the rows that one process reads."""

    check: SupportCheck
    weights: RowReader | None
    """Weights of the rows; None for equal weights."""
    counts: dict[Any, SupportCounts] = field(default_factory=dict)
    pending: list[tuple[dict[Any, np.ndarray], np.ndarray]] = field(default_factory=list)
    """Columns of rows that are not counted yet, by scenario, with their weights."""

    def add(self, rows: Mapping[Any, np.ndarray], start: int) -> None:
        """Record rows, the first of which has number ``start``: all rows at first, then one of 127."""
        n_rows = len(next(iter(rows.values())))
        whole = min(max(_WHOLE - start, 0), n_rows)
        if whole:
            self._add(rows, start, slice(0, whole), 1.0)
        first = whole + -(start + whole) % _EVERY
        if first < n_rows:
            self._add(rows, start, slice(first, n_rows, _EVERY), float(_EVERY))
        if sum(len(weights) for _, weights in self.pending) >= _WHOLE:
            self.finish()

    def _add(self, rows: Mapping[Any, np.ndarray], start: int, chosen: slice, weight: float) -> None:
        """Record the chosen rows."""
        weights = np.full(len(range(chosen.start, chosen.stop, chosen.step or 1)), weight)
        if self.weights is not None:
            given = self.weights.read(start, start + chosen.stop)[chosen]
            weights *= given.reshape(len(given), -1).sum(axis=1)
        found = {}
        for name, scenario in self.check.scenarios.items():
            arrays = {
                argument: rows[key][chosen] if place is None else rows[key][chosen][..., place]
                for argument, (key, place) in scenario.keys.items()
            }
            for argument, value in scenario.values.items():
                arrays[argument] = rows_of_value(value, start, start + chosen.stop, self.check.n_obs)[chosen]
            found[name] = self.check.fit.rows_of(arrays)
        self.pending.append((found, weights))

    def finish(self) -> dict[Any, SupportCounts]:
        """Return the counts of all recorded rows."""
        if self.pending:
            weights = np.concatenate([own for _, own in self.pending])
            for name, scenario in self.check.scenarios.items():
                counts = self.counts.setdefault(name, SupportCounts(RowSupport(self.check.fit, scenario.asked)))
                counts.add(np.concatenate([found[name] for found, _ in self.pending]), weights)
            self.pending = []
        return self.counts

    def empty(self) -> "SupportRecorder":
        """Return a recorder of the same check without rows."""
        return SupportRecorder(self.check, self.weights)


def record_support(request: PredictionRequest, counts: Mapping[Any, SupportCounts]) -> tuple[str, ...]:
    """Record the verdict on the rows that were checked while they were computed; return the reasons to warn about."""
    reasons: list[str] = []
    for name, found in counts.items():
        prepared = request.scenarios[name]
        report = report_of(found, unknown_levers(found.whole.fit, prepared), {})
        prepared.attrs["support"] = report.text
        reasons += report.reasons if report.verdict == "extrapolates" else ()
    return tuple(reasons)

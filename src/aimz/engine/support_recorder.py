"""Check of the support of rows while they are read for a prediction, for rows that are read once."""

__all__ = ["SupportCheck", "SupportRecorder", "record_support"]

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from aimz.data import RowReader
from aimz.engine.layout import InputLayout
from aimz.engine.prepared_call import PreparedCall
from aimz.engine.request import PredictionRequest
from aimz.engine.support_checks import (
    asked_while_read,
    overlap_of_fit,
    site_data,
    unknown_levers,
)
from aimz.engine.support_report import report_of
from aimz.forward import JointPass, PassSpec
from aimz.statistics import FitSupport, RowSupport, SupportCounts

_WHOLE = 2**10
"""Number of rows at the start of the data that are all checked."""
_COUNTED = 2**12
"""Number of rows that are counted together."""
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

    def arrays(
        self, rows: Mapping[Hashable, np.ndarray], numbers: np.ndarray, n_obs: int | None
    ) -> dict[str, np.ndarray]:
        """Return the arguments of the rows with these numbers, ``rows``."""
        found = {
            name: rows[key] if place is None else rows[key][..., place] for name, (key, place) in self.keys.items()
        }
        for name, value in self.values.items():
            has_rows = n_obs is not None and value.ndim > 0 and len(value) == n_obs
            found[name] = value[numbers] if has_rows else np.broadcast_to(value, (len(numbers), *value.shape))
        return found


@dataclass(frozen=True)
class SupportCheck:
    """Check of the rows of one call; the same in every process."""

    fit: FitSupport
    scenarios: Mapping[Any, _Scenario]
    n_obs: int | None

    @cached_property
    def keys(self) -> tuple[Hashable, ...]:
        """Keys of the arrays whose rows are checked."""
        return tuple(dict.fromkeys(key for one in self.scenarios.values() for key, _ in one.keys.values()))

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


@dataclass(frozen=True)
class _Piece:
    """Rows that are recorded and not counted yet."""

    numbers: range
    """Numbers of the rows among all rows."""
    weight: float
    """Number of rows for which each of them counts."""
    given: np.ndarray | None
    """Weights of the user; None for equal weights."""
    arrays: Mapping[Hashable, np.ndarray]


@dataclass
class SupportRecorder:
    """Counts of the rows that one process reads."""

    check: SupportCheck
    weights: RowReader | None
    """Weights of the rows; None for equal weights."""
    counts: dict[Any, SupportCounts] = field(default_factory=dict)
    pending: list[_Piece] = field(default_factory=list)
    """Rows that are not counted yet: thousands are counted together, since counting has a cost for each call."""
    n_pending: int = 0

    def add(self, rows: Mapping[Any, np.ndarray], start: int) -> None:
        """Record rows, the first of which has number ``start``: all rows at first, then one of 127."""
        n_rows = len(next(iter(rows.values())))
        whole = min(max(_WHOLE - start, 0), n_rows)
        if whole:
            self._add(rows, start, slice(0, whole), 1.0)
        first = whole + -(start + whole) % _EVERY
        if first < n_rows:
            self._add(rows, start, slice(first, n_rows, _EVERY), float(_EVERY))
        if self.n_pending >= _COUNTED:
            self.finish()

    def _add(self, rows: Mapping[Any, np.ndarray], start: int, chosen: slice, weight: float) -> None:
        """Record copies of the chosen rows, since views keep all rows in memory."""
        numbers, given = range(start, start + chosen.stop)[chosen], None
        if self.weights is not None and not self.weights.is_constant:
            given = self.weights.read(start, start + chosen.stop)[chosen]
            given = given.reshape(len(given), -1).sum(axis=1)
        arrays = {key: rows[key][chosen].copy() for key in self.check.keys}
        self.pending.append(_Piece(numbers, weight, given, arrays))
        self.n_pending += len(numbers)

    def finish(self) -> dict[Any, SupportCounts]:
        """Return the counts of all recorded rows."""
        if self.pending:
            pieces, self.pending, self.n_pending = self.pending, [], 0
            numbers = np.concatenate([piece.numbers for piece in pieces])
            weights = np.repeat([piece.weight for piece in pieces], [len(piece.numbers) for piece in pieces])
            given = [piece.given for piece in pieces if piece.given is not None]
            weights = weights * np.concatenate(given) if given else weights
            rows = {key: np.concatenate([piece.arrays[key] for piece in pieces]) for key in self.check.keys}
            for name, scenario in self.check.scenarios.items():
                counts = self.counts.setdefault(name, SupportCounts(RowSupport(self.check.fit, scenario.asked)))
                counts.add(self.check.fit.rows_of(scenario.arrays(rows, numbers, self.check.n_obs)), weights)
        return self.counts

    def empty(self) -> "SupportRecorder":
        """Return a recorder of the same check without rows."""
        return SupportRecorder(self.check, self.weights)


def record_support(request: PredictionRequest, counts: Mapping[Any, SupportCounts]) -> tuple[str, ...]:
    """Record the verdict on the rows that were checked while they were computed; return the reasons to warn about."""
    reasons: list[str] = []
    for name, found in counts.items():
        prepared = request.scenarios[name]
        fit, weights = found.whole.fit, None if request.groups is None else request.groups.weights
        overlap = overlap_of_fit(fit, prepared, found.whole.asked, weights)
        report = report_of(found, unknown_levers(fit, prepared), {}, overlap)
        prepared.attrs["support"] = report.text
        reasons += report.reasons if report.verdict == "extrapolates" else ()
    return tuple(reasons)

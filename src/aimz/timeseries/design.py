"""Design of a before/after analysis: rows of the fit, rows of the event, and groups of rows."""

__all__ = ["Design", "LabelReader", "read_design"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz.data import index_of, is_plain_range, open_frame, open_table
from aimz.engine import KernelEngine
from aimz.statistics import Groups, read_groups
from aimz.timeseries.periods import Event, Periods, name_of
from aimz.timeseries.rows import Rows, is_wide
from aimz.timeseries.steps import index_of_steps, without_steps


@dataclass(frozen=True)
class Design:
    """Rows in the order of their periods, with their use; in wide form, steps of series instead of rows."""

    rows: Rows
    periods: Periods
    event: Event
    treated: np.ndarray
    """Whether the event happened to the unit of each row, or in wide form to each series."""
    units: np.ndarray | None
    """Unit of each row or series; None if units were not named."""
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Labels of the groups, by dimension."""
    cells: np.ndarray | None = None
    """Number of the group of each row, also in wide form; None without groups."""

    @property
    def has_donors(self) -> bool:
        """Whether some of the rows are series without the event, whose later steps are part of the fit."""
        return bool(self.rows.axis) and not self.treated.all()

    @property
    def held(self) -> np.ndarray:
        """Numbers of the rows of the event, which are predicted and not fitted."""
        inside = (self.periods.codes >= self.event.first) & (self.periods.codes < self.event.stop)
        return np.flatnonzero(inside if self.rows.axis else inside & self.treated)

    @property
    def fitted(self) -> np.ndarray:
        """Numbers of the rows of the fit: before the event, and of units without the event."""
        others = self.has_donors if self.rows.axis else ~self.treated
        before = self.periods.codes < self.event.first
        return np.flatnonzero(before | (others & (self.periods.codes < self.event.stop)))

    def known(self, index: np.ndarray) -> Rows:
        """Return some rows; the output of treated series is NaN in the event if others are known there."""
        rows = self.rows.take(index)
        if not self.has_donors:
            return rows
        y = np.array(rows.observed, np.result_type(rows.observed, np.float32))
        y[np.ix_(self.treated, self.periods.codes[index] >= self.event.first)] = np.nan
        return replace(rows, y=y, observed=y)

    def values(self, index: np.ndarray) -> np.ndarray:
        """Return the output of some rows, or of the treated series in some steps, as floats."""
        found = self.rows.values(index)
        return found[self.treated] if self.rows.axis else found

    @property
    def n_fitted(self) -> int:
        """Number of outcomes that are fitted."""
        hidden = self.values(self.held).size if self.has_donors else 0
        return self.rows.values(self.fitted).size - hidden

    def without_event(self, act: Mapping[str, Any], param_input: str) -> dict[str, np.ndarray]:
        """Return arguments of the fitted steps as an intervention on the treated series in the event sets them.

        Raises
        ------
        ValueError
            If it is about something else than arguments with an axis along the steps.
        """
        rows, event = self.rows.take(self.fitted), self.periods.codes[self.fitted] >= self.event.first
        given = {param_input: rows.X, **{name: rows.arguments[name] for name in sorted(rows.by_row)}}
        unknown = [name for name in act if name not in given]
        if unknown:
            msg = (
                f"`baseline` must be about arguments with a value for each step of a series if a row is a series and "
                f"some have no event: {', '.join(map(repr, given))}; got {unknown[0]!r}. Write it as such an argument, "
                "or pass a row for each series and period."
            )
            raise ValueError(msg)
        found = {}
        for name, change in act.items():
            part = np.asarray(given[name])[:, event]
            new = np.asarray(change(part) if callable(change) else change)
            found[name] = np.array(given[name], np.result_type(part, new))
            found[name][np.ix_(self.treated, event)] = np.broadcast_to(new, part.shape)[self.treated]
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of periods until the end of the event, and of groups."""
        return (self.event.stop, *(len(labels) for labels in self.labels.values()))

    def groups(self, index: np.ndarray) -> Groups:
        """Return the period and the group of some rows; rows of other units and periods have the weight 0.

        In wide form, a series has a cell for each of its steps.
        """
        codes, n_cells = self._codes(index)
        inside = self.periods.codes[index] < self.event.stop
        counted = self.treated[:, None] & inside if self.rows.axis else self.treated[index] & inside
        weights = None if counted.all() else counted.astype(np.float32)
        labels = {"period": np.arange(self.event.stop), "group": np.arange(n_cells)}
        return Groups(labels, np.where(counted, codes, 0), weights, panel=("step",) if self.rows.axis else ())

    def observed_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of the output over the rows of each period and group, and the numbers of rows."""
        until = self.periods.codes < self.event.stop
        index = np.flatnonzero(until if self.rows.axis else until & self.treated)
        codes, n_cells = self._codes(index)
        codes = codes[self.treated] if self.rows.axis else codes
        n_all = self.event.stop * n_cells
        sums = np.bincount(codes.ravel(), self.values(index).ravel(), minlength=n_all).reshape(self.shape)
        return sums, np.bincount(codes.ravel(), minlength=n_all).reshape(self.shape)

    def _codes(self, index: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the cell of some rows, in wide form ``(n_series, n_steps)``, and the number of groups."""
        n_cells = int(np.prod(self.shape[1:], dtype=int))
        codes = self.periods.codes[index].astype(np.int64) * n_cells
        if self.rows.axis:
            cells = np.zeros(self.rows.n_obs, np.int64) if self.cells is None else self.cells
            return codes + cells[:, None], n_cells
        return codes + (0 if self.cells is None else self.cells[index]), n_cells

    def check(self, *, average: bool) -> None:
        """Raise if there are no rows to compare, the output is not known, or a group has no rows to average."""
        name = self.periods.name
        treated = self.treated.any() if self.rows.axis else self.treated
        if not len(self.held) or not self.treated.any():
            raise ValueError(self._without_rows("the event", self.event.first, self.event.stop))
        if not (treated & (self.periods.codes < self.event.first)).any():
            raise ValueError(self._without_rows("the periods before it", 0, self.event.first))
        missing = np.isnan(self.values(self.held))
        if missing.any():
            first = np.argwhere(missing)[0]
            row, series = self.held[int(first[-1])], ""
            if self.rows.axis:
                series = f"series {np.flatnonzero(self.treated)[first[0]]}, "
            msg = (
                f"The output must be known for the rows of the event; it is NaN in {int(missing.sum()):,} of "
                f"{missing.size:,} (the first in {series}{name} "
                f"{name_of(self.periods.labels[self.periods.codes[row]])}), so the effect there is not known. Drop "
                "these rows, or pass an earlier `end`."
            )
            raise ValueError(msg)
        empty = self.observed_sums()[1] == 0
        if average and empty.any():
            period, *cell = np.unravel_index(int(empty.argmax()), empty.shape)
            group = ", ".join(f"{d} {self.labels[d][i]}" for d, i in zip(self.labels, cell, strict=True)) or "all rows"
            msg = (
                f"`aggregate='mean'` needs rows in every {name} of each group; {int(empty.sum()):,} have none (the "
                f"first is {name} {name_of(self.periods.labels[int(period)])}, {group}). Pass `aggregate='sum'`, or "
                "only periods in which all groups have rows."
            )
            raise ValueError(msg)

    def _without_rows(self, what: str, first: int, stop: int) -> str:
        labels = self.periods.labels
        return (
            f"The units with the event must have rows in {what}, {name_of(labels[first])} to "
            f"{name_of(labels[stop - 1])}; got none among {self.rows.n_obs:,} rows. Pass other values of `treated` or "
            "`start`."
        )


def read_design(
    engine: KernelEngine,
    X: Any,
    y: Any,
    arguments: Mapping[str, Any],
    *,
    period: Any,
    start: Any,
    end: Any,
    by: Any,
    unit: Any,
    treated: Any,
    method: str,
) -> Design:
    """Return the design of a call, with the rows in the order of their periods."""
    wide = is_wide(X, y)
    engine = without_steps(engine) if wide else engine
    reader = LabelReader.of(engine, X, arguments, wide=wide)
    periods = Periods.of(reader.read_period(period), reader.name_of(period))
    units = None if unit is None else np.asarray(reader.read(unit, "unit"))
    groups = {str(name): reader.read(given, "by") for name, given in _by_name(by).items()}
    mask = _read_treated(treated, units, reader)
    rows = Rows.of(engine, reader.table, y, arguments, method)
    for option, array in (("period", periods.codes), ("unit", units), ("treated", mask), *groups.items()):
        rows.check_length(option, array)
    labels, cells = read_groups(groups)
    order = np.argsort(periods.codes, kind="stable")
    treated = np.ones(rows.n_obs, bool) if mask is None else mask
    if wide and units is None:
        names = index_of(X)
        units = np.arange(rows.n_obs) if names is None else np.asarray(names)
    by_row = slice(None) if wide else order  # labels of series have no order along time
    return Design(
        rows.take(order),
        Periods(periods.labels, periods.codes[order], periods.name),
        Event.of(periods, start, end),
        treated[by_row],
        None if units is None else units[by_row],
        labels,
        None if cells is None else cells[by_row],
    )


def _by_name(by: Any) -> Mapping[str, Any]:
    """Return the labels of groups by the name of their dimension."""
    if by is None or isinstance(by, Mapping):
        return by or {}
    if isinstance(by, str):
        return {by: by}
    if isinstance(by, list | tuple) and all(isinstance(name, str) for name in by):
        return {name: name for name in by}
    return {"group": by}


class LabelReader:
    """Labels of rows, and the table without the columns that are labels only."""

    def __init__(self, X: Any, arguments: Mapping[str, Any], engine: KernelEngine, index: Any) -> None:
        self._X, self._arguments, self._engine, self._index = X, arguments, engine, index
        self._table = open_table(X, "X")
        self._used: list[str] = []

    @staticmethod
    def of(engine: KernelEngine, X: Any, arguments: Mapping[str, Any], *, wide: bool) -> "LabelReader":
        """Return a reader whose periods are by default the labels of the rows, or in wide form of the steps."""
        return LabelReader(X, arguments, engine, index_of_steps(X) if wide else index_of(X))

    @property
    def table(self) -> Any:
        """Input without the columns of labels that are not numbers and that the kernel does not take."""
        names = {self._engine.signature.param_output, *self._engine.signature.extra}
        only = [name for name in dict.fromkeys(self._used) if name not in names]
        drop = list(self._table.non_numeric(only)) if self._table is not None and only else []
        frame = open_frame(self._X, "X") if drop else None
        return self._X if frame is None else frame.drop(drop).to_native()

    def read_period(self, given: Any) -> Any:
        """Return the period of each row; by default the labels of the rows, in wide form of the steps."""
        if given is not None:
            return self.read(given, "period")
        if self._index is None or is_plain_range(self._index):
            msg = (
                "`period` must be given: `X` has no labels that could be periods. Pass the name of a column, or an "
                "array with the period of each row (of each step, if a row is a series)."
            )
            raise TypeError(msg)
        return self._index

    def name_of(self, given: Any) -> str:
        """Return the name of the dimension of the periods."""
        name = given if isinstance(given, str) else getattr(self._index if given is None else given, "name", None)
        return str(name) if name is not None else "period"

    def has(self, name: str) -> bool:
        """Return whether a column or an argument has a name."""
        return name in self._arguments or (self._table is not None and name in self._table.names)

    def read(self, given: Any, option: str) -> Any:
        """Return labels that are given by the name of a column or of an argument, or themselves."""
        if not isinstance(given, str):
            return given if isinstance(given, pd.Index | pd.Series) else np.asarray(given)
        columns = () if self._table is None else self._table.names
        if given in columns:
            self._used.append(given)
            assert self._table is not None
            return self._table.labels(given)
        if given in self._arguments:
            return self._arguments[given]
        known = ", ".join(map(str, dict.fromkeys([*columns, *self._arguments]))) or "none"
        msg = (
            f"`{option}` names {given!r}, which is neither a column of `X` nor an argument of the kernel. Known: "
            f"{known}. Or pass the values themselves."
        )
        raise ValueError(msg)


def _read_treated(treated: Any, units: np.ndarray | None, reader: LabelReader) -> np.ndarray | None:
    """Return whether the event happened to the unit of each row; None if it happened to all."""
    if treated is None:
        return None
    if units is not None and (np.ndim(treated) == 0 or np.asarray(treated).dtype != bool):
        names = [treated] if np.ndim(treated) == 0 else list(treated)
        unknown = [name for name in names if name not in set(units.tolist())]
        if unknown:
            known = ", ".join(map(str, dict.fromkeys(units.tolist()[:1000])))
            msg = (
                f"`treated` must name units; {unknown[0]!r} is not among the values of `unit`: {known[:200]}. Pass one "
                "of them, or True and False for each row."
            )
            raise ValueError(msg)
        return np.isin(units, names)
    known_name = not isinstance(treated, str) or reader.has(treated)
    values = np.asarray(reader.read(treated, "treated")) if known_name else np.array([treated])
    if not np.isin(values, (0, 1)).all() or values.ndim != 1:
        msg = (
            "`treated` must name units among the values of `unit`, or be True or False for each row; got "
            f"{treated!r}{'' if units is not None else ' without `unit`'}. Pass `unit='state', treated='California'`, "
            "for instance."
        )
        raise ValueError(msg)
    mask: np.ndarray = values.astype(bool)
    return mask

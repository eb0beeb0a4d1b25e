"""Placebo events: of earlier periods, and of other units."""

__all__ = ["placebo_designs"]

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from aimz.data import open_frame
from aimz.engine import KernelEngine
from aimz.timeseries.design import Design
from aimz.timeseries.periods import Event, name_of


def placebo_designs(design: Design, engine: KernelEngine, kind: Any, labels: Any) -> dict[Any, Design]:
    """Return the design of each placebo by its label: the start of an earlier event, or a unit without the event.

    Raises
    ------
    ValueError
        If the kind is unknown, or there is no such placebo.
    """
    if kind == "time":
        return dict(_earlier(design, labels))
    if kind == "space" and design.rows.axis and not design.has_donors:
        msg = (
            "`placebo='space'` needs units without the event; got one row for each series, and all have the event. "
            "Pass the series with the event as `treated`, or `placebo='time'`."
        )
        raise ValueError(msg)
    if kind == "space":
        found = dict(_other_units(design) if design.units is not None else _other_columns(design, engine))
        return found if labels is None else {label: _choose(found, label) for label in labels}
    msg = (
        f"`placebo` must be 'time' (events that start earlier) or 'space' (events of other units); got {kind!r}. Omit "
        "it for no refits."
    )
    raise ValueError(msg)


def _earlier(design: Design, labels: Any) -> Iterator[tuple[Any, Design]]:
    """Yield designs of events that start and end before the event."""
    first = design.event.first
    length = min(design.event.stop - first, first // 2)
    if labels is None:
        # Half of the periods before the event remain: a shorter history would make every placebo effect uncertain.
        starts = list(range(first - length, (first - 1) // 2, -length)) if length else []
    else:
        starts = [design.periods.find(label, "placebos") for label in labels]
    usable = [start for start in starts if 0 < start < first]
    if not usable or len(usable) < len(starts):
        name = name_of(design.periods.labels[first])
        got = f"{len(starts) - len(usable):,} of {len(starts):,} do not" if starts else f"there are {first:,}"
        msg = (
            f"Placebo events must start between the second period and the event, {name}; {got}. Pass `placebos` with "
            "such periods, or data of more periods before the event."
        )
        raise ValueError(msg)
    index = np.flatnonzero(design.periods.codes < first)
    for start in usable:
        event = Event(start, min(start + length, first) if length else first)
        treated = design.treated if design.rows.axis else design.treated[index]
        yield _as_label(design.periods.labels[start]), _subset(design, index, event, treated)


def _other_units(design: Design) -> Iterator[tuple[Any, Design]]:
    """Yield designs in which the event is of another unit, without the rows of the treated units."""
    assert design.units is not None
    if design.has_donors:  # the kernel gets as many series as in the fit; outcomes of the event are not among them
        plain = replace(design, rows=design.known(np.arange(design.rows.n_times)), labels={}, cells=None)
        for unit in dict.fromkeys(design.units[~design.treated].tolist()):
            yield unit, replace(plain, treated=design.units == unit)
        return
    index = np.flatnonzero(~design.treated)
    others = list(dict.fromkeys(design.units[index].tolist()))
    if not others:
        msg = "`placebo='space'` needs units without the event; `treated` has all of them. Pass data of other units."
        raise ValueError(msg)
    for unit in others:
        yield unit, _subset(design, index, design.event, design.units[index] == unit)


def _other_columns(design: Design, engine: KernelEngine) -> Iterator[tuple[Any, Design]]:
    """Yield designs whose output is a column of the input, which the other columns predict."""
    rows = design.rows
    frame = open_frame(rows.X, "X")
    columns: dict[Any, tuple[Any, np.ndarray]] = {}
    if frame is not None:
        taken = {engine.signature.param_output, *engine.signature.extra, *([rows.y] if isinstance(rows.y, str) else [])}
        names = [name for name in frame.columns if name not in taken]
        for name in names:
            rest = frame.drop([name, *(taken & set(frame.columns))])
            columns[name] = rest.to_native(), np.asarray(frame[name].to_numpy())
    else:
        array = np.asarray(rows.X)
        n_columns = array.shape[1] if array.ndim == 2 else 1
        if n_columns > 1:
            columns = {i: (np.delete(array, i, 1), array[:, i]) for i in range(n_columns)}
    if len(columns) < 2:
        msg = (
            "`placebo='space'` needs other units: columns of `X` with their series, or `unit` and `treated`; got an "
            f"input of {len(columns) or 1:,} column(s). Pass one of them, or `placebo='time'`."
        )
        raise ValueError(msg)
    for name, (rest, values) in columns.items():
        yield name, replace(design, rows=replace(rows, X=rest, y=values, observed=values), labels={}, cells=None)


def _subset(design: Design, index: np.ndarray, event: Event, treated: np.ndarray) -> Design:
    """Return the design of some rows with another event, without groups."""
    periods = replace(design.periods, codes=design.periods.codes[index])
    units = design.units if design.units is None or design.rows.axis else design.units[index]
    return Design(design.rows.take(index), periods, event, treated, units)


def _choose(found: dict[Any, Design], label: Any) -> Design:
    if label not in found:
        known = ", ".join(map(str, list(found)[:12]))
        msg = f"`placebos` must name units without the event; got {label!r}. Pass some of: {known}."
        raise ValueError(msg)
    return found[label]


def _as_label(label: Any) -> Any:
    """Return a period as a number or a text."""
    return label if isinstance(label, int | float | str | np.integer | np.floating) else name_of(label)

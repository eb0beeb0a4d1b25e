"""Whether the rows of a call are supported by the data of the fit."""

__all__ = [
    "asked_while_read",
    "check_support",
    "fit_support",
    "overlap_of_fit",
    "rows_of_value",
    "site_data",
    "unknown_levers",
    "with_support",
]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from numbers import Real
from typing import Any

import numpy as np

from aimz.data import BatchReader, KernelArguments
from aimz.engine.prepared_call import PreparedCall
from aimz.engine.support_report import (
    EXTRAPOLATES,
    NOT_CHECKED,
    NOT_KNOWN,
    SUPPORTED,
    SupportReport,
    data_of,
    report_of,
)
from aimz.statistics import (
    FitSupport,
    Groups,
    Overlap,
    RowSupport,
    SupportCounts,
    overlap_of,
)

_BLOCK = 2**14
"""Number of rows that are read together."""
_CHECKED = 2**13
"""Largest number of rows of a call that are checked; of more rows, short blocks at equal distances are."""
_SHORT = 2**9
"""Number of rows of such a block."""
_MAX_GROUPS = 100
"""Largest number of groups that are checked, each by itself."""


def fit_support(call: KernelArguments, output: str, columns: Mapping[str, tuple[str, ...]]) -> FitSupport | None:
    """Return the description of the rows of a fit that are in memory; None if they cannot be described."""
    rows = {name: reader for name, reader in call.rows.items() if name != output}
    found = FitSupport.of(rows, columns, call.categories)
    if found is None:
        return None
    for start in range(0, call.n_obs, _BLOCK):
        found.add({name: rows[name].read(start, min(start + _BLOCK, call.n_obs)) for name in found.arguments})
    return found.finished()


def _is_factual(prepared: PreparedCall) -> bool:
    """Return whether a call has the rows of the fit, without an intervention."""
    settings = prepared.settings
    return settings.in_sample and not settings.changed and not settings.intervention


def check_support(
    support: FitSupport | None,
    prepared: PreparedCall,
    factual: KernelArguments,
    groups: Groups | None = None,
    *,
    every_row: bool = False,
    reader: BatchReader | None = None,
) -> SupportReport:
    """Return whether the rows of a call are supported by the data of the fit.

    ``factual`` are the arguments without the interventions of ``prepared``, and ``groups`` has the weights and the
    groups of the rows. If every row is checked, rows that are read once are read here, from ``reader``.
    """
    if support is None:
        return SupportReport(NOT_KNOWN, ("the model has no description of the data of a fit",))
    steps = prepared.settings.fitted_steps
    if steps is not None and steps.axis == 1:
        return SupportReport(NOT_KNOWN, ("the columns of the fit are steps of series, and later steps are others",))
    if _is_factual(prepared):
        return SupportReport(SUPPORTED)
    asked = _asked_columns(support, prepared)
    unknown = unknown_levers(support, prepared)
    needed = support.arguments
    if any(name not in prepared.call.arrays and name not in prepared.call.static for name in needed):
        return SupportReport(NOT_KNOWN, ("the call leaves out an argument of the fit",))
    if not every_row and _is_read_once(support, prepared.call):
        reasons = tuple(_reasons_of_constants(support, prepared))
        return SupportReport(EXTRAPOLATES, reasons) if reasons else SupportReport(NOT_CHECKED, (_READ_ONCE,))
    times = _time_columns(support, prepared)
    asked = tuple(i for i in asked if i not in times)
    if not asked:
        return SupportReport(NOT_KNOWN if unknown else SUPPORTED, unknown)
    weights, codes = _weights_and_codes(groups)
    own_groups = None
    if codes is not None and groups is not None and reader is None:
        own_groups = _groups_of_fit(support, prepared, factual, groups, every_row=every_row)
    found = SupportCounts(RowSupport(own_groups or support, asked))
    for start, rows in _blocks(support, prepared, weights, every_row=every_row, reader=reader):
        own = slice(start, start + len(rows))
        rows = rows if not times or support.moments is None else support.moments.with_expected(rows, times)
        columns = rows if own_groups is None or codes is None else np.column_stack([rows, codes[own]])
        found.add(columns, *(None if one is None else one[own] for one in (weights, codes)))
    if reader is not None:
        overlap = overlap_of_fit(support, prepared, asked, weights)
    else:
        overlap = _overlap(support, factual, asked, weights, every_row=every_row)
    return report_of(found, unknown, {} if codes is None or groups is None else groups.labels, overlap)


def _groups_of_fit(
    support: FitSupport, prepared: PreparedCall, factual: KernelArguments, groups: Groups, *, every_row: bool
) -> FitSupport | None:
    """Return a description with the ranges of the groups, if all rows of the fit are read."""
    settings, name = prepared.settings, " and ".join(groups.labels)
    other_rows = not settings.in_sample or settings.changed or settings.has_other_index
    sampled = not every_row and factual.n_obs > _CHECKED
    if other_rows or sampled or groups.codes is None or name in {*support.names, *support.categories}:
        return None
    rows = np.concatenate([rows for _, rows in _blocks(support, factual, every_row=every_row)])
    return support.with_groups(name, groups.codes, rows)


_READ_ONCE = "the rows are read once"


def _is_read_once(support: FitSupport, call: KernelArguments) -> bool:
    """Return whether rows of a call are checked while they are computed, since reading them twice is expensive."""
    needed = call.rows.keys() & support.arguments
    return any(call.rows[name].from_batches or call.rows[name].uses_dask for name in needed)


def asked_while_read(support: FitSupport, prepared: PreparedCall) -> tuple[int, ...]:
    """Return the numbers of the columns that are checked while rows are computed; empty if none is."""
    if prepared.attrs.get("support") != SupportReport(NOT_CHECKED, (_READ_ONCE,)).text:
        return ()
    return _asked_columns(support, prepared)


def _weights_and_codes(groups: Groups | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the weight and the number of the group of each row; None for equal weights, and for too many groups."""
    if groups is None:
        return None, None
    weights = groups.weights
    if weights is not None and weights.ndim > 1:
        weights = weights.reshape(len(weights), -1).sum(axis=1)
    codes = groups.codes
    return weights, None if codes is None or codes.ndim > 1 or groups.n_cells > _MAX_GROUPS else codes


def _asked_columns(support: FitSupport, prepared: PreparedCall) -> tuple[int, ...]:
    """Return the numbers of the columns that an intervention sets, and of all columns of rows that are new."""
    settings, new = prepared.settings, not prepared.settings.in_sample or prepared.settings.has_other_index
    set_by_name = {str(name) for name in settings.intervention or {}}
    sites = {argument for name in set_by_name if name in prepared.spec for argument in prepared.spec[name].data}
    asked = set_by_name | sites | (set() if new else settings.changed)
    columns = zip(support.names, support.places, strict=True)
    found = [i for i, (name, (argument, _)) in enumerate(columns) if new or argument in asked or name in set_by_name]
    n_columns = len(support.names)
    return (
        *found,
        *(n_columns + i for i, name in enumerate(support.categories) if name in asked and support.ranges[i]),
    )


def _time_columns(support: FitSupport, prepared: PreparedCall) -> tuple[int, ...]:
    """Return the columns that number the periods: in later steps of the fit, they go on from the last one evenly.

    A forecast is outside of their range by design, whatever the data.
    """
    if not prepared.settings.follows_fit or prepared.call.n_obs > _CHECKED:
        return ()
    rows = np.concatenate([rows for _, rows in _blocks(support, prepared, every_row=True)])
    return tuple(i for i in range(len(support.names)) if _goes_on(rows[:, i], support, i))


def _goes_on(later: np.ndarray, support: FitSupport, column: int) -> bool:
    """Return whether later values of a column follow its values in the fit in steps of one length."""
    values, low, high = np.unique(later), support.low[column], support.high[column]
    step = (values[-1] - high) / len(values)
    if not step > 0:  # NaN included
        return False
    rounding = 4 * np.finfo(np.float32).eps * max(abs(values[-1]), abs(low))
    n_before = (high - low) / step
    is_even = np.abs(np.diff(values, prepend=high) - step).max() <= 1e-3 * step + rounding
    is_even &= abs(n_before - round(n_before)) < 1e-2 + n_before * rounding / (step * len(values))
    # A single value follows at some step in any case: it must have as many before it as the fit has rows.
    return bool(is_even) and round(n_before) >= (2 if len(values) > 1 else support.n - 1)


def unknown_levers(support: FitSupport, prepared: PreparedCall) -> tuple[str, ...]:
    """Return a reason for each site that is set and has no data in the fit."""
    known = {*support.names, *support.arguments}
    names = [str(name) for name in prepared.settings.intervention or {}]
    data = {name: prepared.spec[name].data for name in names if name in prepared.spec}
    unknown = [name for name in names if name not in known and not data.get(name, frozenset()) & known]
    many = [name for name, own in zip(support.categories, support.ranges, strict=True) if own is None and name in names]
    return (
        *(f"`{name}` has no data in the fit" for name in unknown),
        *(f"`{name}` has too many categories" for name in many),
    )


def _overlap(
    support: FitSupport,
    factual: KernelArguments,
    asked: tuple[int, ...],
    weights: np.ndarray | None,
    *,
    every_row: bool,
) -> Overlap | None:
    """Return the overlap of the rows with and without a binary treatment that a question sets; None without one."""
    if len(asked) != 1 or not _is_binary(support, asked[0]):
        return None
    parts = []
    for start, rows in _blocks(support, factual, weights, every_row=every_row):
        kept = np.isfinite(rows).all(axis=1)
        parts.append(rows[kept if weights is None else kept & (weights[start : start + len(rows)] > 0)])
    return _named_overlap(overlap_of(np.concatenate(parts), len(support.names), asked[0]), support, asked[0], factual)


def _is_binary(support: FitSupport, number: int) -> bool:
    """Return whether a column has the values 0 and 1 in the fit, or an argument two categories."""
    if number < len(support.names):
        return set(support.levels[number] or {}) == {0.0, 1.0}
    ranges = support.ranges[number - len(support.names)]
    return ranges is not None and np.flatnonzero(ranges.count).tolist() == [0, 1]


def overlap_of_fit(support: FitSupport, prepared: PreparedCall, asked: tuple[int, ...], weights: Any) -> Overlap | None:
    """Return the overlap of the fit, for rows of the fit that are read once and have equal weights; None for others."""
    other_rows = not prepared.settings.in_sample or prepared.settings.changed or prepared.settings.has_other_index
    if len(asked) != 1 or weights is not None or other_rows:
        return None
    return _named_overlap(support.overlaps.get(asked[0]), support, asked[0], prepared.call)


def _named_overlap(found: Overlap | None, support: FitSupport, treatment: int, call: KernelArguments) -> Overlap | None:
    """Return the overlap of a treatment with the names of its categories."""
    if found is None or treatment < len(support.names):
        return found
    no, yes = call.categories[support.categories[treatment - len(support.names)]][:2]
    return replace(found, values=(str(no), str(yes)))


def _reasons_of_constants(support: FitSupport, prepared: PreparedCall) -> Iterator[str]:
    """Yield a reason for each column that is set to one number outside of the data of the fit; no row is read."""
    for name, value in (prepared.settings.intervention or {}).items():
        if name in support.names and isinstance(value, Real | np.number):
            i = support.names.index(name)
            own = np.array([value], getattr(prepared.call.arrays.get(name), "dtype", None))
            if RowSupport(support, (i,)).is_outside(own.astype(np.float64), i).any():
                yield f"all rows have `{name}` outside of the data of the fit ({data_of(support, i)})"


def _blocks(
    support: FitSupport,
    given: PreparedCall | KernelArguments,
    weights: np.ndarray | None = None,
    *,
    every_row: bool,
    reader: BatchReader | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the rows of blocks of a call: of many rows only some blocks with weights above 0."""
    call = given.call if isinstance(given, PreparedCall) else given
    values = site_data(given) if isinstance(given, PreparedCall) else {}
    n_obs = call.n_obs
    size = _BLOCK if every_row or n_obs <= _CHECKED else _SHORT
    starts: Iterable[int] = range(0, n_obs, size) if reader is None else count(0, size)
    if size == _SHORT:
        if weights is not None:
            starts = np.unique(np.flatnonzero(weights > 0) // size) * size
        every = list(starts)
        starts = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, _CHECKED // size).astype(int))]
    for start in starts:
        batch = None if reader is None else reader.read(start, start + size)
        if batch is not None and not batch:
            return
        stop = start + len(next(iter(batch.values()))) if batch else min(start + size, n_obs)
        arrays: dict[str, Any] = {}
        for name in support.arguments:
            if name in values:
                arrays[name] = rows_of_value(values[name], start, stop, n_obs)
            elif name in call.rows:
                arrays[name] = call.rows[name].read(start, stop, batch)
            else:
                arrays[name] = rows_of_value(call.arrays.get(name, call.static.get(name)), start, stop, None)
        yield start, support.rows_of(arrays)


def site_data(prepared: PreparedCall) -> dict[str, Any]:
    """Return the values that replace an argument, since they are set at a site whose data the argument is."""
    sites = {site: prepared.spec[site].data for site in prepared.values if site in prepared.spec}
    return {next(iter(data)): prepared.values[site] for site, data in sites.items() if len(data) == 1}


def rows_of_value(value: Any, start: int, stop: int, n_obs: int | None) -> np.ndarray:
    """Return rows of a value that is the same for all rows, or has one for each of ``n_obs``."""
    array = np.asarray(value)
    if n_obs is not None and array.ndim and len(array) == n_obs:
        array = array[start:stop]
        return np.broadcast_to(array, (stop - start, *array.shape[1:]))
    return np.broadcast_to(array, (stop - start, *array.shape))


def with_support(prepared: Mapping[Any, PreparedCall], reports: Iterable[SupportReport]) -> dict[Any, PreparedCall]:
    """Return calls whose attributes have the verdict on their rows."""
    return {
        name: replace(one, attrs={**one.attrs, "support": report.text})
        for (name, one), report in zip(prepared.items(), reports, strict=True)
    }

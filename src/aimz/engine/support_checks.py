"""Whether the rows of a call are supported by the data of the fit."""

__all__ = ["SupportReport", "check_support", "fit_support", "with_support"]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from aimz.data import KernelArguments
from aimz.engine.prepared_call import PreparedCall
from aimz.statistics import FAR_LEVERAGE, TOLERATED_SHARE, ColumnSupport, FitSupport, Overlap, RowSupport, overlap_of

SUPPORTED, EXTRAPOLATES, NOT_KNOWN, NOT_CHECKED = "supported", "extrapolates", "not known", "not checked"
_BLOCK = 2**14
"""Number of rows that are read together."""
_CHECKED = 2**16
"""Largest number of rows of a call that are checked; of more rows, blocks at equal distances are."""


@dataclass(frozen=True)
class SupportReport:
    """Verdict on the rows of one call, with the reasons."""

    verdict: str
    """"supported", "extrapolates", "not known" (no data of a fit) or "not checked" (rows that are read once)."""
    reasons: tuple[str, ...] = ()
    """Sentences without a full stop, one for each reason."""
    rows: RowSupport | None = None
    """Counts of the rows; None if none were read."""
    overlap: Overlap | None = None
    """Effective numbers of the rows with each value of a binary treatment; None for other questions."""

    @property
    def text(self) -> str:
        """Verdict and reasons as text."""
        return self.verdict + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def fit_support(call: KernelArguments, output: str, columns: Mapping[str, tuple[str, ...]]) -> FitSupport | None:
    """Return the description of the rows of a fit that are in memory; None if they cannot be described."""
    # Codes of categories have no range, and categories that the fit did not have are new groups.
    rows = {name: reader for name, reader in call.rows.items() if name != output and name not in call.categories}
    found = FitSupport.of(rows, columns)
    if found is None:
        return None
    for start in range(0, call.n_obs, _BLOCK):
        found.add({name: rows[name].read(start, min(start + _BLOCK, call.n_obs)) for name, _ in found.places})
    return found.finished()


def _is_factual(prepared: PreparedCall) -> bool:
    """Return whether a call has the rows of the fit, without an intervention."""
    settings = prepared.settings
    return settings.in_sample and not settings.changed and not settings.intervention


def check_support(
    support: FitSupport | None, prepared: PreparedCall, factual: KernelArguments, *, every_row: bool = False
) -> SupportReport:
    """Return whether the rows of a call are supported by the data of the fit.

    ``factual`` are the arguments without the interventions of ``prepared``.
    """
    if support is None:
        return SupportReport(NOT_KNOWN, ("the model has no description of the data of a fit",))
    if _is_factual(prepared):
        return SupportReport(SUPPORTED)
    asked = _asked_columns(support, prepared)
    unknown = _unknown_levers(support, prepared)
    obstacle = _obstacle(support, prepared.call)
    if obstacle is not None:
        reasons = tuple(_reasons_of_constants(support, prepared))
        return SupportReport(EXTRAPOLATES, reasons) if reasons else obstacle
    if not asked:
        return SupportReport(NOT_KNOWN if unknown else SUPPORTED, unknown)
    found = RowSupport(support, asked)
    sites = {site: prepared.spec[site].data for site in prepared.values if site in prepared.spec}
    values = {next(iter(data)): prepared.values[site] for site, data in sites.items() if len(data) == 1}
    for rows in _blocks(support, prepared.call, values, every_row=every_row):
        found.add(rows)
    overlap = _overlap(support, factual, asked, every_row=every_row)
    reasons = (*_reasons(found), *_reasons_of_overlap(overlap, found))
    if unknown and not reasons:
        return SupportReport(NOT_KNOWN, unknown, found, overlap)
    return SupportReport(EXTRAPOLATES if reasons else SUPPORTED, reasons, found, overlap)


def _asked_columns(support: FitSupport, prepared: PreparedCall) -> tuple[int, ...]:
    """Return the numbers of the columns that an intervention sets, and of all columns of rows that are new."""
    settings, changed = prepared.settings, set(prepared.settings.changed)
    if not settings.in_sample or settings.has_other_index:
        return tuple(range(len(support.names)))
    set_by_name = {str(name) for name in settings.intervention or {}}
    sites = {argument for name in set_by_name if name in prepared.spec for argument in prepared.spec[name].data}
    found = []
    for i, (name, (argument, _)) in enumerate(zip(support.names, support.places, strict=True)):
        if argument in changed | sites or name in set_by_name or argument in set_by_name:
            found.append(i)
    return tuple(found)


def _unknown_levers(support: FitSupport, prepared: PreparedCall) -> tuple[str, ...]:
    """Return a reason for each site that is set and has no data in the fit."""
    known = {*support.names, *(argument for argument, _ in support.places)}
    names = [str(name) for name in prepared.settings.intervention or {}]
    data = {name: prepared.spec[name].data for name in names if name in prepared.spec}
    unknown = [name for name in names if name not in known and not data.get(name, frozenset()) & known]
    return tuple(f"`{name}` has no data in the fit" for name in unknown)


def _overlap(
    support: FitSupport, factual: KernelArguments, asked: tuple[int, ...], *, every_row: bool
) -> Overlap | None:
    """Return the overlap of the rows with and without a binary treatment that a question sets; None without one."""
    if len(asked) != 1 or len(support.names) < 2 or set(support.levels[asked[0]] or {}) != {0.0, 1.0}:
        return None
    rows = np.concatenate(list(_blocks(support, factual, {}, every_row=every_row)))
    rows = rows[np.isfinite(rows).all(axis=1)]
    treated = rows[:, asked[0]]
    if set(np.unique(treated)) != {0.0, 1.0}:
        return None
    return overlap_of(treated, np.delete(rows, asked[0], axis=1))


def _reasons_of_overlap(overlap: Overlap | None, found: RowSupport) -> Iterator[str]:
    """Yield a reason for each value of a treatment with few rows that are like the others."""
    if overlap is not None:
        name = found.fit.names[found.asked[0]]
        for value in overlap.thin:
            yield (
                f"the {overlap.n[value]:,} rows with `{name}` = {value} are worth {overlap.effective[value]:.3g} as a "
                "comparison for the others (by the odds of treatment)"
            )


def _reasons_of_constants(support: FitSupport, prepared: PreparedCall) -> Iterator[str]:
    """Yield a reason for each column that is set to one number outside of the data of the fit; no row is read."""
    for name, value in (prepared.settings.intervention or {}).items():
        if name in support.names and isinstance(value, Real | np.number):
            i = support.names.index(name)
            if RowSupport(support, (i,)).is_outside(np.array([float(value)]), i).any():
                yield f"all rows have `{name}` outside of the data of the fit ({_data_of(support, i)})"


def _data_of(support: FitSupport, column: int) -> str:
    """Return the values of a column in the fit as text: both of two, or its range."""
    levels = support.levels[column]
    if levels is not None and len(levels) <= 2:
        return " and ".join(f"{value:g}" for value in levels)
    return f"{support.low[column]:.6g} to {support.high[column]:.6g}"


def _obstacle(support: FitSupport, call: KernelArguments) -> SupportReport | None:
    """Return why the rows of a call cannot be read beforehand; None if they can."""
    needed = {name for name, _ in support.places}
    if any(name not in call.arrays and name not in call.static for name in needed):
        return SupportReport(NOT_KNOWN, ("the call leaves out an argument of the fit",))
    if any(call.rows[name].from_batches or call.rows[name].uses_dask for name in needed & call.rows.keys()):
        return SupportReport(NOT_CHECKED, ("the rows are read once",))
    return None


def _blocks(
    support: FitSupport, call: KernelArguments, values: Mapping[str, Any], *, every_row: bool
) -> Iterator[np.ndarray]:
    """Yield rows of a call, of many rows only some blocks; ``values`` are arguments that a site replaces."""
    n_obs = call.n_obs
    starts = list(range(0, n_obs, _BLOCK))
    if not every_row and n_obs > _CHECKED:
        starts = [int(start) for start in np.linspace(0, n_obs - _BLOCK, _CHECKED // _BLOCK)]
    for start in starts:
        stop = min(start + _BLOCK, n_obs)
        arrays: dict[str, Any] = {}
        for name in dict.fromkeys(name for name, _ in support.places):
            if name in values:
                value = np.asarray(values[name])
                by_row = value.ndim > 0 and len(value) == n_obs
                arrays[name] = np.broadcast_to(value[start:stop] if by_row else value, (stop - start, *value.shape[1:]))
            elif name in call.rows:
                arrays[name] = call.rows[name].read(start, stop)
            else:
                value = np.asarray(call.arrays.get(name, call.static.get(name)))
                arrays[name] = np.broadcast_to(value, (stop - start, *value.shape))
        yield support.rows_of(arrays)


def _reasons(found: RowSupport) -> Iterator[str]:
    """Yield a reason for each way in which too many rows leave the data of the fit."""
    fit = found.fit
    for i, line in found.columns.items():
        if line.share(line.outside) > TOLERATED_SHARE + 4 / fit.n:
            data = _data_of(fit, i)
            yield f"{_percent(line, line.outside)} have `{line.name}` outside of the data of the fit ({data})"
            continue
        other, share = line.worst
        if share > TOLERATED_SHARE and len(found.asked) == 1:
            is_level = fit.levels[i] is not None
            yield (
                f"{_percent(line, line.apart[other])} are asked about a `{line.name}` that no row with a similar "
                f"`{other}` had"
                if is_level
                else f"{_percent(line, line.apart[other])} are asked about a `{line.name}` that no row with the same "
                f"`{other}` had"
            )
        elif line.share(line.far) > TOLERATED_SHARE and len(found.asked) == 1:
            yield (
                f"{_percent(line, line.far)} are far from all rows of the fit with this `{line.name}` (leverage above "
                f"{FAR_LEVERAGE:g} times the 99th percentile of the fit)"
            )
    joint = found.joint
    if joint.n and joint.share(joint.far) > TOLERATED_SHARE:
        yield (
            f"{_percent(joint, joint.far)} combine columns as no row of the fit did (leverage above {FAR_LEVERAGE:g} "
            "times the 99th percentile of the fit)"
        )


def _percent(line: ColumnSupport, count: int) -> str:
    return f"{100 * line.share(count):.3g} % of the rows"


def with_support(prepared: Mapping[Any, PreparedCall], reports: Iterable[SupportReport]) -> dict[Any, PreparedCall]:
    """Return calls whose attributes have the verdict on their rows."""
    return {
        name: replace(one, attrs={**one.attrs, "support": report.text})
        for (name, one), report in zip(prepared.items(), reports, strict=True)
    }

"""Summary of effects as a table."""

__all__ = ["summary"]

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.output.elpd import import_arviz_stats, interval_bounds
from aimz.output.labels import SAMPLE_DIMS, STATISTIC
from aimz.output.result_text import tree_of
from aimz.output.row_averages import average_effect
from aimz.output.scenario_trees import SCENARIO
from aimz.statistics import Statistic, read_ci

ALL = "all"
"""Label of the groups in a line about all rows."""
_WEIGHT, _GROUPS, _BELOW = "_weight", "_groups", "_below"
_COMPARED = ("observed", "counterfactual")
"""Coordinates with the two values whose difference an effect is, which become columns."""
EVENT = ("period_dim", "event_start", "event_end", "n_periods")
"""Attributes of the effect of an event that its sentences need."""


def summary(
    effects: Any,
    *,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    rope: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Return a table with one line for each effect.

    Parameters
    ----------
    effects : EffectResult, xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of :meth:`ImpactModel.effect`, :meth:`ImpactModel.compare_scenarios` or
        :meth:`ImpactModel.estimate_effect`, whose effects are averaged over rows within each draw; or anything with
        dimensions ``chain`` and ``draw``, such as the difference of two effects.
    ci_prob : float, optional
        Probability of the interval; by default ``rcParams["stats.ci_prob"]`` of ArviZ, 0.89 unless it was changed.
    ci_kind : {"eti", "hdi"}, optional
        Kind of the interval, equal-tailed or highest-density; by default ``rcParams["stats.ci_kind"]``, "eti" unless it
        was changed.
    hdi_prob : float, optional
        Another name of ``ci_prob`` with ``ci_kind="hdi"``.
    rope : (float, float), optional
        Region of practical equivalence: effects between these bounds are practically zero.

    Returns
    -------
    pandas.DataFrame
        Columns ``site``, ``scenario``, groups (``"all"`` in the lines over all of them) and further dimensions; then
        ``mean``, ``sd``, bounds of the interval under ArviZ's names (``eti89_lb``, ``eti89_ub``), ``P(>0)`` (``P(>1)``
        for ratios) and, with ``rope``, ``P(in ROPE)``.  Groups without rows are left out.

    Raises
    ------
    TypeError, ValueError
        If ``effects`` has no draws, or an option is not valid.
    ImportError
        If ArviZ is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr, aimz
    >>> draws = xr.DataArray(np.linspace(-1.0, 3.0, 1001)[None], dims=("chain", "draw"), name="gain")
    >>> aimz.summary(draws).round(2).to_dict("records")
    [{'site': 'gain', 'mean': 1.0, 'sd': 1.16, 'eti89_lb': -0.78, 'eti89_ub': 2.78, 'P(>0)': 0.75}]
    """
    interval, rope = read_ci(ci_prob, ci_kind, hdi_prob), _read_rope(rope)
    import_arviz_stats("summary")
    parts = _parts(effects)
    about = _contrast_of(parts[0])
    null = float(about.get("no_effect", 0.0))
    dims = list(dict.fromkeys(str(dim) for part in reversed(parts) for dim in part.dims if dim not in SAMPLE_DIMS))
    if SCENARIO in dims:
        dims.remove(SCENARIO)
        dims.insert(0, SCENARIO)
    groups = [dim for dim in dims if len(parts) > 1 and dim in parts[-1].coords[_WEIGHT].dims]
    lines = [
        line
        for site in parts[-1].data_vars
        for part in parts
        if site in part.data_vars and (part is parts[-1] or part[site].dims != parts[-1][site].dims)
        for line in _lines(part[site], str(site), dims, groups, interval, rope, null)
    ]
    hidden = {name: [line.pop(name) for line in lines] for name in (_GROUPS, _BELOW)}
    table = pd.DataFrame(lines)
    table.attrs = {
        "interval_kind": interval.kind,
        "interval_prob": interval.at,
        "contrast": about.get("contrast", ""),
        "baseline": about.get("baseline", ""),
        "line_groups": hidden[_GROUPS],
        "line_below": hidden[_BELOW],
        "negative": bool(about.get("negative_baseline", 0)),
        "no_effect": null,
        "n_draws": math.prod(parts[0].sizes[dim] for dim in SAMPLE_DIMS),
        "groups": groups,
        "dims": dims,
        "interventions": about.get("interventions", "{}"),
        "event": {name: about[name] for name in EVENT if name in about},
        "kinds": {str(site): array.attrs.get("kind") for site, array in parts[-1].data_vars.items() if about},
        "scales": {str(site): array.attrs.get("scale") for site, array in parts[-1].data_vars.items() if about},
    }
    return table


def _read_rope(rope: Any) -> tuple[float, float] | None:
    """Return the bounds of a region of practical equivalence, checked."""
    if rope is None:
        return None
    try:
        low, high = map(float, rope)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not low < high:
        msg = f"`rope` must be two numbers, the lower first; got {rope!r}. For effects of 0.1 at most, (-0.1, 0.1)."
        raise ValueError(msg)
    return low, high


def _parts(effects: Any) -> list[xr.Dataset]:
    """Return the datasets to summarise, with effects over all rows first."""
    effects = tree_of(effects)
    if isinstance(effects, xr.DataArray):
        effects = effects.to_dataset(name=effects.name or "effect", promote_attrs=True)
    if isinstance(effects, xr.DataTree) and "effect" in effects.children:
        margins = [name for name in effects.children if name.startswith("effect_by_")]
        names = [name for name in ("effect_overall", *margins, "effect") if name in effects.children]
        found = [effects[name].to_dataset() for name in names]
        weight = effects["groups"]["weight"] if "groups" in effects.children else None
        if weight is not None and weight.ndim:
            # Groups without rows have no effect, and are left out of the table.
            found = [
                part.assign_coords({_WEIGHT: weight.sum(set(weight.dims) - set(part.dims))})
                if set(weight.dims) & set(part.dims)
                else part
                for part in found
            ]
        return found
    if isinstance(effects, xr.DataTree):
        effects = average_effect(effects)
    if isinstance(effects, xr.Dataset) and STATISTIC in effects.dims:
        msg = (
            f"`effects` must hold draws; got statistics over draws ({', '.join(map(str, effects[STATISTIC].values))}), "
            "and the interval of an average cannot be computed from intervals of rows. Call `effect` or "
            "`compare_scenarios` for averages, or `estimate_effect` without `statistics`."
        )
        raise ValueError(msg)
    if not isinstance(effects, xr.Dataset) or not set(SAMPLE_DIMS) <= set(effects.dims) or not effects.data_vars:
        msg = (
            "`effects` must be a result of `compare_scenarios`, or something with dimensions `chain` and `draw`; got "
            f"{type(effects).__name__}. Of a tree pass one group, such as tree['effect']."
        )
        raise TypeError(msg)
    return [effects]


def _contrast_of(part: xr.Dataset) -> dict[Any, Any]:
    """Return the attributes of a contrast; none if arithmetic on effects has removed the labels they refer to."""
    about = {**next(iter(part.data_vars.values())).attrs, **part.attrs}
    missing = [dim for dim in (SCENARIO, *about.get("by", ())) if dim not in part.coords]
    return {} if missing and "contrast" in about else about


def _lines(
    draws: xr.DataArray,
    site: str,
    dims: list[str],
    groups: list[str],
    interval: Statistic,
    rope: Any,
    null: float,
) -> Iterator[dict[str, Any]]:
    """Yield a line for each number that has draws."""
    own = [str(dim) for dim in draws.dims if dim not in SAMPLE_DIMS]
    by_draw = draws.transpose(*SAMPLE_DIMS, *own)
    values = by_draw.values.reshape(-1, *(draws.sizes[dim] for dim in own)).astype(np.float64)
    bounds = interval_bounds(values, interval, "summary")
    weight = draws.coords.get(_WEIGHT)
    for place in np.ndindex(values.shape[1:]):
        index = dict(zip(own, place, strict=True))
        if weight is not None and weight.isel({d: i for d, i in index.items() if d in weight.dims}).item() == 0:
            continue
        cell = values[(slice(None), *place)]
        known = not np.isnan(cell).any()
        line: dict[str, Any] = {"site": site, _GROUPS: [dim for dim in groups if dim in index]}
        line[_BELOW] = (cell < null).mean()
        for dim in dims:
            line[dim] = draws[dim].values[index[dim]] if dim in index else ALL if dim in groups else ""
        for name in _COMPARED:
            if name in draws.coords:
                value = draws.coords[name]
                line[name] = value.isel({d: i for d, i in index.items() if d in value.dims}).item()
        low, high = bounds[place] if known else (math.nan, math.nan)
        line["mean"] = cell.mean()
        line["sd"] = cell.std(ddof=1)
        line |= dict(zip(interval.labels, (low, high), strict=True))
        line[f"P(>{null:g})"] = (cell > null).mean() if known else math.nan
        if rope is not None:
            line["P(in ROPE)"] = ((cell >= rope[0]) & (cell <= rope[1])).mean() if known else math.nan
        yield line

"""Effects as a table, and in words."""

__all__ = ["in_words", "summary"]

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.output.arviz import import_arviz_stats
from aimz.output.labels import SAMPLE_DIMS
from aimz.output.scenario_tree import SCENARIO
from aimz.statistics import Statistic, read_interval

ALL = "all"
"""What stands for the groups in a line about all rows."""
_WEIGHT, _OVERALL = "_weight", "_overall"


def summary(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    hdi_prob: float | None = None,
    rope: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Return a table with a line for each effect.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of :meth:`ImpactModel.compare_scenarios`, or anything with dimensions ``chain`` and ``draw``: the
        difference of two of its effects, or an effect averaged over rows.
    hdi_prob : float, optional
        Probability of a highest-density interval; by default an interval of the kind and level of
        ``arviz_base.rcParams`` (equal-tailed, 0.89, unless they were changed).
    rope : (float, float), optional
        Region of practical equivalence: effects between these are as good as none.

    Returns
    -------
    pandas.DataFrame
        Columns ``site``, ``scenario``, groups (``"all"`` in the lines over all rows) and further dimensions; then
        ``mean``, ``sd``, bounds of the interval under ArviZ's names (``eti89_lb``, ``eti89_ub``), ``P(>0)`` (``P(>1)``
        for ratios) and, with ``rope``, ``P(in ROPE)``.  Groups without rows are left out.

    Raises
    ------
    TypeError, ValueError
        If there are no draws, or ``hdi_prob`` or ``rope`` make no sense.
    ImportError
        If ArviZ is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr, aimz
    >>> draws = xr.DataArray(np.linspace(-1.0, 3.0, 1001)[None], dims=("chain", "draw"), name="gain")
    >>> aimz.summary(draws).round(2).to_dict("records")
    [{'site': 'gain', 'mean': 1.0, 'sd': 1.16, 'eti89_lb': -0.78, 'eti89_ub': 2.78, 'P(>0)': 0.75}]
    """
    interval, rope = _read_options(hdi_prob, rope)
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
    overall = [line.pop(_OVERALL) for line in lines]
    table = pd.DataFrame(lines)
    table.attrs = {
        "interval_kind": interval.kind,
        "interval_prob": interval.at,
        "contrast": about.get("contrast", ""),
        "baseline": about.get("baseline", ""),
        "overall": overall,
        "negative": bool(about.get("negative_baseline", 0)),
        "no_effect": null,
        "n_draws": math.prod(parts[0].sizes[dim] for dim in SAMPLE_DIMS),
        "groups": groups,
        "dims": dims,
    }
    return table


def _read_options(hdi_prob: float | None, rope: Any) -> tuple[Statistic, Any]:
    if hdi_prob is not None and not 0 < hdi_prob < 1:
        msg = f"`hdi_prob` must lie between 0 and 1; got {hdi_prob!r}. For 90 %, pass 0.9."
        raise ValueError(msg)
    if rope is not None:
        try:
            low, high = map(float, rope)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not low < high:
            msg = f"`rope` must be two numbers, the lower first; got {rope!r}. For effects of 0.1 at most, (-0.1, 0.1)."
            raise ValueError(msg)
        rope = low, high
    import_arviz_stats("summary")
    return read_interval(hdi_prob, None if hdi_prob is None else "hdi"), rope


def _parts(effects: Any) -> list[xr.Dataset]:
    """Return what to make lines of, effects over all rows first."""
    if isinstance(effects, xr.DataArray):
        effects = effects.to_dataset(name=effects.name or "effect", promote_attrs=True)
    if isinstance(effects, xr.DataTree) and "effect" in effects.children:
        found = [effects[name].to_dataset() for name in ("effect_overall", "effect") if name in effects.children]
        weight = effects["groups"]["weight"] if "groups" in effects.children else None
        if weight is not None and weight.ndim:
            # A group without rows has no effect, and no line.
            found[-1] = found[-1].assign_coords({_WEIGHT: weight})
        return found
    if isinstance(effects, xr.DataTree):
        effects = effects.to_dataset()
    if not isinstance(effects, xr.Dataset) or not set(SAMPLE_DIMS) <= set(effects.dims) or not effects.data_vars:
        msg = (
            "`effects` must be a result of `compare_scenarios`, or something with dimensions `chain` and `draw`; got "
            f"{type(effects).__name__}. Of a tree pass one group, such as tree['effect']."
        )
        raise TypeError(msg)
    return [effects]


def _contrast_of(part: xr.Dataset) -> dict[Any, Any]:
    """Return what is known of a contrast; what was computed from effects, so that labels are gone, is none of them."""
    about = {**next(iter(part.data_vars.values())).attrs, **part.attrs}
    gone = [dim for dim in (SCENARIO, *about.get("by", ())) if dim not in part.coords]
    return {} if gone and "contrast" in about else about


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
    from arviz_stats.base import array_stats

    own = [dim for dim in draws.dims if dim not in SAMPLE_DIMS]
    by_draw = draws.transpose(*SAMPLE_DIMS, *own)
    values = by_draw.values.reshape(-1, *(draws.sizes[dim] for dim in own)).astype(np.float64)
    bounds = (array_stats.hdi if interval.kind == "hdi" else array_stats.eti)(values, interval.at, axis=0)
    weight = draws.coords.get(_WEIGHT)
    for place in np.ndindex(values.shape[1:]):
        where = dict(zip(map(str, own), place, strict=True))
        if weight is not None and weight.isel({d: i for d, i in where.items() if d in weight.dims}).item() == 0:
            continue
        one = values[(slice(None), *place)]
        known = not np.isnan(one).any()
        line: dict[str, Any] = {"site": site, _OVERALL: bool(groups) and not set(groups) & set(where)}
        for dim in dims:
            if dim in where:
                line[dim] = draws[dim].values[where[dim]] if dim in draws.coords else where[dim]
            else:
                line[dim] = ALL if dim in groups else ""
        low, high = bounds[place] if known else (math.nan, math.nan)
        line["mean"] = one.mean()
        line["sd"] = one.std(ddof=1)
        line |= dict(zip(interval.labels, (low, high), strict=True))
        line[f"P(>{null:g})"] = (one > null).mean() if known else math.nan
        if rope is not None:
            line["P(in ROPE)"] = ((one >= rope[0]) & (one <= rope[1])).mean() if known else math.nan
        yield line


def in_words(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    hdi_prob: float | None = None,
    rope: tuple[float, float] | None = None,
) -> list[str]:
    """Return a sentence for each effect, from the numbers of :func:`summary`.

    Parameters
    ----------
    effects, hdi_prob, rope
        As in :func:`summary`.

    Returns
    -------
    list of str
        One sentence for each line of the table, in its order.

    Examples
    --------
    >>> import numpy as np, xarray as xr, aimz
    >>> draws = xr.DataArray(np.linspace(-1.0, 3.0, 1001)[None], dims=("chain", "draw"), name="gain")
    >>> print(*aimz.in_words(draws))
    `gain` is 1 on average (89 % interval -0.78 to 2.78); above 0 with probability 74.9 %, so which way it goes is open.
    """
    table = summary(effects, hdi_prob=hdi_prob, rope=rope)
    lines = zip(table.to_dict("records"), table.attrs["overall"], strict=True)
    return [_sentence(line | {_OVERALL: overall}, table.attrs, rope) for line, overall in lines]


def _sentence(line: dict[Any, Any], about: dict[Any, Any], rope: tuple[float, float] | None) -> str:
    null, contrast, mean = about["no_effect"], about["contrast"], line["mean"]
    kind = "" if about["interval_kind"] == "eti" else f"{about['interval_kind'].upper()} "
    low, high = (line[name] for name in Statistic(about["interval_kind"], about["interval_prob"]).labels)
    above = line[f"P(>{null:g})"]
    # So many digits that the spread shows, and three at least.
    size = max(abs(mean), abs(low), abs(high), 1e-300) / (line["sd"] or math.inf)
    places = max(3, 2 + math.floor(math.log10(size))) if 0 < size < math.inf else 3
    percent = contrast == "lift"

    def written(x: float) -> str:
        return f"{_digits(100 * x, places)} %" if percent else _digits(x, places)

    where, what = _subject(line, about)
    between = f"{written(low)} to {written(high)}"
    if math.isnan(above):
        of = (
            f"{contrast} under {line[SCENARIO]} against {about['baseline']}"
            if SCENARIO in line and contrast
            else "mean"
        )
        return f"{where}{what} has no {of}: some of its draws have no value."
    if SCENARIO not in line or not contrast:
        claim = f"{what} is {written(mean)} on average"
    elif mean == null and line["sd"] == 0:
        return f"{where}{what} is on average the same under {line[SCENARIO]} and {about['baseline']}."
    elif contrast in ("difference", "lift") and not about["negative"]:
        way = "higher" if mean >= 0 else "lower"
        claim = f"{what} is on average {written(abs(mean))} {way} under {line[SCENARIO]} than under {about['baseline']}"
        between = _either_way(low, high, written)
    elif contrast == "ratio":
        claim = (
            f"{what} is on average {written(mean)} times under {line[SCENARIO]} what it is under {about['baseline']}"
        )
    else:
        claim = f"the {contrast} of {what} under {line[SCENARIO]} and under {about['baseline']} is {written(mean)}"
    interval = f"{100 * about['interval_prob']:g} % {kind}interval {between}"
    sign = "" if low > null or high < null or not low < high else ", so which way it goes is open"
    text = f"{where}{claim} ({interval}); above {null:g} with probability {_percent(above, about['n_draws'])}{sign}."
    if rope is not None:
        inside = _percent(line["P(in ROPE)"], about["n_draws"])
        text += f" It lies between {written(rope[0])} and {written(rope[1])} with probability {inside}."
    return text


def _subject(line: dict[Any, Any], about: dict[Any, Any]) -> tuple[str, str]:
    """Return which rows a line is about, and which number of theirs."""
    groups = [] if line[_OVERALL] else [f"{dim} {line[dim]}" for dim in about["groups"]]
    others = [f"{dim} {line[dim]}" for dim in about["dims"] if dim not in (*about["groups"], SCENARIO)]
    others = [text for text in others if not text.endswith(" ")]
    where = f"For {', '.join(groups)}: " if groups else ""
    return where, f"`{line['site']}`" + (f" ({', '.join(others)})" if others else "")


def _either_way(low: float, high: float, written: Callable[[float], str]) -> str:
    """Return an interval of changes in words; two bounds on one side are given by their size."""
    if low >= 0:
        return f"{written(low)} to {written(high)} higher"
    if high <= 0:
        return f"{written(-high)} to {written(-low)} lower"
    return f"{written(-low)} lower to {written(high)} higher"


def _digits(x: float, places: int) -> str:
    """Return a number with so many digits that count, and without powers of ten."""
    return np.format_float_positional(x, precision=places, unique=False, fractional=False, trim="-")


def _percent(p: float, n_draws: int) -> str:
    """Return a probability; so many draws know none closer to 0 or 1 than one of them."""
    if p in (0.0, 1.0):
        return f"{'under' if p == 0 else 'over'} {100 * (p + (1 if p == 0 else -1) / n_draws):.4g} %"
    text = f"{100 * p:.3g} %"
    return "over 99.9 %" if text == "100 %" else text

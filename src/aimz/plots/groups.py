"""Plot of effects by group."""

__all__ = ["plot_groups"]

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from aimz.output import tree_of
from aimz.plots.figure import canvas, set_ticks, shorten_text
from aimz.plots.forest import LABEL_WIDTH, Line, draw_forest, forest_height
from aimz.plots.selection import SAMPLE_DIMS, SCENARIO, STATISTIC, intervals, select_variable
from aimz.plots.text import axis_label, describe_comparison, effect_labels, interval_name
from aimz.statistics import Statistic, read_ci

_MAX_GROUPS, _MAX_SCENARIOS = 200, 6


def plot_groups(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    var_name: str | None = None,
    scenario: Any = None,
    sort: bool = True,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot the effect on each group of rows with its interval, below the effect on all rows.

    A filled mark has an interval that excludes no effect; a hollow mark has one that includes it.  Each interval is
    valid for its own group.  The largest of many estimates is partly due to chance, unless the kernel pools groups; and
    whether two groups differ is shown by the interval of their difference, not by their own intervals.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of :meth:`ImpactModel.compare_scenarios` with ``by``, or effects with the dimensions ``chain``, ``draw``
        and the effects of the groups.
    var_name : str, optional
        Site to plot, if there are several.
    scenario : optional
        A scenario, or a list of at most 6; all by default.
    sort : bool
        Whether to sort groups by their effect, the largest first.
    ci_prob : float, optional
        Probability of the interval; by default ArviZ's, 0.89 unless it was changed.
    ci_kind : {"eti", "hdi"}, optional
        Kind of the interval, equal-tailed or highest-density; by default ArviZ's, "eti" unless it was changed.
    hdi_prob : float, optional
        Another name of ``ci_prob`` with ``ci_kind="hdi"``.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default the axes of a new figure, whose height depends on the number of groups.
    figsize : (float, float), optional
        Width and height in inches.  Some labels are left out if the figure is too low for all of them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there are no groups, or more than 200.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_groups
    >>> draws = np.random.default_rng(0).normal([0.0, 1.0, 2.0], 0.5, (1, 500, 3))
    >>> effects = xr.DataArray(
    ...     draws, dims=("chain", "draw", "region"), coords={"region": ["North", "South", "West"]}, name="sales"
    ... )
    >>> [label.get_text() for label in plot_groups(effects).axes[0].get_yticklabels()]
    ['West', 'South', 'North']
    """
    array = select_variable(effects, ("effect",), var_name, "plot_groups")
    groups = [str(dim) for dim in array.dims if dim not in (*SAMPLE_DIMS, SCENARIO)]
    if not set(SAMPLE_DIMS) <= set(array.dims) or STATISTIC in array.dims or not groups:
        msg = (
            f"`plot_groups` needs draws of effects by group; got the dimensions {array.dims}. Pass what "
            "`compare_scenarios(..., by=...)` returns."
        )
        raise ValueError(msg)
    overall, n_rows = _read_tree(effects, array, groups)
    if SCENARIO in array.dims:
        chosen = _scenario_positions(array[SCENARIO].values.tolist(), scenario)
        array = array.isel({SCENARIO: chosen})
        overall = None if overall is None else overall.isel({SCENARIO: chosen})
    names = [str(name) for name in array[SCENARIO].values] if SCENARIO in array.dims else None
    interval, labels = read_ci(ci_prob, ci_kind, hdi_prob), effect_labels(array)
    lines = _lines(array, groups, n_rows, interval)
    if sort:  # groups without an estimate are last
        lines.sort(key=lambda line: -np.nan_to_num(line.mean[0], nan=-np.inf))
    if overall is not None:
        label = "all rows" if n_rows is None else f"all rows ({int(n_rows.sum()):,})"
        draws = _stack(overall, [])[:, 0]
        lines.insert(0, Line(label, draws.mean(axis=0), *intervals(draws, interval), overall=True))
    n_each = 1 if names is None else len(names)
    with canvas((7.5, forest_height(len(lines), n_each)), ax=ax, figsize=figsize) as drawn:
        shown = draw_forest(drawn.ax, lines, labels.no_effect, [shorten_text(name, 1.8) for name in names or [""]])
        drawn.xlabel(labels.axis, margin=LABEL_WIDTH)
        set_ticks(drawn.ax.xaxis, unit=labels.unit, most=5)
        drawn.title(f"{labels.title} by {' and '.join(axis_label(dim, array[dim].attrs) for dim in groups)}")
        if n_each > 1:
            drawn.legend()
        drawn.caption(
            f"Posterior mean and {interval_name(interval)}.",
            describe_comparison(array.attrs, names),
            "Hollow: the interval includes no effect.",
            "In brackets: rows." if n_rows is not None else "",
            f"{shown} of {len(lines)} lines are labelled." if shown < len(lines) else "",
        )
        return drawn.figure


def _read_tree(effects: Any, array: xr.DataArray, groups: list[str]) -> tuple[xr.DataArray | None, xr.DataArray | None]:
    """Return the effect on all rows and the number of rows in each group, if they are in the result."""
    effects = tree_of(effects)
    if not isinstance(effects, xr.DataTree):
        return None, None
    overall = n_rows = None
    if "effect_overall" in effects.children and array.name in effects["effect_overall"].data_vars:
        overall = effects["effect_overall"].to_dataset()[array.name]
    if "groups" in effects.children and "rows" in effects["groups"].data_vars:
        n_rows = effects["groups"].to_dataset()["rows"]
        extra = [dim for dim in groups if dim not in n_rows.dims]
        if extra:
            msg = (
                f"`plot_groups` draws one value for each group; `{array.name}` also has the dimensions {extra}. "
                f"Choose, for instance with `result['effect'][{array.name!r}].isel({extra[0]}=0)`."
            )
            raise ValueError(msg)
    return overall, n_rows


def _scenario_positions(known: list[Any], scenario: Any) -> list[int]:
    """Return the positions of the scenarios to plot."""
    chosen = known if scenario is None else list(scenario) if isinstance(scenario, list | tuple) else [scenario]
    unknown = [name for name in chosen if name not in known]
    if unknown or not 1 <= len(chosen) <= _MAX_SCENARIOS:
        got = f"{unknown[0]!r}" if unknown else f"{len(chosen)} of them"
        listed = ", ".join(map(str, known[:8])) + (", ..." if len(known) > 8 else "")
        msg = (
            f"`scenario` must be one or a list of at most {_MAX_SCENARIOS} of: {listed}; got {got}. Pass "
            f"`scenario={known[0]!r}`."
        )
        raise ValueError(msg)
    return [known.index(name) for name in chosen]


def _stack(array: xr.DataArray, groups: list[str]) -> np.ndarray:
    """Return draws of shape ``(n_draws, n_groups, n_scenarios)``."""
    values = array.transpose(*SAMPLE_DIMS, *groups, ...).values.astype(np.float64)
    n_scenarios = array.sizes.get(SCENARIO, 1)
    return values.reshape(values.shape[0] * values.shape[1], -1, n_scenarios)


def _lines(array: xr.DataArray, groups: list[str], n_rows: xr.DataArray | None, interval: Statistic) -> list[Line]:
    """Return a line for each group that has rows."""
    sizes = [array.sizes[dim] for dim in groups]
    counts = None if n_rows is None else n_rows.transpose(*groups).values.ravel()
    kept = np.arange(int(np.prod(sizes))) if counts is None else np.flatnonzero(counts > 0)
    if not 1 <= len(kept) <= _MAX_GROUPS:
        msg = (
            f"`plot_groups` draws 1 to {_MAX_GROUPS} groups; got {len(kept):,}. Aggregate them with coarser labels in "
            "`by`, or choose some with `.sel`; `aimz.summary` makes a table of any number."
        )
        raise ValueError(msg)
    draws = _stack(array, groups)[:, kept]
    lines, estimates = [], zip(draws.mean(axis=0), *intervals(draws, interval), strict=True)
    for i, (mean, low, high) in zip(kept, estimates, strict=True):
        place = zip(groups, np.unravel_index(i, sizes), strict=True)
        label = " · ".join(str(array[dim].values[k] if dim in array.coords else k) for dim, k in place)
        lines.append(Line(label + ("" if counts is None else f" ({int(counts[i]):,})"), mean, low, high))
    return lines

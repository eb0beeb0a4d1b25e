"""Effects by group, one below the other."""

__all__ = ["plot_groups"]

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from aimz.plots.figure import canvas, numbers, shortened
from aimz.plots.forest import LABEL_WIDTH, Line, draw_forest, forest_height
from aimz.plots.selection import SAMPLE_DIMS, SCENARIO, STATISTIC, intervals, variable
from aimz.plots.text import about, against, axis_label, effect_axis, interval_name, subject, wanted_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 200


def plot_groups(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    var_name: str | None = None,
    scenario: Any = None,
    sort: bool = True,
    hdi_prob: float | None = None,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Draw the effect on each group of rows with its interval, below the effect on all rows.

    A full mark is an effect whose interval lies on one side of no effect; a hollow one may go either way.  Each
    interval is right for its own group.  The largest of many estimates is large partly by chance, unless the kernel
    pools groups; and whether two groups differ is not told by their intervals, but by that of the difference.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of :meth:`ImpactModel.compare_scenarios` with ``by``, or effects with dimensions ``chain``, ``draw`` and
        those of the groups.
    var_name : str, optional
        Which site, if there are several.
    scenario : optional
        Which scenario, or a list of some; by default all, and at most 6.
    sort : bool
        Whether the largest effect comes first; otherwise groups keep their order.
    hdi_prob : float, optional
        Probability of a highest-density interval; by default an interval of the kind and level of
        ``arviz_base.rcParams``, as in :func:`aimz.summary`.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure, as high as its groups need.
    figsize : (float, float), optional
        Width and height in inches.  Where it is too low for all labels, some are left out.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there are no groups, or more than 200.
    ImportError
        If matplotlib or arviz-plots are not installed.

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
    array, overall, rows = _read(effects, var_name)
    interval = wanted_interval(hdi_prob)
    if SCENARIO in array.dims:
        array, overall = _scenarios(array, overall, scenario)
    names = [str(name) for name in array[SCENARIO].values] if SCENARIO in array.dims else [""]
    lines = _lines(array, rows, interval, n_names=len(names), sort=sort)
    if overall is not None:
        label = "all rows" if rows is None else f"all rows ({int(rows.sum()):,})"
        top = _stack(overall, [], len(names))
        low, high = intervals(top[:, 0], interval)
        lines.insert(0, Line(label, top[:, 0].mean(0), low, high, overall=True))
    null, contrast, percent = about(array)
    with canvas("plot_groups", (7.5, forest_height(len(lines), len(names))), ax=ax, figsize=figsize) as drawn:
        shown = draw_forest(drawn.ax, lines, null, [shortened(name, 1.8) for name in names])
        drawn.xlabel(effect_axis(array, contrast, percent=percent), beside=LABEL_WIDTH)
        numbers(drawn.ax.xaxis, percent=percent, most=5)
        groups = [str(d) for d in array.dims if d not in (*SAMPLE_DIMS, SCENARIO)]
        drawn.title(f"{subject(array, contrast)} by {' and '.join(axis_label(d, array[d].attrs) for d in groups)}")
        if len(names) > 1:
            drawn.legend()
        drawn.foot(
            f"Posterior mean and {interval_name(interval)}.",
            against(array, names),
            "Hollow: the interval includes no effect.",
            "In brackets: rows." if rows is not None else "",
            f"{len(shown)} of {len(lines)} lines are labelled." if len(shown) < len(lines) else "",
        )
        return drawn.figure  # type: ignore[no-any-return]


def _read(effects: Any, var_name: str | None) -> tuple[xr.DataArray, xr.DataArray | None, xr.DataArray | None]:
    """Return effects by group, the effect on all rows, and how many rows each group has."""
    array = variable(effects, ("effect",), var_name, "plot_groups")
    groups = [dim for dim in array.dims if dim not in (*SAMPLE_DIMS, SCENARIO)]
    if not set(SAMPLE_DIMS) <= set(array.dims) or STATISTIC in array.dims or not groups:
        msg = (
            f"`plot_groups` needs draws of effects by group; got the dimensions {array.dims}. Pass what "
            "`compare_scenarios(..., by=...)` returns."
        )
        raise ValueError(msg)
    overall = rows = None
    if isinstance(effects, xr.DataTree):
        if "effect_overall" in effects.children and array.name in effects["effect_overall"].data_vars:
            overall = effects["effect_overall"].to_dataset()[array.name]
        if "groups" in effects.children:
            rows = effects["groups"].to_dataset()["rows"]
            extra = [dim for dim in groups if dim not in rows.dims]
            if extra:
                msg = (
                    f"`{array.name}` has the dimension {extra[0]!r} besides its groups. Choose, for instance with "
                    f"`result['effect'][{array.name!r}].isel({extra[0]}=0)`."
                )
                raise ValueError(msg)
    return array, overall, rows


def _scenarios(
    array: xr.DataArray, overall: xr.DataArray | None, wanted: Any
) -> tuple[xr.DataArray, xr.DataArray | None]:
    known = array[SCENARIO].values.tolist()
    chosen = known if wanted is None else list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    unknown = [name for name in chosen if name not in known]
    if unknown or not 1 <= len(chosen) <= 6:
        got = f"{unknown[0]!r}" if unknown else f"{len(chosen)} of them"
        listed = ", ".join(map(str, known[:8])) + (", ..." if len(known) > 8 else "")
        msg = f"`scenario` must be one or a list of at most 6 of: {listed}; got {got}. Pass `scenario={known[0]!r}`."
        raise ValueError(msg)
    where = {SCENARIO: [known.index(name) for name in chosen]}
    return array.isel(where), None if overall is None else overall.isel(where)


def _stack(array: xr.DataArray, groups: list[Any], n_names: int) -> np.ndarray:
    """Return draws of shape ``(n_draws, n_groups, n_names)``."""
    own = [SCENARIO] if SCENARIO in array.dims else []
    values = array.transpose(*SAMPLE_DIMS, *groups, *own).values.astype(np.float64)
    return values.reshape(values.shape[0] * values.shape[1], -1, n_names)


def _lines(array: xr.DataArray, rows: Any, interval: Any, *, n_names: int, sort: bool) -> list[Line]:
    """Return a line for each group that has rows."""
    groups = [dim for dim in array.dims if dim not in (*SAMPLE_DIMS, SCENARIO)]
    sizes = [array.sizes[dim] for dim in groups]
    n_rows = None if rows is None else rows.transpose(*groups).values.ravel()
    kept = np.arange(int(np.prod(sizes))) if n_rows is None else np.flatnonzero(n_rows > 0)
    if not 1 <= len(kept) <= _MOST:
        msg = (
            f"`plot_groups` draws 1 to {_MOST} groups; got {len(kept):,}. Aggregate them: pass coarser labels as `by`, "
            "or choose some with `.sel`; `aimz.summary` makes a table of any number."
        )
        raise ValueError(msg)
    draws = _stack(array, groups, n_names)[:, kept]
    means, (low, high) = draws.mean(axis=0), intervals(draws, interval)
    lines = []
    for i, at in enumerate(kept):
        place = np.unravel_index(at, sizes)
        values = [array[dim].values[k] if dim in array.coords else k for dim, k in zip(groups, place, strict=True)]
        label = " · ".join(map(str, values)) + ("" if n_rows is None else f" ({int(n_rows[at]):,})")
        lines.append(Line(label, means[i], low[i], high[i]))
    # What cannot be computed comes last.
    return sorted(lines, key=lambda line: -np.nan_to_num(line.mean[0], nan=-np.inf)) if sort else lines

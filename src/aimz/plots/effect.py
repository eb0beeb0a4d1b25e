"""What a scenario changes: on average, at each dose, or row by row."""

__all__ = ["plot_effect"]

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from aimz.plots.figure import BLUE, COLOURS, DARK, GREY, ORANGE, bars, canvas, note, numbers
from aimz.plots.forest import LABEL_WIDTH, Line, draw_forest, forest_height, label_lines
from aimz.plots.selection import (
    PREDICTED,
    SAMPLE_DIMS,
    SCENARIO,
    STATISTIC,
    bounds_of,
    intervals,
    own_dims,
    rows_average,
    some_rows,
    thinned,
    variable,
    with_numbers,
)
from aimz.plots.text import (
    about,
    against,
    dose_label,
    effect_axis,
    estimate,
    interval_name,
    number,
    subject,
    wanted_interval,
)
from aimz.statistics import Statistic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DENSITIES, _MOST, _CURVE = 12, 200, 5
_ROWS_READ, _ROWS_DRAWN = 200_000, 400


def plot_effect(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    var_name: str | None = None,
    hdi_prob: float | None = None,
    max_draws: int | None = None,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Draw the posterior of an effect.

    What is drawn depends on what is given:

    - a result of :meth:`ImpactModel.compare_scenarios`: the effect of each scenario over all rows, as a density with
      its interval.  Five scenarios or more whose names are numbers are a sweep, drawn as a curve with a band; more than
      12 others are drawn without their densities.
    - a result of :meth:`ImpactModel.estimate_effect`: the average effect.  It is averaged over rows within each draw
      first, block by block, so that a result may be larger than memory.
    - the same with ``statistics``: the effect on each row with its interval, rows sorted by their effect.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Such a result, or a variable of it.
    var_name : str, optional
        Which site, if there are several.
    hdi_prob : float, optional
        Probability of a highest-density interval; by default an interval of the kind and level of
        ``arviz_base.rcParams``.  With ``statistics`` the interval is the one that was asked for there.
    max_draws : int, optional
        Use at most so many draws; by default all.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is no effect in it, or it has further dimensions.
    ImportError
        If matplotlib or arviz-plots are not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_effect
    >>> draws = np.random.default_rng(0).normal(2.0, 0.5, (1, 500, 100))
    >>> effect = xr.DataArray(draws, dims=("chain", "draw", "row"), name="sales", attrs={"units": "EUR"})
    >>> plot_effect(effect).axes[0].get_xlabel()
    'change in sales (EUR)'
    """
    interval = wanted_interval(hdi_prob)
    groups = ("effect_overall", "effect", *PREDICTED)
    array = variable(effects, groups, var_name, "plot_effect")
    if STATISTIC in array.dims:
        return _rows(array, ax, figsize)
    own = own_dims(array, most=1 if SCENARIO not in array.dims else 0, what="plot_effect", known=(SCENARIO,))
    array, said = thinned(array, max_draws)
    if SCENARIO in array.dims:
        draws = array.transpose(*SAMPLE_DIMS, SCENARIO).values.astype(np.float64).reshape(-1, array.sizes[SCENARIO])
        names = array[SCENARIO].values
        if draws.shape[1] >= _CURVE and names.dtype.kind in "iuf":
            return _curve(array, draws, interval, said, ax, figsize)
        return _scenarios(array, draws, interval, said, ax, figsize)
    if own:
        draws = rows_average(array, own[0])[:, None]
        said = f"Average over {array.sizes[own[0]]:,} rows within each draw. {said}".strip()
    else:
        draws = array.values.astype(np.float64).reshape(-1, 1)
    return _scenarios(array, draws, interval, said, ax, figsize)


def _scenarios(
    array: xr.DataArray, draws: np.ndarray, interval: Statistic, said: str, ax: Any, figsize: Any
) -> "Figure":
    """Draw a density for each scenario, or an interval alone where they are many."""
    n = draws.shape[1]
    if n > _MOST:
        msg = f"`plot_effect` draws at most {_MOST} scenarios; got {n:,}. Choose some, with `.sel(scenario=[...])`."
        raise ValueError(msg)
    names = [str(name) for name in array[SCENARIO].values] if SCENARIO in array.dims else [""]
    null, contrast, percent = about(array)
    low, high = intervals(draws, interval)
    mean = draws.mean(axis=0)
    dense = n <= _DENSITIES
    size = (7.5, 1.9 + max(1.1, 0.75 * n) if dense else forest_height(n))
    with canvas("plot_effect", size, ax=ax, figsize=figsize) as drawn:
        if dense:
            places = np.arange(n)[::-1].astype(np.float64)
            for i in range(n):
                _density(drawn.ax, draws[:, i], places[i], (mean[i], low[i], high[i]), COLOURS[i % len(COLOURS)])
            below = [estimate(draws[:, i], interval, percent=percent) for i in range(n)]
            label_lines(drawn.ax, names, places, below)
            drawn.ax.axvline(null, color=DARK, linewidth=0.9, zorder=1)
            drawn.ax.set_ylim(-0.3, n - 0.05)
            drawn.ax.grid(visible=False, axis="y")
            drawn.ax.tick_params(axis="y", length=0)
        else:
            lines = [Line(names[i], mean[i : i + 1], low[i : i + 1], high[i : i + 1]) for i in range(n)]
            draw_forest(drawn.ax, lines, null, [""])
        if names == [""]:
            above = float((draws[:, 0] > null).mean())
            words = estimate(draws[:, 0], interval, percent=percent)
            note(drawn.ax, [f"{words}; above {null:g} in {number(100 * above)} % of draws"])
            drawn.ax.set_yticks([])
            drawn.ax.spines["left"].set_visible(False)
        drawn.xlabel(effect_axis(array, contrast, percent=percent), beside=0.0 if names == [""] else LABEL_WIDTH)
        numbers(drawn.ax.xaxis, percent=percent)
        drawn.title(subject(array, contrast))
        drawn.foot(
            f"Mark and bar: posterior mean and {interval_name(interval)}.",
            "" if dense else "Hollow: it includes no effect.",
            against(array, names),
            said,
            _missing(draws),
        )
        return drawn.figure  # type: ignore[no-any-return]


def _missing(draws: np.ndarray) -> str:
    lost = int((~np.isfinite(draws)).any(axis=0).sum())
    return f"{lost} without a value in some draws: not drawn." if lost else ""


def _density(ax: Any, draws: np.ndarray, place: float, estimate: tuple[float, float, float], colour: str) -> None:
    """Draw a density with its interval below."""
    from arviz_stats.base import array_stats

    if not np.isfinite(draws).all():
        return
    mean, low, high = estimate
    if draws.size > 1 and np.ptp(draws) > 1e-12 * max(abs(mean), 1e-300):
        # The density is that of standardised draws: effects may be tiny, or far from 0.
        scale = draws.std()
        with np.errstate(all="ignore"):  # where one rule for the bandwidth fails ArviZ takes another
            grid, density, _ = array_stats.kde((draws - mean) / scale)
        grid, height = grid * scale + mean, 0.72 * density / density.max()
        ax.fill_between(grid, place, place + height, color=colour, alpha=0.28, linewidth=0, zorder=2)
        ax.plot(grid, place + height, color=colour, linewidth=1.1, zorder=2)
    ax.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt", zorder=3)
    ax.plot([mean], [place], marker="o", markersize=6, color=colour, markeredgecolor="white", zorder=4)


def _curve(array: xr.DataArray, draws: np.ndarray, interval: Statistic, said: str, ax: Any, figsize: Any) -> "Figure":
    """Draw the effect at each level of a sweep."""
    null, contrast, percent = about(array)
    order = np.argsort(array[SCENARIO].values)
    at, draws = array[SCENARIO].values[order], draws[:, order]
    low, high = intervals(draws, interval)
    with canvas("plot_effect", (7.0, 4.2), ax=ax, figsize=figsize) as drawn:
        drawn.ax.axhline(null, color=DARK, linewidth=0.9)
        drawn.ax.fill_between(at, low, high, color=BLUE, alpha=0.22, linewidth=0)
        few = len(at) <= 30
        drawn.ax.plot(at, draws.mean(axis=0), color=BLUE, marker="o" if few else None, markersize=4)
        drawn.xlabel(dose_label(array))
        drawn.ylabel(effect_axis(array, contrast, percent=percent))
        numbers(drawn.ax.xaxis)
        numbers(drawn.ax.yaxis, percent=percent)
        drawn.title(f"{subject(array, contrast)}, {len(at)} levels")
        drawn.foot(f"Line and band: posterior mean and {interval_name(interval)} at each level.", against(array), said)
        return drawn.figure  # type: ignore[no-any-return]


def _rows(array: xr.DataArray, ax: Any, figsize: Any) -> "Figure":
    """Draw rows sorted by their effect, each with its interval."""
    row_dim = (own_dims(array, most=1, what="plot_effect") or [""])[0]
    if not row_dim:
        msg = f"`plot_effect` needs statistics of rows; `{array.name}` has none. Pass what `estimate_effect` returns."
        raise ValueError(msg)
    bounds, (null, contrast, percent) = bounds_of(array, "plot_effect"), about(array)
    chosen, said = some_rows(array.sizes[row_dim], _ROWS_READ)
    wanted = [bounds.centre, bounds.low, bounds.high]
    values = array.sel({STATISTIC: wanted}).isel({row_dim: chosen}).transpose(STATISTIC, row_dim).values
    known, lost = with_numbers(values)
    values = values[:, known]
    values = values[:, np.argsort(values[0], kind="stable")]
    n = values.shape[1]
    above, below = float((values[1] > null).mean()), float((values[2] < null).mean())
    shown = np.unique(np.linspace(0, n - 1, min(n, _ROWS_DRAWN)).round().astype(np.intp))
    with canvas("plot_effect", (7.0, 4.4), ax=ax, figsize=figsize) as drawn:
        at = (shown + 0.5) / n
        colours = [
            BLUE if low > null else ORANGE if high < null else GREY
            for low, high in zip(values[1, shown], values[2, shown], strict=True)
        ]
        bars(drawn.ax, at, values[1, shown], values[2, shown], colours)
        drawn.ax.plot(at, values[0, shown], color=DARK, linewidth=1.6, marker="o" if n < 40 else None, markersize=3)
        drawn.ax.axhline(null, color=DARK, linewidth=0.9)
        drawn.ax.set_xlim(0, 1)
        drawn.xlabel(f"share of rows ({row_dim.replace('_', ' ')}), smallest effect first")
        drawn.ylabel(effect_axis(array, contrast, percent=percent))
        numbers(drawn.ax.xaxis, percent=True)
        numbers(drawn.ax.yaxis, percent=percent)
        drawn.title(f"{subject(array, contrast)}, row by row")
        drawn.foot(
            f"Line and bars: posterior {'mean' if bounds.centre == 'mean' else 'median'} and "
            f"{interval_name(bounds.interval)} of a row.",
            f"It lies above no effect for {100 * above:.3g} % of rows (blue), below for {100 * below:.3g} % (orange).",
            said,
            lost,
            f"Bars of {len(shown):,} rows are drawn." if len(shown) < n else "",
        )
        return drawn.figure  # type: ignore[no-any-return]

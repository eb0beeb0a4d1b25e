"""Plots of effects: on average, at each dose, or row by row."""

__all__ = ["plot_effect"]

from typing import Any

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, COLOURS, DARK, GREY, ORANGE, Canvas, canvas, set_ticks
from aimz.plots.forest import LABEL_WIDTH, Line, draw_forest, draw_rows, forest_height, label_lines
from aimz.plots.selection import (
    PATH,
    PREDICTED,
    SAMPLE_DIMS,
    SCENARIO,
    STATISTIC,
    average_rows,
    intervals,
    remaining_dims,
    select_variable,
    sort_rows,
    thin_draws,
)
from aimz.plots.text import (
    describe_comparison,
    dose_label,
    effect_labels,
    estimate,
    format_number,
    interval_name,
)
from aimz.statistics import Statistic, read_ci

_MAX_DENSITIES, _MAX_SCENARIOS, _MIN_CURVE, _MAX_ROWS = 12, 200, 5, 400


def plot_effect(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    var_name: str | None = None,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    max_draws: int | None = None,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot the posterior of an effect.

    The plot depends on the result:

    - of :meth:`ImpactModel.compare_scenarios`: the effect of each scenario over all rows, as a density with its
      interval.  Five or more scenarios whose names are numbers are a sweep, plotted as a curve with a band; more than
      12 others are plotted without their densities.
    - of :meth:`ImpactModel.decompose`: the total effect and the effect along each path, likewise.
    - of :meth:`ImpactModel.estimate_effect`: the average effect.  It is averaged over rows within each draw, block by
      block, so the result may be larger than memory.
    - the same with ``statistics``: the effect on each row with its interval, with rows sorted by their effect.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Such a result, or one of its variables.
    var_name : str, optional
        Site to plot, if there are several.
    ci_prob : float, optional
        Probability of the interval; by default ArviZ's, 0.89 unless it was changed.  With
        ``statistics`` the interval is the one in the result.
    ci_kind : {"eti", "hdi"}, optional
        Kind of the interval, equal-tailed or highest-density; by default ArviZ's, "eti" unless it was changed.
    hdi_prob : float, optional
        Another name of ``ci_prob`` with ``ci_kind="hdi"``.
    max_draws : int, optional
        Maximum number of draws to use; all by default.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default the axes of a new figure.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is no effect, or it has further dimensions.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_effect
    >>> draws = np.random.default_rng(0).normal(2.0, 0.5, (1, 500, 100))
    >>> effect = xr.DataArray(draws, dims=("chain", "draw", "row"), name="sales", attrs={"units": "EUR"})
    >>> plot_effect(effect).axes[0].get_xlabel()
    'change in sales (EUR)'
    """
    interval = read_ci(ci_prob, ci_kind, hdi_prob)
    array = select_variable(effects, ("effect_overall", "effect", *PREDICTED), var_name, "plot_effect")
    if STATISTIC in array.dims:
        return _plot_rows(array, ax, figsize)
    if PATH in array.dims:  # of `decompose`: a line for each path
        array = array.rename({PATH: SCENARIO}).assign_attrs(baseline=None)
    has_scenarios = SCENARIO in array.dims
    dims = remaining_dims(array, most=0 if has_scenarios else 1, function="plot_effect", known=(SCENARIO,))
    array, note = thin_draws(array, max_draws)
    if dims:
        draws = average_rows(array, dims[0])[:, None]
        note = f"Average over {array.sizes[dims[0]]:,} rows within each draw. {note}".strip()
    else:
        values = array.transpose(*SAMPLE_DIMS, ...).values.astype(np.float64)
        draws = values.reshape(-1, array.sizes[SCENARIO] if has_scenarios else 1)
    if has_scenarios and draws.shape[1] >= _MIN_CURVE and array[SCENARIO].dtype.kind in "iuf":
        with canvas((7.0, 4.2), ax=ax, figsize=figsize) as drawn:
            _draw_curve(drawn, array, draws, interval, note)
            return drawn.figure
    n = draws.shape[1]
    if n > _MAX_SCENARIOS:
        msg = (
            f"`plot_effect` draws at most {_MAX_SCENARIOS} scenarios; got {n:,}. Choose some, with "
            "`.sel(scenario=[...])`."
        )
        raise ValueError(msg)
    size = (7.5, 1.9 + max(1.1, 0.75 * n) if n <= _MAX_DENSITIES else forest_height(n))
    with canvas(size, ax=ax, figsize=figsize) as drawn:
        _draw_scenarios(drawn, array, draws, interval, note)
        return drawn.figure


def _draw_scenarios(drawn: Canvas, array: xr.DataArray, draws: np.ndarray, interval: Statistic, note: str) -> None:
    """Draw a density and an interval for each scenario, or only an interval if there are many."""
    ax, n, labels = drawn.ax, draws.shape[1], effect_labels(array)
    names = [str(name) for name in array[SCENARIO].values] if SCENARIO in array.dims else None
    texts = [estimate(draws[:, i], interval, unit=labels.unit) for i in range(n)]
    low, high = intervals(draws, interval)
    mean = draws.mean(axis=0)
    dense = n <= _MAX_DENSITIES
    if dense:
        places = np.arange(n)[::-1].astype(np.float64)
        for i in range(n):
            _draw_density(ax, draws[:, i], places[i], (mean[i], low[i], high[i]), COLOURS[i % len(COLOURS)])
        label_lines(ax, names or [""], places, texts)
        ax.axvline(labels.no_effect, color=DARK, linewidth=0.9, zorder=1)
        ax.set_ylim(-0.3, n - 0.05)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    else:
        lines = [Line(name, mean[i : i + 1], low[i : i + 1], high[i : i + 1]) for i, name in enumerate(names or [])]
        draw_forest(ax, lines, labels.no_effect, [""])
    if names is None:
        above = format_number(100 * float((draws[:, 0] > labels.no_effect).mean()))
        drawn.subtitle(ax, f"{texts[0]}; above {labels.no_effect:g} in {above} % of draws")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    drawn.xlabel(labels.axis, margin=0.0 if names is None else LABEL_WIDTH)
    set_ticks(ax.xaxis, unit=labels.unit)
    drawn.title(labels.title)
    lost = int((~np.isfinite(draws)).any(axis=0).sum())
    drawn.caption(
        f"Mark and bar: posterior mean and {interval_name(interval)}.",
        "" if dense else "Hollow: it includes no effect.",
        describe_comparison(array.attrs, names),
        note,
        f"{lost} without a value in some draws: not drawn." if lost else "",
    )


def _draw_density(ax: Any, draws: np.ndarray, place: float, numbers: tuple[float, float, float], colour: str) -> None:
    """Draw the density of draws, with their mean and interval below it."""
    if not np.isfinite(draws).all():
        return
    mean, low, high = numbers
    if draws.size > 1 and np.ptp(draws) > 1e-12 * max(abs(mean), 1e-300):
        # Draws are standardized first: effects may be tiny, or far from 0.
        scale = draws.std()
        with np.errstate(all="ignore"):  # ArviZ tries several bandwidths, some of which may be undefined
            grid, density, _ = array_stats.kde((draws - mean) / scale)
        grid, height = grid * scale + mean, 0.72 * density / density.max()
        ax.fill_between(grid, place, place + height, color=colour, alpha=0.28, linewidth=0, zorder=2)
        ax.plot(grid, place + height, color=colour, linewidth=1.1, zorder=2)
    ax.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt", zorder=3)
    ax.plot([mean], [place], marker="o", markersize=6, color=colour, markeredgecolor="white", zorder=4)


def _draw_curve(drawn: Canvas, array: xr.DataArray, draws: np.ndarray, interval: Statistic, note: str) -> None:
    """Draw the effect at each level of a sweep."""
    ax, labels, levels = drawn.ax, effect_labels(array), array[SCENARIO].values
    order = np.argsort(levels)
    levels, draws = levels[order], draws[:, order]
    ax.axhline(labels.no_effect, color=DARK, linewidth=0.9)
    ax.fill_between(levels, *intervals(draws, interval), color=BLUE, alpha=0.22, linewidth=0)
    ax.plot(levels, draws.mean(axis=0), color=BLUE, marker="o" if len(levels) <= 30 else None, markersize=4)
    drawn.xlabel(dose_label(array))
    drawn.ylabel(labels.axis)
    set_ticks(ax.xaxis)
    set_ticks(ax.yaxis, unit=labels.unit)
    drawn.title(f"{labels.title}, {len(levels)} levels")
    drawn.caption(
        f"Line and band: posterior mean and {interval_name(interval)} at each level.",
        describe_comparison(array.attrs, [str(level) for level in levels]),
        note,
    )


def _plot_rows(array: xr.DataArray, ax: Any, figsize: Any) -> Figure:
    """Plot rows sorted by their effect, each with its interval."""
    dims = remaining_dims(array, most=1, function="plot_effect")
    if not dims:
        msg = f"`plot_effect` needs statistics of rows; `{array.name}` has none. Pass what `estimate_effect` returns."
        raise ValueError(msg)
    labels, rows = effect_labels(array), sort_rows(array, dims[0], _MAX_ROWS, "plot_effect")
    above, below = rows.low > labels.no_effect, rows.high < labels.no_effect
    colours = np.where(above, BLUE, np.where(below, ORANGE, GREY))[rows.drawn]
    with canvas((7.0, 4.4), ax=ax, figsize=figsize) as drawn:
        draw_rows(drawn, rows, colours)
        marker = "o" if len(rows.rows) < 40 else None
        drawn.ax.plot(rows.share, rows.centre[rows.drawn], color=DARK, linewidth=1.6, marker=marker, markersize=3)
        drawn.ax.axhline(labels.no_effect, color=DARK, linewidth=0.9)
        drawn.xlabel(f"share of rows ({dims[0].replace('_', ' ')}), smallest effect first")
        drawn.ylabel(labels.axis)
        set_ticks(drawn.ax.yaxis, unit=labels.unit)
        drawn.title(f"{labels.title}, row by row")
        drawn.caption(
            f"Line and bars: posterior {rows.centre_name} and {interval_name(rows.interval)} of a row.",
            f"It is above no effect for {100 * above.mean():.3g} % of rows (blue), below for "
            f"{100 * below.mean():.3g} % (orange).",
            *rows.notes,
            f"Bars of {len(rows.drawn):,} rows are drawn." if len(rows.drawn) < len(rows.rows) else "",
        )
        return drawn.figure

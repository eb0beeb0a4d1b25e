"""Plots of predictions and observations."""

__all__ = ["plot_predictive"]

import warnings
from typing import Any

import numpy as np
import xarray as xr
from arviz_plots import plot_ppc_dist
from arviz_plots.plot_collection import PlotCollection
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, DARK, GREY, ORANGE, Canvas, canvas, set_ticks
from aimz.plots.forest import draw_rows
from aimz.plots.selection import (
    PREDICTED,
    SAMPLE_DIMS,
    STATISTIC,
    intervals,
    read_column,
    remaining_dims,
    select_variable,
    sort_rows,
    subsample_rows,
    thin_draws,
)
from aimz.plots.text import axis_label, interval_name, plain_name
from aimz.statistics import read_interval

_YLABELS = {"density": "density", "ecdf": "share of rows at most this", "counts": "share of rows"}
_MAX_LINES, _MAX_BARS, _MAX_ROWS = 50, 40, 300


def plot_predictive(
    predictions: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    observed: Any = None,
    var_name: str | None = None,
    kind: str | None = None,
    max_draws: int = 200,
    max_rows: int = 5000,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot predictions and observations, to check whether data drawn from the model resemble the observed data.

    From draws, the distribution over rows is plotted for each of some draws (:func:`arviz_plots.plot_ppc_dist`), and
    for the observations on top; for counts, the share of rows with each count.  From row statistics, rows are sorted by
    their prediction and plotted with their intervals, with the share of observations inside.

    A result may be larger than memory: a fixed subsample of draws and rows is read; the caption gives the numbers.

    Parameters
    ----------
    predictions : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of a predictive method, or one of its variables.
    observed : array_like of shape (n_obs,), optional
        Observed value of each row; by default the group ``observed_data`` if there is one.  Without observations the
        predictions are plotted alone.  Labels, if there are any, must equal the row labels.
    var_name : str, optional
        Site to plot, if there are several.
    kind : {"density", "ecdf", "counts"}, optional
        Representation of a distribution; by default "counts" for integers, otherwise "density", or "ecdf" if some
        predictions are far from all others.
    max_draws : int
        Maximum number of draws to use; at most 50 for a density.
    max_rows : int
        Maximum number of rows to use.
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
        If there are no predictions, or ``observed`` does not match them.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_predictive
    >>> rng = np.random.default_rng(0)
    >>> y = xr.DataArray(rng.poisson(3.0, (1, 100, 500)), dims=("chain", "draw", "row"), name="visits")
    >>> plot_predictive(y, observed=rng.poisson(3.0, 500)).axes[0].get_xlabel()
    'visits'
    """
    if kind is not None and kind not in _YLABELS:
        msg = f"`kind` must be one of {', '.join(map(repr, _YLABELS))}; got {kind!r}. Omit it to choose automatically."
        raise ValueError(msg)
    array = select_variable(predictions, PREDICTED, var_name, "plot_predictive")
    row_dim = (remaining_dims(array, most=1, function="plot_predictive") or [""])[0]
    if not row_dim or not array.sizes[row_dim]:
        msg = f"`plot_predictive` needs predictions of rows; `{array.name}` has none. Pass what `predict` returns."
        raise ValueError(msg)
    if observed is None and isinstance(predictions, xr.DataTree) and "observed_data" in predictions.children:
        stored = predictions["observed_data"].data_vars.get(array.name)
        observed = None if stored is None else stored.values
    observed = None if observed is None else read_column(observed, "observed", array, row_dim, finite=False)
    if observed is not None and not np.isfinite(observed).any():
        msg = f"`observed` must have a finite number for some row; got {len(observed):,} others. Omit it."
        raise ValueError(msg)
    with canvas((7.0, 4.4), ax=ax, figsize=figsize) as drawn:
        if STATISTIC in array.dims:
            _draw_sorted_rows(drawn, array, row_dim, observed)
        else:
            chosen, rows_note = subsample_rows(array.sizes[row_dim], max_rows)
            if kind is None and array.dtype.kind in "iub":
                kind = "counts"
            few, note = thin_draws(array, max_draws if kind == "counts" else min(max_draws, _MAX_LINES))
            values = few.isel({row_dim: chosen}).transpose(*SAMPLE_DIMS, row_dim).values
            values = values.reshape(-1, values.shape[-1]).astype(np.float64)
            text = _draw_distribution(drawn, values, None if observed is None else observed[chosen], kind)
            drawn.xlabel(axis_label(array.name, array.attrs))
            drawn.caption(text, note, rows_note)
        drawn.title(f"{plain_name(array.name, array.attrs)}: predicted" + ("" if observed is None else " and observed"))
        drawn.legend()
        return drawn.figure


def _draw_distribution(drawn: Canvas, values: np.ndarray, observed: np.ndarray | None, kind: str | None) -> str:
    """Draw the distribution over rows, of predictions of shape ``(n_draws, n_rows)``; return a caption."""
    lost = int((~np.isfinite(values)).any(axis=0).sum())
    if lost:
        msg = f"`plot_predictive` needs finite predictions; {lost:,} rows have others. Check them, or drop them."
        raise ValueError(msg)
    if kind is None:
        # If some predictions are far from the others, a density would be a single spike.
        quarter, three_quarters = np.quantile(values, [0.25, 0.75])
        kind = "ecdf" if np.ptp(values) > 30 * (three_quarters - quarter) > 0 else "density"
    observed = None if observed is None or not np.isfinite(observed).any() else observed[np.isfinite(observed)]
    text = (
        _draw_counts(drawn.ax, values, observed) if kind == "counts" else _draw_lines(drawn.ax, values, observed, kind)
    )
    drawn.ylabel(_YLABELS[kind])
    set_ticks(drawn.ax.yaxis, unit="" if kind == "density" else " %")
    drawn.ax.set_ylim(bottom=0)
    return text


def _draw_lines(ax: Any, values: np.ndarray, observed: np.ndarray | None, kind: str) -> str:
    """Draw a density or an empirical distribution function for each draw, with ArviZ; return a caption."""
    group = "prior_predictive" if observed is None else "posterior_predictive"
    tree = xr.DataTree.from_dict({group: xr.Dataset({"y": (("chain", "draw", "row"), values[None])})})
    if observed is not None:
        tree["observed_data"] = xr.DataTree(xr.Dataset({"y": ("row", observed)}))
    # ArviZ is given our axes; otherwise it would create a figure with pyplot.
    axes = {"/": xr.Dataset({"figure": ((), ax.get_figure())}), "plot": xr.Dataset({"y": ((), ax)})}
    collection = PlotCollection(
        xr.Dataset({"y": (("sample", "row"), values)}),
        xr.DataTree.from_dict(axes),
        backend="matplotlib",
        aes={"overlay_ppc": ["sample"]},
    )
    before = len(ax.lines)
    with warnings.catch_warnings(action="ignore"):  # about densities of integers, which the user requested
        plot_ppc_dist(
            tree,
            group=group,
            kind="ecdf" if kind == "ecdf" else "kde",
            num_samples=len(values),
            plot_collection=collection,
            visuals={
                "predictive_dist": {"color": BLUE, "alpha": 0.25, "width": 0.8},
                "observed_dist": False if observed is None else {"color": DARK, "width": 2.0},
                "title": False,
                "remove_axis": False,
            },
        )
    lines = ax.lines[before:]
    lines[0].set_label("predicted, a line for each draw")
    if observed is not None:
        lines[-1].set_label("observed")
    set_ticks(ax.xaxis)
    # A few distant predictions must not compress the rest of the plot.
    low, quarter, three_quarters, high = np.quantile(values, [0.001, 0.25, 0.75, 0.999])
    distance = 5 * (three_quarters - quarter)
    if distance > 0:
        low, high = max(low, quarter - distance), min(high, three_quarters + distance)
    both = values.ravel()
    if observed is not None:
        both = np.concatenate([both, observed])
        low, high = min(low, observed.min()), max(high, observed.max())
    if high > low:
        ax.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    cut = float(((both < low) | (both > high)).mean())
    return f"{100 * cut:.2g} % of the predictions are outside the axes." if cut > 0.0005 else ""


def _draw_counts(ax: Any, values: np.ndarray, observed: np.ndarray | None) -> str:
    """Draw the share of rows with each count, or range of counts if there are many; return a caption."""
    both = values.ravel() if observed is None else np.concatenate([values.ravel(), observed])
    low, most = np.floor(both.min()), np.ceil(both.max())
    # The last bar includes the tail.
    top = most if most - low < _MAX_BARS else max(np.quantile(both, 0.995), low + 1)
    width = max(1, int(np.ceil((top - low + 1) / _MAX_BARS)))
    n = int((min(top, most) - low) // width) + 1
    edges = low + width * np.arange(n)
    middle, tail = edges + (width - 1) / 2, most >= edges[-1] + width

    def shares(counts: np.ndarray) -> np.ndarray:
        bars = np.clip((counts - low) // width, 0, n - 1).astype(np.int64)
        return np.asarray(np.bincount(bars, minlength=n) / bars.size)

    interval = read_interval()
    predicted = np.stack([shares(draw) for draw in values])
    if observed is not None:
        ax.bar(middle, shares(observed), width=0.8 * width, color=GREY, alpha=0.45, label="observed")
    ax.vlines(middle, *intervals(predicted, interval), color=BLUE, linewidth=2.2)
    ax.plot(middle, predicted.mean(axis=0), "o", color=BLUE, markersize=4.5, label="predicted")
    if width == 1:
        every = max(1, int(np.ceil(n / 12)))
        shown = [i for i in range(0, n, every) if not tail or i == n - 1 or n - 1 - i >= every]
        ax.set_xticks(edges[shown], [f"{edges[i]:g}" for i in shown])
    else:
        set_ticks(ax.xaxis)
    ax.grid(visible=False, axis="x")
    about = f"Predicted: mean and {interval_name(interval)} of the share in replicated data."
    each = f" Each bar holds {width:,} counts." if width > 1 else ""
    return about + each + (f" The last one holds all from {edges[-1]:,.0f}." if tail else "")


def _draw_sorted_rows(drawn: Canvas, array: xr.DataArray, row_dim: str, observed: np.ndarray | None) -> None:
    """Draw rows sorted by their prediction, each with its interval and its observation."""
    rows = sort_rows(array, row_dim, _MAX_ROWS, "plot_predictive")
    draw_rows(drawn, rows, [BLUE] * len(rows.drawn))
    label = f"predicted, {rows.centre_name} and interval"
    drawn.ax.plot(rows.share, rows.centre[rows.drawn], color=BLUE, linewidth=1.6, label=label)
    inside = ""
    if observed is not None:
        observed = observed[rows.rows]
        known = np.isfinite(observed)
        within = (observed >= rows.low) & (observed <= rows.high)
        for part, colour, where in ((within, DARK, "inside"), (~within & known, ORANGE, "outside")):
            kept = part[rows.drawn]
            drawn.ax.plot(
                rows.share[kept],
                observed[rows.drawn][kept],
                ".",
                color=colour,
                markersize=4,
                label=f"observed, {where}",
            )
        inside = f"{100 * within[known].mean():.3g} % of the observations lie inside."
    drawn.xlabel(f"share of rows ({row_dim.replace('_', ' ')}), smallest prediction first")
    drawn.ylabel(axis_label(array.name, array.attrs))
    drawn.caption(
        f"{interval_name(rows.interval)} of each row.",
        inside,
        *rows.notes,
        f"{len(rows.drawn):,} rows are drawn." if len(rows.drawn) < len(rows.rows) else "",
    )

"""Predictions beside what was observed."""

__all__ = ["plot_predictive"]

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from aimz.plots.figure import BLUE, DARK, GREY, ORANGE, Canvas, bars, canvas, numbers
from aimz.plots.selection import (
    PREDICTED,
    SAMPLE_DIMS,
    STATISTIC,
    Bounds,
    bounds_of,
    check_labels,
    intervals,
    own_dims,
    some_rows,
    thinned,
    variable,
    with_numbers,
)
from aimz.plots.text import axis_label, interval_name, wanted_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = ("density", "ecdf", "counts")
_LINES, _BARS = 50, 40
_ROWS_READ, _ROWS_DRAWN = 200_000, 300


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
) -> "Figure":
    """Draw what the model predicts beside what was observed.

    Do data drawn from the model look like the data?

    From draws, the distribution of all rows is drawn once for each of some draws (:func:`arviz_plots.plot_ppc_dist`),
    and that of the observations on top; for counts, the share of rows with each count.  From row statistics, rows are
    sorted by their prediction and drawn with their intervals, and how many observations lie inside is counted.

    A result may be larger than memory: some draws and rows are read, always the same, and the picture says how many.

    Parameters
    ----------
    predictions : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of a predictive method, or a variable of it.
    observed : array_like of shape (n_obs,), optional
        What was observed, row by row; by default the group ``observed_data`` where there is one.  Without it the
        predictions are drawn alone.  Labels, if it has any, must be those of the rows.
    var_name : str, optional
        Which site, if there are several.
    kind : {"density", "ecdf", "counts"}, optional
        How to draw a distribution; by default "counts" for integers, and else "density", or "ecdf"
        where some predictions are far from all others.
    max_draws : int
        Use at most so many draws; of a density 50 are drawn.
    max_rows : int
        Use at most so many rows.
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
        If there are no predictions in it, or ``observed`` does not fit them.
    ImportError
        If matplotlib or arviz-plots are not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_predictive
    >>> rng = np.random.default_rng(0)
    >>> y = xr.DataArray(rng.poisson(3.0, (1, 100, 500)), dims=("chain", "draw", "row"), name="visits")
    >>> plot_predictive(y, observed=rng.poisson(3.0, 500)).axes[0].get_xlabel()
    'visits'
    """
    if kind is not None and kind not in _KINDS:
        msg = f"`kind` must be {', '.join(map(repr, _KINDS))}; got {kind!r}. Leave it out to have it chosen."
        raise ValueError(msg)
    array = variable(predictions, PREDICTED, var_name, "plot_predictive")
    row_dim = (own_dims(array, most=1, what="plot_predictive") or [""])[0]
    if not row_dim or not array.sizes[row_dim]:
        msg = f"`plot_predictive` needs predictions of rows; `{array.name}` has none. Pass what `predict` returns."
        raise ValueError(msg)
    seen = _observed(predictions, observed, str(array.name), array.sizes[row_dim])
    check_labels(observed, "observed", array, row_dim)
    if STATISTIC in array.dims:
        return _rows(array, row_dim, seen, ax, figsize)
    chosen, rows_said = some_rows(array.sizes[row_dim], max_rows)
    whole = array.dtype.kind in "iub"
    counts = kind == "counts" or (kind is None and whole)
    few, said = thinned(array, max_draws if counts else min(max_draws, _LINES))
    values = few.isel({row_dim: chosen}).transpose(*SAMPLE_DIMS, row_dim).values
    values = values.reshape(-1, values.shape[-1]).astype(np.float64)
    lost = int((~np.isfinite(values)).any(axis=0).sum())
    if lost:
        msg = f"`plot_predictive` needs finite predictions; {lost:,} rows have others. Look at them, or leave them out."
        raise ValueError(msg)
    seen = None if seen is None else seen[chosen]
    kind = kind or ("counts" if counts else "ecdf" if _far(values) else "density")
    with canvas("plot_predictive", (7.0, 4.4), ax=ax, figsize=figsize) as drawn:
        text = _counts(drawn.ax, values, seen) if kind == "counts" else _distributions(drawn.ax, values, seen, kind)
        drawn.xlabel(axis_label(array.name, array.attrs))
        drawn.ylabel({"counts": "share of rows", "ecdf": "share of rows at most this", "density": "density"}[kind])
        numbers(drawn.ax.yaxis, percent=kind != "density")
        drawn.ax.set_ylim(bottom=0)
        if kind != "counts":
            numbers(drawn.ax.xaxis)
        _finish(drawn, array, seen)
        drawn.foot(text, said, rows_said)
        return drawn.figure  # type: ignore[no-any-return]


def _far(values: np.ndarray) -> bool:
    """Whether some predictions are so far from the others that a density would be one spike."""
    quarter, three_quarters = np.quantile(values, [0.25, 0.75])
    return bool(np.ptp(values) > 30 * (three_quarters - quarter) > 0)


def _finish(drawn: Canvas, array: xr.DataArray, seen: Any) -> None:
    label = array.attrs.get("long_name") or str(array.name).replace("_", " ")
    drawn.title(f"{label}: predicted" + (" and observed" if seen is not None else ""))
    drawn.legend()


def _observed(tree: Any, given: Any, name: str, n_obs: int) -> np.ndarray | None:
    """Return what was observed, if it is known."""
    if given is None and isinstance(tree, xr.DataTree) and "observed_data" in tree.children:
        given = tree["observed_data"].to_dataset().get(name)
    if given is None:
        return None
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        msg = f"`observed` must be numbers, one for each row; got {type(given).__name__}."
        raise TypeError(msg) from error
    if values.shape != (n_obs,) or not np.isfinite(values).any():
        msg = f"`observed` must have one number for each of the {n_obs:,} rows; got shape {values.shape}."
        raise ValueError(msg)
    return values


def _distributions(ax: Any, values: np.ndarray, seen: np.ndarray | None, kind: str) -> str:
    """Draw a density or an empirical distribution function for each draw, with ArviZ."""
    from arviz_plots import plot_ppc_dist
    from arviz_plots.plot_collection import PlotCollection

    groups = {"posterior_predictive": xr.Dataset({"y": (("chain", "draw", "row"), values[None])})}
    if seen is not None:
        groups["observed_data"] = xr.Dataset({"y": ("row", seen[np.isfinite(seen)])})
    else:
        groups = {"prior_predictive": groups["posterior_predictive"]}
    tree = xr.DataTree.from_dict(groups)
    # ArviZ draws into a figure that is there, so that none is made by pyplot.
    place = xr.DataTree.from_dict(
        {"/": xr.Dataset({"figure": ((), ax.get_figure())}), "plot": xr.Dataset({"y": ((), ax)})}
    )
    drawn = xr.Dataset({"y": (("sample", "row"), values)})
    collection = PlotCollection(drawn, place, backend="matplotlib", aes={"overlay_ppc": ["sample"]})
    before = len(ax.lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on integers as densities, which `kind` asked for
        plot_ppc_dist(
            tree,
            group=next(iter(groups)),
            kind="ecdf" if kind == "ecdf" else "kde",
            num_samples=len(values),
            plot_collection=collection,
            visuals={
                "predictive_dist": {"color": BLUE, "alpha": 0.25, "width": 0.8},
                "observed_dist": False if seen is None else {"color": DARK, "width": 2.0},
                "title": False,
                "remove_axis": False,
            },
        )
    lines = ax.lines[before:]
    if lines:
        lines[0].set_label("predicted, a line for each draw")
    if seen is not None and lines:
        lines[-1].set_label("observed")
    # A few far predictions must not press everything else together.
    both = values if seen is None else np.concatenate([values.ravel(), seen[np.isfinite(seen)]])
    low, quarter, three_quarters, high = np.quantile(values, [0.001, 0.25, 0.75, 0.999])
    far = 5 * (three_quarters - quarter)
    if far > 0:
        low, high = max(low, quarter - far), min(high, three_quarters + far)
    if seen is not None:
        low, high = min(low, np.nanmin(seen)), max(high, np.nanmax(seen))
    cut = float(((both < low) | (both > high)).mean())
    if high > low:
        ax.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return f"{100 * cut:.2g} % of the predictions lie outside the picture." if cut > 0.0005 else ""


def _counts(ax: Any, values: np.ndarray, seen: np.ndarray | None) -> str:
    """Draw the share of rows with each count; many counts are put together."""
    interval = wanted_interval(None)
    both = values.ravel() if seen is None else np.concatenate([values.ravel(), seen[np.isfinite(seen)]])
    low, most = np.floor(both.min()), np.ceil(both.max())
    # The last bar holds the tail.
    top = most if most - low < _BARS else max(np.quantile(both, 0.995), low + 1)
    width = max(1, int(np.ceil((top - low + 1) / _BARS)))
    n = int((min(top, most) - low) // width) + 1
    edges = low + width * np.arange(n)
    middle, tail = edges + (width - 1) / 2, most >= edges[-1] + width

    def shares(one: np.ndarray) -> np.ndarray:
        at = np.clip((one[np.isfinite(one)] - low) // width, 0, n - 1).astype(np.int64)
        return np.asarray(np.bincount(at, minlength=n) / at.size)

    predicted = np.stack([shares(one) for one in values])
    if seen is not None:
        ax.bar(middle, shares(seen), width=0.8 * width, color=GREY, alpha=0.45, label="observed")
    lower, upper = intervals(predicted, interval)
    ax.vlines(middle, lower, upper, color=BLUE, linewidth=2.2)
    ax.plot(middle, predicted.mean(axis=0), "o", color=BLUE, markersize=4.5, label="predicted")
    if width == 1:
        every = max(1, int(np.ceil(n / 12)))
        shown = [i for i in range(0, n, every) if not tail or i == n - 1 or n - 1 - i >= every]
        ax.set_xticks(edges[shown], [f"{edges[i]:g}" for i in shown])
    else:
        numbers(ax.xaxis)
    ax.grid(visible=False, axis="x")
    about = f"Predicted: mean and {interval_name(interval)} of the share in replicated data."
    each = f" Each bar holds {width:,} counts." if width > 1 else ""
    return about + each + (f" The last one holds all from {edges[-1]:,.0f}." if tail else "")


def _rows(array: xr.DataArray, row_dim: str, seen: np.ndarray | None, ax: Any, figsize: Any) -> "Figure":
    """Draw rows sorted by their prediction, each with its interval, and what was observed."""
    bounds: Bounds = bounds_of(array, "plot_predictive")
    chosen, said = some_rows(array.sizes[row_dim], _ROWS_READ)
    wanted = [bounds.centre, bounds.low, bounds.high]
    values = array.sel({STATISTIC: wanted}).isel({row_dim: chosen}).transpose(STATISTIC, row_dim).values
    known, lost = with_numbers(values)
    order = np.argsort(values[0], kind="stable")
    order = order[known[order]]
    values, n = values[:, order], len(order)
    shown = np.unique(np.linspace(0, n - 1, min(n, _ROWS_DRAWN)).round().astype(np.intp))
    at = (shown + 0.5) / n
    with canvas("plot_predictive", (7.0, 4.4), ax=ax, figsize=figsize) as drawn:
        label = f"predicted, {'mean' if bounds.centre == 'mean' else 'median'} and interval"
        bars(drawn.ax, at, values[1, shown], values[2, shown], [BLUE] * len(shown))
        drawn.ax.plot(at, values[0, shown], color=BLUE, linewidth=1.6, label=label)
        inside = ""
        if seen is not None:
            ranked = seen[chosen][order]
            known = np.isfinite(ranked)
            within = (ranked >= values[1]) & (ranked <= values[2])
            for part, colour, name in (
                (within, DARK, "observed, inside"),
                (~within & known, ORANGE, "observed, outside"),
            ):
                kept = part[shown]
                drawn.ax.plot(at[kept], ranked[shown][kept], ".", color=colour, markersize=4, label=name)
            inside = f"{100 * within[known].mean():.3g} % of the observations lie inside."
        drawn.ax.set_xlim(0, 1)
        drawn.xlabel(f"share of rows ({row_dim.replace('_', ' ')}), smallest prediction first")
        drawn.ylabel(axis_label(array.name, array.attrs))
        numbers(drawn.ax.xaxis, percent=True)
        _finish(drawn, array, seen)
        drawn.foot(
            f"{interval_name(bounds.interval)} of each row.",
            inside,
            said,
            lost,
            f"{len(shown):,} rows are drawn." if len(shown) < n else "",
        )
        return drawn.figure  # type: ignore[no-any-return]

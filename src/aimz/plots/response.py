"""Plot of an average against a lever: a dose-response curve."""

__all__ = ["plot_response"]

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from aimz.plots.figure import COLOURS, canvas, set_ticks, shorten_text
from aimz.plots.selection import SAMPLE_DIMS, SCENARIO, intervals, select_variable
from aimz.plots.text import axis_label, interval_name
from aimz.statistics import Statistic, read_ci

_MAX_LINES = 6
_CONTRASTS = {
    "dydx": "slope",
    "dyex": "slope per 100 %",
    "eyex": "elasticity",
    "eydx": "relative slope",
    "total": "elasticity of the total",
    "difference": "change",
}
"""Contrast to its name on an axis."""


def plot_response(
    result: xr.DataTree | xr.Dataset | xr.DataArray,
    x: str | None = None,
    *,
    group: str = "scenarios",
    var_name: str | None = None,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot averages, or slopes, against a lever, with one line for each group.

    Parameters
    ----------
    result : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Result of :meth:`ImpactModel.slopes` for the rows of :func:`aimz.grid`, with ``by`` set to its columns; or of
        :meth:`ImpactModel.compare_scenarios` whose scenarios are named by numbers.
    x : str, optional
        Dimension of the lever; the first one whose labels are numbers by default.
    group : str
        Group of the tree: "scenarios" for averages, "effect" for slopes or effects.
    var_name : str, optional
        Site to plot, if there are several.
    ci_prob : float, optional
        Probability of the interval; by default ArviZ's, 0.89 unless it was changed.
    ci_kind : {"eti", "hdi"}, optional
        Kind of the interval, equal-tailed or highest-density; by default ArviZ's, "eti" unless it was changed.
    hdi_prob : float, optional
        Another name of ``ci_prob`` with ``ci_kind="hdi"``.
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
        If no dimension has numbers, or there are more than 6 lines.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_response
    >>> price = np.linspace(4.0, 9.0, 6)
    >>> draws = np.random.default_rng(0).normal(10.0 - price, 0.3, (1, 200, 6))
    >>> curve = xr.DataArray(draws, dims=("chain", "draw", "price"), coords={"price": price}, name="sales")
    >>> plot_response(curve).axes[0].get_xlabel()
    'price'
    """
    interval = read_ci(ci_prob, ci_kind, hdi_prob)
    array = select_variable(result, (group,), var_name, "plot_response")
    own = [str(dim) for dim in array.dims if dim not in SAMPLE_DIMS]
    numeric = [dim for dim in own if dim in array.coords and array[dim].dtype.kind in "iuf" and array.sizes[dim] > 1]
    along = x if x is not None else next(iter(numeric), None)
    if along not in numeric:
        msg = (
            f"`plot_response` needs a dimension whose labels are numbers; got {own or 'none'}. Pass what "
            "`model.slopes(..., X=aimz.grid(...), by=[...])` returns, and its lever as `x`."
        )
        raise ValueError(msg)
    array = array.isel({dim: 0 for dim in (SCENARIO,) if dim in own and dim != along and array.sizes[dim] == 1})
    lines = array.transpose(*SAMPLE_DIMS, along, ...)
    others = [str(dim) for dim in lines.dims[3:]]
    draws = lines.values.astype(np.float64).reshape(-1, lines.sizes[along], int(np.prod(lines.shape[3:], dtype=int)))
    if draws.shape[2] > _MAX_LINES:
        msg = (
            f"`plot_response` draws at most {_MAX_LINES} lines; got {draws.shape[2]} of {others}. Choose some, for "
            f"instance with `result['{group}'].isel({others[0]}=[0, 1])`."
        )
        raise ValueError(msg)
    with canvas((7.0, 4.2), ax=ax, figsize=figsize) as drawn:
        _draw(drawn.ax, array[along].values, draws, _names(lines, others), interval)
        drawn.xlabel(axis_label(along, array[along].attrs))
        kind = "expected " if array.attrs.get("kind") == "expected" else ""
        name = axis_label(array.name or "effect", array.attrs, kind)
        if group != "scenarios":
            name = f"{_CONTRASTS.get(array.attrs.get('contrast', ''), 'effect')} of {name}"
        drawn.ylabel(name)
        set_ticks(drawn.ax.xaxis)
        set_ticks(drawn.ax.yaxis)
        drawn.title(f"{name[:1].upper()}{name[1:]} by {axis_label(along, array[along].attrs)}")
        if draws.shape[2] > 1:
            drawn.legend()
        drawn.caption(f"Line and band: posterior mean and {interval_name(interval)} at each value.")
        return drawn.figure


def _draw(ax: Any, levels: np.ndarray, draws: np.ndarray, names: list[str], interval: Statistic) -> None:
    """Draw a line with a band for each group."""
    order = np.argsort(levels)
    for i, name in enumerate(names):
        colour, values = COLOURS[i], draws[:, order, i]
        ax.fill_between(levels[order], *intervals(values, interval), color=colour, alpha=0.2, linewidth=0)
        marker = "o" if len(levels) <= 30 else None
        ax.plot(levels[order], values.mean(axis=0), color=colour, marker=marker, markersize=4, label=name)


def _names(lines: xr.DataArray, dims: list[str]) -> list[str]:
    """Return the labels of the lines."""
    sizes = [lines.sizes[dim] for dim in dims]
    names = []
    for place in np.ndindex(*sizes):
        labels = [
            f"{dim} {lines[dim].values[i] if dim in lines.coords else i}" for dim, i in zip(dims, place, strict=True)
        ]
        names.append(shorten_text(" · ".join(labels), 1.8))
    return names

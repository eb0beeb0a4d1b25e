"""Plots of rehearsals and of planned studies."""

__all__ = ["plot_assurance", "plot_rehearsal"]

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, GREY, ORANGE, Canvas, canvas, set_ticks, shorten_text
from aimz.statistics import coverage_of, uniform_band

_MAX_PANELS = 4
_FALSE_ALARM = 0.05
_BINS = 8


def plot_rehearsal(
    rehearsal: Any, *, var_names: str | list[str] | None = None, figsize: tuple[float, float] | None = None
) -> Figure:
    """Plot how well an analysis finds known effects.

    A recovery is drawn as estimates against true values. Simulation-based calibration is drawn as the difference of the
    ECDF of the ranks from that of uniform ranks, with the simultaneous 95 % band: a curve that leaves the band shows
    that the posterior is too narrow (first above, then below), too wide (first below, then above), or shifted. Placebo
    runs are drawn as sorted effects with the effect of the actual treatment.

    Parameters
    ----------
    rehearsal : RehearsalResult or xarray.Dataset
        Result of :meth:`ImpactModel.rehearse`, or its ``simulations``.
    var_names : str or list of str, optional
        Quantities to draw, at most 4; by default the first effects, or parameters if there is no effect.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is nothing to draw, or a name is unknown.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_rehearsal
    >>> dims = ("simulation", "quantity")
    >>> ranks = np.random.default_rng(0).integers(0, 100, (50, 1)).astype(float)
    >>> data = xr.Dataset(
    ...     {"rank": (dims, ranks)},
    ...     {"quantity": ["b"], "kind": ("quantity", ["parameter"])},
    ...     {"kind": "sbc", "n_ranks": 100, "source": "prior"},
    ... )
    >>> plot_rehearsal(data).axes[0].get_title(loc="left")
    'b'
    """
    data = _read(rehearsal, "plot_rehearsal")
    names = _choose(data, var_names)
    kind = data.attrs["kind"]
    draw = {"sbc": _draw_ranks, "placebo": _draw_placebo}.get(kind, _draw_recovery)
    with canvas((max(5.0, 3.3 * len(names)), 3.8), columns=len(names), figsize=figsize) as drawn:
        for ax, name in zip(drawn.axes, names, strict=True):
            draw(drawn, ax, data.sel(quantity=name))
            ax.set_title(shorten_text(name, 2.6, 10.0), loc="left")
        n = data.sizes["simulation"]
        texts = {
            "sbc": f"Ranks of the true value in {n} simulations: ECDF minus uniform ECDF, simultaneous 95 % band.",
            "placebo": f"{n} refits with the treatment permuted: posterior mean ± 2 sd. Line: actual treatment.",
        }
        source = data.attrs.get("source", "")
        drawn.caption(texts.get(kind, f"{n} data sets simulated from the {source}: posterior mean ± 2 sd."))
        return drawn.figure


def _draw_ranks(drawn: Canvas, ax: Any, one: xr.Dataset) -> None:
    """Draw the ECDF of ranks minus that of uniform ranks."""
    ranks = one["rank"].values[~np.isnan(one["rank"].values)]
    n_ranks = int(one.attrs["n_ranks"])
    share, lower, upper = uniform_band(len(ranks), n_ranks, 1 - _FALSE_ALARM)
    ecdf = (ranks[:, None] < np.arange(1, n_ranks)).mean(axis=0)
    ax.fill_between(share, lower - share, upper - share, step="mid", color=GREY, alpha=0.25, linewidth=0)
    ax.plot(share, ecdf - share, color=BLUE, linewidth=1.4, drawstyle="steps-mid")
    ax.axhline(0, color=GREY, linewidth=0.8)
    drawn.xlabel("fractional rank", ax)
    set_ticks(ax.xaxis, most=4)
    if ax is drawn.axes[0]:
        drawn.ylabel("difference of ECDFs", ax)


def _draw_recovery(drawn: Canvas, ax: Any, one: xr.Dataset) -> None:
    """Draw estimates against true values."""
    truth, mean, sd = (one[name].values for name in ("truth", "mean", "sd"))
    ax.errorbar(truth, mean, yerr=2 * sd, fmt="o", markersize=3, color=BLUE, elinewidth=0.7, alpha=0.6)
    ends = [float(np.nanmin([truth, mean])), float(np.nanmax([truth, mean]))]
    ax.plot(ends, ends, color=ORANGE, linewidth=1.2)
    drawn.xlabel("true value", ax)
    set_ticks(ax.xaxis, most=4)
    if ax is drawn.axes[0]:
        drawn.ylabel("estimate", ax)


def _draw_placebo(drawn: Canvas, ax: Any, one: xr.Dataset) -> None:
    """Draw sorted placebo effects and the effect of the actual treatment."""
    order = np.argsort(one["mean"].values)
    mean, sd = one["mean"].values[order], one["sd"].values[order]
    place = np.arange(len(mean))
    ax.errorbar(mean, place, xerr=2 * sd, fmt="o", markersize=3, color=GREY, elinewidth=0.7, alpha=0.7)
    ax.axvline(float(one["estimate"]), color=ORANGE, linewidth=1.6)
    ax.axvline(float(one.attrs.get("null", 0.0)), color=GREY, linewidth=0.8)
    ax.set_yticks([])
    drawn.xlabel("effect", ax)
    set_ticks(ax.xaxis, most=4)


def plot_assurance(
    assurance: Any, *, var_names: str | list[str] | None = None, figsize: tuple[float, float] | None = None
) -> Figure:
    """Plot the share of simulated studies that find an effect, by its true value.

    Parameters
    ----------
    assurance : AssuranceResult or xarray.Dataset
        Result of :meth:`ImpactModel.assurance`, or its ``simulations``.
    var_names : str or list of str, optional
        Effects to draw, at most 4; by default the first ones.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is nothing to draw, or a name is unknown.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_assurance
    >>> dims, truth = ("simulation", "quantity"), np.linspace(0.0, 1.0, 40)[:, None]
    >>> data = xr.Dataset(
    ...     {"truth": (dims, truth), "found": (dims, truth > 0.5)},
    ...     {"quantity": ["effect[mail = 1]"], "kind": ("quantity", ["effect"])},
    ... )
    >>> plot_assurance(data).axes[0].get_xlabel()
    'true effect'
    """
    data = _read(assurance, "plot_assurance")
    names = _choose(data, var_names)
    with canvas((max(5.0, 3.3 * len(names)), 3.8), columns=len(names), figsize=figsize) as drawn:
        for ax, name in zip(drawn.axes, names, strict=True):
            one = data.sel(quantity=name)
            truth, found = one["truth"].values, one["found"].values.astype(bool)
            bins = np.array_split(np.argsort(truth), min(_BINS, max(1, len(truth) // 10)))
            centers = [truth[rows].mean() for rows in bins]
            shares = np.array([coverage_of(np.where(found[rows], 0.5, 0.0), 0.5) for rows in bins])
            errors = np.maximum(np.stack([shares[:, 0] - shares[:, 2], shares[:, 3] - shares[:, 0]]), 0)
            ax.errorbar(centers, shares[:, 0], yerr=errors, fmt="o-", color=BLUE, markersize=4, linewidth=1.2)
            ax.axhline(found.mean(), color=ORANGE, linewidth=1.2)
            ax.set_ylim(-0.03, 1.03)
            ax.set_title(shorten_text(name, 2.6, 10.0), loc="left")
            drawn.xlabel("true effect", ax)
            set_ticks(ax.xaxis, most=4)
            set_ticks(ax.yaxis, unit=" %", most=5)
        drawn.ylabel("studies that find the effect")
        drawn.caption(
            f"{data.sizes['simulation']} simulated studies, by the true effect, with 95 % intervals. Line: the "
            "assurance, their average."
        )
        return drawn.figure


def _read(result: Any, function: str) -> xr.Dataset:
    """Return the simulations of a result."""
    data = getattr(result, "simulations", result)
    if not isinstance(data, xr.Dataset) or "quantity" not in data.dims:
        method = "rehearse" if function == "plot_rehearsal" else "assurance"
        msg = f"`{function}` draws what `ImpactModel.{method}` returns; got {type(result).__name__}. Call it first."
        raise TypeError(msg)
    return data


def _choose(data: xr.Dataset, var_names: str | list[str] | None) -> list[str]:
    """Return the names of the quantities to draw."""
    known = [str(name) for name in data["quantity"].values]
    if var_names is None:
        kinds = data["kind"].values
        effects = [name for name, kind in zip(known, kinds, strict=True) if kind == "effect"]
        return (effects or known)[:_MAX_PANELS]
    chosen = [var_names] if isinstance(var_names, str) else list(var_names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not 1 <= len(chosen) <= _MAX_PANELS:
        got = repr(unknown[0]) if unknown else f"{len(chosen)} of them"
        msg = f"`var_names` must be 1 to {_MAX_PANELS} of {', '.join(known)}; got {got}. Choose from these."
        raise ValueError(msg)
    return chosen

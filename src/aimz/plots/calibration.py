"""Plot of the calibration of the predictions of single rows."""

__all__ = ["plot_calibration"]

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, DARK, GREY, Canvas, canvas, set_ticks
from aimz.statistics import Calibration

_BINS = 20


def plot_calibration(source: Any, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Plot whether the predictions of single rows are calibrated.

    Binary outcomes: the observed share of ones at each predicted probability, and how many rows have it.  Others: the
    histogram of the PIT values, the probability that each prediction gives to values below the observed one, and the
    distance of their distribution from the uniform one.  A hump in the middle means intervals that are too wide; peaks
    at both ends, too narrow; a slope, predictions that are too high or too low.

    Parameters
    ----------
    source : CheckResult
        Result of :meth:`ImpactModel.check`.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is no calibration in the result.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.plots import plot_calibration
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
    >>> X = jnp.linspace(-1.0, 1.0, 100)
    >>> model = ImpactModel(kernel, 0, "svi").fit(X, 2.0 * X, progress=False)
    >>> plot_calibration(model.check()).axes[0].get_xlabel()
    'PIT value'
    """
    found = getattr(source, "calibration", source)
    if not isinstance(found, Calibration):
        msg = (
            f"`plot_calibration` needs the calibration of predictions; got {type(source).__name__} without one. Pass "
            "what `model.check(...)` returns for rows that are in memory or passed as `X`."
        )
        raise TypeError(msg)
    if not found.n:
        msg = "`plot_calibration` needs rows with a prediction; got none. Check that predictions are not NaN."
        raise ValueError(msg)
    with canvas((9.0, 3.9), columns=2, figsize=figsize) as drawn:
        (_draw_shares if found.is_binary else _draw_pit)(drawn, found)
        drawn.caption(
            f"{found.n:,} rows{', each left out of the fit that predicts it' if found.leave_one_out else ''}.",
            "Bars at the points: two standard errors."
            if found.is_binary
            else "Grey: range of calibrated predictions (99.9 %).",
            f"{found.n_lost:,} rows without a prediction are left out." if found.n_lost else "",
            f"Unreliable weights (Pareto k above 0.7): {found.n_unreliable:,} rows." if found.n_unreliable else "",
        )
        return drawn.figure


def _draw_shares(drawn: Canvas, found: Calibration) -> None:
    """Draw observed shares by predicted probability, and the number of rows at each."""
    left, right = drawn.axes
    p, share, error, _ = found.reliability()
    left.plot([0, 1], [0, 1], color=DARK, linewidth=0.9)
    left.errorbar(p, share, yerr=2 * error, color=BLUE, marker="o", markersize=4.5, linestyle="", elinewidth=1.2)
    left.set_xlim(-0.02, 1.02)
    left.set_ylim(-0.02, 1.02)
    drawn.xlabel("predicted probability", left)
    drawn.ylabel("observed share", left)
    worst = int(np.argmax(np.abs(share - p) - 2 * error))
    drawn.subtitle(left, f"Largest difference: {share[worst]:.2f} observed at {p[worst]:.2f} predicted.")
    edges = np.linspace(0.0, 1.0, found.counts.shape[1] + 1)
    right.bar(edges[:-1], found.counts[0], np.diff(edges), align="edge", color=BLUE, alpha=0.5, edgecolor="white")
    drawn.xlabel("predicted probability", right)
    drawn.ylabel("number of rows", right)
    drawn.subtitle(right, "Number of rows at each probability.")
    for ax in drawn.axes:
        set_ticks(ax.xaxis)
        set_ticks(ax.yaxis)
    drawn.title("Predicted probabilities and observed shares")


def _draw_pit(drawn: Canvas, found: Calibration) -> None:
    """Draw the histogram of the PIT values, and the distance of their distribution from the uniform one."""
    left, right = drawn.axes
    edges, shares = np.linspace(0.0, 1.0, _BINS + 1), _BINS * found.histogram(_BINS)
    half = 3.3 * np.sqrt((1 - 1 / _BINS) * _BINS / found.n)
    left.axhspan(max(0.0, 1 - half), 1 + half, color=GREY, alpha=0.22, linewidth=0)
    left.axhline(1.0, color=DARK, linewidth=0.9)
    left.bar(edges[:-1], shares, np.diff(edges), align="edge", color=BLUE, alpha=0.5, edgecolor="white")
    drawn.xlabel("PIT value", left)
    drawn.ylabel("density", left)
    drawn.subtitle(left, "Calibrated: flat.")
    band, gap = found.band(), found.ecdf - found.edges
    right.fill_between(found.edges, -band, band, color=GREY, alpha=0.22, linewidth=0)
    right.axhline(0.0, color=DARK, linewidth=0.9)
    right.plot(found.edges, gap, color=BLUE, linewidth=1.6)
    drawn.xlabel("PIT value", right)
    drawn.ylabel("share below, minus expected", right)
    drawn.subtitle(right, f"Largest distance: {found.distance:.3f}.")
    for ax in drawn.axes:
        set_ticks(ax.xaxis)
        set_ticks(ax.yaxis)
    drawn.title("Calibration of predictions" + (", leaving each row out" if found.leave_one_out else ""))

"""Plot of the loss of variational inference."""

__all__ = ["plot_loss"]

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, ORANGE, Canvas, canvas, set_ticks
from aimz.plots.text import format_number

_MAX_POINTS = 600
"""Maximum number of points of a line."""


def plot_loss(source: Any, *, yscale: str | None = None, figsize: tuple[float, float] | None = None) -> Figure:
    """Plot the negative ELBO of each step: the whole run, and an enlarged view of its end.

    The pale area spans the lowest and highest loss of neighbouring steps; the line is their average.  The right panel
    shows the last fifth of the steps with the averages of its halves, which :meth:`ImpactModel.diagnose` compares: if
    the loss still decreases there, more steps are needed.

    Parameters
    ----------
    source : ImpactModel, object with ``losses``, or array_like of shape (n_steps,)
        A model fitted by SVI, the result of SVI, or losses.
    yscale : {"linear", "log"}, optional
        Scale of the left panel.  By default logarithmic if all losses are positive and span more than a factor of ten.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there are no losses, or none is finite.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.plots import plot_loss
    >>> figure = plot_loss(100 + 900 * np.exp(-np.arange(2000) / 200))
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['step', 'step']
    """
    losses = _read_losses(source)
    finite = np.isfinite(losses)
    if not finite.any():
        msg = f"`plot_loss` needs finite losses; got {len(losses):,} and none that is. Fit again."
        raise ValueError(msg)
    if yscale not in (None, "linear", "log"):
        msg = f"`yscale` must be 'linear' or 'log'; got {yscale!r}. Omit it to choose automatically."
        raise ValueError(msg)
    low, high = losses[finite].min(), losses[finite].max()
    if yscale == "log" and low <= 0:
        msg = f"`yscale='log'` needs positive losses; the lowest is {low:.4g}. Omit it, or pass 'linear'."
        raise ValueError(msg)
    log = low > 0 and high > 10 * low if yscale is None else yscale == "log"
    with canvas((9.0, 3.8), columns=2, figsize=figsize) as drawn:
        whole, end = drawn.axes
        first = _draw_end(drawn, end, losses)
        _draw_line(whole, np.arange(1, len(losses) + 1), losses, symmetric=True)
        whole.set_yscale("log" if log else "linear")
        whole.axvspan(first + 0.5, len(losses) + 0.5, color=ORANGE, alpha=0.12, linewidth=0)
        whole.set_ylabel("negative ELBO" + (", logarithmic" if log else ""))
        drawn.subtitle(whole, "All steps; the shaded end is on the right.")
        for ax in drawn.axes:
            ax.set_xlabel("step")
            set_ticks(ax.xaxis, most=4)
            if ax is end or not log:
                set_ticks(ax.yaxis)
        drawn.title("Loss of the fit")
        lost = int((~finite).sum())
        drawn.caption(
            "Line: running average; pale: single steps; orange: averages of the last two tenths.",
            f"{lost:,} step(s) whose loss is not finite are left out." if lost else "",
        )
        return drawn.figure


def _read_losses(source: Any) -> np.ndarray:
    """Return the losses of a model or of a result of SVI."""
    found = source.vi_result if hasattr(source, "vi_result") else source
    found = getattr(found, "losses", None if hasattr(source, "vi_result") else source)
    if found is None:
        msg = (
            f"`plot_loss` needs losses of SVI; {type(source).__name__} has none. Pass a model that `fit` or "
            "`fit_on_batch` fitted by SVI; for chains of MCMC call `diagnose`."
        )
        raise ValueError(msg)
    try:
        losses = np.asarray(found, np.float64).ravel()
    except (TypeError, ValueError) as error:
        msg = f"`plot_loss` needs a model fitted by SVI, or losses as numbers; got {type(source).__name__}."
        raise TypeError(msg) from error
    if losses.size < 2:
        msg = f"`plot_loss` needs at least two steps; got {losses.size}. Fit first, with more steps."
        raise ValueError(msg)
    return losses


def _draw_end(drawn: Canvas, ax: Any, losses: np.ndarray) -> int:
    """Draw the last fifth of the steps with the averages of its halves; return the number of earlier steps."""
    n, tenth = len(losses), max(1, len(losses) // 10)
    first = max(0, n - 2 * tenth)
    _draw_line(ax, np.arange(first + 1, n + 1), losses[first:], symmetric=False)
    means = []
    for start, stop in ((first, n - tenth), (n - tenth, n)):
        part = losses[start:stop][np.isfinite(losses[start:stop])]
        if part.size:
            means.append(part.mean())
            ax.hlines(means[-1], start + 1, stop, color=ORANGE, linewidth=2, zorder=3)
    change = ""
    if len(means) == 2:
        side = "below" if means[1] < means[0] else "above"
        change = f" The average of the last tenth is {format_number(abs(means[1] - means[0]))} {side} the tenth before."
    drawn.subtitle(ax, f"The last {n - first:,} steps.{change}")
    return first


def _draw_line(ax: Any, steps: np.ndarray, losses: np.ndarray, *, symmetric: bool) -> None:
    """Draw the losses and their running average; very many steps are binned."""
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    if not losses.size:
        return
    if losses.size <= _MAX_POINTS:
        ax.plot(steps, losses, color=BLUE, alpha=0.35, linewidth=0.8)
        ax.plot(steps, _running_mean(losses, losses.size // 40, symmetric=symmetric), color=BLUE, linewidth=1.6)
        return
    edges = np.linspace(0, losses.size, _MAX_POINTS + 1).astype(np.int64)
    starts, count = edges[:-1], np.diff(edges)
    at = np.add.reduceat(steps.astype(np.float64), starts) / count
    lowest, highest = np.minimum.reduceat(losses, starts), np.maximum.reduceat(losses, starts)
    ax.fill_between(at, lowest, highest, color=BLUE, alpha=0.25, linewidth=0)
    means = np.add.reduceat(losses, starts) / count
    ax.plot(at, _running_mean(means, 6, symmetric=symmetric), color=BLUE, linewidth=1.6)
    ax.margins(x=0.02)


def _running_mean(values: np.ndarray, width: int, *, symmetric: bool) -> np.ndarray:
    """Return the average of each value with ``width`` values before and after it.

    There are fewer after it at the end, and fewer before it at the start; if ``symmetric``, then also fewer after it,
    because a loss decreases steeply at the start.
    """
    place = np.arange(values.size)
    before = np.minimum(width, place)
    after = np.minimum(width, values.size - 1 - place)
    after = np.minimum(after, before) if symmetric else after
    total = np.concatenate([[0.0], np.cumsum(values - values[-1])])
    return np.asarray((total[place + after + 1] - total[place - before]) / (before + after + 1) + values[-1])

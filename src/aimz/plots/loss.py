"""The loss of variational inference, step by step."""

__all__ = ["plot_loss"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.plots.figure import BLUE, GREY, ORANGE, canvas, note, numbers
from aimz.plots.text import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 600
"""Points a line has at most."""


def plot_loss(source: Any, *, yscale: str | None = None, figsize: tuple[float, float] | None = None) -> "Figure":
    """Draw the negative ELBO of each step: the whole run, and its end from near by.

    The pale area is what single steps lost, from the lowest to the highest of neighbouring steps; the line is their
    average.  The right panel shows the last fifth of the steps with the averages of its halves, which is what
    :meth:`ImpactModel.diagnose` compares: a loss still falling there wants more steps.

    Parameters
    ----------
    source : ImpactModel, or anything with ``losses``, or array_like of shape (n_steps,)
        A model that was fitted by SVI, what SVI returned, or losses.
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
        If there are no losses, or none that is finite.
    ImportError
        If matplotlib or arviz-plots are not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.plots import plot_loss
    >>> figure = plot_loss(100 + 900 * np.exp(-np.arange(2000) / 200))
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['step', 'step']
    """
    losses = _read(source)
    finite = np.isfinite(losses)
    if not finite.any():
        msg = f"`plot_loss` needs losses that are finite; got {len(losses):,} and none that is. Fit again."
        raise ValueError(msg)
    if yscale not in (None, "linear", "log"):
        msg = f"`yscale` must be 'linear' or 'log'; got {yscale!r}. Leave it out to have it chosen."
        raise ValueError(msg)
    low, high = losses[finite].min(), losses[finite].max()
    if yscale == "log" and low <= 0:
        msg = f"`yscale='log'` needs positive losses; the lowest is {low:.4g}. Leave it out, or pass 'linear'."
        raise ValueError(msg)
    log = low > 0 and high > 10 * low if yscale is None else yscale == "log"
    steps = np.arange(1, len(losses) + 1)
    tenth = max(1, len(losses) // 10)
    tail = slice(max(0, len(losses) - 2 * tenth), None)
    with canvas("plot_loss", (9.0, 3.8), columns=2, figsize=figsize) as drawn:
        whole, end = drawn.axes
        _line(whole, steps, losses, steep=True)
        whole.set_yscale("log" if log else "linear")
        whole.axvspan(steps[tail][0] - 0.5, len(losses) + 0.5, color=ORANGE, alpha=0.12, linewidth=0)
        note(whole, ["All steps; the shaded end is on the right."])
        _line(end, steps[tail], losses[tail], steep=False)
        means = []
        for part in (slice(tail.start, len(losses) - tenth), slice(len(losses) - tenth, None)):
            if finite[part].any():
                means.append(losses[part][finite[part]].mean())
                end.hlines(means[-1], steps[part][0], steps[part][-1], color=ORANGE, linewidth=2, zorder=3)
        change = f"The average of the last tenth is {_moved(means)} the tenth before." if len(means) == 2 else ""
        note(end, [f"The last {len(losses[tail]):,} steps. {change}"])
        for ax in drawn.axes:
            ax.set_xlabel("step")
            numbers(ax.xaxis, most=4)
        whole.set_ylabel("negative ELBO" + (", logarithmic" if log else ""))
        if not log:
            numbers(whole.yaxis)
        numbers(end.yaxis)
        drawn.title("Loss of the fit")
        lost = int((~finite).sum())
        drawn.foot(
            "Line: running average; pale: single steps; orange: averages of the last two tenths.",
            f"{lost:,} step(s) whose loss is not finite are left out." if lost else "",
        )
        return drawn.figure  # type: ignore[no-any-return]


def _read(source: Any) -> np.ndarray:
    """Return the losses of whatever holds them."""
    found = source.vi_result if hasattr(source, "vi_result") else source
    found = getattr(found, "losses", None if found is not source or hasattr(source, "vi_result") else source)
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


def _line(ax: Any, steps: np.ndarray, losses: np.ndarray, *, steep: bool) -> None:
    """Draw what single steps lost, and their running average; of very many steps, by bins."""
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    if not losses.size:
        return
    if losses.size <= _BINS:
        ax.plot(steps, losses, color=BLUE, alpha=0.35, linewidth=0.8)
        ax.plot(steps, _smooth(losses, losses.size // 40, steep=steep), color=BLUE, linewidth=1.6)
        return
    edges = np.linspace(0, losses.size, _BINS + 1).astype(np.int64)
    starts, count = edges[:-1], np.diff(edges)
    at = np.add.reduceat(steps.astype(np.float64), starts) / count
    lowest, highest = np.minimum.reduceat(losses, starts), np.maximum.reduceat(losses, starts)
    ax.fill_between(at, lowest, highest, color=BLUE, alpha=0.25, linewidth=0)
    means = np.add.reduceat(losses, starts) / count
    ax.plot(at, _smooth(means, 6, steep=steep), color=BLUE, linewidth=1.6)
    ax.margins(x=0.02)
    ax.tick_params(color=GREY)


def _smooth(values: np.ndarray, near: int, *, steep: bool) -> np.ndarray:
    """Return the average of each value with so many before and after it.

    At the end there are fewer after it; at the start, where a run is ``steep``, as few after as before.
    """
    place = np.arange(values.size)
    before = np.minimum(near, place)
    after = np.minimum(near, values.size - 1 - place)
    after = np.minimum(after, before) if steep else after
    total = np.concatenate([[0.0], np.cumsum(values - values[-1])])
    return np.asarray((total[place + after + 1] - total[place - before]) / (before + after + 1) + values[-1])


def _moved(means: Sequence[float]) -> str:
    change = means[-1] - means[0]
    return f"{number(abs(change))} {'below' if change < 0 else 'above'}"

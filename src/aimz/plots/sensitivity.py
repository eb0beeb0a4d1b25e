"""Plot of the effect that hidden common causes of several strengths leave."""

__all__ = ["plot_sensitivity"]

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, DARK, GREY, ORANGE, Canvas, canvas, set_ticks, shorten_text
from aimz.plots.text import format_number, interval_name
from aimz.statistics import e_value, read_ci

_GRID, _WHOLE = 200, 0.999


def plot_sensitivity(
    result: Any,
    *,
    times: Iterable[float] = (1, 2, 3),
    level: float = 0.05,
    xlim: float | None = None,
    ylim: float | None = None,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot contours of the effect that hidden common causes leave, with the benchmarks.

    For a ratio, the plot has the pairs of ratios with treatment and outcome that explain it away.

    Parameters
    ----------
    result : SensitivityResult
        Result of :meth:`ImpactModel.sensitivity`.
    times : iterable of float
        Multiples of each benchmark that are marked, up to the first that explains the whole outcome.
    level : float
        The dashed line has hidden causes that leave a probability of ``1 - level / 2`` that the effect has its sign.
    xlim, ylim : float, optional
        Largest partial R², or ratio, on each axis.
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
        If ``result`` is no result of ``sensitivity``, or a number is out of range.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.plots import plot_sensitivity
    >>> from aimz.statistics import ConfoundingBias
    >>> from aimz.validation import SensitivityResult
    >>> draws = np.random.default_rng(0).normal(1.0, 0.2, 500)
    >>> bias = ConfoundingBias(draws, np.full(500, 2.0), 0.5, {})
    >>> result = SensitivityResult("mail", "y", "difference", ("age",), 800, 1, strengths=bias)
    >>> plot_sensitivity(result).axes[0].get_xlabel()
    'partial R² of the hidden cause with mail'
    """
    if not hasattr(result, "strengths") or not hasattr(result, "treatment"):
        msg = f"`plot_sensitivity` needs a result of `sensitivity`; got {type(result).__name__}. Call it first."
        raise TypeError(msg)
    if not 0 < level < 1 or any(one is not None and not one > 0 for one in (xlim, ylim)):
        msg = f"`level` must be between 0 and 1 and limits above 0; got {level!r}, {xlim!r} and {ylim!r}. Omit them."
        raise ValueError(msg)
    with canvas((6.4, 5.4), ax=ax, figsize=figsize) as drawn:
        if result.strengths is None:
            _draw_ratios(drawn, result, level, xlim, ylim)
        else:
            _draw_contours(drawn, result, [float(k) for k in times], level, xlim, ylim)
        return drawn.figure


def _draw_contours(
    drawn: Canvas, result: Any, times: list[float], level: float, xlim: float | None, ylim: float | None
) -> None:
    """Draw contours of the mean effect over both partial R²."""
    ax, bias = drawn.ax, result.strengths
    points = []
    for name, benchmark in bias.benchmarks.items():
        for k in sorted(times):
            treatment, outcome = benchmark.bound(k)
            if np.isnan(treatment):
                break
            left = float(result.unit * bias.adjusted(treatment, outcome).mean())
            points.append((f"{k:g} x {name}", treatment, float(outcome.mean()), left))
            if outcome.mean() > _WHOLE:  # a stronger cause would explain no more of the outcome
                break
    value = result.robustness_value()
    xlim = min(0.99, xlim or max([1.15 * p[1] for p in points] + [1.8 * value, 0.05]))
    ylim = min(1.0, ylim or max([1.15 * p[2] for p in points] + [1.8 * value, 0.05]))
    x, y = np.linspace(1e-6, xlim, _GRID), np.linspace(1e-6, ylim, _GRID)
    strength = np.sqrt(y[:, None] * x / (1 - x))
    slope = float((bias.sd_outcome / bias.sd_treatment).mean())
    left = result.unit * (float(bias.effect.mean()) - bias.sign * strength * slope)
    lines = ax.contour(x, y, left, levels=8, colors=GREY, linewidths=0.8)
    ax.clabel(lines, fmt=format_number, fontsize=8)
    ax.contour(x, y, left, levels=[0.0], colors=ORANGE, linewidths=1.8)
    ax.plot([], [], color=ORANGE, linewidth=1.8, label="effect 0")
    certain = float(np.quantile(bias.sign * bias.f, level / 2))
    if certain > 0:
        ax.plot(x, certain**2 * (1 - x) / x, color=DARK, linewidth=1.2, linestyle="--")
        side = ">" if result.unit * bias.sign > 0 else "<"
        ax.plot([], [], color=DARK, linestyle="--", label=f"P(effect {side} 0) = {100 * (1 - level / 2):.4g} %")
    for label, treatment, outcome, effect in points:
        if treatment <= xlim and outcome <= ylim:
            ax.plot([treatment], [outcome], "D", color=BLUE, markersize=5, markeredgecolor="white", zorder=4)
            text = f"{shorten_text(label, 1.3)} ({format_number(effect)})"
            right = treatment < 0.6 * xlim
            ax.annotate(
                text,
                (treatment, outcome),
                xytext=(6 if right else -6, 4),
                textcoords="offset points",
                ha="left" if right else "right",
                fontsize=8,
                color=BLUE,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
                zorder=5,
            )
    ax.set(xlim=(0, xlim), ylim=(0, ylim))
    ax.grid(visible=False)
    set_ticks(ax.xaxis)
    set_ticks(ax.yaxis)
    drawn.xlabel(f"partial R² of the hidden cause with {result.treatment}")
    drawn.ylabel(f"partial R² of the hidden cause with {result.outcome}")
    drawn.title(f"Effect of {result.treatment} on {result.outcome} that a hidden cause leaves")
    drawn.legend()
    drawn.caption(
        f"Contours: posterior mean; {format_number(float(result.effect.mean()))} without a hidden cause.",
        "Diamonds: causes as strong as multiples of a covariate." if points else "",
    )


def _draw_ratios(drawn: Canvas, result: Any, level: float, xlim: float | None, ylim: float | None) -> None:
    """Draw the pairs of ratios with treatment and outcome that explain a ratio away."""
    ax = drawn.ax
    away = result.ratio if result.ratio.mean() >= 1 else 1 / result.ratio
    middle, bound = float(np.median(away)), float(np.quantile(away, level / 2))
    most = 2.5 * float(e_value(middle))
    xlim, ylim = xlim or most, ylim or most
    drawn_lines = [(middle, ORANGE, "-", f"explains the ratio {format_number(float(np.median(result.ratio)))} away")]
    if bound > 1:
        drawn_lines.append((bound, DARK, "--", f"leaves P = {100 * (1 - level / 2):.4g} %"))
    for ratio, colour, style, label in drawn_lines:
        x = np.linspace(ratio * 1.0001, xlim, _GRID)
        ax.plot(x, ratio * (x - 1) / (x - ratio), color=colour, linestyle=style, linewidth=1.6, label=label)
        value = float(e_value(ratio))
        ax.plot([value], [value], "D", color=BLUE, markersize=5, markeredgecolor="white", zorder=4)
        ax.annotate(
            f"E-value {format_number(value)}", (value, value), xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    ax.set(xlim=(1, xlim), ylim=(1, ylim))
    drawn.xlabel(f"ratio of the hidden cause with {result.treatment}")
    drawn.ylabel(f"ratio of the hidden cause with {result.outcome}")
    drawn.title(f"Hidden causes that explain the effect of {result.treatment} on {result.outcome} away")
    drawn.legend()
    drawn.caption(f"A cause above a line could explain more; {interval_name(read_ci(None, None))} in the summary.")

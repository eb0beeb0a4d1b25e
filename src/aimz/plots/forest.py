"""Estimates with intervals: one on each line, or one at each row."""

__all__ = ["LABEL_WIDTH", "Line", "draw_forest", "draw_rows", "forest_height", "label_lines"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from aimz.plots.figure import COLOURS, DARK, GREY, Canvas, set_ticks, shorten_text
from aimz.plots.selection import SortedRows

LABEL_WIDTH = 2.6
"""Maximum width of a label in inches."""


@dataclass(frozen=True)
class Line:
    """Estimates on one line of a forest plot, one for each scenario."""

    label: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    overall: bool = False
    """Whether the line is for all rows, not for a group."""


def forest_height(n_lines: int, n_each: int = 1) -> float:
    """Return the height of a forest plot in inches."""
    each = 0.34 if n_lines <= 25 else 0.26 if n_lines <= 60 else 0.17
    return 1.6 + n_lines * max(each, 0.13 * n_each)


def draw_forest(ax: Any, lines: Sequence[Line], no_effect: float, names: Sequence[str]) -> int:
    """Draw lines from top to bottom, with an estimate for each name; return how many are labelled.

    A mark is filled if its interval excludes ``no_effect``.
    """
    places = np.arange(len(lines))[::-1].astype(np.float64)
    n_each, small = len(names), len(lines) > 60
    shifts = (np.arange(n_each)[::-1] - (n_each - 1) / 2) * min(0.24, 0.7 / n_each)
    overall = np.array([line.overall for line in lines])
    for j, name in enumerate(names):
        mean, low, high = (np.array([getattr(line, end)[j] for line in lines]) for end in ("mean", "low", "high"))
        excludes = (low > no_effect) | (high < no_effect)
        own = COLOURS[j % len(COLOURS)]
        colours = np.where(excludes, own, own if n_each > 1 else GREY)
        y = places + shifts[j]
        ax.hlines(y, low, high, color=colours, linewidth=1.2 if small else 1.8, zorder=3)
        size = 16 if small else 30 if n_each == 1 else 20
        faces = np.where(excludes, colours, "white")
        for part, marker in ((~overall, "o"), (overall, "D")):
            ax.scatter(mean[part], y[part], s=size, marker=marker, c=faces[part], edgecolors=colours[part], zorder=4)
        ax.plot([], [], color=own, marker="o", label=name)
    ax.axvline(no_effect, color=DARK, linewidth=0.9, zorder=2)
    ax.set_ylim(-0.7, len(lines) - 0.3)
    if overall.any() and len(lines) > 1:
        ax.axhline(places[np.flatnonzero(~overall)[0]] + 0.5, color=GREY, linewidth=0.7)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return label_lines(ax, [line.label for line in lines], places)


def label_lines(ax: Any, labels: Sequence[str], places: np.ndarray, below: Sequence[str] = ()) -> int:
    """Label lines, or every second, third, ... of them if the figure is too low; return how many are labelled.

    The texts ``below`` are added as a second line of each label if there is space.
    """
    size = 9.0 if len(labels) <= 60 else 7.0
    figure = ax.get_figure()
    axes_height = ax.get_position().height * figure.get_figheight()
    height = figure.get_figheight() - 1.6 if len(figure.axes) == 1 else axes_height
    every = max(1, int(np.ceil(len(labels) * size * 1.35 / 72 / max(height, 0.1))))
    width = min(LABEL_WIDTH, 0.36 * figure.get_figwidth())
    texts = [shorten_text(label, width, size) for label in labels]
    if below and height / len(labels) > 2.6 * size / 72:
        texts = [f"{text}\n{shorten_text(more, width, size)}".strip() for text, more in zip(texts, below, strict=True)]
    ax.set_yticks(places[::every], texts[::every], fontsize=size)
    return len(texts[::every])


def draw_rows(drawn: Canvas, rows: SortedRows, colours: Sequence[str]) -> None:
    """Draw pale intervals of many rows next to each other, without gaps, which would look like stripes."""
    ax, n = drawn.ax, len(rows.drawn)
    low, high = rows.low[rows.drawn], rows.high[rows.drawn]
    pale = [tuple(0.42 * part + 0.58 for part in to_rgb(colour)) for colour in colours]
    if n < 60:
        ax.vlines(rows.share, low, high, color=pale, linewidth=min(8.0, 160 / n))
    else:
        ax.bar(rows.share, high - low, 1.1 / n, bottom=low, color=pale, linewidth=0, antialiased=False)
    ax.set_xlim(0, 1)
    set_ticks(ax.xaxis, unit=" %")

"""Estimates with intervals, one to a line."""

__all__ = ["LABEL_WIDTH", "Line", "draw_forest", "forest_height", "label_font", "label_lines"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.plots.figure import COLOURS, DARK, GREY, shortened

LABEL_WIDTH = 2.6
"""Inches a label has at most."""


@dataclass(frozen=True)
class Line:
    """What stands on one line: an estimate for each scenario."""

    label: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    overall: bool = False


def forest_height(n_lines: int, n_each: int = 1) -> float:
    """Return the height of a forest in inches: a line for each label, smaller where they are many."""
    each = 0.34 if n_lines <= 25 else 0.26 if n_lines <= 60 else 0.17
    return 1.6 + n_lines * max(each, 0.13 * n_each)


def label_font(n_lines: int) -> float:
    """Return the size of the labels in points."""
    return 9.0 if n_lines <= 60 else 7.0


def draw_forest(ax: Any, lines: Sequence[Line], null: float, names: Sequence[str]) -> list[int]:
    """Draw one line below the other, the first on top; return which of them are labelled."""
    places = np.arange(len(lines))[::-1].astype(np.float64)
    n_each = len(names)
    shifts = (np.arange(n_each)[::-1] - (n_each - 1) / 2) * min(0.24, 0.7 / n_each)
    small = len(lines) > 60
    top = np.array([line.overall for line in lines])
    for j in range(n_each):
        low, mean, high = (np.array([getattr(line, end)[j] for line in lines]) for end in ("low", "mean", "high"))
        sure = (low > null) | (high < null)
        own = COLOURS[j % len(COLOURS)]
        colours = np.where(sure, own, own if n_each > 1 else GREY)
        y = places + shifts[j]
        ax.hlines(y, low, high, color=colours, linewidth=1.2 if small else 1.8, zorder=3)
        size = 16 if small else 30 if n_each == 1 else 20
        for part, marker in ((~top, "o"), (top, "D")):
            faces = np.where(sure, colours, "white")[part]
            ax.scatter(mean[part], y[part], s=size, marker=marker, c=faces, edgecolors=colours[part], zorder=4)
        ax.plot([], [], color=own, marker="o", label=names[j])
    ax.axvline(null, color=DARK, linewidth=0.9, zorder=2)
    ax.set_ylim(-0.7, len(lines) - 0.3)
    if top.any() and len(lines) > 1:
        edge = places[np.flatnonzero(~top)[0]] + 0.5
        ax.axhline(edge, color=GREY, linewidth=0.7)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return label_lines(ax, [line.label for line in lines], places)


def label_lines(ax: Any, labels: Sequence[str], places: np.ndarray, below: Sequence[str] = ()) -> list[int]:
    """Label lines; where the figure is too low for all, every second, third, ... of them.

    What stands ``below`` a label is written where there is room for two lines each.
    """
    size = label_font(len(labels))
    figure = ax.get_figure()
    room = figure.get_figheight() - 1.6 if len(figure.axes) == 1 else ax.get_position().height * figure.get_figheight()
    every = max(1, int(np.ceil(len(labels) * size * 1.35 / 72 / max(room, 0.1))))
    shown = list(range(0, len(labels), every))
    width = min(LABEL_WIDTH, 0.36 * figure.get_figwidth())
    texts = [shortened(label, width, size) for label in labels]
    if below and room / len(labels) > 2.6 * size / 72:
        texts = [f"{text}\n{shortened(more, width, size)}".strip() for text, more in zip(texts, below, strict=True)]
    ax.set_yticks(places[shown], [texts[i] for i in shown], fontsize=size)
    return shown

"""Judging a picture without an eye: whether its text can be read, and whether it looks like another."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

REFERENCE = Path(__file__).parent / "reference"
DPI = 50
_BLOCK, _NEAR = 6, 4


def texts(figure: Figure) -> list[tuple[str, Any]]:
    """Return every text that is seen, and where it is in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    unseen = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            gone = [tick for tick in ticks if not low - margin <= tick.get_loc() <= high + margin]
            unseen |= {text for tick in gone for text in (tick.label1, tick.label2)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in unseen]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found]


def out_of_place(figure: Figure, dpi: int = 72) -> list[str]:
    """Return what is wrong with the texts of a figure: cut off at its edge, or one on top of another."""
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    found = texts(figure)
    width, height = figure.bbox.size
    wrong = [
        f"clipped: {text!r}"
        for text, box in found
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
    ]
    boxes = np.array([[box.x0, box.y0, box.x1, box.y1] for _, box in found])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    for i, j in zip(*np.nonzero(np.triu((high - low > 1.0).all(-1), 1)), strict=True):
        wrong.append(f"overlap: {found[i][0]!r} and {found[j][0]!r}")
    return wrong


def pixels(picture: Any) -> np.ndarray:
    """Return the colours of a figure or a file, of shape ``(height, width, 3)``, between 0 and 1."""
    if not isinstance(picture, Figure):
        return np.asarray(imread(picture))[..., :3]
    picture.set_dpi(DPI)
    written = [(text, text.get_alpha()) for text in picture.findobj(Text)]
    for text, _ in written:
        text.set_alpha(0.25)  # fonts are drawn a little differently by each version, and are looked at elsewhere
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    for text, alpha in written:
        text.set_alpha(alpha)
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return how much two pictures differ where they differ most, seen from afar.

    Colours are averaged over squares of a few pixels, and a square is compared with the most similar one nearby: lines
    may move by a few pixels where letters are a little wider.
    """
    if one.shape != other.shape:
        return 1.0
    return max(_lacking(one, other), _lacking(other, one))


def _lacking(here: np.ndarray, there: np.ndarray) -> float:
    """Return how much of one picture is not in the other, nor near its place there."""
    height, width = here.shape[:2]
    padded = np.pad(there, ((_NEAR, _NEAR), (_NEAR, _NEAR), (0, 0)), mode="edge")
    seen, least = _blurred(here), np.inf
    for i in range(0, 2 * _NEAR + 1, 2):
        for j in range(0, 2 * _NEAR + 1, 2):
            shifted = _blurred(padded[i : i + height, j : j + width])
            least = np.minimum(least, np.abs(seen - shifted).max(-1))
    return float(np.sort(least, axis=None)[-3:].mean())


def _blurred(image: np.ndarray) -> np.ndarray:
    height, width = (size // _BLOCK * _BLOCK for size in image.shape[:2])
    blocks = image[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, 3)
    return blocks.mean(axis=(1, 3))

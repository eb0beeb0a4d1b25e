"""Checks of a figure's text, and comparison of images."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

REFERENCE = Path(__file__).parent / "reference"
DPI = 50
_BLOCK, _SHIFT = 6, 4


def texts(figure: Figure) -> list[tuple[str, Any]]:
    """Return each visible text and its bounding box in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            outside = [tick for tick in ticks if not low - margin <= tick.get_loc() <= high + margin]
            hidden |= {text for tick in outside for text in (tick.label1, tick.label2)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found]


def misplaced_texts(figure: Figure, dpi: int = 72) -> list[str]:
    """Return the texts of a figure that are cut off at its edge or overlap."""
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
        text.set_alpha(0.25)  # the rendering of fonts varies with versions; texts are checked separately
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    for text, alpha in written:
        text.set_alpha(alpha)
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def distance(image: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference between two images at low resolution.

    Colours are averaged over blocks of a few pixels, and a block is compared with the most similar one nearby: lines
    may move by a few pixels if letters are slightly wider.
    """
    if image.shape != other.shape:
        return 1.0
    return max(_missing(image, other), _missing(other, image))


def _missing(image: np.ndarray, other: np.ndarray) -> float:
    """Return how much of an image is not in the other one, at or near the same place."""
    height, width = image.shape[:2]
    padded = np.pad(other, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
    blurred, least = _blurred(image), np.inf
    for i in range(0, 2 * _SHIFT + 1, 2):
        for j in range(0, 2 * _SHIFT + 1, 2):
            shifted = _blurred(padded[i : i + height, j : j + width])
            least = np.minimum(least, np.abs(blurred - shifted).max(-1))
    return float(np.sort(least, axis=None)[-3:].mean())


def _blurred(image: np.ndarray) -> np.ndarray:
    height, width = (size // _BLOCK * _BLOCK for size in image.shape[:2])
    blocks = image[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, 3)
    return blocks.mean(axis=(1, 3))

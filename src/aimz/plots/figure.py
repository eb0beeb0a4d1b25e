"""Figures, their style, and text that is wrapped to fit.

Figures are created without ``pyplot``, so that none stays registered.  They are drawn with matplotlib's default style
and the settings below, so that they depend on neither the user's style nor earlier figures.
"""

__all__ = ["BLUE", "COLOURS", "DARK", "GREY", "ORANGE", "Canvas", "canvas", "set_ticks", "shorten_text", "wrap_text"]

import io
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator

# The palette of Okabe and Ito (2008), which is distinguishable with any colour vision.
BLUE, ORANGE, DARK, GREY = "#0072B2", "#D55E00", "#222222", "#767676"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SIZE, _NOTE_SIZE, _TITLE_SIZE = 10.0, 8.5, 12.0
_STYLE: Mapping[str, Any] = {
    "axes.titlesize": _SIZE,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": DARK,
    "text.color": DARK,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True)
class Canvas:
    """A figure and the axes to draw on."""

    figure: Figure
    axes: tuple[Any, ...]
    own: bool
    """True for a new figure, False for axes that the user passed."""

    @property
    def ax(self) -> Any:
        """First axes."""
        return self.axes[0]

    def title(self, text: str) -> None:
        """Set the title of a new figure, or of the user's axes."""
        if self.own:
            lines = wrap_text(text, self.figure.get_figwidth() - 0.3, _TITLE_SIZE)
            self.figure.suptitle(lines, x=0.01, ha="left", fontsize=_TITLE_SIZE)
        else:
            self.ax.set_title(wrap_text(text, _width(self.ax), _SIZE), loc="left")

    def xlabel(self, text: str, ax: Any = None, *, margin: float = 0.0) -> None:
        """Set the label of the horizontal axis; tick labels to its left take ``margin`` inches."""
        ax = self.ax if ax is None else ax
        width = 0.8 * (self.figure.get_figwidth() / len(self.axes) - margin) if self.own else _width(ax)
        ax.set_xlabel(wrap_text(text, width, _SIZE))

    def ylabel(self, text: str, ax: Any = None) -> None:
        """Set the label of the vertical axis."""
        ax = self.ax if ax is None else ax
        share = 0.6 if self.own else ax.get_position().height
        ax.set_ylabel(wrap_text(text, self.figure.get_figheight() * share, _SIZE))

    def subtitle(self, ax: Any, *lines: str) -> None:
        """Write small text above axes."""
        width = 0.76 * self.figure.get_figwidth() / len(self.figure.axes)
        text = "\n".join(wrap_text(line, width, _NOTE_SIZE) for line in lines)
        ax.set_title(text, loc="left", fontsize=_NOTE_SIZE, color=GREY)

    def legend(self) -> None:
        """Add a legend above the axes, in as many columns as fit."""
        handles, labels = self.ax.get_legend_handles_labels()
        width = self.figure.get_figwidth() * 0.8 if self.own else _width(self.ax)
        widths = [0.6 + _inches(label, 9) for label in labels]
        columns = len(labels) if sum(widths) <= width else max(1, int(width / max(widths)))
        self.ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)

    def caption(self, *sentences: str) -> None:
        """Write the sentences that are not empty below the figure."""
        text = " ".join(filter(None, sentences))
        if self.own:
            lines = wrap_text(text, self.figure.get_figwidth() - 0.3, _NOTE_SIZE, 6)
            self.figure.supxlabel(lines, x=0.01, ha="left", fontsize=_NOTE_SIZE, color=GREY)
        else:
            self.ax.set_xlabel(f"{self.ax.get_xlabel()}\n{wrap_text(text, _width(self.ax), _NOTE_SIZE, 6)}".strip())


@contextmanager
def canvas(
    size: tuple[float, float], *, rows: int = 1, columns: int = 1, ax: Any = None, figsize: Any = None
) -> Iterator[Canvas]:
    """Yield a new figure of ``size`` inches, or the user's axes, and apply the style while it is drawn.

    Axes in several rows share the horizontal axis.

    Raises
    ------
    TypeError, ValueError
        If ``ax`` is not a matplotlib axes, or ``figsize`` is not a pair of positive numbers.
    """
    size = size if figsize is None else _read_size(figsize, size)
    if ax is not None and not hasattr(ax, "get_figure"):
        msg = f"`ax` must be a matplotlib axes; got {type(ax).__name__}. Omit it to draw on a new figure."
        raise TypeError(msg)
    # The user's fonts supply characters that DejaVu Sans lacks.
    fonts = ["DejaVu Sans", *(font for font in matplotlib.rcParams["font.family"] if font != "DejaVu Sans")]
    with matplotlib.style.context(["default", {**_STYLE, "font.family": fonts}]):
        if ax is not None:
            yield Canvas(ax.get_figure(), (ax,), own=False)
            return
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        # Notebooks display figures of pyplot; others need a representation.
        figure._repr_png_ = partial(_to_png, figure)  # type: ignore[attr-defined]
        axes = tuple(figure.subplots(rows, columns, squeeze=False, sharex=rows > 1).ravel())
        for each in axes:
            # Ticks are created when the figure is drawn, with the style of that time, so all is set here.
            each.tick_params(
                which="both", color=GREY, labelcolor=DARK, labelsize=9, labelfontfamily=fonts, direction="out"
            )
            each.tick_params(which="major", length=3.5, width=0.8, pad=3.5)
            each.grid(visible=True, color="#E4E4E4", linewidth=0.7, linestyle="-", alpha=1.0)
        yield Canvas(figure, axes, own=True)


def _to_png(figure: Any) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _read_size(given: Any, default: tuple[float, float]) -> tuple[float, float]:
    """Check a figure size in inches."""
    try:
        width, height = map(float, given)
    except (TypeError, ValueError):
        width = height = 0.0
    if not (width >= 2 and height >= 1.5):
        msg = f"`figsize` must be width and height in inches, at least (2, 1.5); got {given!r}. Try figsize={default}."
        raise ValueError(msg)
    return width, height


def _width(ax: Any) -> float:
    """Return the width of axes in inches."""
    return float(ax.get_position().width * ax.get_figure().get_figwidth())


def wrap_text(text: Any, inches: float, size: float, max_lines: int = 3) -> str:
    """Return text in lines of at most ``inches``, truncated after ``max_lines``; "$" is escaped."""
    text, n_chars = _fit(text, inches, size)
    lines = textwrap.wrap(text, n_chars, max_lines=max_lines, placeholder=" …", break_on_hyphens=False)
    return "\n".join(lines).replace("$", r"\$")


def shorten_text(text: Any, inches: float, size: float = 9.0) -> str:
    """Return text of at most ``inches``, with its middle replaced by an ellipsis if it is longer; "$" is escaped."""
    text, n_chars = _fit(text, inches, size)
    if len(text) > n_chars:
        half = (n_chars - 1) // 2
        text = f"{text[:half].rstrip()}…{text[-half:].lstrip()}"
    return str(text.replace("$", r"\$"))


def _fit(text: Any, inches: float, size: float) -> tuple[str, int]:
    """Return text with single blanks, and how many of its characters fit into ``inches``."""
    text = " ".join(str(text).replace(r"\$", "$").split())
    width = _inches(text, size)
    # A line with many wide letters is wider than the average line.
    return text, len(text) + 1 if width <= inches else max(4, int(0.95 * len(text) * inches / width))


@lru_cache(maxsize=4096)
def _inches(text: str, size: float) -> float:
    """Return the width of text, with a margin for low resolutions, where glyphs are moved to whole pixels."""
    font = FontProperties(family="DejaVu Sans", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return 1.12 * float(width) / 72


def set_ticks(axis: Any, *, unit: str = "", most: int = 6) -> None:
    """Limit the number of ticks, so that their labels do not overlap, and format shares as percentages."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    if unit:
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.6g}{unit}".replace("-", "\N{MINUS SIGN}")))

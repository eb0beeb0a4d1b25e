"""Where a picture is drawn: its figure, its style, and text that fits.

Figures are made without ``pyplot``, so that none stays registered.  The style is set around whatever is drawn, on top
of matplotlib's defaults: a picture does not depend on what else was drawn before it.
"""

__all__ = [
    "BLUE",
    "COLOURS",
    "DARK",
    "GREY",
    "ORANGE",
    "Canvas",
    "bars",
    "canvas",
    "note",
    "numbers",
    "shortened",
    "wrapped",
]

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

# Okabe and Ito (2008), which people of any colour vision tell apart.
BLUE, ORANGE, DARK, GREY = "#0072B2", "#D55E00", "#222222", "#767676"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SIZE, _NOTE_SIZE, _TITLE_SIZE = 10.0, 8.5, 12.0
_STYLE: Mapping[str, Any] = {
    "font.size": _SIZE,
    "axes.labelsize": _SIZE,
    "axes.titlesize": _SIZE,
    "figure.titlesize": _TITLE_SIZE,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": DARK,
    "text.color": DARK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": DARK,
    "ytick.labelcolor": DARK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.useoffset": False,
    "savefig.dpi": 150,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@dataclass(frozen=True)
class Canvas:
    """A figure, and the axes that are drawn on."""

    figure: Any
    axes: tuple[Any, ...]
    own: bool
    """Whether the figure is ours, or the user's with more on it."""

    @property
    def ax(self) -> Any:
        """The first of the axes."""
        return self.axes[0]

    def title(self, text: str) -> None:
        """Write what the picture shows."""
        if self.own:
            lines = wrapped(text, self.figure.get_figwidth() - 0.3, _TITLE_SIZE)
            self.figure.suptitle(lines, x=0.01, ha="left", fontsize=_TITLE_SIZE)
        else:
            self.ax.set_title(wrapped(text, _width(self.ax), _SIZE), loc="left")

    def xlabel(self, text: str, ax: Any = None, *, beside: float = 0.0) -> None:
        """Write below the horizontal axis; labels ``beside`` it leave so many inches less."""
        ax = self.ax if ax is None else ax
        width = 0.8 * (self.figure.get_figwidth() / len(self.axes) - beside) if self.own else _width(ax)
        ax.set_xlabel(wrapped(text, width, _SIZE))

    def ylabel(self, text: str, ax: Any = None) -> None:
        """Write along the vertical axis."""
        ax = self.ax if ax is None else ax
        figure = ax.get_figure()
        height = figure.get_figheight() * (0.6 if self.own else ax.get_position().height)
        ax.set_ylabel(wrapped(text, height, _SIZE))

    def legend(self) -> None:
        """Write above the axes what marks and lines are."""
        handles, labels = self.ax.get_legend_handles_labels()
        width = self.figure.get_figwidth() * 0.8 if self.own else _width(self.ax)
        widths = [0.6 + _inches(label, 9) for label in labels]
        columns = len(labels) if sum(widths) <= width else max(1, int(width / max(widths)))
        self.ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)

    def foot(self, *sentences: str) -> None:
        """Write what a reader has to know about the numbers."""
        text = " ".join(sentence for sentence in sentences if sentence)
        if self.own and text:
            lines = wrapped(text, self.figure.get_figwidth() - 0.3, _NOTE_SIZE, 6)
            self.figure.supxlabel(lines, x=0.01, ha="left", fontsize=_NOTE_SIZE, color=GREY)
        elif text:
            label = self.ax.get_xlabel()
            self.ax.set_xlabel(f"{label}\n{wrapped(text, _width(self.ax), _NOTE_SIZE, 6)}".strip())


@contextmanager
def canvas(
    what: str, size: tuple[float, float], *, columns: int = 1, ax: Any = None, figsize: Any = None
) -> Iterator[Canvas]:
    """Yield a canvas of ``size`` inches, or the one the user gave.

    Raises
    ------
    ImportError
        If matplotlib or arviz-plots are not installed; ``what`` says which call wants them.
    TypeError, ValueError
        If ``ax`` is not an axes, or ``figsize`` is not two positive numbers.
    """
    matplotlib = _import_matplotlib(what)
    from matplotlib.figure import Figure

    size = _read_size(figsize, size)
    if ax is not None and not hasattr(ax, "get_figure"):
        msg = f"`ax` must be an axes of matplotlib; got {type(ax).__name__}. Leave it out for a figure of its own."
        raise TypeError(msg)
    plain = {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if name.startswith(
            ("axes.", "font.", "xtick.", "ytick.", "text.", "lines.", "patch.", "legend.", "grid.", "path.", "figure.")
        )
        and not name.startswith(("figure.hooks", "figure.max_open"))
    }
    # Fonts of the user's are kept for letters that ours does not have.
    fonts = ["DejaVu Sans", *(f for f in matplotlib.rcParams["font.family"] if f != "DejaVu Sans")]
    with matplotlib.rc_context({**plain, **_STYLE, "font.family": fonts}):
        if ax is not None:
            yield Canvas(ax.get_figure(), (ax,), own=False)
            return
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[call-arg, union-attr]
        # Notebooks show figures that pyplot knows, and ask others how they look.
        figure._repr_png_ = partial(_as_png, figure)  # type: ignore[attr-defined]
        axes = tuple(figure.subplots(1, columns, squeeze=False)[0])
        for each in axes:
            # Ticks are made when the figure is shown, under whatever style there is then.
            each.tick_params(
                which="both", color=GREY, labelcolor=DARK, labelsize=9, labelfontfamily=fonts, direction="out"
            )
            each.tick_params(which="major", length=3.5, width=0.8, pad=3.5)
            each.grid(visible=True, color="#E4E4E4", linewidth=0.7, linestyle="-", alpha=1.0)
        yield Canvas(figure, axes, own=True)


def _as_png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _import_matplotlib(what: str) -> Any:
    try:
        import arviz_plots  # noqa: F401
        import arviz_stats  # noqa: F401
        import matplotlib
    except ImportError as error:
        msg = (
            f"`{what}` draws with matplotlib and arviz-plots, which are not installed. Call "
            '`pip install "aimz[plots]"`.'
        )
        raise ImportError(msg) from error
    return matplotlib


def _read_size(given: Any, size: tuple[float, float]) -> tuple[float, float]:
    if given is None:
        return size
    try:
        width, height = map(float, given)
    except (TypeError, ValueError):
        width = height = 0.0
    if not (width >= 2 and height >= 1.5):
        msg = f"`figsize` must be width and height in inches, at least (2, 1.5); got {given!r}. Try figsize={size}."
        raise ValueError(msg)
    return width, height


def _width(ax: Any) -> float:
    """Return the width of axes in inches."""
    return float(ax.get_position().width * ax.get_figure().get_figwidth())


def wrapped(text: str, inches: float, size: float, most: int = 3) -> str:
    """Return text in lines that are at most so wide, and at most so many; a word that is wider is shortened."""
    lines: list[str] = []
    for word in text.split():
        fitting = shortened(word, inches, size)
        longer = f"{lines[-1]} {fitting}" if lines else fitting
        if lines and _inches(longer, size) <= inches:
            lines[-1] = longer
        elif len(lines) == most:
            lines[-1] = shortened(f"{lines[-1]} …", inches, size)
            break
        else:
            lines.append(fitting)
    return "\n".join(lines)


def shortened(text: Any, inches: float, size: float = 9.0) -> str:
    """Return a text that is at most so wide, its middle left out if need be, and none of it read as a formula."""
    text = " ".join(str(text).replace(r"\$", "$").split())
    if _inches(text, size) > inches:
        least, most = 2, len(text)
        while least < most:
            kept = (least + most + 1) // 2
            if _inches(_without_middle(text, kept), size) <= inches:
                least = kept
            else:
                most = kept - 1
        text = _without_middle(text, least)
    return str(text).replace("$", r"\$")


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"


@lru_cache(maxsize=4096)
def _inches(text: str, size: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text.replace(r"\$", "$"), font, ismath=False)
    return 1.12 * float(width) / 72  # on a coarse screen letters move to whole pixels


def numbers(axis: Any, *, percent: bool = False, most: int = 6) -> None:
    """Give an axis few ticks, so that their labels do not touch, and shares as per cent."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    if percent:
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.6g} %".replace("-", "\N{MINUS SIGN}")))


def note(ax: Any, lines: Sequence[str]) -> None:
    """Write a few words above the axes."""
    width = ax.get_figure().get_figwidth() * 0.76 / max(1, len(ax.get_figure().axes))
    text = "\n".join(wrapped(line, width, _NOTE_SIZE) for line in lines)
    ax.set_title(text, loc="left", fontsize=_NOTE_SIZE, color=GREY)


def bars(ax: Any, at: Any, low: Any, high: Any, colours: Any) -> None:
    """Draw a pale interval for each of many rows, side by side and without gaps that would make stripes."""
    from matplotlib.colors import to_rgb

    pale = [tuple(0.42 * part + 0.58 for part in to_rgb(colour)) for colour in colours]
    n = len(at)
    if n < 60:
        ax.vlines(at, low, high, color=pale, linewidth=min(8.0, 160 / n))
    else:
        ax.bar(at, high - low, 1.1 / n, bottom=low, color=pale, linewidth=0, antialiased=False)

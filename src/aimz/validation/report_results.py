"""Parts of a report from results of other methods: their sentences, their table and their plot."""

__all__ = [
    "UNAVAILABLE",
    "effect_attrs",
    "effect_figure",
    "figure_of",
    "first_sentence",
    "frame_table",
    "joined",
    "loss_figure",
    "prior_figure",
    "result_blocks",
    "sentences_of_result",
    "shown",
]

import io
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Real
from types import MethodType
from typing import TYPE_CHECKING, Any

import aimz
from aimz.report import Block, Code, Figure, Table, Text

if TYPE_CHECKING:
    import pandas as pd

_MAX_LINES = 40
_MAX_SENTENCES = 8
_LONGEST = 320
"""Largest number of characters of a paragraph that is shown as a result in a list."""
_DPI = 144
_NARROW = (4.1, 3.6)
"""Size in inches of figures for narrow screens."""
UNAVAILABLE = (ImportError, TypeError, ValueError)
"""Errors of a plot or a table that a result does not have."""


def shown(value: Any) -> str:
    """Return a cell of a table as text; numbers with four digits."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    if number == round(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.4g}"


def frame_table(frame: "pd.DataFrame", caption: str) -> Table:
    """Return a data frame as a table, with its index unless that numbers the rows, and at most 40 lines."""
    numbered = list(frame.index) == list(range(len(frame)))
    if not numbered:
        frame = frame.reset_index()
    columns = tuple("" if str(name) in ("index", "level_0") else str(name) for name in frame.columns)
    lines = frame.head(_MAX_LINES).itertuples(index=False, name=None)
    more = f" ({len(frame) - _MAX_LINES:,} more lines are left out)" if len(frame) > _MAX_LINES else ""
    return Table(columns, tuple(tuple(shown(cell) for cell in line) for line in lines), caption + more)


def figure_of(
    plot: Callable[..., Any], alt: str, caption: str = "", *, narrow: tuple[float, float] | None = None
) -> Figure | None:
    """Return the image of a plot; None if matplotlib is missing or the result has no single plot.

    ``narrow`` is the size in inches of a second image for narrow screens, if ``plot`` accepts ``figsize``.
    """
    try:
        image = _png(plot())
    except UNAVAILABLE:
        return None
    try:
        second = None if narrow is None else _png(plot(figsize=narrow))
    except UNAVAILABLE:
        second = None
    return Figure(image, alt, caption, second)


def effect_attrs(effect: Any) -> Mapping[str, Any]:
    """Return the attributes of an effect; empty if it has none."""
    tree = getattr(effect, "tree", effect)
    return tree["effect"].attrs if "effect" in getattr(tree, "children", ()) else {}


def effect_figure(effect: Any, alt: str) -> Figure | None:
    """Return the plot of an effect, for wide and for narrow screens."""
    if effect is None:
        return None
    plot = aimz.plots.plot_impact if "pointwise" in getattr(effect, "children", ()) else aimz.plots.plot_effect
    plot = effect.plot if isinstance(getattr(effect, "plot", None), MethodType) else partial(plot, effect)
    return figure_of(plot, alt or "Plot of the effect", narrow=_NARROW)


def loss_figure(model: Any) -> Figure | None:
    """Return the plot of the loss of a fit."""
    return figure_of(partial(aimz.plots.plot_loss, model), "Loss of each step of the fit")


def prior_figure(tree: Any, output: str) -> Figure | None:
    """Return the plot of outcomes drawn from the priors."""
    return figure_of(partial(aimz.plots.plot_predictive, tree, var_name=output), "Outcomes that the priors predict")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def sentences_of_result(result: Any) -> list[str]:
    """Return the sentences of a result that has any."""
    found = getattr(result, "sentences", None)
    found = getattr(result, "sentence", None) if found is None else found
    found = found() if callable(found) else found
    return [found] if isinstance(found, str) else [str(one) for one in found or ()]


def first_sentence(result: Any) -> str:
    """Return the first sentence of a result, or the first paragraph of its text if it is short."""
    sentences = sentences_of_result(result)
    text = sentences[0] if sentences else _first_paragraph(result)
    if len(text) <= _LONGEST:
        return text
    head, dot, _ = text.partition(". ")
    return head + dot.strip()


def _first_paragraph(result: Any) -> str:
    """Return the first paragraph of the text of a result, in one line."""
    return " ".join(str(result).split("\n\n", maxsplit=1)[0].split())


def result_blocks(result: Any, caption: str, alt: str) -> tuple[Block, ...]:
    """Return the sentences, the plot and the table of a result; its text if it has neither sentences nor a table."""
    sentences = sentences_of_result(result)
    blocks: list[Block] = [Text(sentence) for sentence in sentences[:_MAX_SENTENCES]]
    if hasattr(result, "plot"):
        figure = figure_of(result.plot, alt)
        blocks += [] if figure is None else [figure]
    table = _table_of(result, caption)
    if table is not None:
        blocks.append(table)
    is_complete = bool(sentences) or len(_first_paragraph(result)) <= _LONGEST
    if table is None or not is_complete or (sentences and not hasattr(result, "plot")):
        blocks.insert(len(sentences), Code(str(result)))
    return tuple(blocks)


def _table_of(result: Any, caption: str) -> Table | None:
    """Return the table of a result; None if it has none."""
    for name in ("table", "summary", "to_pandas"):
        found = getattr(result, name, None)
        try:
            found = found() if callable(found) else found
        except UNAVAILABLE:
            continue
        if found is not None and hasattr(found, "itertuples") and len(found):
            return frame_table(found, caption)
    return None


def joined(names: Iterable[str]) -> str:
    """Return names as a list in words."""
    listed = [f"`{name}`" for name in names]
    return ", ".join(listed[:-1]) + " and " + listed[-1] if len(listed) > 1 else "".join(listed)

"""Tables as plain text and as HTML."""

__all__ = ["WIDTH", "format_shape", "html_block", "html_table", "text_table"]

import html
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 80
"""Number of characters of a line of text."""
_MIN_LAST = 16
"""Least number of characters of the last column."""


def format_shape(shape: Sequence[int | str]) -> str:
    """Return a shape as Python prints a tuple, without quotes around the names of axes."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table at most ``width`` wide: the last column is wrapped, others are cut in the middle."""
    table = [tuple(columns), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns) - 1)]
    while sum(widths) + 2 * len(widths) > width - _MIN_LAST:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    start = sum(widths) + 2 * len(widths)
    lines = []
    for row in table:
        cells = "  ".join(_cut(cell, size).ljust(size) for cell, size in zip(row, widths, strict=False))
        first, *more = textwrap.wrap(row[-1], width - start, break_on_hyphens=False) or ["-"]
        lines.append(f"{cells}  {first}".rstrip())
        lines += [" " * start + line for line in more]
    return lines


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def html_block(content: str) -> str:
    """Return a block in which notebooks render no mathematics between dollar signs, as in ``nn$params``."""
    return f"<div class='tex2jax_ignore mathjax_ignore'>{content}</div>"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table, with the text of all cells escaped."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

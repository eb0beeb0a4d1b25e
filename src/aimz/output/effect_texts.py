"""An effect as the text that is printed: sentences and a table."""

__all__ = ["effect_text"]

import textwrap

import xarray as xr

from aimz.output.sentences import format_table, sentences_of
from aimz.output.summaries import summary

_WIDTH = 76


def effect_text(tree: xr.DataTree, rows: str, max_sentences: int, max_lines: int) -> str:
    """Return sentences, a table and a line about the rows; ``rows`` describes the rows of the average."""
    table = summary(tree)
    sentences = sentences_of(table)
    parts = ["\n".join(_fill(text) for text in sentences[:max_sentences])]
    shown = format_table(table).head(max_lines)
    if table["site"].nunique() == 1:
        shown = shown.drop(columns="site")
    lines = shown.to_string(index=False).splitlines()
    if len(table) > max_lines:
        lines.append(f"... and {len(table) - max_lines} more: `summary()` returns all.")
    return "\n\n".join([*parts, "\n".join(lines), f"Average over {rows}; {table.attrs['n_draws']:,} draws."])


def _fill(text: str) -> str:
    """Return a sentence in lines, which do not break next to "=" or before "%"."""
    joined = text.replace(" = ", "\0=\0").replace(" %", "\0%")
    return textwrap.fill(joined, _WIDTH, break_on_hyphens=False).replace("\0", " ")

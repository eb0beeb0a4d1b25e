"""The sites of a kernel as a table, in plain text and for notebooks."""

__all__ = [
    "COLUMNS",
    "WIDTH",
    "format_shape",
    "html_block",
    "html_table",
    "site_cells",
    "spec_html",
    "spec_text",
    "text_table",
]

import html as escape
import textwrap
from collections.abc import Iterable, Sequence

from aimz.kernel.spec import KernelSpec, Role, Site

COLUMNS = ("site", "role", "shape", "distribution", "depends on")
WIDTH = 80
"""Characters of a line of text."""
_LEAST = 16
"""Characters the last column gets at least."""


def site_cells(site: Site) -> tuple[str, ...]:
    """Return the line of a site."""
    role = str(site.role) + (", local" if site.role is Role.LATENT and site.row_axes else "")
    shape = f"{len(site.leaves)} arrays" if site.leaves else format_shape(site.shape)
    return site.name, role, shape, site.distribution or "-", ", ".join(sorted(site.parents)) or "-"


def format_shape(shape: Sequence[int | str]) -> str:
    """Return a shape as Python writes it, with the rows by name."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table at most ``width`` wide; the last column is wrapped, others lose their middle."""
    table = [tuple(columns), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns) - 1)]
    while sum(widths) + 2 * len(widths) > width - _LEAST:
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
    """Return what a notebook shows as it is: between dollar signs, as in ``nn$params``, there is no mathematics."""
    return f"<div class='tex2jax_ignore mathjax_ignore'>{content}</div>"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for a notebook; whatever the cells hold is text."""
    head = "".join(f"<th>{escape.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _heading(spec: KernelSpec) -> str:
    count = f"{len(spec.sites)} site{'' if len(spec.sites) == 1 else 's'}"
    sizes = ", known at one number of rows only" if spec.fixed_size else ""
    return f"{count} of a kernel of {spec.param_input} and {spec.param_output}, rows along '{spec.row_dim}'{sizes}"


def spec_text(spec: KernelSpec) -> str:
    """Return a spec as a heading and a table of its sites, at most 80 columns wide."""
    heading = textwrap.wrap(f"<KernelSpec: {_heading(spec)}>", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*heading, *text_table(COLUMNS, map(site_cells, spec.sites), WIDTH)])


def spec_html(spec: KernelSpec) -> str:
    """Return the same for a notebook."""
    sites = html_table(COLUMNS, map(site_cells, spec.sites))
    return html_block(f"<b>KernelSpec</b>: {escape.escape(_heading(spec))}{sites}")

"""Renders a report as one HTML page without references to other files."""

__all__ = ["render"]

import base64
import re
from collections.abc import Iterable
from html import escape

from aimz.report.document import Block, Code, Drawing, Facts, Figure, Items, Report, Section, Table, Text
from aimz.report.style import STYLE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content that browsers load for the page: its own styles and images."""


def render(report: Report) -> str:
    """Return the page of a report."""
    done = [section for section in report.sections if section.outcome and not section.not_run]
    missing = [section for section in report.sections if section.not_run]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(_plain(report.question))}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        '<header id="answer">',
        f"<h1>{_inline(report.question)}</h1>",
        *(f'<p class="answer">{_inline(sentence)}</p>' for sentence in report.answer),
        f'<p class="about">{_inline(report.about)}</p>' if report.about else "",
        *(_figure(report.figure) if report.figure is not None else ()),
        *_limits(report.limits),
        '<div class="overview">',
        *_overview("Checked", done, "Nothing."),
        *_overview("Not checked", missing, "Nothing is left."),
        "</div>",
        "</header>",
        *(line for i, section in enumerate(report.sections, 1) for line in _section(i, section)),
        "</main>",
        f"<footer><p>{_inline(report.made)}</p></footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _inline(text: str) -> str:
    """Return text as HTML, with names in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _plain(text: str) -> str:
    """Return text without the backticks of names."""
    return re.sub(r"`([^`]+)`", r"\1", text)


def _limits(limits: Iterable[str]) -> Iterable[str]:
    """Yield the sentences about the assumptions of the answer."""
    lines = [f"<p>{_inline(sentence)}</p>" for sentence in limits]
    return ['<div class="limits">', *lines, "</div>"] if lines else []


def _overview(title: str, sections: Iterable[Section], empty: str) -> Iterable[str]:
    """Yield a list of sections with their results, or with the reasons why there are none."""
    yield f"<div><h3>{title}</h3><ul>"
    lines = [
        f'<li><a href="#{section.key}">{escape(section.title)}</a>: {_inline(section.not_run or section.outcome)}</li>'
        for section in sections
    ]
    yield from lines or [f"<li>{empty}</li>"]
    yield "</ul></div>"


def _section(number: int, section: Section) -> Iterable[str]:
    """Yield the lines of a section."""
    yield f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
    yield f'<h2 id="{section.key}-title">{number}. {escape(section.title)}</h2>'
    if section.not_run:
        yield f'<p class="missing">Not run: {_inline(section.not_run)}</p>'
    elif section.outcome:
        yield f"<p>{_inline(section.outcome)}</p>"
    for block in section.blocks:
        yield from _block(block)
    yield "</section>"


def _block(block: Block) -> Iterable[str]:
    """Yield the lines of a block."""
    match block:
        case Text(text):
            yield f"<p>{_inline(text)}</p>"
        case Items(items):
            yield "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Facts(pairs):
            yield "<dl>" + "".join(f"<dt>{_inline(a)}</dt><dd>{_inline(b)}</dd>" for a, b in pairs) + "</dl>"
        case Table():
            yield from _table(block)
        case Figure():
            yield from _figure(block)
        case Drawing(svg, width, alt, caption):
            yield f'<figure><div class="wide" tabindex="0" role="region" aria-label="{escape(alt)}">{svg}</div>'
            yield f"{_caption(caption)}</figure>" if width else "</figure>"
        case Code(text, caption):
            yield f"<p>{_inline(caption)}</p>" if caption else ""
            yield f'<pre tabindex="0">{escape(text)}</pre>'


def _caption(text: str) -> str:
    return f"<figcaption>{_inline(text)}</figcaption>" if text else ""


def _figure(figure: Figure) -> Iterable[str]:
    """Yield the lines of an image; without an image for narrow screens, these scroll the wide one."""
    image = f'<img src="{_data(figure.image)}" alt="{escape(_plain(figure.alt))}">'
    if figure.narrow is None:
        yield f'<figure><div class="wide" tabindex="0" role="region" aria-label="Figure">{image}</div>'
    else:
        source = f'<source media="(max-width: 640px)" srcset="{_data(figure.narrow)}">'
        yield f"<figure><picture>{source}{image}</picture>"
    yield f"{_caption(figure.caption)}</figure>"


def _data(image: bytes) -> str:
    """Return a PNG file as a URL that contains it."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _table(table: Table) -> Iterable[str]:
    """Yield the lines of a table."""
    numeric = [all(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    label = escape(_plain(table.caption))
    yield f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>'
    yield f"<caption>{_inline(table.caption)}</caption>"
    heads = (f'<th scope="col"{kind}>{_inline(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True))
    yield f"<thead><tr>{''.join(heads)}</tr></thead><tbody>"
    for row in table.rows:
        cells = [f"<td{kind}>{_inline(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        yield f'<tr><th scope="row"{kinds[0]}>{_inline(row[0])}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def _is_number(cell: str) -> bool:
    """Return whether a cell is empty or a number, perhaps with a unit."""
    return re.fullmatch(r"|[<>]?[-+\u2212]?[\d,.]+(e[-+]?\d+)?( ?(%|pp))?|nan|inf|-inf", cell) is not None

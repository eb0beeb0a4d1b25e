"""Sphinx extension of the site: inventories as text, formulae as MathML, complete pages of the reference."""

import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent_guide import llms
from docutils import nodes
from latex2mathml.converter import convert
from reference_pages import examples, related
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

DOCS = Path(__file__).resolve().parent.parent


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories of `docs/inventories` in the format of intersphinx, and return the mapping to them."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for source in sorted((DOCS / "inventories").glob("*.txt")):
        address, *lines = source.read_text(encoding="utf-8").splitlines()
        entries = (line.split() for line in lines)
        body = "".join(f"{name} {role} 1 {location} -\n" for name, role, location in entries)
        head = f"# Sphinx inventory version 2\n# Project: {source.stem}\n# Version: \n"
        head += "# The remainder of this file is compressed using zlib.\n"
        target = folder / f"{source.stem}.inv"
        target.write_bytes(head.encode() + zlib.compress(body.encode()))
        mapping[source.stem] = (address.removeprefix("# "), str(target))
    return mapping


def visit_formula(translator: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers render without a script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    markup = convert(node.astext(), display=display)
    translator.body.append(f'<div class="math">{markup}</div>' if display == "block" else markup)
    raise nodes.SkipNode


def complete_docstring(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    lines: list[str],
) -> None:
    """Add the sections See Also and Examples to docstrings that lack them."""
    del app, what, obj, options
    underlined = {first for first, second in pairwise(lines) if second and set(second) == {"-"}}
    if "See Also" not in underlined and (names := related().get(name)):
        section = ["", "See Also", "--------", *names, ""]
        ends = [lines.index(title) for title in ("Notes", "References", "Examples") if title in underlined]
        place = min(ends, default=len(lines))
        lines[place:place] = section
    if "Examples" not in underlined and (text := examples().get(name)):
        lines += ["", "Examples", "--------", *text.splitlines(), ""]


def write_llms(app: Sphinx, exception: Exception | None) -> None:
    """Write the list of pages for coding assistants to the root of the site."""
    if exception is None:
        (Path(app.outdir) / "llms.txt").write_text(llms(), encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the extension."""
    # numpydoc parses the docstrings at priority 500.
    app.connect("autodoc-process-docstring", complete_docstring, priority=100)
    app.connect("build-finished", write_llms)
    app.add_node(nodes.math, override=True, html=(visit_formula, None))
    app.add_node(nodes.math_block, override=True, html=(visit_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

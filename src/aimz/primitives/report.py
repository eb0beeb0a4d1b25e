"""What was found in a model, for the prompt and for notebooks."""

__all__ = ["html", "text"]

import html as escape
import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from aimz.kernel import format_shape, html_block, html_table, text_table

if TYPE_CHECKING:
    from aimz.primitives.result import SiteInfo, ValidationResult

_WIDTH = 80
_TEXT_COLUMNS = ("site", "role", "shape", "distribution", "depends on")
_HTML_COLUMNS = ("site", "role", "shape", "distribution", "plates", "depends on")


def text(result: "ValidationResult") -> str:
    """Return a report at most 80 columns wide: first what was found, then the sites."""
    lines = textwrap.wrap(_verdict(result), _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    for label, findings in (("error", result.errors), ("warning", result.warnings)):
        for finding in findings:
            paragraph = f"{label} ({finding.kind}): {' '.join(finding.split())}"
            lines += textwrap.wrap(
                paragraph, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
    if result.sites:
        rows = [(*cells[:4], cells[5]) for cells in map(_cells, result.sites.values())]
        lines += ["", *text_table(_TEXT_COLUMNS, rows, _WIDTH)]
    if result.plate_stack:
        plates = "Plates: " + "; ".join(_plates(result)) + "."
        lines += ["", *textwrap.wrap(plates, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
    return "\n".join(lines)


def _verdict(result: "ValidationResult") -> str:
    """Return the first line."""
    if not result.judged:
        return f"{result.name}: {_count(len(result.sites), 'site')}" + (", then it raised" if result.errors else "")
    found = [_count(len(f), k) for k, f in (("error", result.errors), ("warning", result.warnings)) if f]
    return f"{result.name}: " + ", ".join(["valid" if result.is_valid else "not valid", *found])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cells(site: "SiteInfo") -> tuple[str, ...]:
    """Return the line of a site in a table."""
    shape = format_shape(site.shape) if site.n_arrays == 1 else f"{site.n_arrays} arrays"
    lists = (", ".join(names) or "-" for names in (site.plates, site.parents))
    return site.name, site.role, shape, site.distribution or "-", *lists


def _plates(result: "ValidationResult") -> Iterator[str]:
    for plate in result.plate_stack:
        size = str(plate.size)
        if plate.subsample_size != plate.size:
            size = f"{plate.subsample_size} of {plate.size}"
        where = "not entered" if plate.dim is None else f"dim {plate.dim}"
        yield f"{plate.name}, {size} ({where}{', the rows' if plate.is_rows else ''})"


def html(result: "ValidationResult") -> str:
    """Return findings and a table, and the graph where Graphviz can draw it."""
    found = "".join(
        f"<li><b>{label}</b> ({escape.escape(finding.kind)}): {escape.escape(finding)}</li>"
        for label, findings in (("error", result.errors), ("warning", result.warnings))
        for finding in findings
    )
    listed = f"<ul>{found}</ul>" if found else ""
    sites = html_table(_HTML_COLUMNS, map(_cells, result.sites.values())) if result.sites else ""
    plates = f"<p>Plates: {escape.escape('; '.join(_plates(result)))}.</p>" if result.plate_stack else ""
    return html_block(f"<b>{escape.escape(_verdict(result))}</b>{listed}{sites}{plates}{_graph(result)}")


def _graph(result: "ValidationResult") -> str:
    """Return NumPyro's picture of the model, or nothing where it cannot be drawn."""
    if result.call is None or not result.sites or shutil.which("dot") is None:
        return ""
    kernel, shapes = result.call

    def model() -> Any:
        # Made where the model is traced, so that no array of that size ever is.
        return kernel(**{name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()})

    try:
        from numpyro.infer.inspect import render_model

        picture = render_model(model, render_distributions=True).pipe(format="svg", encoding="utf-8")
    except Exception:  # noqa: BLE001, RUF100 (a picture is not worth an error, whatever the model or Graphviz raise)
        return ""
    return str(picture[picture.index("<svg") :])

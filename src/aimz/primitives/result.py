"""The result of a validation: sites, plates and findings, printed as a report."""

__all__ = ["Finding", "PlateInfo", "SiteInfo", "ValidationResult"]

import html
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.infer.inspect import render_model

from aimz.kernel import WIDTH, format_shape, html_block, html_table, text_table
from aimz.types import Kernel, Shape


class Finding(str):
    """A text that describes a problem, its place, and the change that removes it.

    Attributes
    ----------
    kind : str
        Identifier of the kind of problem, such as ``"shapes"`` or ``"discrete latent"``.
    site : str or None
        Name of the site that has the problem.
    """

    __slots__ = ("kind", "site")
    kind: str
    site: str | None

    def __new__(cls, text: str, kind: str, site: str | None = None) -> "Finding":
        """Return the text with its kind and site."""
        finding = super().__new__(cls, text)
        finding.kind, finding.site = kind, site
        return finding

    def __reduce__(self) -> tuple[type, tuple[str, str, str | None]]:
        """Return the arguments to rebuild the finding from a pickle."""
        return Finding, (str(self), self.kind, self.site)


@dataclass(frozen=True)
class PlateInfo:
    """A plate of a model."""

    name: str
    size: int
    dim: int | None
    """Batch dimension of the plate, counted from the right; None if no site is inside."""
    subsample_size: int
    is_rows: bool = False
    """Whether the plate runs along the rows."""


@dataclass(frozen=True)
class SiteInfo:
    """A site of a model, with shapes and types (``jax.ShapeDtypeStruct``) instead of arrays."""

    name: str
    type: str
    """NumPyro's type of the site (sample, deterministic, param, mutable), or factor."""
    fn: Any = field(repr=False)
    """Distribution of the site, with shapes as parameters; None if it has none."""
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    value: Any
    is_observed: bool
    infer: dict[str, Any] = field(repr=False)
    scale: Any
    """Factor of the log density, or None."""
    role: str = ""
    """Role in the model: latent, local, observed, deterministic, param, mutable or factor."""
    shape: Shape = ()
    """Shape with the row axes by name."""
    dtype: str = ""
    distribution: str | None = None
    plates: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    """Names of the sites and arguments that the site depends on directly."""
    n_arrays: int = 1
    """Number of arrays of the value, which is a tree for a neural network."""
    is_discrete: bool = False
    """Whether the support of the distribution is discrete."""
    can_enumerate: bool = False
    """Whether the support is finite, so that it can be summed over."""
    fn_shape: tuple[int, ...] | None = None
    """Shape of one draw of the distribution."""
    in_control_flow: bool = False
    """Whether the site is inside a `scan` or `cond`."""


@dataclass(frozen=True, repr=False, eq=False)
class ValidationResult(Mapping[str, Any]):
    """Result of :func:`validate_model` and :func:`inspect_fn`, printed as a report.

    Every attribute is also a key: ``result["sites"]``.

    Attributes
    ----------
    name : str
        Name of the function.
    sites : dict of str to SiteInfo
        Sites in the order in which they are made.
    dependencies : dict of str to list of str
        Direct dependencies, sites and arguments, by site.
    plate_stack : list of PlateInfo
        Plates in the order in which they are made.
    is_valid : bool
        Whether there is no error.
    warnings, errors : list of Finding
        Problems, with their place and the change that removes them.
    returned : object
        Result of the function, as shapes and types.
    """

    name: str
    sites: dict[str, SiteInfo]
    dependencies: dict[str, list[str]]
    plate_stack: list[PlateInfo]
    warnings: list[Finding]
    errors: list[Finding]
    returned: Any = None
    judged: bool = True
    """Whether the model was checked, or only run."""
    call: tuple[Kernel, Mapping[str, jax.ShapeDtypeStruct]] | None = None
    """The function and the shapes of its arguments, to draw the graph."""

    @property
    def is_valid(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def __getitem__(self, key: str) -> Any:
        """Return an attribute by its name."""
        if key not in _KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the attributes."""
        return iter(_KEYS)

    def __len__(self) -> int:
        """Return the number of attributes."""
        return len(_KEYS)

    def __repr__(self) -> str:
        return _text(self)

    def _repr_html_(self) -> str:
        return _html(self)


_KEYS = ("sites", "dependencies", "plate_stack", "is_valid", "warnings", "errors", "returned")
_TEXT_COLUMNS = ("site", "role", "shape", "distribution", "depends on")
_HTML_COLUMNS = ("site", "role", "shape", "distribution", "plates", "depends on")


def _text(result: ValidationResult) -> str:
    """Return a report at most 80 columns wide: the findings, then the sites and plates."""
    lines = textwrap.wrap(_verdict(result), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    for label, findings in (("error", result.errors), ("warning", result.warnings)):
        for finding in findings:
            paragraph = f"{label} ({finding.kind}): {' '.join(finding.split())}"
            lines += textwrap.wrap(
                paragraph, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
    if result.sites:
        rows = [(*cells[:4], cells[5]) for cells in map(_cells, result.sites.values())]
        lines += ["", *text_table(_TEXT_COLUMNS, rows, WIDTH)]
    if result.plate_stack:
        plates = "Plates: " + "; ".join(_plates(result)) + "."
        lines += ["", *textwrap.wrap(plates, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
    return "\n".join(lines)


def _verdict(result: ValidationResult) -> str:
    """Return the first line of a report."""
    if not result.judged:
        return f"{result.name}: {_count(len(result.sites), 'site')}" + (", then it raised" if result.errors else "")
    found = [_count(len(f), k) for k, f in (("error", result.errors), ("warning", result.warnings)) if f]
    return f"{result.name}: " + ", ".join(["valid" if result.is_valid else "not valid", *found])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cells(site: SiteInfo) -> tuple[str, ...]:
    """Return the cells of a site in a table."""
    shape = format_shape(site.shape) if site.n_arrays == 1 else f"{site.n_arrays} arrays"
    lists = (", ".join(names) or "-" for names in (site.plates, site.parents))
    return site.name, site.role, shape, site.distribution or "-", *lists


def _plates(result: ValidationResult) -> Iterator[str]:
    for plate in result.plate_stack:
        size = str(plate.size)
        if plate.subsample_size != plate.size:
            size = f"{plate.subsample_size} of {plate.size}"
        where = "not entered" if plate.dim is None else f"dim {plate.dim}"
        yield f"{plate.name}, {size} ({where}{', the rows' if plate.is_rows else ''})"


def _html(result: ValidationResult) -> str:
    """Return findings, a table of sites, and the graph if Graphviz can draw it."""
    found = "".join(
        f"<li><b>{label}</b> ({html.escape(finding.kind)}): {html.escape(finding)}</li>"
        for label, findings in (("error", result.errors), ("warning", result.warnings))
        for finding in findings
    )
    listed = f"<ul>{found}</ul>" if found else ""
    sites = html_table(_HTML_COLUMNS, map(_cells, result.sites.values())) if result.sites else ""
    plates = f"<p>Plates: {html.escape('; '.join(_plates(result)))}.</p>" if result.plate_stack else ""
    return html_block(f"<b>{html.escape(_verdict(result))}</b>{listed}{sites}{plates}{_graph(result)}")


def _graph(result: ValidationResult) -> str:
    """Return NumPyro's drawing of the model as SVG, or an empty text if it cannot be drawn."""
    if result.call is None or not result.sites or shutil.which("dot") is None:
        return ""
    kernel, shapes = result.call

    def model() -> Any:
        # The arrays are made inside the trace, so that their memory is never allocated.
        return kernel(**{name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()})

    try:
        picture = render_model(model, render_distributions=True).pipe(format="svg", encoding="utf-8")
    except Exception:  # noqa: BLE001, RUF100 (the drawing is optional, and the model or Graphviz may raise anything)
        return ""
    return str(picture[picture.index("<svg") :])

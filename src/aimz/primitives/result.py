"""What there is to say of a model: its sites, what depends on what, and what was found."""

__all__ = ["Finding", "PlateInfo", "SiteInfo", "ValidationResult"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from aimz.primitives.report import html, text
from aimz.types import Kernel, Shape


class Finding(str):
    """A sentence or two: what was found, where, and what to change.

    Attributes
    ----------
    kind : str
        What kind of finding it is, in a word or two that do not change: ``"shapes"``, ``"discrete latent"``.
    site : str or None
        The site it is about.
    """

    __slots__ = ("kind", "site")
    kind: str
    site: str | None

    def __new__(cls, text: str, kind: str, site: str | None = None) -> "Finding":
        """Return the text, with what it is about."""
        finding = super().__new__(cls, text)
        finding.kind, finding.site = kind, site
        return finding

    def __reduce__(self) -> tuple[type, tuple[str, str, str | None]]:
        """Return what it is made of, for a pickle."""
        return Finding, (str(self), self.kind, self.site)


@dataclass(frozen=True)
class PlateInfo:
    """A plate of a model."""

    name: str
    size: int
    dim: int | None
    """The batch dimension it takes, counted from the right; None if it was never entered around a site."""
    subsample_size: int
    is_rows: bool = False
    """Whether it runs along the rows."""


@dataclass(frozen=True)
class SiteInfo:
    """A site of a model, in which every array is a shape and a type (``jax.ShapeDtypeStruct``)."""

    name: str
    type: str
    """NumPyro's type of it: sample, deterministic, param, mutable; and factor."""
    fn: Any = field(repr=False)
    """Its distribution, whose parameters are shapes; None where there is none."""
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    value: Any
    is_observed: bool
    infer: dict[str, Any] = field(repr=False)
    scale: Any
    """What its log density is multiplied with, or None."""
    role: str = ""
    """What it is to a model: latent, local, observed, deterministic, param, mutable, factor."""
    shape: Shape = ()
    """Its shape, with the rows by name."""
    dtype: str = ""
    distribution: str | None = None
    plates: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    """Sites and arguments it directly depends on."""
    n_arrays: int = 1
    """Number of arrays its value is made of; those of a network are a tree."""
    is_discrete: bool = False
    """Whether its distribution has discrete support."""
    can_enumerate: bool = False
    """Whether its support is finite, so that it can be summed over."""
    fn_shape: tuple[int, ...] | None = None
    """The shape of one draw of its distribution."""
    in_control_flow: bool = False
    """Whether it stands inside a `scan` or `cond`."""


@dataclass(frozen=True, repr=False, eq=False)
class ValidationResult(Mapping[str, Any]):
    """What :func:`validate_model` and :func:`inspect_fn` return; printed, it is a report.

    Every attribute is a key, too: ``result["sites"]``.

    Attributes
    ----------
    name : str
        Name of the function.
    sites : dict of str to SiteInfo
        Sites in the order in which they are made.
    dependencies : dict of str to list of str
        Site to the sites and arguments it directly depends on.
    plate_stack : list of PlateInfo
        Plates in the order in which they are made.
    is_valid : bool
        Whether there is no error.
    warnings, errors : list of Finding
        Texts that say what was found, where, and what to change.
    returned : object
        What the function returns, in shapes and types.
    """

    name: str
    sites: dict[str, SiteInfo]
    dependencies: dict[str, list[str]]
    plate_stack: list[PlateInfo]
    warnings: list[Finding]
    errors: list[Finding]
    returned: Any = None
    judged: bool = True
    """Whether anything beyond what was raised was looked for."""
    call: tuple[Kernel, Mapping[str, jax.ShapeDtypeStruct]] | None = None
    """The function and the shapes it was called with, to draw its graph."""

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
        """Return how many attributes there are."""
        return len(_KEYS)

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)


_KEYS = ("sites", "dependencies", "plate_stack", "is_valid", "warnings", "errors", "returned")

"""The structure of a kernel: its sites and their roles."""

__all__ = ["COLUMNS", "KernelSpec", "Role", "Site", "merge_specs", "site_cells", "with_shapes"]

import html
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from aimz.kernel.output_support import OutputSupport
from aimz.kernel.text_tables import WIDTH, format_shape, html_block, html_table, text_table
from aimz.types import Shape

COLUMNS = ("site", "role", "shape", "distribution", "depends on")
"""Columns of a table of sites."""


class Role(StrEnum):
    """Role of a site in prediction and inference."""

    LATENT = "latent"
    OBSERVED = "observed"
    DETERMINISTIC = "deterministic"
    PARAM = "param"
    MUTABLE = "mutable"
    FACTOR = "factor"


@dataclass(frozen=True)
class Site:
    """A site of a kernel."""

    name: str
    """Name in the kernel."""
    role: Role
    """Role in prediction and inference."""
    shape: Shape
    """Shape with the row axes by name: ``("n_obs", 3)``. Empty for a tree of parameters (see ``leaves``)."""
    traced_shape: tuple[int, ...] = ()
    """Shape at the number of rows of the trace."""
    row_axes: tuple[int, ...] = ()
    """Axes that grow with the number of rows."""
    maybe_rows: bool = False
    """Whether the site may have a row axis, in a kernel that accepts one number of rows only."""
    in_control_flow: bool = False
    """Whether the site is inside a `scan` or `cond`."""
    dtype: str = "float32"
    """Type of the values."""
    distribution: str | None = None
    """Name of the distribution of a ``sample`` site."""
    event_dim: int = 0
    """Number of axes, counted from the right, of one event."""
    core_event_dim: int = 0
    """Number of event axes without ``to_event``: the axes along which values are dependent."""
    plates: tuple[tuple[str, int], ...] = ()
    """Enclosing plates, as pairs of the name and the axis of the value along the plate."""
    parents: frozenset[str] = frozenset()
    """Sites and arguments that this site depends on directly."""
    data: frozenset[str] = frozenset()
    """Arguments that contain the data of an observed site."""
    drawable: bool = True
    """Whether the distribution has a sampler; an improper prior does not."""
    is_discrete: bool = False
    """Whether the support of the distribution is discrete."""
    n_values: int | None = None
    """Number of values 0, 1, ... of a discrete site that can be summed over; else None."""
    has_mean: bool = False
    """Whether the expected value of a ``sample`` site, given the sites it depends on, is known."""
    abduction: str | None = None
    """Way in which the noise of a ``sample`` site is inferred from its value; None if it cannot be."""
    arguments: frozenset[str] = frozenset()
    """Arguments among the parents; data that are observed at the output are not."""
    shape_parents: frozenset[str] = frozenset()
    """Sites and arguments that the parameters other than location and scale depend on directly."""
    leaves: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Path and shape of each leaf of a tree of parameters."""

    @cached_property
    def is_sample(self) -> bool:
        """Whether the site is a ``sample`` statement."""
        return self.role in (Role.LATENT, Role.OBSERVED)


@dataclass(frozen=True)
class KernelSpec:
    """The structure of a kernel: its sites, their roles, shapes and dependencies.

    It is read from abstract runs of the kernel, which compute nothing, at the number of rows of the call and at another
    one: the axes that change are the row axes. Available as :attr:`ImpactModel.kernel_spec`.

    Attributes
    ----------
    traced : bool
        Whether the kernel has been traced.
    sites : tuple of Site
        Every site, in the order in which the kernel makes them.
    param_input, param_output : str
        Names of the kernel's input and output parameters.
    output_observed : bool
        Whether a trace had data at the output, so that it can be fitted and scored.
    output_scored : bool
        Whether a term of the joint density (an observed site or a factor) depends on the output's data.
    fixed_size : bool
        Whether the kernel could be traced at the number of rows of the call only. Row axes are then unknown.
    row_dim : str
        Name of the dimension along the rows: the plate around the rows, else ``obs``.
    row_plates : frozenset of str
        Subsampled plates whose subsample is the rows of the input.
    arguments_by_row : frozenset of str
        Arguments that are arrays with a row axis.
    output_support : OutputSupport or None
        Support of the output's distribution in a trace with data; None if latent sites affect it.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from jax import random
    >>> from numpyro.infer import MCMC, NUTS
    >>> from aimz import ImpactModel
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
    ...     mu = numpyro.deterministic("mu", X @ b)
    ...     with numpyro.plate("row", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mu), obs=y)
    >>> model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    >>> _ = model.set_posterior_sample({"b": jnp.zeros((4, 2))}).predict_on_batch(jnp.ones((5, 2)))
    >>> model.kernel_spec.return_sites, model.kernel_spec.shapes["y"], model.kernel_spec.row_dim
    (('y', 'mu'), ('n_obs',), 'row')
    """

    sites: tuple[Site, ...]
    param_input: str
    param_output: str
    output_observed: bool = False
    output_scored: bool = False
    fixed_size: bool = False
    row_dim: str = "obs"
    row_plates: frozenset[str] = frozenset()
    arguments_by_row: frozenset[str] = frozenset()
    traced: bool = True
    output_support: OutputSupport | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _by_name(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    def __getitem__(self, name: str) -> Site:
        """Return the site called ``name``."""
        return self._by_name[name]

    def get(self, name: str) -> Site | None:
        """Return the site called ``name``, or None."""
        return self._by_name.get(name)

    def __contains__(self, name: object) -> bool:
        """Return whether the kernel has a site called ``name``."""
        return name in self._by_name

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Return the names of the sites that have one of ``roles``."""
        return tuple(site.name for site in self.sites if site.role in roles)

    @cached_property
    def sample_sites(self) -> tuple[str, ...]:
        """Names of all ``sample`` sites, including the output but no factors."""
        return self.names(Role.LATENT, Role.OBSERVED)

    @cached_property
    def latent_sites(self) -> tuple[str, ...]:
        """Names of the sites to infer."""
        return self.names(Role.LATENT)

    @cached_property
    def observed_sites(self) -> tuple[str, ...]:
        """Names of the sites with data, and of the output."""
        return self.names(Role.OBSERVED)

    @cached_property
    def deterministic_sites(self) -> tuple[str, ...]:
        """Names of the ``deterministic`` sites."""
        return self.names(Role.DETERMINISTIC)

    @cached_property
    def param_sites(self) -> tuple[str, ...]:
        """Names of the ``param``, ``mutable`` and module sites, which are optimised rather than sampled."""
        return self.names(Role.PARAM, Role.MUTABLE)

    @cached_property
    def local_sites(self) -> tuple[str, ...]:
        """Names of the latent sites with a row axis, which have values for each observation."""
        return tuple(site.name for site in self.sites if site.role is Role.LATENT and site.row_axes)

    @cached_property
    def row_axes(self) -> Mapping[str, int]:
        """First row axis of each site that has one."""
        return {site.name: site.row_axes[0] for site in self.sites if site.row_axes}

    @cached_property
    def row_factors(self) -> tuple[str, ...]:
        """Names of the factors with a value for each row that depends on data: terms of the rows' log density."""
        return tuple(site.name for site in self._data_factors if site.row_axes)

    @cached_property
    def joint_factors(self) -> tuple[str, ...]:
        """Names of the factors with one value that depends on the data of all rows."""
        by_row = self.arguments_by_row | {site.name for site in self.sites if site.row_axes}
        return tuple(site.name for site in self._data_factors if not site.row_axes and site.parents & by_row)

    @property
    def _data_factors(self) -> list[Site]:
        """Factors that depend on an argument, directly or through deterministic sites."""
        computed: set[str] = set()
        found = []
        for site in self.sites:
            if any(parent in computed or parent not in self for parent in site.parents):
                if site.role is Role.FACTOR:
                    found.append(site)
                elif site.role is Role.DETERMINISTIC:
                    computed.add(site.name)
        return found

    @cached_property
    def top_level_sites(self) -> tuple[str, ...]:
        """Names of the latent sites without rows that depend on no other latent site."""
        latents = [site for site in self.sites if site.role is Role.LATENT]
        dependent = self.descendants(site.name for site in latents)
        return tuple(
            site.name for site in latents if site.name not in dependent and not (site.row_axes or site.maybe_rows)
        )

    @cached_property
    def discrete_latents(self) -> tuple[str, ...]:
        """Names of the latent sites with discrete support."""
        return tuple(site.name for site in self.sites if site.role is Role.LATENT and site.is_discrete)

    @cached_property
    def return_sites(self) -> tuple[str, ...]:
        """Names of the sites that predictive methods return by default: the output, then deterministic sites."""
        output = (self.param_output,) if self.param_output in self else ()
        return output + tuple(name for name in self.deterministic_sites if name != self.param_output)

    @property
    def shapes(self) -> dict[str, Any]:
        """Shapes by site name, with row axes by name; for a tree of parameters, shapes by path."""
        return {site.name: dict(site.leaves) if site.leaves else site.shape for site in self.sites}

    def descendants(self, names: Iterable[str]) -> frozenset[str]:
        """Return the sites that depend, directly or indirectly, on the sites or arguments in ``names``."""
        reached = set(names)
        found: set[str] = set()
        grows = True
        while grows:
            new = {s.name for s in self.sites if s.name not in found and s.parents & reached}
            grows = bool(new)
            found |= new
            reached |= new
        return frozenset(found)

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """Return the sites in ``names`` and all sites that they depend on, directly or indirectly."""
        todo, found = list(names), set[str]()
        while todo:
            site = self.get(todo.pop())
            if site is not None and site.name not in found:
                found.add(site.name)
                todo += site.parents
        return frozenset(found)

    def __repr__(self) -> str:
        """Return a heading and a table of the sites, at most 80 columns wide."""
        heading = textwrap.wrap(f"<KernelSpec: {self._heading}>", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        return "\n".join([*heading, *text_table(COLUMNS, map(site_cells, self.sites), WIDTH)])

    def _repr_html_(self) -> str:
        table = html_table(COLUMNS, map(site_cells, self.sites))
        return html_block(f"<b>KernelSpec</b>: {html.escape(self._heading)}{table}")

    @property
    def _heading(self) -> str:
        count = f"{len(self.sites)} site{'' if len(self.sites) == 1 else 's'}"
        sizes = ", known at one number of rows only" if self.fixed_size else ""
        return f"{count} of a kernel of {self.param_input} and {self.param_output}, rows along '{self.row_dim}'{sizes}"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without cached properties."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def with_shapes(spec: KernelSpec, shapes: Mapping[str, tuple[int, ...]]) -> KernelSpec:
    """Return a structure with other lengths of the axes of some sites; axes along the rows keep their names."""

    def resized(site: Site) -> Site:
        shape = shapes.get(site.name, site.shape)
        if len(shape) != len(site.shape):
            return site
        pairs = zip(site.shape, shape, strict=True)
        return replace(site, shape=tuple(old if isinstance(old, str) else new for old, new in pairs))

    return replace(spec, sites=tuple(map(resized, spec.sites)))


def site_cells(site: Site) -> tuple[str, ...]:
    """Return the cells of a site in a table with :data:`COLUMNS`."""
    role = str(site.role) + (", local" if site.role is Role.LATENT and site.row_axes else "")
    shape = f"{len(site.leaves)} arrays" if site.leaves else format_shape(site.shape)
    return site.name, role, shape, site.distribution or "-", ", ".join(sorted(site.parents)) or "-"


def merge_specs(known: KernelSpec | None, new: KernelSpec) -> KernelSpec:
    """Merge two traces of one kernel; a site that is observed in one of them counts as observed."""
    if known is None:
        return new
    observed = {*known.observed_sites, *new.observed_sites}
    sites = {site.name: site for site in (*known.sites, *new.sites)}

    def merged(site: Site) -> Site:
        before = known.get(site.name)
        role = Role.OBSERVED if site.role is Role.LATENT and site.name in observed else site.role
        return replace(site, role=role, parents=site.parents | (before.parents if before else frozenset()))

    return replace(
        new,
        sites=tuple(merged(site) for site in sites.values()),
        output_observed=known.output_observed or new.output_observed,
        output_scored=known.output_scored or new.output_scored,
        fixed_size=known.fixed_size or new.fixed_size,
    )

"""The frozen structure of a kernel, as the rest of the house reads it."""

__all__ = ["KernelSpec", "Role", "Site", "merge_specs"]

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from aimz.types import Shape


class Role(StrEnum):
    """What a site is to the engine."""

    LATENT = "latent"
    OBSERVED = "observed"
    DETERMINISTIC = "deterministic"
    PARAM = "param"
    MUTABLE = "mutable"
    FACTOR = "factor"


@dataclass(frozen=True)
class Site:
    """One site of a kernel."""

    name: str
    """Name in the kernel."""
    role: Role
    """What it is to the engine."""
    shape: Shape
    """Row axes by name: ``("n_obs", 3)``.  Empty for a tree of parameters (see ``leaves``)."""
    traced_shape: tuple[int, ...] = ()
    """The shape at the number of rows of the trace."""
    row_axes: tuple[int, ...] = ()
    """Axes that grow with the rows."""
    maybe_rows: bool = False
    """Whether it may have a row axis, in a kernel that takes one number of rows only."""
    in_control_flow: bool = False
    """Whether it stands inside a `scan` or `cond`."""
    dtype: str = "float32"
    """Type of the numbers."""
    distribution: str | None = None
    """Name of the distribution of a ``sample`` site."""
    event_dim: int = 0
    """Number of axes, from the right, that make up one event."""
    core_event_dim: int = 0
    """The same with ``to_event`` taken off: axes along which values are dependent."""
    plates: tuple[tuple[str, int], ...] = ()
    """Enclosing plates: name and the axis of the value it runs along."""
    parents: frozenset[str] = frozenset()
    """Sites and arguments this site directly depends on."""
    data: frozenset[str] = frozenset()
    """At an observed site, the arguments its data come from."""
    drawable: bool = True
    """Whether its distribution can be sampled; an improper prior cannot."""
    is_discrete: bool = False
    """Whether its values are separate ones (counts, classes), so that no gradient leads from one to the next."""
    n_values: int | None = None
    """Of a discrete site that can be summed over: the number of its values 0, 1, ..."""
    leaves: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """For a tree of parameters: the path and shape of each leaf."""

    @property
    def is_sample(self) -> bool:
        """Whether the site is a ``sample`` statement."""
        return self.role in (Role.LATENT, Role.OBSERVED)


@dataclass(frozen=True)
class KernelSpec:
    """The structure of a kernel: its sites, their roles, shapes and dependencies.

    Read from abstract runs of the kernel, which do no arithmetic on data, at the number of rows of the call
    and at another one: the axes that change are the row axes.  Seen as :attr:`ImpactModel.kernel_spec`.

    Attributes
    ----------
    traced : bool
        Whether the kernel has been traced.
    sites : tuple of Site
        Every site, in the order in which the kernel makes them.
    param_input, param_output : str
        Names of the kernel's input and output parameters.
    output_observed : bool
        Whether some trace saw data at the output, so that it can be fitted and scored.
    output_scored : bool
        Whether something that counts in the joint density (an observed site or a factor) depends on the
        output's data.
    fixed_size : bool
        Whether the kernel could only be traced at the number of rows of the call.  Row axes are then unknown.
    row_dim : str
        Name of the dimension along the rows: the plate around the rows, else ``obs``.
    row_plates : frozenset of str
        Subsampled plates whose subsample is the rows at hand.
    arguments_by_row : frozenset of str
        Arguments of the kernel that are arrays with a row axis.

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
        """Whether the kernel has a site called ``name``."""
        return name in self._by_name

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Return the names of the sites that have one of ``roles``."""
        return tuple(site.name for site in self.sites if site.role in roles)

    @property
    def sample_sites(self) -> tuple[str, ...]:
        """Names of every ``sample`` site, the output among them; factors are not samples."""
        return self.names(Role.LATENT, Role.OBSERVED)

    @property
    def latent_sites(self) -> tuple[str, ...]:
        """Names of the sites that inference has to find."""
        return self.names(Role.LATENT)

    @property
    def observed_sites(self) -> tuple[str, ...]:
        """Names of the sites that have, or are meant to have, data."""
        return self.names(Role.OBSERVED)

    @property
    def deterministic_sites(self) -> tuple[str, ...]:
        """Names of the ``deterministic`` sites."""
        return self.names(Role.DETERMINISTIC)

    @property
    def param_sites(self) -> tuple[str, ...]:
        """Names of the ``param``, ``mutable`` and module sites: what is optimised rather than sampled."""
        return self.names(Role.PARAM, Role.MUTABLE)

    @property
    def local_sites(self) -> tuple[str, ...]:
        """Names of the latent sites with a row axis: one value, or more, for each observation."""
        return tuple(site.name for site in self.sites if site.role is Role.LATENT and site.row_axes)

    @property
    def discrete_latents(self) -> tuple[str, ...]:
        """Names of the latent sites whose values are discrete: inference sums over them, or draws them."""
        return tuple(site.name for site in self.sites if site.role is Role.LATENT and site.is_discrete)

    @property
    def return_sites(self) -> tuple[str, ...]:
        """Names of what a predictive method returns unless told otherwise: output, then deterministics."""
        output = (self.param_output,) if self.param_output in self else ()
        return output + tuple(name for name in self.deterministic_sites if name != self.param_output)

    @property
    def shapes(self) -> dict[str, Any]:
        """Site name to shape, row axes named; for a tree of parameters, path to shape."""
        return {site.name: dict(site.leaves) if site.leaves else site.shape for site in self.sites}

    def descendants(self, names: Iterable[str]) -> frozenset[str]:
        """Return the sites that depend, at any remove, on the sites or arguments in ``names``."""
        reached = set(names)
        found: set[str] = set()
        grows = True
        while grows:
            new = {s.name for s in self.sites if s.name not in found and s.parents & reached}
            grows = bool(new)
            found |= new
            reached |= new
        return frozenset(found)

    def __repr__(self) -> str:
        """Return a table of the sites; those of a :class:`Site` are at ``spec[name]``."""
        from aimz.kernel.text_tables import spec_text

        return spec_text(self)

    def _repr_html_(self) -> str:
        from aimz.kernel.text_tables import spec_html

        return spec_html(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached look-up table out of a pickle."""
        return {key: value for key, value in self.__dict__.items() if key != "_by_name"}


def merge_specs(known: KernelSpec | None, new: KernelSpec) -> KernelSpec:
    """Return what both traces of one kernel say together: seen observed once is observed."""
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

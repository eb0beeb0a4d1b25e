"""Sources of the values of sites in a call, and the discrete latents that can be marginalised."""

__all__ = [
    "DRAWN",
    "Scored",
    "Substitution",
    "ValueSource",
    "check_draws",
    "marginal_obstacle",
    "outcome_site",
    "substitute",
]

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import jax
import numpy as np

from aimz.kernel.spec import KernelSpec, Role, Site


class ValueSource(StrEnum):
    """Source of the value of a site in a predictive pass."""

    POSTERIOR = "the posterior draw"
    POSTERIOR_ROWS = "its rows of the posterior draw"
    CONTINUED = "its posterior draw of the fitted steps; later steps are drawn given them"
    POSTERIOR_GROWN = "its posterior draw; the new entries of its plates are drawn given their parents"
    PRIOR = "drawn from its prior"
    PRIOR_MISSING = "drawn from its prior: the posterior has no such site"
    RESAMPLED_NEW_ROWS = "resampled given the other sites: these are not the fitted observations"
    RESAMPLED_DOWNSTREAM = "resampled: it descends from an intervention"
    ABDUCTED = "recomputed with its own noise: it descends from an intervention"
    INTERVENED = "set by the intervention"
    CONDITIONED = "set by the condition"
    COMPUTED = "computed"
    FITTED = "the fitted value"
    INITIAL = "its initial value: nothing was fitted"
    DATA = "the data, or drawn where there are none"
    DRAWN = "drawn"
    SUMMED = "summed over, since it is discrete"


DRAWN = (
    ValueSource.PRIOR,
    ValueSource.PRIOR_MISSING,
    ValueSource.RESAMPLED_NEW_ROWS,
    ValueSource.POSTERIOR_GROWN,
    ValueSource.CONTINUED,
    ValueSource.RESAMPLED_DOWNSTREAM,
    ValueSource.ABDUCTED,
    ValueSource.DRAWN,
    ValueSource.DATA,
)
"""Sources of values that are drawn, or may be, or are recomputed from noise."""


class Scored(StrEnum):
    """Discrete local latents that the density of the output is summed over."""

    NEW = "latents that would otherwise be drawn"
    ALL = "all latents that can be summed over"


def outcome_site(name: str, sites: Container[str]) -> str:
    """Return the site with the distribution of ``name``, which NumPyro splits in two if it has an ``obs_mask``."""
    split = f"{name}_observed" in sites and f"{name}_unobserved" in sites
    return f"{name}_observed" if split else name


_OUTCOME = frozenset({ValueSource.DRAWN, ValueSource.DATA, ValueSource.RESAMPLED_DOWNSTREAM})
"""Sources of observed sites that are drawn."""


@dataclass(frozen=True)
class Substitution:
    """The source of the value of every site of a kernel in one call."""

    sources: tuple[tuple[str, ValueSource], ...]

    @cached_property
    def by_source(self) -> dict[ValueSource, tuple[str, ...]]:
        """Names of the sites whose value has each source."""
        return {one: tuple(name for name, source in self.sources if source is one) for one in ValueSource}

    @cached_property
    def drawn(self) -> frozenset[str]:
        """Names of the sites that are drawn, or may be, or are recomputed from noise."""
        return frozenset(self.sites_from(*DRAWN))

    def sites_from(self, *sources: ValueSource) -> tuple[str, ...]:
        """Return the names of the sites whose value has one of ``sources``."""
        return tuple(name for name, source in self.sources if source in sources)

    def discrete_sources(self, spec: KernelSpec, return_sites: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return the drawn discrete sites that each return site is, or depends on unless a value is given between."""
        discrete = {site.name for site in spec.sites if site.is_discrete and site.name in self.drawn and site.is_sample}
        if not discrete:
            return {}
        open_sites = self.drawn | set(self.by_source[ValueSource.COMPUTED])
        found = {}
        for name in return_sites:
            todo, reached = [name], set[str]()
            while todo:
                site = spec.get(todo.pop())
                if site is not None and site.name in open_sites - reached:
                    reached.add(site.name)
                    todo += site.parents
            if reached & discrete:
                found[name] = tuple(sorted(reached & discrete))
        return found

    @property
    def from_posterior(self) -> tuple[str, ...]:
        """Names of the sites that take their posterior draws."""
        return self.sites_from(ValueSource.POSTERIOR, ValueSource.POSTERIOR_ROWS, ValueSource.POSTERIOR_GROWN)

    def outcomes(self, spec: KernelSpec, names: Iterable[str]) -> dict[str, Site]:
        """Return the sites among ``names`` that are drawn outcomes, each with the site that has its distribution."""
        drawn = {name for name, source in self.sources if source in _OUTCOME}
        found = {}
        for name in names:
            site = spec[outcome_site(name, spec)]
            if site.name in drawn and (site.role is Role.OBSERVED or (name, ValueSource.DRAWN) in self.sources):
                found[name] = site
        return found

    def new_entries(
        self, spec: KernelSpec, posterior: Mapping[str, tuple[int, ...]]
    ) -> dict[str, dict[str, tuple[int, int]]]:
        """Return the first new entry and the size of each plate that has more entries than the posterior, by site."""
        grown = self.by_source[ValueSource.POSTERIOR_GROWN]
        return {name: _new_entries(spec[name], posterior[name]) for name in grown}

    @cached_property
    def resampled(self) -> tuple[str, ...]:
        """Names of the sites that are drawn although they have posterior draws or data."""
        return self.sites_from(ValueSource.RESAMPLED_NEW_ROWS, ValueSource.RESAMPLED_DOWNSTREAM)


def substitute(
    spec: KernelSpec,
    *,
    posterior: Mapping[str, tuple[int, ...]] | None,
    fitted: Mapping[str, Any],
    observed: Iterable[str] = (),
    fitted_rows: bool = True,
    other_rows: frozenset[str] = frozenset(),
    intervened: frozenset[str] = frozenset(),
    conditioned: frozenset[str] = frozenset(),
    continued: frozenset[str] = frozenset(),
    downstream: frozenset[str] = frozenset(),
    scored: Scored | None = None,
    with_output: bool = False,
) -> Substitution:
    """Return the source of the value of each site.

    Parameters
    ----------
    spec
        Structure of the kernel in this call.
    posterior
        Shape of one posterior draw by site name; None for a prior predictive pass.
    fitted
        Fitted value by parameter name.
    observed
        Sites that had data in another call, such as the fit.
    fitted_rows
        Whether the rows are the fitted observations.
    other_rows
        Local sites whose inputs have changed, so that their rows count as new even if ``fitted_rows`` is true.
    intervened
        Sites that the intervention sets.
    conditioned
        Sites that take given values without an intervention.
    continued
        Latents that keep their posterior draws of the fitted steps, and are drawn given them in later steps.
    downstream
        Sites that descend from the intervention.
    scored
        Discrete latents to sum over, if the density of the output is computed; else None.
    with_output
        Whether the data of the output are values of the site, so that sites that descend from the intervention are
        recomputed with the noise that these values had.

    Raises
    ------
    ValueError
        If a posterior draw or a fitted value does not have the shape of its site, if a site must be drawn whose
        distribution has no sampler, or if a drawn discrete site would make the density of the output random.
    """
    known = frozenset(observed)
    sources: list[tuple[str, ValueSource]] = []
    for site in spec.sites:
        if site.name in intervened:
            source = ValueSource.INTERVENED
        elif site.name in conditioned:
            source = ValueSource.CONDITIONED
        elif site.name in continued:
            source = ValueSource.CONTINUED
        elif site.name in (spec.param_output, f"{spec.param_output}_observed") and site.is_sample and not with_output:
            source = ValueSource.DRAWN
        elif site.role is Role.OBSERVED:
            source = ValueSource.RESAMPLED_DOWNSTREAM if site.name in downstream else ValueSource.DATA
        elif site.role is Role.LATENT and site.name in known and site.name not in (posterior or {}):
            source = ValueSource.DRAWN
        elif site.role is Role.LATENT:
            source = _latent_source(
                site, posterior, fitted_rows=fitted_rows and site.name not in other_rows, downstream=downstream
            )
            if scored is not None and site.is_discrete:
                source = _scored_source(spec, site, source, scored)
        elif site.role in (Role.PARAM, Role.MUTABLE):
            source = _parameter_source(site, posterior, fitted)
        else:
            source = ValueSource.COMPUTED
        if with_output and source is ValueSource.RESAMPLED_DOWNSTREAM:
            source = ValueSource.ABDUCTED
        sources.append((site.name, source))
    return Substitution(tuple(sources))


def _latent_source(
    site: Site,
    posterior: Mapping[str, tuple[int, ...]] | None,
    *,
    fitted_rows: bool,
    downstream: frozenset[str],
) -> ValueSource:
    if posterior is None:
        source = ValueSource.PRIOR
    elif site.name in downstream:
        source = ValueSource.RESAMPLED_DOWNSTREAM
    elif site.name not in posterior:
        source = ValueSource.PRIOR_MISSING
    else:
        shape = posterior[site.name]
        if fitted_rows or not (site.row_axes or site.maybe_rows):
            other_rows = len(shape) == len(site.shape) and any(
                shape[axis] != site.traced_shape[axis] for axis in site.row_axes
            )
        else:
            other_rows = True
        if shape == site.traced_shape and not other_rows:
            return ValueSource.POSTERIOR_ROWS if site.row_axes else ValueSource.POSTERIOR
        grown = _new_entries(site, shape) if site.drawable and not site.in_control_flow else {}
        free_axes = [axis for name, axis in site.plates if name in grown and (other_rows or not site.row_axes)]
        _check_shape(site, shape, free_axes=[*free_axes, *site.row_axes] if other_rows else free_axes)
        if not other_rows:
            return ValueSource.POSTERIOR_GROWN
        if site.maybe_rows:
            msg = (
                f"Cannot tell whether site `{site.name}` of shape {site.shape} has a value for each observation: the "
                "kernel accepts one number of rows only, perhaps because it closes over an array of that length. Pass "
                "that array as an argument, so that new observations can be distinguished from the fitted ones."
            )
            raise ValueError(msg)
        source = ValueSource.RESAMPLED_NEW_ROWS
    if not site.drawable:
        msg = (
            f"Site `{site.name}` must be drawn ({source}), but its distribution {site.distribution} is improper and "
            "cannot be sampled. Give it a proper distribution, or pass draws of it to `set_posterior_sample`."
        )
        raise ValueError(msg)
    return source


def _new_entries(site: Site, shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Return the first new entry and the size of each plate of a site with more entries than posterior draws have."""
    if len(shape) != len(site.traced_shape):
        return {}
    return {
        plate: (shape[axis], site.traced_shape[axis])
        for plate, axis in site.plates
        if axis not in site.row_axes and 0 < shape[axis] < site.traced_shape[axis]
    }


def _scored_source(spec: KernelSpec, site: Site, source: ValueSource, scored: Scored) -> ValueSource:
    """Return the source of a discrete latent in a density: where possible a sum over its values, which has no noise."""
    drawn = source in (
        ValueSource.PRIOR_MISSING,
        ValueSource.RESAMPLED_NEW_ROWS,
        ValueSource.POSTERIOR_GROWN,
    )
    if not drawn and not (scored is Scored.ALL and source is ValueSource.POSTERIOR_ROWS):
        return source
    obstacle = marginal_obstacle(spec, site.name)
    if obstacle is None:
        return ValueSource.SUMMED
    if not drawn:
        return source
    msg = (
        f"The density of `{spec.param_output}` would be random: the discrete site `{site.name}` would be drawn "
        f"({source}), and it cannot be summed over ({obstacle}). Score the fitted data with a posterior that contains "
        f"`{site.name}` (`fit_on_batch`, `set_posterior_sample`), or write the output as its marginal "
        "(`MixtureSameFamily`)."
    )
    raise ValueError(msg)


def check_draws(spec: KernelSpec, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise if draws of a site have another number of axes than the site, or none of them is of a known site.

    Lengths are compared when a call is prepared: they may depend on its arguments.
    """
    known = {site.name: site for site in spec.sites}
    if known and not set(shapes) & set(known):
        latent = ", ".join(f"`{name}`" for name in spec.latent_sites)
        msg = (
            f"`samples` must hold draws of latent sites of the kernel, {latent or 'of which it has none'}; got "
            f"{', '.join(f'`{name}`' for name in shapes)}. Rename them."
        )
        raise ValueError(msg)
    for name, shape in shapes.items():
        site = known.get(name)
        if site is not None and site.is_sample and len(shape) != len(site.traced_shape):
            msg = (
                f"Posterior draws of site `{name}` must have shape {('n_draws', *site.traced_shape)}; got "
                f"{('n_draws', *shape)}. Pass chains and draws as one axis, or a dataset with dimensions 'chain' and "
                "'draw'."
            )
            raise ValueError(msg)


def _check_shape(site: Site, shape: tuple[int, ...], free_axes: Iterable[int] = ()) -> None:
    """Check that a draw has the shape of its site; NumPyro would broadcast it, and silently return wrong numbers."""
    free = frozenset(free_axes)
    fits = len(shape) == len(site.traced_shape) and all(
        here == there for i, (here, there) in enumerate(zip(shape, site.traced_shape, strict=True)) if i not in free
    )
    if not fits:
        msg = (
            f"Posterior draws of site `{site.name}` must have shape {('n_draws', *site.traced_shape)} for this "
            f"input; got {('n_draws', *shape)}. Pass an input like the one the model was fitted on (as many "
            "columns, the same kernel arguments), or set matching draws with `set_posterior_sample`. Only a plate "
            "outside of a `scan` may have more entries than in the posterior (new groups, which are drawn), and none "
            "may have fewer. For later steps of fitted series, call `forecast`."
        )
        raise ValueError(msg)


def _parameter_source(
    site: Site, posterior: Mapping[str, tuple[int, ...]] | None, fitted: Mapping[str, Any]
) -> ValueSource:
    """Return the source of a parameter."""
    if posterior is not None and site.name in posterior:
        _check_shape(site, posterior[site.name])
        return ValueSource.POSTERIOR
    if site.name not in fitted:
        return ValueSource.INITIAL
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(fitted[site.name])]
    # A module whose weights are all sample sites has no array of its own.
    expected = [shape for _, shape in site.leaves] if site.leaves or not site.dtype else [site.traced_shape]
    if shapes != expected:
        expected_text, given_text = (s[0] if len(s) == 1 else s for s in (expected, shapes))
        msg = (
            f"The fitted value of parameter `{site.name}` must have shape {expected_text} for this input; got "
            f"{given_text}. A parameter with one value per observation is valid for the fitted observations only: pass "
            "those, or make it a `sample` site, which is resampled for new ones."
        )
        raise ValueError(msg)
    return ValueSource.FITTED


def marginal_obstacle(spec: KernelSpec, name: str) -> str | None:
    """Return why the density of each observation cannot be summed over the discrete site ``name``, or None."""
    site = spec[name]
    outputs = {spec.param_output, f"{spec.param_output}_observed"}
    scored = next((s for s in spec.sites if s.name in outputs and s.data), None)
    if scored is None:
        return "the output has no data of its own"
    if site.n_values is None:
        return f"the values of {site.distribution} cannot be enumerated"
    if site.in_control_flow or scored.in_control_flow:
        return "it is inside a `scan` or `cond`"
    batch = scored.traced_shape[: len(scored.traced_shape) - scored.event_dim]
    if site.traced_shape != batch or {p for p, _ in site.plates} != {p for p, _ in scored.plates}:
        return f"its shape is {site.shape}, and the observations have shape {scored.shape}"
    reached = {name}
    for other in spec.sites:
        if other.name == name or not other.parents & reached:
            continue
        if other.role is Role.DETERMINISTIC:
            reached.add(other.name)
        elif (
            other.name not in outputs
            and other.name not in spec.row_factors
            and not (other.role is Role.LATENT and other.is_discrete)
        ):
            return f"site `{other.name}` depends on it too"
    return None

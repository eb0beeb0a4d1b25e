"""What is substituted and what is drawn anew: one decision per site, made in one place."""

__all__ = ["Scored", "Substitution", "ValueSource", "substitute"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jax
import numpy as np

from aimz.kernel.marginal import marginal_obstacle
from aimz.kernel.spec import KernelSpec, Role, Site


class ValueSource(StrEnum):
    """Where the value of a site comes from in a predictive pass."""

    POSTERIOR = "the posterior draw"
    POSTERIOR_ROWS = "its rows of the posterior draw"
    PRIOR = "drawn from its prior"
    PRIOR_MISSING = "drawn from its prior: the posterior has no such site"
    RESAMPLED_NEW_ROWS = "drawn anew given the other sites: these are not the fitted observations"
    RESAMPLED_DOWNSTREAM = "drawn anew: it descends from an intervention"
    INTERVENED = "set by the intervention"
    COMPUTED = "computed"
    FITTED = "the fitted value"
    INITIAL = "its initial value: nothing was fitted"
    DATA = "the data, or drawn where there are none"
    DRAWN = "drawn"
    SUMMED = "summed over, since it is discrete"


class Scored(StrEnum):
    """Which discrete local latents the density of the output is summed over."""

    NEW = "those that would be drawn"
    ALL = "all that can be summed over"


@dataclass(frozen=True)
class Substitution:
    """The decision for every site of a kernel in one call."""

    sources: tuple[tuple[str, ValueSource], ...]

    def sites_from(self, *sources: ValueSource) -> tuple[str, ...]:
        """Return the names of the sites whose value comes from one of ``sources``."""
        return tuple(name for name, source in self.sources if source in sources)

    @property
    def from_posterior(self) -> tuple[str, ...]:
        """Sites that take their posterior draws."""
        return self.sites_from(ValueSource.POSTERIOR, ValueSource.POSTERIOR_ROWS)

    @property
    def drawn_anew(self) -> tuple[str, ...]:
        """Sites with posterior draws, or data, that are drawn anew all the same."""
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
    downstream: frozenset[str] = frozenset(),
    scored: Scored | None = None,
) -> Substitution:
    """Decide where the value of each site comes from.

    Parameters
    ----------
    spec
        Structure of the kernel in this call.
    posterior
        Site name to the shape of one of its draws; None for a prior predictive pass.
    fitted
        Parameter name to its fitted value.
    observed
        Sites that some other call, the fit for one, had data for.
    fitted_rows
        Whether the rows are the fitted observations.
    other_rows
        Local sites for which they are not, whatever ``fitted_rows`` says: what they depend on has changed.
    intervened
        Sites the intervention sets.
    downstream
        Sites that descend from the intervention.
    scored
        Where the output is scored: which discrete latents its density is summed over.

    Raises
    ------
    ValueError
        If a posterior draw or a fitted value has not the shape of its site, or a site would have to be drawn
        whose distribution cannot be sampled, or that the output's density would be as random as.
    """
    known = frozenset(observed)
    sources: list[tuple[str, ValueSource]] = []
    for site in spec.sites:
        if site.name in intervened:
            source = ValueSource.INTERVENED
        elif site.name in (spec.param_output, f"{spec.param_output}_observed") and site.is_sample:
            source = ValueSource.DRAWN
        elif site.role is Role.OBSERVED:
            source = ValueSource.RESAMPLED_DOWNSTREAM if site.name in downstream else ValueSource.DATA
        elif site.role is Role.LATENT and site.name in known and site.name not in (posterior or {}):
            source = ValueSource.DRAWN
        elif site.role is Role.LATENT:
            source = _latent(
                site, posterior, fitted_rows=fitted_rows and site.name not in other_rows, downstream=downstream
            )
            if scored is not None and site.is_discrete:
                source = _scored(spec, site, source, scored)
        elif site.role in (Role.PARAM, Role.MUTABLE):
            source = _parameter(site, posterior, fitted)
        else:
            source = ValueSource.COMPUTED
        sources.append((site.name, source))
    return Substitution(tuple(sources))


def _latent(
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
        _check_shape(site, shape, but_for=site.row_axes if other_rows else ())
        if not other_rows:
            return ValueSource.POSTERIOR_ROWS if site.row_axes else ValueSource.POSTERIOR
        if site.maybe_rows:
            msg = (
                f"Cannot tell whether site `{site.name}` of shape {site.shape} has a value for each observation: the "
                "kernel takes one number of rows only, perhaps since it closes over an array of that length. Pass "
                "that array as an argument, so that other observations can be told from the fitted ones."
            )
            raise ValueError(msg)
        source = ValueSource.RESAMPLED_NEW_ROWS
    if not site.drawable:
        msg = (
            f"Site `{site.name}` would have to be drawn ({source}), but its distribution "
            f"{site.distribution} is improper and cannot be sampled. Give it a proper distribution, or draws "
            "of its own with `set_posterior_sample`."
        )
        raise ValueError(msg)
    return source


def _scored(spec: KernelSpec, site: Site, source: ValueSource, scored: Scored) -> ValueSource:
    """Decide for a discrete latent where densities are wanted: a sum has no noise, and needs no data of its own."""
    drawn = source in (ValueSource.PRIOR_MISSING, ValueSource.RESAMPLED_NEW_ROWS)
    if not drawn and not (scored is Scored.ALL and source is ValueSource.POSTERIOR_ROWS):
        return source
    obstacle = marginal_obstacle(spec, site.name)
    if obstacle is None:
        return ValueSource.SUMMED
    if not drawn:
        return source
    msg = (
        f"The density of `{spec.param_output}` would depend on chance: the discrete site `{site.name}` would be drawn "
        f"({source}), and it cannot be summed over ({obstacle}). Score the data of the fit with a posterior that has "
        f"`{site.name}` (`fit_on_batch`, `set_posterior_sample`), or write the output as its marginal "
        "(`MixtureSameFamily`)."
    )
    raise ValueError(msg)


def _check_shape(site: Site, shape: tuple[int, ...], but_for: Iterable[int] = ()) -> None:
    """Refuse a draw that does not have the site's shape: NumPyro would broadcast it, and be silently wrong."""
    free = frozenset(but_for)
    fits = len(shape) == len(site.traced_shape) and all(
        here == there for i, (here, there) in enumerate(zip(shape, site.traced_shape, strict=True)) if i not in free
    )
    if not fits:
        msg = (
            f"Posterior draws of site `{site.name}` must have shape {('n_draws', *site.traced_shape)} for this "
            f"input; got {('n_draws', *shape)}. Pass an input like the one the model was fitted on (as many "
            "columns, the same kernel arguments), or set matching draws with `set_posterior_sample`."
        )
        raise ValueError(msg)


def _parameter(site: Site, posterior: Mapping[str, tuple[int, ...]] | None, fitted: Mapping[str, Any]) -> ValueSource:
    if posterior is not None and site.name in posterior:
        _check_shape(site, posterior[site.name])
        return ValueSource.POSTERIOR
    if site.name not in fitted:
        return ValueSource.INITIAL
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(fitted[site.name])]
    # A module whose weights are all random sites keeps no array of its own.
    expected = [shape for _, shape in site.leaves] if site.leaves or not site.dtype else [site.traced_shape]
    if shapes != expected:
        msg = (
            f"The fitted value of parameter `{site.name}` must have shape {_one(expected)} for this input; got "
            f"{_one(shapes)}. A parameter per observation holds for the fitted observations only: pass those, or "
            "make it a `sample` site, which is drawn anew for other ones."
        )
        raise ValueError(msg)
    return ValueSource.FITTED


def _one(shapes: list[tuple[int, ...]]) -> object:
    return shapes[0] if len(shapes) == 1 else shapes

"""Discrete latent sites: checks for enumeration, and draws of enumerated sites.

Summing over a discrete site gives the marginal density of the continuous sites, which has a gradient (tensor variable
elimination, Obermeyer et al. 2019). NumPyro does this with funsor. Enumerated sites are drawn after the fit, from their
distribution given the data and each draw of the other sites, which gives draws from the joint posterior.
"""

__all__ = [
    "check_enumerable",
    "check_minibatch_sum",
    "check_values",
    "draw_discrete",
    "enumerated_sites",
    "enumeration_marks",
]

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.handlers import condition, infer_config, seed, substitute, trace
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoGuide, AutoGuideList
from numpyro.primitives import Messenger

from aimz.data import KernelArguments
from aimz.errors import FitWarning, KernelValidationError, warn
from aimz.forward import map_over_draws
from aimz.inference.minibatch_scaling import HOLDS_DATA, enumerates_discrete, guide_parts, run_sites
from aimz.kernel import KernelSpec, Role, isolated

_FOLD = 2**20
"""Folded into the key of a fit to draw enumerated sites; larger than the number of any chain."""


def enumeration_marks(
    function: Callable[..., Any], arrays: Mapping[str, Any], static: Mapping[str, object]
) -> dict[str, object]:
    """Return ``infer["enumerate"]`` of each discrete latent of a model or guide, by name."""
    marks: dict[str, object] = {}

    def run(arrays: Mapping[str, Any]) -> None:
        for name, message in run_sites(function, arrays, static).items():
            if message["type"] == "sample" and not message["is_observed"] and message["fn"].support.is_discrete:
                marks[name] = message["infer"].get("enumerate")

    jax.eval_shape(run, {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()})
    return marks


def enumerated_sites(
    svi: SVI, spec: KernelSpec, arrays: Mapping[str, Any], static: Mapping[str, object]
) -> tuple[str, ...]:
    """Return the discrete latents that the ELBO enumerates; raise if the fit would be wrong.

    Raises
    ------
    ImportError
        If funsor is not installed.
    KernelValidationError
        If a site cannot be enumerated.
    ValueError
        If the ELBO or the guide cannot handle a discrete site, or the site is not marked for enumeration.
    """
    if not spec.discrete_latents:
        return ()
    static, loss = {**static, **svi.static_kwargs}, type(svi.loss).__name__
    drawn = _discrete_sites_of_guide(svi.guide, arrays, static)
    if drawn and not getattr(svi.loss, "can_infer_discrete", False):
        msg = (
            f"The guide draws the discrete site `{min(drawn)}`, for which `{loss}` has no gradient. Choose "
            "`TraceGraph_ELBO()` or `TraceEnum_ELBO()`."
        )
        raise ValueError(msg)
    enumerated = tuple(name for name in spec.discrete_latents if name not in drawn)
    if not enumerated:
        return ()
    name = enumerated[0]
    if not enumerates_discrete(svi):
        msg = (
            f"The guide has no distribution for the discrete latent site `{name}`, and `{loss}` does not sum over it: "
            "the fit would treat it as noise. Choose `TraceEnum_ELBO()`, and mark the site in the kernel: "
            f"`numpyro.sample('{name}', ..., infer={{'enumerate': 'parallel'}})`."
        )
        raise ValueError(msg)
    check_enumerable(spec, enumerated)
    unsuited = [part for part in guide_parts(svi.guide) if isinstance(part, (*HOLDS_DATA, AutoDiagonalNormal))]
    if unsuited:
        why = "evaluates its own model" if isinstance(unsuited[0], HOLDS_DATA) else "does not support enumeration"
        msg = (
            f"The guide `{type(unsuited[0]).__name__}` {why}, and the discrete latent site `{name}` must be summed "
            "over. Choose `AutoNormal` or `AutoMultivariateNormal`."
        )
        raise ValueError(msg)
    marks = enumeration_marks(svi.model, arrays, static)
    unmarked = [name for name in enumerated if marks.get(name) != "parallel"]
    if unmarked:
        msg = (
            f"The discrete latent site `{unmarked[0]}` is not marked for enumeration, so that `{loss}` would treat it "
            f"as noise. Write `numpyro.sample('{unmarked[0]}', ..., infer={{'enumerate': 'parallel'}})`, or fit and "
            "predict with `numpyro.contrib.funsor.config_enumerate(kernel)`."
        )
        raise ValueError(msg)
    return enumerated


def _discrete_sites_of_guide(guide: Any, arrays: Mapping[str, Any], static: Mapping[str, object]) -> frozenset[str]:
    """Return the discrete latents that a guide draws.

    Raises
    ------
    ValueError
        If an AutoGuide runs a model with a discrete site, for which it has no distribution.
    """
    sites = set[str]()
    for part in guide_parts(guide):
        if isinstance(part, AutoGuideList):
            continue
        if not isinstance(part, AutoGuide):
            sites |= enumeration_marks(part, arrays, static).keys()
            continue
        discrete = sorted(enumeration_marks(part.model, arrays, static))
        if discrete:
            kind = type(part).__name__
            msg = (
                f"The guide `{kind}` supports continuous sites only; got the discrete site `{discrete[0]}`. Hide it, "
                f"so that `TraceEnum_ELBO` sums over it: `{kind}(numpyro.handlers.block(kernel, hide={discrete}))`."
            )
            raise ValueError(msg)
    return frozenset(sites)


def check_enumerable(spec: KernelSpec, names: Iterable[str]) -> None:
    """Raise if NumPyro cannot enumerate a site, or would silently give a wrong sum.

    Raises
    ------
    ImportError
        If funsor is not installed.
    KernelValidationError
        If the values of a site are not 0, 1, ..., n, or a site outside of its plates depends on it.
    """
    names = tuple(names)
    for name in names:
        check_values(spec, name)
    if names and find_spec("funsor") is None:
        msg = (
            f"The discrete latent site `{names[0]}` must be summed over, for which NumPyro needs funsor, which is not "
            "installed. Install it: `pip install funsor`."
        )
        raise ImportError(msg)
    for name in names:
        _check_plates(spec, name)


def check_values(spec: KernelSpec, name: str) -> None:
    """Raise if the values of a site are not known to be 0, 1, ..., n."""
    site = spec[name]
    if site.n_values is not None:
        return
    if site.event_dim:
        given = f"is a vector of {site.distribution}"
        advice = "Write it as a scalar in a plate of its own (no `to_event`)"
    elif site.distribution == "DiscreteUniform":
        given = "has limits that do not start at 0, or are not known in advance"
        advice = "Write `DiscreteUniform(0, n)` with Python numbers and add the lower limit to the draw"
    else:
        given = f"is {site.distribution}, whose values cannot be listed in advance"
        advice = (
            "Write the marginal instead (a negative binomial for a Poisson with a gamma rate), or a `Categorical` over "
            "the relevant values"
        )
    msg = (
        f"The discrete latent site `{name}` {given}; a fit sums over the values 0, 1, ... of scalar sites (Bernoulli, "
        f"Categorical, Binomial with a Python count, DiscreteUniform from 0). {advice}."
    )
    raise KernelValidationError(msg)


def _check_plates(spec: KernelSpec, name: str) -> None:
    """Raise if a site outside of the plates of ``name`` depends on it: NumPyro would give a wrong sum."""
    plates = {plate for plate, _ in spec[name].plates}
    reached = {name}
    for site in spec.sites:
        if site.in_control_flow or not site.parents & reached or site.name == name:
            continue
        if site.role is Role.DETERMINISTIC:
            reached.add(site.name)
        elif not plates <= {plate for plate, _ in site.plates}:
            outside = sorted(plates - {plate for plate, _ in site.plates})
            msg = (
                f"The discrete latent site `{name}` is in the plate `{outside[0]}`, and `{site.name}`, which depends "
                f"on it, is not: NumPyro would sum as if all values of `{name}` in that plate were equal. Put "
                f"`{site.name}` in that plate too (one axis for groups and one for their rows), or sample `{name}` "
                "with `DiscreteHMCGibbs(NUTS(kernel))`."
            )
            raise KernelValidationError(msg)


def check_minibatch_sum(spec: KernelSpec, name: str) -> None:
    """Raise if an enumerated site has no row axis: its sum over all rows cannot be estimated from a minibatch."""
    if not spec[name].row_axes:
        msg = (
            f"The discrete latent site `{name}` has no row axis, so that the sum over its values involves all rows at "
            "once and cannot be estimated from a batch. Fit all rows with `fit_on_batch`, or write a guide that draws "
            "it and choose `TraceGraph_ELBO()`."
        )
        raise ValueError(msg)


class _FullData(Messenger):  # type: ignore[misc,unused-ignore]
    """Handler that gives plates all their rows in order and, unless ``keep_scale``, removes the scale of sites."""

    def __init__(self, fn: Callable[..., Any], row_plates: frozenset[str], *, keep_scale: bool) -> None:
        super().__init__(fn)
        self._row_plates = row_plates
        self._keep_scale = keep_scale

    def process_message(self, msg: dict[str, Any]) -> None:
        """Set the indices of a plate, or remove the scale of a site."""
        if msg["type"] == "plate" and msg["value"] is None:
            size, subsample_size = msg["args"]
            if msg["name"] not in self._row_plates:
                msg["args"] = (size, subsample_size := size)
            msg["value"] = jnp.arange(subsample_size)
        elif msg["type"] == "sample" and not self._keep_scale:
            msg["scale"] = None


def draw_discrete(
    model: Callable[..., Any],
    call: KernelArguments,
    spec: KernelSpec,
    names: tuple[str, ...],
    key: jax.Array,
    draws: Mapping[str, jax.Array],
    params: Mapping[str, Any],
    *,
    n_draws: int,
    keep_scale: bool,
) -> dict[str, jax.Array]:
    """Draw the sites ``names`` given the data, the parameters and each of ``draws`` of the other sites.

    ``keep_scale`` keeps the scale of densities, which MCMC includes in the sum and SVI does not.
    """
    inside = [name for name in names if spec[name].in_control_flow]
    if inside:
        warn(
            f"Discrete latent site(s) {', '.join(f'`{name}`' for name in names)} have no posterior draws: NumPyro sums "
            f"over `{inside[0]}` inside a `scan` and cannot draw it there. Predictions draw them given the sites they "
            "depend on, but not given the data. For posterior draws, sample them with "
            "`DiscreteHMCGibbs(NUTS(kernel))` in a kernel without `scan`.",
            FitWarning,
        )
        return {}
    from numpyro.contrib.funsor import infer_discrete

    def mark(message: dict[str, Any]) -> dict[str, Any]:
        return {"enumerate": "parallel" if message["name"] in names else None}

    @isolated
    def one_draw(
        key: jax.Array, draw: Mapping[str, Any], params: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> dict[str, Any]:
        key_model, key_discrete = jax.random.split(key)
        conditioned = condition(substitute(model, data=dict(params)), data=dict(draw))
        seeded = seed(_FullData(conditioned, spec.row_plates, keep_scale=keep_scale), key_model)
        handler = infer_discrete(infer_config(seeded, mark), rng_key=key_discrete)
        drawn = trace(handler).get_trace(**arrays, **call.static)
        return {name: _site_value(drawn[name]).astype(spec[name].dtype) for name in names}

    arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
    key = jax.random.fold_in(key, _FOLD)
    return map_over_draws(one_draw, key, draws, dict(params), arrays, n_draws=n_draws)


def _site_value(message: Mapping[str, Any]) -> jax.Array:
    """Return the value of a site in the shape of the site; funsor adds leading axes or omits axes."""
    shape, value = message["fn"].shape(), jnp.asarray(message["value"])
    return value.reshape(shape) if value.size == prod(shape) else jnp.broadcast_to(value, shape)

"""Discrete latent sites: what a fit may sum over, what is refused, and their draws given all the others.

A sum over a discrete site leaves the density of what is continuous, so that gradients lead through it (tensor variable
elimination, Obermeyer et al. 2019).  NumPyro sums with funsor.  What the sum has no draws of is drawn afterwards, from
its distribution given the draw of the other sites *and* the data, which makes each a draw of the joint posterior.
"""

__all__ = ["check_of_batch", "check_summed", "check_values", "draw_discrete", "enumeration_marks", "read_summed"]

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
from aimz.errors import KernelValidationError, warn
from aimz.forward import over_draws
from aimz.inference.minibatch_scaling import HOLDS_DATA, parts_of, run_sites, sums_discrete
from aimz.kernel import KernelSpec, Role


def enumeration_marks(
    function: Callable[..., Any], arrays: Mapping[str, Any], static: Mapping[str, object]
) -> dict[str, object]:
    """Return the name of each discrete latent of a model, or of a guide, and its mark ``infer={"enumerate": ...}``."""
    found: dict[str, object] = {}

    def run(given: Mapping[str, Any]) -> None:
        for name, message in run_sites(function, given, static).items():
            if message["type"] == "sample" and not message["is_observed"] and message["fn"].support.is_discrete:
                found[name] = message["infer"].get("enumerate")

    jax.eval_shape(run, {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()})
    return found


def read_summed(svi: SVI, spec: KernelSpec, arrays: Mapping[str, Any], static: Mapping[str, object]) -> tuple[str, ...]:
    """Return the discrete latents that a fit by SVI sums over, and refuse what it would get wrong.

    Raises
    ------
    ImportError
        If funsor is not installed.
    KernelValidationError
        If a site cannot be summed over.
    ValueError
        If the ELBO can do nothing with a discrete site, or the site is not marked, or the guide cannot have it.
    """
    if not spec.discrete_latents:
        return ()
    static, loss = {**static, **svi.static_kwargs}, type(svi.loss).__name__
    drawn = _sites_of_guide(svi.guide, arrays, static)
    if drawn and not getattr(svi.loss, "can_infer_discrete", False):
        msg = (
            f"The guide draws the discrete site `{min(drawn)}`, for which `{loss}` has no gradient. Choose "
            "`TraceGraph_ELBO()` or `TraceEnum_ELBO()`."
        )
        raise ValueError(msg)
    summed = tuple(name for name in spec.discrete_latents if name not in drawn)
    if summed and not sums_discrete(svi):
        msg = (
            f"The guide has no distribution for the discrete latent site `{summed[0]}`, and `{loss}` does not sum over "
            "it: the fit would take it to be noise. Choose `TraceEnum_ELBO()`, and mark the site in the kernel: "
            f"`numpyro.sample('{summed[0]}', ..., infer={{'enumerate': 'parallel'}})`."
        )
        raise ValueError(msg)
    check_summed(spec, summed)
    unfit = [part for part in parts_of(svi.guide) if isinstance(part, (*HOLDS_DATA, AutoDiagonalNormal))]
    if summed and unfit:
        why = "computes with the density of its own model" if isinstance(unfit[0], HOLDS_DATA) else "fails in that sum"
        msg = (
            f"The guide `{type(unfit[0]).__name__}` {why}, and the discrete latent site `{summed[0]}` has to be summed "
            "over. Choose `AutoNormal` or `AutoMultivariateNormal`."
        )
        raise ValueError(msg)
    marks = enumeration_marks(svi.model, arrays, static) if summed else {}
    unmarked = [name for name in summed if marks.get(name) != "parallel"]
    if unmarked:
        msg = (
            f"The discrete latent site `{unmarked[0]}` is not marked to be summed over, so that `{loss}` would take it "
            f"to be noise. Write `numpyro.sample('{unmarked[0]}', ..., infer={{'enumerate': 'parallel'}})`, or fit "
            "and predict with `numpyro.contrib.funsor.config_enumerate(kernel)`."
        )
        raise ValueError(msg)
    return summed


def _sites_of_guide(guide: Any, arrays: Mapping[str, Any], static: Mapping[str, object]) -> frozenset[str]:
    """Return the discrete latents that a guide draws.

    Raises
    ------
    ValueError
        If it is made by NumPyro and meets a discrete site, for which it has no distribution.
    """
    found = set[str]()
    for part in parts_of(guide):
        if isinstance(part, AutoGuideList):
            continue
        if not isinstance(part, AutoGuide):
            found |= enumeration_marks(part, arrays, static).keys()
            continue
        met = sorted(enumeration_marks(part.model, arrays, static))
        if met:
            kind = type(part).__name__
            msg = (
                f"The guide `{kind}` has continuous sites only, and meets the discrete site `{met[0]}`. Hide it, so "
                f"that `TraceEnum_ELBO` sums over it: `{kind}(numpyro.handlers.block(kernel, hide={met}))`."
            )
            raise ValueError(msg)
    return frozenset(found)


def check_summed(spec: KernelSpec, names: Iterable[str]) -> None:
    """Refuse sites that NumPyro cannot sum over, or would sum over wrongly without a word.

    Raises
    ------
    ImportError
        If funsor is not installed.
    KernelValidationError
        If a site has too many values or others than 0, 1, ..., or is needed outside of its plates.
    """
    names = tuple(names)
    for name in names:
        check_values(spec, name)
    if names and find_spec("funsor") is None:
        msg = (
            f"The discrete latent site `{names[0]}` has to be summed over, for which NumPyro needs funsor, which is "
            'not installed. Install it: `pip install "aimz[discrete]"`.'
        )
        raise ImportError(msg)
    for name in names:
        _check_plates(spec, name)


def check_values(spec: KernelSpec, name: str) -> None:
    """Refuse a site of which NumPyro cannot list the values, or would take them for others."""
    site = spec[name]
    if site.n_values is not None:
        return
    if site.event_dim:
        given, call = (
            f"is a vector of {site.distribution}",
            "Write it as a scalar in a plate of its own (no `to_event`)",
        )
    elif site.distribution == "DiscreteUniform":
        given = "has limits that do not start at 0, or are not known in advance"
        call = "Write `DiscreteUniform(0, n)` with plain numbers and add what is missing to the draw"
    else:
        given = f"is {site.distribution}, whose values cannot be listed in advance"
        call = (
            "Write the marginal instead (a negative binomial for a Poisson with a gamma rate), or a `Categorical` over "
            "the values that matter"
        )
    msg = (
        f"The discrete latent site `{name}` {given}; a fit sums over the values 0, 1, ... of scalar sites (Bernoulli, "
        f"Categorical, Binomial with a plain count, DiscreteUniform from 0). {call}."
    )
    raise KernelValidationError(msg)


def _check_plates(spec: KernelSpec, name: str) -> None:
    """Refuse a site that something outside of its plates depends on: NumPyro would take all its values to be one."""
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
                "on it, is not: NumPyro would sum as if all its values in that plate were the same. Put "
                f"`{site.name}` in that plate too (an axis of groups and one of their rows), or have `{name}` drawn, "
                "by `DiscreteHMCGibbs(NUTS(kernel))`."
            )
            raise KernelValidationError(msg)


def check_of_batch(spec: KernelSpec, name: str) -> None:
    """Refuse to sum, in minibatches, over a site that all rows have in common: what it is worth, no batch can tell.

    Raises
    ------
    ValueError
        If the site has no row axis.
    """
    if not spec[name].row_axes:
        msg = (
            f"The discrete latent site `{name}` has no row axis, so that the sum over its values is one over all rows "
            "together, which no batch can stand for. Fit all rows with `fit_on_batch`, or write a guide that draws it "
            "and choose `TraceGraph_ELBO()`."
        )
        raise ValueError(msg)


class _AsFitted(Messenger):  # type: ignore[misc,unused-ignore]
    """All rows at hand in order, and each counted once unless ``weighed``."""

    def __init__(self, fn: Callable[..., Any], row_plates: frozenset[str], *, weighed: bool) -> None:
        super().__init__(fn)
        self._row_plates = row_plates
        self._weighed = weighed

    def process_message(self, msg: dict[str, Any]) -> None:
        """Give a subsampled plate its rows, and take the scale off a site."""
        if msg["type"] == "plate" and msg["value"] is None:
            size, subsample_size = msg["args"]
            if msg["name"] not in self._row_plates:
                msg["args"] = (size, subsample_size := size)
            msg["value"] = jnp.arange(subsample_size)
        elif msg["type"] == "sample" and not self._weighed:
            msg["scale"] = None


def draw_discrete(
    model: Callable[..., Any],
    call: KernelArguments,
    spec: KernelSpec,
    names: tuple[str, ...],
    key: jax.Array,
    given: Mapping[str, jax.Array],
    params: Mapping[str, Any],
    *,
    n_draws: int,
    weighed: bool,
) -> dict[str, jax.Array]:
    """Draw the sites ``names`` from their distribution given the data, the parameters and each draw of the others.

    ``weighed`` says that the fit summed over densities with their weights in them, as MCMC does.
    """
    inside = [name for name in names if spec[name].in_control_flow]
    if inside:
        warn(
            f"Discrete latent site(s) {', '.join(f'`{name}`' for name in names)} have no posterior draws: NumPyro sums "
            f"over `{inside[0]}` inside a `scan` and cannot draw it there. Predictions draw them given the sites they "
            "depend on, and not given the data. Have them drawn by the sampler, `DiscreteHMCGibbs(NUTS(kernel))` in a "
            "kernel without `scan`, if their values are wanted."
        )
        return {}
    from numpyro.contrib.funsor import infer_discrete

    def mark(message: dict[str, Any]) -> dict[str, Any]:
        return {"enumerate": "parallel" if message["name"] in names else None}

    def one(
        key: jax.Array, draw: Mapping[str, Any], params: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> dict[str, Any]:
        inside, outside = jax.random.split(key)
        held = condition(substitute(model, data=dict(params)), data=dict(draw))
        held = seed(_AsFitted(held, spec.row_plates, weighed=weighed), inside)
        drawn = trace(infer_discrete(infer_config(held, mark), rng_key=outside)).get_trace(**arrays, **call.static)
        return {name: _in_shape(drawn[name]).astype(spec[name].dtype) for name in names}

    arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
    return over_draws(one, key, given, dict(params), arrays, n_draws=n_draws)


def _in_shape(message: Mapping[str, Any]) -> jax.Array:
    """Return the value of a site in the site's own shape; funsor leaves axes in front of it, or out of it."""
    shape, value = message["fn"].shape(), jnp.asarray(message["value"])
    return value.reshape(shape) if value.size == prod(shape) else jnp.broadcast_to(value, shape)

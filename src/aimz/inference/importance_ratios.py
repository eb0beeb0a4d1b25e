"""Importance ratios of draws of the guide, which measure its distance from the posterior."""

__all__ = ["GuideDraws", "NotCheckedError", "check_ratios", "draw_guide"]

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import validation_enabled
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.autoguide import AutoLaplaceApproximation
from numpyro.infer.util import log_density
from numpyro.primitives import Messenger

from aimz.data import KernelArguments
from aimz.inference.svi import SVIFit
from aimz.kernel import isolated

_MAX_ROWS = 2**16
"""Approximate number of rows evaluated at once, over all draws."""


_MAX_VALUES = 2000
"""Largest number of values kept for each draw."""


class NotCheckedError(Exception):
    """A check of ``diagnose`` cannot be made; the message is the reason."""


class _FindKeys(Messenger):  # type: ignore[misc,unused-ignore]
    """Handler that detects ``numpyro.prng_key`` (dropout), whose noise belongs to no site."""

    found = False

    def process_message(self, msg: dict[str, Any]) -> None:
        """Record the type of a message."""
        self.found |= msg["type"] == "prng_key"


def _arguments(fit: SVIFit, call: KernelArguments) -> tuple[dict[str, jax.Array], dict[str, object]]:
    arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
    return arrays, {**call.static, **fit.inference.static_kwargs}


@isolated
def check_ratios(fit: SVIFit, call: KernelArguments, key: jax.Array) -> None:
    """Check that importance ratios of draws of the guide are defined.

    Model and guide are run outside of compiled programs, so that a guide that is set up here does not keep tracers.

    Raises
    ------
    NotCheckedError
        If the ratios cannot be computed, or have no meaning.
    """
    svi, params = fit.inference, fit.params
    if fit.vi_state is not None and fit.vi_state.mutable_state:
        raise NotCheckedError("mutable state")
    if getattr(svi.loss, "multi_sample_guide", False):
        raise NotCheckedError("a multi-sample guide")
    arrays, static = _arguments(fit, call)
    keys = jax.random.split(key)
    finder = _FindKeys()
    with validation_enabled(is_validate=False):  # a draw out of bounds has a ratio that is not finite
        guide, other = (trace(seed(substitute(svi.guide, data=params), k)).get_trace(**arrays, **static) for k in keys)
        replayed = substitute(replay(seed(svi.model, keys[0]), guide), data=params)
        with finder:
            model = trace(replayed).get_trace(**arrays, **static)
    for name, site in (guide | model).items():
        if site["type"] == "mutable":
            raise NotCheckedError("mutable state")
        if site["type"] == "param" and name not in params:
            raise NotCheckedError(f"`vi_result` has no `{name}`")
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise NotCheckedError(f"plate `{name}` subsamples")
    latents = [name for name, site in model.items() if site["type"] == "sample" and not site["is_observed"]]
    if not latents:
        raise NotCheckedError("the kernel has no latents")
    for name in latents:
        if name not in guide:
            raise NotCheckedError(f"guide has no `{name}`")
    if finder.found:
        raise NotCheckedError("the kernel adds noise")
    # AutoLaplaceApproximation is a point during the fit, and a distribution afterwards.
    for name in [] if isinstance(svi.guide, AutoLaplaceApproximation) else latents:
        if _is_point(guide[name]["value"], other[name]["value"]):
            raise NotCheckedError(f"guide is a point at `{name}`")


def _is_point(draw: Any, other: Any) -> bool:
    """Return whether two draws are equal; discrete draws can be equal by chance."""
    return bool(jnp.issubdtype(jnp.result_type(draw), jnp.floating)) and np.array_equal(draw, other)


class GuideDraws(NamedTuple):
    """Draws of the guide."""

    log_ratios: Any
    """``log p(theta, y) - log q(theta)`` of each draw: its ELBO."""
    values: dict[str, Any]
    """Evenly spaced values ``(n_draws, n_values)`` of each latent site."""


def draw_guide(fit: SVIFit, call: KernelArguments, key: jax.Array, *, num_draws: int) -> GuideDraws:
    """Return draws of the guide; all rows are evaluated at once, for batches of draws of limited size."""
    svi = fit.inference
    guide, (arrays, static) = svi.guide, _arguments(fit, call)
    laplace = isolated(guide.get_posterior)(fit.params) if isinstance(guide, AutoLaplaceApproximation) else None

    @isolated
    def one(key: jax.Array, params: dict[str, Any], arrays: Mapping[str, jax.Array]) -> GuideDraws:
        of_location = 0.0
        if laplace is not None:
            # The guide has all mass at its location: with the location at a draw, the loss is the joint density there.
            draw = laplace.sample(key)
            params, of_location = {**params, f"{guide.prefix}_loc": draw}, laplace.log_prob(draw)
        # Keys as in NumPyro's ELBO.
        model_key, guide_key = jax.random.split(key)
        given = {**arrays, **static}
        of_guide, sites = log_density(seed(guide, guide_key), (), given, params)
        joint, _ = log_density(replay(seed(svi.model, model_key), sites), (), given, params)
        return GuideDraws(joint - of_guide - of_location, _values(sites))

    @jax.jit
    def run(keys: jax.Array, params: dict[str, Any], arrays: Mapping[str, jax.Array]) -> Any:
        batch_size = next((size for size in (50, 10) if size * call.n_obs <= _MAX_ROWS), None)
        return lax.map(lambda key: one(key, params, arrays), keys, batch_size=batch_size)

    found: GuideDraws = jax.tree.map(np.asarray, run(jax.random.split(key, num_draws), fit.params, arrays))
    return found


def _values(sites: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return evenly spaced values of the continuous latents in a trace of the guide."""
    found = {
        name: jnp.ravel(site["value"])
        for name, site in sites.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site["infer"].get("is_auxiliary")
        and jnp.issubdtype(jnp.result_type(site["value"]), jnp.floating)
    }
    most = max(1, _MAX_VALUES // max(1, len(found)))
    return {name: flat[np.linspace(0, flat.size - 1, min(flat.size, most)).astype(int)] for name, flat in found.items()}

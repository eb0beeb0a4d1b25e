"""How far a guide is from the posterior, draw by draw: its importance ratios."""

__all__ = ["log_ratios", "ratio_obstacle"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import validation_enabled
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer import Trace_ELBO
from numpyro.infer.autoguide import AutoLaplaceApproximation
from numpyro.primitives import Messenger

from aimz.data import KernelArguments
from aimz.inference.svi import SVIFit

_TOGETHER = 2**16
"""About how many rows are computed at once, over all draws."""


class _Noise(Messenger):  # type: ignore[misc,unused-ignore]
    """Sees whether a model draws with a key of its own (dropout), which belongs to no site."""

    found = False

    def process_message(self, msg: dict[str, Any]) -> None:
        """Look at a message."""
        self.found |= msg["type"] == "prng_key"


def _arguments(fit: SVIFit, call: KernelArguments) -> tuple[dict[str, jax.Array], dict[str, object]]:
    arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
    return arrays, {**call.static, **fit.inference.static_kwargs}


def ratio_obstacle(fit: SVIFit, call: KernelArguments, key: jax.Array) -> str | None:
    """Return why the ratio of the two densities at a draw of the guide cannot be had, or means nothing.

    Model and guide are run here outside of compiled programs: a guide that was not set up yet is set up now, and would
    otherwise keep what belongs to the program.
    """
    svi, params = fit.inference, fit.params
    mutable = "mutable state"
    if fit.vi_state is not None and fit.vi_state.mutable_state:
        return mutable
    if getattr(svi.loss, "multi_sample_guide", False):
        return "a multi-sample guide"
    arrays, static = _arguments(fit, call)
    keys = jax.random.split(key)
    noise = _Noise()
    with validation_enabled(is_validate=False):  # a draw that is out of bounds is for the ratios to tell
        guide, other = (trace(seed(substitute(svi.guide, data=params), k)).get_trace(**arrays, **static) for k in keys)
        held = substitute(replay(seed(svi.model, keys[0]), guide), data=params)
        with noise:
            model = trace(held).get_trace(**arrays, **static)
    latents = [name for name, site in model.items() if site["type"] == "sample" and not site["is_observed"]]
    alone = [name for name in latents if name not in guide]
    for name, site in (guide | model).items():
        if site["type"] == "mutable":
            return mutable
        if site["type"] == "param" and name not in params:
            return f"`vi_result` has no `{name}`"
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            return f"plate `{name}` subsamples"
    if not latents or alone:
        return f"guide has no `{alone[0]}`" if alone else "the kernel has no latents"
    if noise.found:
        return "the kernel adds noise"
    if isinstance(svi.guide, AutoLaplaceApproximation):
        return None  # a point while it is fitted, and a distribution afterwards
    point = next((name for name in latents if _same(guide[name]["value"], other[name]["value"])), None)
    return None if point is None else f"guide is a point at `{point}`"


def _same(one: Any, other: Any) -> bool:
    """Whether two draws are the same; whole numbers may be by chance."""
    return bool(jnp.issubdtype(jnp.result_type(one), jnp.floating)) and np.array_equal(one, other)


def log_ratios(fit: SVIFit, call: KernelArguments, key: jax.Array, *, num_draws: int) -> np.ndarray:
    """Return ``log p(theta, y) - log q(theta)`` at draws of the guide: its ELBO, from one draw each.

    All rows are computed at once, for as many draws as are a fair amount of work.
    """
    svi, elbo = fit.inference, Trace_ELBO()
    guide, (arrays, static) = svi.guide, _arguments(fit, call)
    laplace = guide.get_posterior(fit.params) if isinstance(guide, AutoLaplaceApproximation) else None

    def ratio(key: jax.Array, params: dict[str, Any], arrays: Mapping[str, jax.Array]) -> Any:
        if laplace is None:
            return -elbo.loss(key, params, svi.model, guide, **arrays, **static)
        # The guide puts all mass at its location: moved to a draw, it gives the joint density there.
        draw = laplace.sample(key)
        moved = {**params, f"{guide.prefix}_loc": draw}
        return -elbo.loss(key, moved, svi.model, guide, **arrays, **static) - laplace.log_prob(draw)

    @jax.jit
    def run(keys: jax.Array, params: dict[str, Any], arrays: Mapping[str, jax.Array]) -> Any:
        together = next((size for size in (50, 10) if size * call.n_obs <= _TOGETHER), None)
        return lax.map(lambda key: ratio(key, params, arrays), keys, batch_size=together)

    return np.asarray(run(jax.random.split(key, num_draws), fit.params, arrays))

"""The ELBO of NumPyro with a sum over sites that has the same order in every process."""

__all__ = ["in_order_of_sites"]

import copy
from collections.abc import Callable
from typing import Any, override

import jax
import jax.numpy as jnp
from jax import random
from numpyro.handlers import replay, seed
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.util import compute_log_probs
from numpyro.util import _validate_model, check_model_guide_match

from aimz.errors import FitWarning, warn


class _OrderedELBO(Trace_ELBO):
    """`Trace_ELBO` that sums over the sites in their order in the model.

    NumPyro sums in the order of a set of strings, which differs between processes, and with it the rounding of the sum.
    """

    def __init__(self, original: Trace_ELBO) -> None:
        self.__dict__ |= vars(original)

    @override
    def loss_with_mutable_state(
        self,
        rng_key: jax.Array,
        param_map: dict[str, jax.Array],
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        def elbo(key: jax.Array) -> tuple[jax.Array, dict[str, Any] | None]:
            model_key, guide_key = random.split(key)
            guide_densities, guide_trace = compute_log_probs(seed(guide, guide_key), args, kwargs, param_map)
            params = {**param_map, **_mutable(guide_trace)}
            replayed = replay(seed(model, model_key), guide_trace)
            model_densities, model_trace = compute_log_probs(replayed, args, kwargs, params)
            check_model_guide_match(model_trace, guide_trace)
            _validate_model(model_trace, plate_warning="loose")
            total = jnp.array(0.0)
            for name in dict.fromkeys([*model_densities, *guide_densities]):
                total += model_densities.get(name, jnp.array(0.0)) - guide_densities.get(name, jnp.array(0.0))
            return total, {**_mutable(guide_trace), **_mutable(model_trace)} or None

        if self.num_particles == 1:
            value, mutable = elbo(rng_key)
            return {"loss": -value, "mutable_state": mutable}
        values, mutable = self.vectorize_particles_fn(elbo, random.split(rng_key, self.num_particles))
        if mutable is not None:
            warn("NumPyro updates mutable state only with `num_particles=1`; it keeps its initial value.", FitWarning)
        return {"loss": -jnp.mean(values), "mutable_state": None}


def in_order_of_sites(svi: SVI) -> SVI:
    """Return ``svi``, or a copy of it whose loss sums over the sites in their order."""
    loss = svi.loss
    if type(loss) is not Trace_ELBO or loss.multi_sample_guide or not loss.sum_sites:
        return svi
    ordered = copy.copy(svi)
    ordered.loss = _OrderedELBO(loss)
    return ordered


def _mutable(trace: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the mutable sites of a trace."""
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}

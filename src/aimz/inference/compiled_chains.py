"""Markov chains as one compiled program, whose data are arguments, for fits that are repeated with other data."""

__all__ = ["compile_chains", "metric_of"]

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

import jax
from jax import lax
from numpyro.infer import MCMC

from aimz.kernel import isolated


def metric_of(sampler: Any) -> Any:
    """Return the inverse mass matrix with which a sampler starts, if it is an array."""
    metric = getattr(sampler, "_inverse_mass_matrix", None)
    return metric if hasattr(metric, "shape") else None


def compile_chains(
    mcmc: MCMC, sampler: Any, fields: tuple[str, ...], static: Mapping[str, object]
) -> Callable[..., Any]:
    """Return a compiled function ``(key, init_params, metric, arrays) -> (draws, fields)``, grouped by chain."""

    @jax.jit
    @isolated
    def run(key: jax.Array, init_params: Any, metric: Any, arrays: Mapping[str, Any]) -> tuple[Any, Any]:
        own = copy(mcmc)
        own._cache, own._init_state_cache, own.progress_bar = {}, {}, False
        own.sampler = copy(sampler)
        if metric is not None:
            own.sampler._inverse_mass_matrix = metric
        if own.chain_method in ("sequential", "parallel"):
            own.chain_method = _one_by_one
        own.run(key, extra_fields=fields, init_params=init_params, **arrays, **static)
        return own.get_samples(group_by_chain=True), own.get_extra_fields(group_by_chain=True)

    return run


def _one_by_one(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that runs one chain after another."""
    return partial(lax.map, function)

"""Quantiles of discrete distributions, by the inversion that the samplers use."""

__all__ = ["has_quantile", "quantile"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.nn import sigmoid, softmax, softplus

from aimz.samplers.counts import invert_binomial, invert_categorical, invert_poisson
from aimz.samplers.uniforms import Uniform


def has_quantile(fn: Any) -> bool:
    """Return whether :func:`quantile` knows a distribution."""
    return type(fn).log_prob in _QUANTILES


def quantile(fn: Any, u: Uniform) -> jax.Array:
    """Return the quantiles of uniform variates, as floats; counts are monotone in the variates."""
    dtype = u.tail.dtype
    return _QUANTILES[type(fn).log_prob](fn, u).astype(dtype)


def _float(x: Any, u: Uniform, event: tuple[int, ...] = ()) -> jax.Array:
    return jnp.broadcast_to(x, u.tail.shape + event).astype(u.tail.dtype)


def _bernoulli(fn: Any, u: Uniform) -> jax.Array:
    success, failure = _both_probs(fn)
    return jnp.where(u.upper, u.tail < success, u.tail > failure)


def _binomial(fn: Any, u: Uniform) -> jax.Array:
    success, failure = (_float(p, u) for p in _both_probs(fn))
    return invert_binomial(u, _float(fn.total_count, u), success, failure)


def _both_probs(fn: Any) -> tuple[jax.Array, jax.Array]:
    """Return the probabilities of success and of failure; log odds keep both precise."""
    if hasattr(fn, "logits") and "logits" in fn.arg_constraints:
        return sigmoid(fn.logits), sigmoid(-fn.logits)
    return jnp.asarray(fn.probs), 1 - jnp.asarray(fn.probs)


def _categorical(fn: Any, u: Uniform) -> jax.Array:
    probs = softmax(fn.logits, -1) if "logits" in fn.arg_constraints else fn.probs
    return invert_categorical(u, _float(probs, u, jnp.shape(probs)[-1:]))


def _geometric(fn: Any, u: Uniform) -> jax.Array:
    log_failure = -softplus(fn.logits) if "logits" in fn.arg_constraints else jnp.log1p(-fn.probs)
    log_upper = jnp.where(u.upper, jnp.log(u.tail), jnp.log1p(-u.tail))
    return jnp.maximum(jnp.ceil(log_upper / log_failure) - 1, 0)


def _poisson(fn: Any, u: Uniform) -> jax.Array:
    return invert_poisson(u, _float(fn.rate, u))


_QUANTILES: dict[Any, Callable[[Any, Uniform], jax.Array]] = {
    dist.BernoulliLogits.log_prob: _bernoulli,
    dist.BernoulliProbs.log_prob: _bernoulli,
    dist.BinomialLogits.log_prob: _binomial,
    dist.BinomialProbs.log_prob: _binomial,
    dist.CategoricalLogits.log_prob: _categorical,
    dist.CategoricalProbs.log_prob: _categorical,
    dist.GeometricLogits.log_prob: _geometric,
    dist.GeometricProbs.log_prob: _geometric,
    dist.Poisson.log_prob: _poisson,
}
"""Quantiles by the method that defines the family, so that a subclass with a density of its own has none."""

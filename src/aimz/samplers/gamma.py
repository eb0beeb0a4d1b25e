"""Gamma variates by a bounded number of proposals."""

__all__ = ["gamma", "log_gamma"]

import jax
import jax.numpy as jnp
from jax import random

from aimz.samplers.uniforms import normal_quantile, open_uniform_of, polynomial, random_words, uniform_of

_PROPOSALS = 3
_SMALLEST = 2.0
"""Shapes below are raised by one, where nearly every proposal is accepted."""
_SERIES = tuple(3 * (-1) ** (k + 1) / k for k in range(4, 13))
"""Coefficients of ``3 log(1 + t) - 3t + 3t**2 / 2 - t**3``, divided by ``t**4``."""
_SERIES_RADIUS = 0.2


def gamma(key: jax.Array, shape: jax.Array) -> jax.Array:
    """Return gamma variates of scale 1, one for each shape parameter."""
    value, log_power = _draw(key, shape)
    return value * jnp.exp(log_power)


def log_gamma(key: jax.Array, shape: jax.Array) -> jax.Array:
    """Return logarithms of gamma variates, which do not underflow for small shape parameters."""
    value, log_power = _draw(key, shape)
    return jnp.log(value) + log_power


def _draw(key: jax.Array, shape: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a variate with a shape parameter of at least 2, and the logarithm of the factor for the given one.

    Marsaglia and Tsang (2000) define the proposals, of which at least 98 % are accepted for shapes from 2. If all
    are rejected, the last one is taken, so the variate has the exact distribution up to 2e-7 in total variation.
    """
    dtype = shape.dtype
    raised = shape < _SMALLEST
    d = shape + jnp.where(raised, 2.0 / 3.0, -1.0 / 3.0).astype(dtype)
    c = jax.lax.rsqrt(9 * d)
    # All words are drawn together: each draw of its own would take as long to compile.
    words = jax.vmap(lambda one: random_words(one, shape.shape, dtype))(random.split(key, 2 * _PROPOSALS + 1))
    value, found = jnp.zeros_like(d), jnp.zeros(d.shape, bool)
    for number in range(_PROPOSALS):
        t = c * normal_quantile(uniform_of(words[2 * number], dtype))
        positive = t > -1
        t = jnp.where(positive, t, 0)
        log_u = jnp.log(open_uniform_of(words[2 * number + 1], dtype))
        value = jnp.where(found, value, (1 + t) ** 3)
        found |= positive & (log_u < d * _log_acceptance(t))
    log_power = jnp.log(open_uniform_of(words[-1], dtype)) / shape
    return d * value, jnp.where(raised, log_power, 0)


def _log_acceptance(t: jax.Array) -> jax.Array:
    """Return ``9t**2 / 2 + 1 - (1 + t)**3 + 3 log(1 + t)`` without cancellation next to 0."""
    direct = t * (t * (1.5 - t) - 3) + 3 * jnp.log1p(t)
    return jnp.where(jnp.abs(t) < _SERIES_RADIUS, t**4 * polynomial(_SERIES, t), direct)

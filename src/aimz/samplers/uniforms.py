"""Uniform variates with accurate tails, and normal variates from them."""

__all__ = [
    "Uniform",
    "normal_quantile",
    "open_uniform",
    "open_uniform_of",
    "polynomial",
    "random_words",
    "standard_normal",
    "uniform",
    "uniform_of",
]

from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import ndtri

# z = P(t) / Q(t) - t is the normal quantile of a tail probability p, with t = sqrt(-2 log p).  Fitted to SciPy's
# `ndtri` for p from 2**-34 to 1/2; the largest error is 2.5e-8.
_QUANTILE_P = (3.2195045222802845, 9.302248824037019, 2.6158662525443446, 0.09582125007482656)
_QUANTILE_Q = (1.0, 5.619830576845452, 4.638483727543332, 0.7182346757953684, 0.015584413744653412)


class Uniform(NamedTuple):
    """A uniform variate on (0, 1), as a tail probability, which keeps its relative precision next to 0 and 1."""

    tail: jax.Array
    """The smaller one of u and 1 - u, at least 2**-33 in single and 2**-65 in double precision."""
    upper: jax.Array
    """Whether u is in the upper half."""


def random_words(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Return random integers with as many bits as a floating type."""
    return random.bits(key, shape, f"uint{jnp.finfo(dtype).bits}")


def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Uniform:
    """Return uniform variates; each takes the bits of one number."""
    return uniform_of(random_words(key, shape, dtype), dtype)


def uniform_of(words: jax.Array, dtype: jnp.dtype) -> Uniform:
    """Return the uniform variates of random words."""
    top = jnp.asarray(1, words.dtype) << (jnp.finfo(dtype).bits - 1)
    return Uniform(open_uniform_of(words & (top - 1), dtype), words >= top)


def open_uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Return uniform variates in (0, 1], from 2**-33 in single and 2**-65 in double precision."""
    return open_uniform_of(random_words(key, shape, dtype), dtype)


def open_uniform_of(words: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return the centres of the intervals that random words number."""
    bits = jnp.finfo(dtype).bits
    return words.astype(dtype) * 2.0**-bits + 2.0 ** -(bits + 1)


def polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    """Return a polynomial with the given coefficients, the constant first."""
    return reduce(lambda value, c: value * x + c, reversed(coefficients[:-1]), jnp.full_like(x, coefficients[-1]))


@jax.jit  # traced once for all sites
def normal_quantile(u: Uniform) -> jax.Array:
    """Return the standard normal quantile of uniform variates."""
    if u.tail.dtype == jnp.float64:
        distance = -ndtri(u.tail)
    else:
        t = jnp.sqrt(-2 * jnp.log(u.tail))
        distance = t - polynomial(_QUANTILE_P, t) / polynomial(_QUANTILE_Q, t)
    return jnp.where(u.upper, distance, -distance)


@partial(jax.jit, static_argnums=(1, 2))
def standard_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Return standard normal variates, which differ from ``jax.random.normal`` by rounding only.

    ``erf_inv`` takes a ``log1p``, which takes three times as long as ``log`` on a CPU.
    """
    if dtype != jnp.float32:
        return random.normal(key, shape, dtype)
    x = random.uniform(key, shape, dtype, float(np.nextafter(np.float32(-1), np.float32(0))), 1.0)
    value: jax.Array = normal_quantile(Uniform((1 - jnp.abs(x)) / 2, x > 0))
    return value

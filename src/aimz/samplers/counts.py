"""Poisson, binomial, categorical and geometric variates by inversion of the distribution function.

One uniform variate yields one count, which is monotone in it, so counts with a common key are ordered as their
parameters are.  Small means are inverted by a sum over the masses.  For large means, x solves P(X < x) = u for a
distribution function that is extended to real x: the signed root of the deviance has a normal distribution up to a
correction (the r* formula of Barndorff-Nielsen, 1986; for the Poisson distribution also Giles, 2016).
"""

__all__ = [
    "binomial",
    "categorical",
    "geometric",
    "invert_binomial",
    "invert_categorical",
    "invert_poisson",
    "poisson",
    "positive_poisson",
]

from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp

from aimz.samplers.uniforms import Uniform, normal_quantile, open_uniform, polynomial, uniform

# Functions of s = z / sqrt(rate), where r solves s**2 / 2 = 1 - r + r log r: (r - 1 - s) / s**2, and the corrections of
# orders 0 and -1 in the rate.  Fitted to the exact functions and, for the last one, to SciPy's `gammaincc`.  For rates
# from 4, the largest error of x is 1.4e-4 within three standard deviations, and the boundary of 0 is exact.
_SMALL_RATE = 4.0
_CURVE = (
    (
        *(0.1666667579331778, 0.21022368448643836, 0.07798857204571522),
        *(0.007348310946293258, -1.1798192938929001e-4, 4.646576208032973e-06),
    ),
    (1.0, 1.3446762640038226, 0.557771539565712, 0.06867510441377991),
)
_FIRST = (
    (0.333334781792229, 0.4231323793153448, 0.1555857438785415, 0.014200551128150479, -1.0900850748039535e-4),
    (1.0, 1.3527171763127328, 0.5535743819945209, 0.06426732881534057),
)
_SECOND = (
    (-0.020012129637100712, -0.017696683548568435, 0.002521681989334925),
    (1.0, 1.7314244807552361, 0.728881112885877),
)
_RANGE = (-1.3, 3.2)
"""Range of s in which these functions were fitted."""

# For binomial means from 8, the largest error of x is 6e-4 within three standard deviations; 0 and n are exact.
_SMALL_MEAN = 8.0
_NEWTON_STEPS = 3
_N_MASSES = {_SMALL_RATE: 24, _SMALL_MEAN: 34}
"""Number of masses summed for means up to a limit; the remaining probability is below 2**-33."""


def poisson(key: jax.Array, rate: jax.Array) -> jax.Array:
    """Return Poisson counts, one for each rate."""
    return invert_poisson(uniform(key, rate.shape, rate.dtype), rate)


def positive_poisson(key: jax.Array, rate: jax.Array) -> jax.Array:
    """Return Poisson counts that are not 0, one for each rate."""
    positive, u = -jnp.expm1(-rate), uniform(key, rate.shape, rate.dtype)
    # The upper tail of u shrinks with the mass that is left; the lower tail starts after the mass of 0.
    upper = positive * jnp.where(u.upper, u.tail, 1 - u.tail)
    is_upper = upper < 0.5
    lower = jnp.exp(-rate) + positive * jnp.where(u.upper, 1 - u.tail, u.tail)
    return jnp.maximum(invert_poisson(Uniform(jnp.where(is_upper, upper, lower), is_upper), rate), 1)


def invert_poisson(u: Uniform, rate: jax.Array) -> jax.Array:
    """Return the Poisson quantiles of uniform variates."""
    none = jnp.exp(-rate)
    factors = (rate * (1 / k) for k in range(1, _N_MASSES[_SMALL_RATE]))
    masses = list(accumulate(factors, jnp.multiply, initial=none))
    large = _large_poisson(normal_quantile(u), rate)
    large = jnp.where(~u.upper & (u.tail <= none), 0, jnp.maximum(large, 1))
    return jnp.where(rate < _SMALL_RATE, _invert_masses(u, masses), large)


def _large_poisson(z: jax.Array, rate: jax.Array) -> jax.Array:
    """Return the Poisson quantile of a normal quantile, for large rates."""
    root = jnp.sqrt(rate)
    s = jnp.clip(z / root, *_RANGE)
    return _floor_of_sum(rate, root * z + z * z * _ratio(_CURVE, s) + _ratio(_FIRST, s) + _ratio(_SECOND, s) / rate)


def binomial(
    key: jax.Array, n: jax.Array, success: jax.Array, failure: jax.Array, largest_n: int | None = None
) -> jax.Array:
    """Return binomial counts of ``n`` trials, for probabilities of success and of failure, which sum to 1.

    ``largest_n`` is the largest number of trials, if it is known while the program is traced.
    """
    return invert_binomial(uniform(key, n.shape, success.dtype), n, success, failure, largest_n)


def invert_binomial(
    u: Uniform, n: jax.Array, success: jax.Array, failure: jax.Array, largest_n: int | None = None
) -> jax.Array:
    """Return the binomial quantiles of uniform variates."""
    flipped = success > failure
    p = jnp.where(flipped, failure, success)
    u, n = Uniform(u.tail, u.upper ^ flipped), n.astype(success.dtype)
    none = jnp.exp(n * jnp.log1p(-p))
    few = largest_n is not None and largest_n <= _FEW_TRIALS
    n_masses = largest_n + 1 if few and largest_n is not None else _N_MASSES[_SMALL_MEAN]
    odds = p / (1 - p)
    factors = (odds * ((n - (k - 1)) * (1 / k)) for k in range(1, n_masses))
    masses = list(accumulate(factors, lambda mass, factor: mass * jnp.maximum(factor, 0), initial=none))
    count = jnp.minimum(_invert_masses(u, masses), _integer(n))
    if not few:
        count = jnp.where(n * p < _SMALL_MEAN, count, _many_trials(u, n, p, none))
    return jnp.where(flipped, _integer(n) - count, count)


_FEW_TRIALS = 32
"""Number of trials up to which all masses are summed, whatever the mean."""


def _many_trials(u: Uniform, n: jax.Array, p: jax.Array, none: jax.Array) -> jax.Array:
    """Return the binomial quantiles of uniform variates for large means; ``none`` is the mass of 0."""
    count = jnp.clip(_large_binomial(normal_quantile(u), n, p, 1 - p), 1, _integer(n) - 1)
    count = jnp.where(~u.upper & (u.tail <= none), 0, count)
    return jnp.where(u.upper & (u.tail < jnp.exp(n * jnp.log(p))), _integer(n), count)


def _large_binomial(z: jax.Array, n: jax.Array, p: jax.Array, q: jax.Array) -> jax.Array:
    """Return the binomial quantile of a normal quantile, for p up to 1/2 and large means.

    With d = x - np, the deviance is D(d) = np f(d / np) + nq f(-d / nq), where f(t) = (1 + t) log(1 + t) - t.
    """
    below, above = n * p, n * q
    root = jnp.sqrt(below * q)
    margin = 1 - 1e-6
    d = root * z + z * z * (q - p) / 6
    for _ in range(_NEWTON_STEPS):
        d = jnp.clip(d, -margin * below, margin * above)
        slope = jnp.log1p(d / below) - jnp.log1p(-d / above)
        excess = below * _entropy(d / below) + above * _entropy(-d / above) - z * z / 2
        d = jnp.where(jnp.abs(z) < _CENTRE, d, d - excess / slope)
    d = jnp.clip(d, -margin * below, margin * above)
    slope = jnp.log1p(d / below) - jnp.log1p(-d / above)
    wald = -jnp.expm1(-slope) * jnp.sqrt((below + d) * (above - d) / n)
    first = jnp.where(jnp.abs(z) < _CENTRE, 0.5 + (p - q) / 6, jnp.log(z / wald) / slope)
    signed = jnp.sign(d)
    left = jnp.clip(signed * jnp.sqrt(2 * _entropy(d / below)), *_RANGE)
    right = jnp.clip(-signed * jnp.sqrt(2 * _entropy(-d / above)), *_RANGE)
    return _floor_of_sum(below, d + first + _ratio(_SECOND, left) / below - _ratio(_SECOND, right) / above)


_CENTRE = 1e-2
"""Normal quantiles for which the limit of the correction at 0 is used, since its terms cancel."""


def _entropy(t: jax.Array) -> jax.Array:
    """Return ``(1 + t) log(1 + t) - t`` without cancellation next to 0."""
    w = t / (2 + t)
    series = 2 * w * w * (1 + (1 + w) * w * polynomial((1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11, 1 / 13), w * w)) / (1 - w)
    return jnp.where(jnp.abs(t) < 0.5, series, (1 + t) * jnp.log1p(t) - t)


def categorical(key: jax.Array, probs: jax.Array) -> jax.Array:
    """Return codes 0, 1, ... of categories, whose probabilities are along the last axis."""
    return invert_categorical(uniform(key, probs.shape[:-1], probs.dtype), probs)


def invert_categorical(u: Uniform, probs: jax.Array) -> jax.Array:
    """Return the codes that are the quantiles of uniform variates."""
    n_categories = probs.shape[-1]
    probs = probs / probs.sum(-1, keepdims=True)
    if n_categories <= _FEW_CATEGORIES:
        return jnp.minimum(_invert_masses(u, [probs[..., i] for i in range(n_categories)]), n_categories - 1)
    value = jnp.where(u.upper, 1 - u.tail, u.tail)
    return (jnp.cumsum(probs[..., :-1], -1) < value[..., None]).astype(_integer_type(value)).sum(-1)


_FEW_CATEGORIES = 16
"""Number of categories up to which masses are summed one by one, from both ends."""


def geometric(key: jax.Array, log_failure: jax.Array) -> jax.Array:
    """Return numbers of failures before the first success, for logarithms of the probability of failure."""
    return jnp.floor(jnp.log(open_uniform(key, log_failure.shape, log_failure.dtype)) / log_failure)


def _invert_masses(u: Uniform, masses: Sequence[jax.Array]) -> jax.Array:
    """Return how many values of the distribution function are below u, from the masses of 0, 1, ..."""
    below = accumulate(masses)
    above = list(accumulate(reversed(masses[1:]), initial=jnp.zeros_like(masses[0])))[::-1]
    steps = (jnp.where(u.upper, u.tail < s, u.tail > c) for c, s in zip(below, above, strict=True))
    return sum((_counted(step, u.tail) for step in steps), start=jnp.zeros_like(u.tail, _integer_type(u.tail)))


def _counted(step: jax.Array, like: jax.Array) -> jax.Array:
    return step.astype(_integer_type(like))


def _floor_of_sum(mean: jax.Array, offset: jax.Array) -> jax.Array:
    """Return the integer part of a sum, added in integers, since a large mean leaves no digits for the offset."""
    whole, largest = jnp.floor(mean), jnp.iinfo(_integer_type(mean)).max
    total = _integer(whole) + _integer(jnp.floor(mean - whole + offset))
    return jnp.where(mean < 0.999 * largest, total, largest)


def _integer_type(x: jax.Array) -> jnp.dtype:
    """Return the integer type as wide as a floating type."""
    return jnp.dtype(f"int{jnp.finfo(x.dtype).bits}")


def _integer(x: jax.Array) -> jax.Array:
    return x.astype(_integer_type(x))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: jax.Array) -> jax.Array:
    """Return a rational function."""
    return polynomial(coefficients[0], x) / polynomial(coefficients[1], x)

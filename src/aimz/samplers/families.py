"""Draws from NumPyro's distributions, with samplers of this package for the families that JAX draws slowly."""

__all__ = ["draw"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import random
from jax.nn import log_softmax, sigmoid, softmax, softplus

from aimz.samplers.counts import binomial, categorical, geometric, poisson, positive_poisson
from aimz.samplers.gamma import gamma, log_gamma
from aimz.samplers.uniforms import standard_normal

type Shape = tuple[int, ...]


def draw(fn: Any, key: jax.Array, shape: Shape | None = None) -> jax.Array:
    """Return a draw from a distribution.

    ``shape`` is a batch shape to which the batch shape of the distribution is broadcast, with independent draws; the
    batch shape itself if it is None. A row of the draw depends on the key and on the parameters of this row only.
    Families that are not listed here are drawn by NumPyro.
    """
    shape = fn.batch_shape if shape is None else shape
    sampler = _SAMPLERS.get(type(fn).sample)
    return _by_numpyro(fn, key, shape) if sampler is None else sampler(fn, key, shape)


def _by_numpyro(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    value: jax.Array = (fn if shape == fn.batch_shape else fn.expand(shape)).sample(key)
    return value


def _float(x: Any, shape: Shape) -> jax.Array:
    """Return parameters in the default floating type, in which JAX draws whatever their type is."""
    return jnp.broadcast_to(x, shape).astype(jnp.result_type(float))


def _as_integer(value: jax.Array) -> jax.Array:
    return value.astype(jnp.result_type(int))


def _of_base(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return draw(fn.base_dist, key, shape)


def _of_independent(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return draw(fn.base_dist, key, _with_events(fn, shape))


def _of_transformed(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    value = draw(fn.base_dist, key, _with_events(fn, shape))
    for transform in fn.transforms:
        value = transform(value)
    return value


def _with_events(fn: Any, shape: Shape) -> Shape:
    """Return the batch shape of a base distribution, some of whose last axes are event axes of ``fn``."""
    return (*shape, *fn.base_dist.batch_shape[len(fn.batch_shape) :])


def _of_mixture(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    """Draw every component and select one, as NumPyro does."""
    key_components, key_index = random.split(key)
    size, axis = fn.mixture_size, fn.mixture_dim
    if isinstance(fn, dist.MixtureGeneral):
        keys = random.split(key_components, size)
        parts = [draw(part, k, shape) for part, k in zip(fn.component_distributions, keys, strict=True)]
        values = jnp.stack(parts, axis)
    else:
        values = draw(fn.component_distribution, key_components, (*shape, size))
    index = draw(fn.mixing_distribution, key_index, shape).reshape(shape + (1,) * (fn.event_dim + 1))
    return jnp.take_along_axis(values, index, axis).squeeze(axis)


def _of_zero_inflated(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    key_gate, key_base = random.split(key)
    return jnp.where(random.bernoulli(key_gate, fn.gate, shape), 0, draw(fn.base_dist, key_base, shape))


def _of_hurdle(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    base = fn.base_dist
    while isinstance(base, dist.ExpandedDistribution):
        base = base.base_dist
    key_gate, key_base = random.split(key)
    if type(base).sample is dist.Poisson.sample:
        value = _as_integer(positive_poisson(key_base, _float(base.rate, shape)))
    elif not fn._is_discrete:
        value = draw(fn.base_dist, key_base, shape)
    else:
        return _by_numpyro(fn, key, shape)
    return jnp.where(random.bernoulli(key_gate, fn.gate, shape), 0, value)


def _normal(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    if shape[len(shape) - len(fn.batch_shape) :] != fn.batch_shape:  # NumPyro has another order of the variates
        return _by_numpyro(fn, key, shape)
    return jnp.add(fn.loc, standard_normal(key, shape, jnp.result_type(float)) * fn.scale)


def _half_normal(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return jnp.abs(_normal(fn._normal, key, shape))


def _gamma(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return jnp.divide(gamma(key, _float(fn.concentration, shape)), fn.rate)


def _beta(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _inside(sigmoid(_beta_logits(fn, key, shape)))


def _beta_logits(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    """Return log odds of a beta variate, which are precise next to 0 and 1."""
    key_first, key_second = random.split(key)
    first = log_gamma(key_first, _float(fn.concentration1, shape))
    return first - log_gamma(key_second, _float(fn.concentration0, shape))


def _dirichlet(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _inside(softmax(log_gamma(key, _float(fn.concentration, shape + fn.event_shape)), -1))


def _inside(value: jax.Array) -> jax.Array:
    """Return probabilities that rounding has not moved to 0 or 1."""
    limits = jnp.finfo(value.dtype)
    return jnp.clip(value, limits.tiny, 1 - limits.eps)


def _student_t(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    key_normal, key_scale = random.split(key)
    half = _float(fn.df, shape) / 2
    normal = standard_normal(key_normal, shape, half.dtype)
    standard = normal * jnp.sqrt(half) * jnp.exp(-log_gamma(key_scale, half) / 2)
    return jnp.add(fn.loc, fn.scale * standard)


def _poisson(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _as_integer(poisson(key, _float(fn.rate, shape)))


def _gamma_poisson(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    key_rate, key_count = random.split(key)
    rate = gamma(key_rate, _float(fn.concentration, shape)) / fn.rate
    return _as_integer(poisson(key_count, rate))


def _binomial_probs(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    success, total = _float(fn.probs, shape), fn.total_count
    return _as_integer(binomial(key, jnp.broadcast_to(total, shape), success, 1 - success, _largest(total)))


def _binomial_logits(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _binomial(key, fn.total_count, _float(fn.logits, shape))


def _binomial(key: jax.Array, total: Any, logits: jax.Array, largest: int | None = None) -> jax.Array:
    """Draw a binomial count; log odds keep both probabilities precise."""
    largest = _largest(total) if largest is None else largest
    n = jnp.broadcast_to(total, logits.shape)
    return _as_integer(binomial(key, n, sigmoid(logits), sigmoid(-logits), largest))


def _largest(total: Any) -> int | None:
    """Return the largest number of trials, or None if it is not known while a program is traced."""
    return None if isinstance(total, jax.core.Tracer) or not np.size(total) else int(np.asarray(total).max())


def _beta_binomial(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    key_odds, key_count = random.split(key)
    return _binomial(key_count, fn.total_count, _beta_logits(fn, key_odds, shape))


def _categorical_probs(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _as_integer(categorical(key, _float(fn.probs, shape + jnp.shape(fn.probs)[-1:])))


def _categorical_logits(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _as_integer(categorical(key, softmax(_float(fn.logits, shape + jnp.shape(fn.logits)[-1:]), -1)))


def _geometric_probs(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return geometric(key, jnp.log1p(-_float(fn.probs, shape)))


def _geometric_logits(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return geometric(key, -softplus(_float(fn.logits, shape)))


def _multinomial(key: jax.Array, total: Any, log_probs: jax.Array) -> jax.Array:
    """Draw each category's count among the trials that are left, a binomial count."""
    left = jnp.broadcast_to(total, log_probs.shape[:-1])
    rest = jnp.flip(jax.lax.cumlogsumexp(jnp.flip(log_probs, -1), axis=log_probs.ndim - 1), -1)
    counts = []
    for i, k in enumerate(random.split(key, log_probs.shape[-1] - 1)):
        log_odds = log_probs[..., i] - rest[..., i + 1]
        counts.append(_binomial(k, left, log_odds, _largest(total)).astype(left.dtype))
        left = left - counts[-1]
    value = jnp.stack([*counts, left], -1)
    return value.astype(jnp.result_type(float)) if jnp.ndim(total) else _as_integer(value)  # as NumPyro


def _multinomial_probs(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _multinomial(key, fn.total_count, jnp.log(_float(fn.probs, shape + fn.event_shape)))


def _multinomial_logits(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    return _multinomial(key, fn.total_count, log_softmax(_float(fn.logits, shape + fn.event_shape), -1))


def _dirichlet_multinomial(fn: Any, key: jax.Array, shape: Shape) -> jax.Array:
    key_probs, key_counts = random.split(key)
    logs = log_gamma(key_probs, _float(fn.concentration, shape + fn.event_shape))
    return _multinomial(key_counts, fn.total_count, log_softmax(logs, -1))


_SAMPLERS: dict[Any, Callable[[Any, jax.Array, Shape], jax.Array]] = {
    dist.ExpandedDistribution.sample: _of_base,
    dist.Independent.sample: _of_independent,
    dist.MaskedDistribution.sample: _of_base,
    dist.TransformedDistribution.sample: _of_transformed,
    dist.MixtureSameFamily.sample: _of_mixture,
    dist.ZeroInflatedProbs.sample: _of_zero_inflated,
    dist.HurdleProbs.sample: _of_hurdle,
    dist.Normal.sample: _normal,
    dist.HalfNormal.sample: _half_normal,
    dist.Gamma.sample: _gamma,
    dist.Beta.sample: _beta,
    dist.Dirichlet.sample: _dirichlet,
    dist.StudentT.sample: _student_t,
    dist.Poisson.sample: _poisson,
    dist.GammaPoisson.sample: _gamma_poisson,
    dist.BinomialProbs.sample: _binomial_probs,
    dist.BinomialLogits.sample: _binomial_logits,
    dist.BetaBinomial.sample: _beta_binomial,
    dist.CategoricalProbs.sample: _categorical_probs,
    dist.CategoricalLogits.sample: _categorical_logits,
    dist.GeometricProbs.sample: _geometric_probs,
    dist.GeometricLogits.sample: _geometric_logits,
    dist.MultinomialProbs.sample: _multinomial_probs,
    dist.MultinomialLogits.sample: _multinomial_logits,
    dist.DirichletMultinomial.sample: _dirichlet_multinomial,
}
"""Samplers by the method that they replace, so that a subclass with a method of its own keeps it."""

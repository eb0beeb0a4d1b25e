"""Expected values of distributions."""

__all__ = ["expected_value"]

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import transforms

# The mean of an angle is a direction, and the first distributions have heavy tails whatever their parameters are.
_WITHOUT_EXPECTED_VALUE = (
    *(dist.Cauchy, dist.HalfCauchy, dist.Levy),
    *(dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed, dist.ProjectedNormal),
    dist.InverseWishartCholesky,  # NumPyro returns the factor of the mean, which is not the mean of the factor
)
_TRUNCATED = (
    *(dist.LeftTruncatedDistribution, dist.RightTruncatedDistribution, dist.TwoSidedTruncatedDistribution),
    dist.HurdleProbs,
)
_LINEAR = (
    *(transforms.AffineTransform, transforms.IdentityTransform, transforms.LowerCholeskyAffine),
    *(transforms.PermuteTransform, transforms.ReshapeTransform),
)
"""Transforms that commute with the expectation."""


def expected_value(fn: Any) -> jax.Array | None:
    """Return the mean of a distribution; None if it has none, or none in closed form.

    A mean that depends on parameters may still be infinite or NaN, as that of Student's t with one degree of freedom.
    """
    if isinstance(fn, dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution):
        base = expected_value(fn.base_dist)
        return None if base is None else jnp.broadcast_to(base, fn.batch_shape + fn.event_shape)
    if isinstance(fn, _WITHOUT_EXPECTED_VALUE):
        return None
    if isinstance(fn, dist.CategoricalProbs | dist.CategoricalLogits):
        return jnp.asarray(fn.probs * jnp.arange(fn.probs.shape[-1])).sum(-1)
    if isinstance(fn, dist.MixtureSameFamily | dist.MixtureGeneral):
        return _of_mixture(fn)
    if isinstance(fn, dist.ZeroInflatedProbs):
        base = expected_value(fn.base_dist)
        return None if base is None else (1 - fn.gate) * base
    if isinstance(fn, _TRUNCATED) and isinstance(fn.base_dist, _WITHOUT_EXPECTED_VALUE):
        return None
    if type(fn).mean is dist.TransformedDistribution.mean:
        return _of_transformed(fn.base_dist, list(fn.transforms))
    try:
        mean = jnp.asarray(fn.mean)
    except Exception:
        return None
    return mean if mean.shape == fn.batch_shape + fn.event_shape else None


def _of_mixture(fn: Any) -> jax.Array | None:
    """Return the mean of a mixture, from the means of its components."""
    parts = fn.component_distributions if isinstance(fn, dist.MixtureGeneral) else [fn.component_distribution]
    means = [mean for part in parts if (mean := expected_value(part)) is not None]
    if len(means) < len(parts):
        return None
    axis = fn.mixture_dim
    stacked = jnp.stack(means, axis) if isinstance(fn, dist.MixtureGeneral) else means[0]
    probs = jnp.expand_dims(fn.mixing_distribution.probs, tuple(range(-fn.event_dim, 0)))
    return (probs * stacked).sum(axis)


def _of_transformed(base: Any, steps: list[Any]) -> jax.Array | None:
    """Return the mean of a transformed distribution if it is log-normal or the transforms are linear."""
    value, start = expected_value(base), 0
    if steps and isinstance(steps[0], transforms.ExpTransform) and type(base) is dist.Normal:
        value, start = jnp.exp(base.loc + base.scale**2 / 2), 1
    if value is None or not all(isinstance(step, _LINEAR) for step in steps[start:]):
        return None
    for step in steps[start:]:
        value = step(value)
    return value

"""Draws of the later steps of a site whose first steps are known."""

__all__ = ["continued"]

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions.transforms import RecursiveLinearTransform

from aimz.errors import KernelValidationError
from aimz.kernel.masks import strip_wrappers
from aimz.samplers import draw


def continued(name: str, fn: Any, value: jax.Array, axis: int, key: jax.Array) -> jax.Array:
    """Return a draw of a site whose first entries along ``axis`` are ``value``, and later ones are drawn given them."""
    drawn = draw(fn, key, fn.batch_shape)
    drawn = drawn.astype(jnp.promote_types(drawn.dtype, value.dtype))
    if axis >= drawn.ndim - strip_wrappers(fn).event_dim:
        drawn = _given_first(name, strip_wrappers(fn), drawn, value, axis - drawn.ndim)
    return lax.dynamic_update_slice(drawn, value.astype(drawn.dtype), (0,) * drawn.ndim)


def _given_first(name: str, base: Any, drawn: jax.Array, value: jax.Array, axis: int) -> jax.Array:
    """Return a draw with dependent steps, changed so that it continues ``value``; ``axis`` is counted from the last."""
    known = value.shape[axis]
    if isinstance(base, dist.GaussianRandomWalk) and axis == -1:
        return drawn + (value[..., -1:] - drawn[..., known - 1 : known])
    if isinstance(base, dist.MultivariateNormal) and axis == -1:
        # In a draw `loc + L e`, the first entries of `e` belong to the first entries of the draw.
        factor = jnp.broadcast_to(base.scale_tril, (*drawn.shape, drawn.shape[-1]))
        moved = (value - drawn[..., :known])[..., None]
        noise = lax.linalg.triangular_solve(factor[..., :known, :known], moved, left_side=True, lower=True)
        return drawn + (factor[..., :known] @ noise)[..., 0]
    if isinstance(base, dist.TransformedDistribution) and all(map(_is_causal, base.transforms)):
        whole = lax.dynamic_update_slice(drawn, value.astype(drawn.dtype), (0,) * drawn.ndim)
        for transform in reversed(base.transforms):
            drawn, whole = transform.inv(drawn), transform.inv(whole)
        first = lax.slice_in_dim(whole, 0, known, axis=axis % drawn.ndim)
        inner = strip_wrappers(base.base_dist)
        if -axis <= inner.event_dim:
            drawn = _given_first(name, inner, drawn, first, axis)
        drawn = lax.dynamic_update_slice(drawn, first, (0,) * drawn.ndim)
        for transform in base.transforms:
            drawn = transform(drawn)
        return drawn
    msg = (
        f"Site `{name}` has dependent steps of the distribution {type(base).__name__}, and its later steps cannot be "
        "drawn given the first ones. Write it as `numpyro.contrib.control_flow.scan`, as a cumulative sum of "
        "independent innovations, or as `GaussianRandomWalk`, `GaussianStateSpace` or `MultivariateNormal`."
    )
    raise KernelValidationError(msg)


def _is_causal(transform: Any) -> bool:
    """Return whether entries of a transformed value depend on entries of the same and of earlier steps only."""
    return isinstance(transform, RecursiveLinearTransform) or transform.domain.event_dim == 0

"""Wrappers of distributions (masks, and changes of the shape), and discrete distributions."""

__all__ = ["has_mask", "is_discrete", "seen_mask", "strip_wrappers"]

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist


def strip_wrappers(fn: Any) -> Any:
    """Return a distribution without the wrappers that only change its shape or mask it."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def has_mask(fn: Any) -> bool:
    """Return whether a mask may exclude observations of a distribution."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is not True:
            return True
        fn = fn.base_dist
    return False


def seen_mask(fn: Any) -> Any:
    """Return for each observation whether a mask includes it or a part of it; True without a mask."""
    if isinstance(fn, dist.MaskedDistribution):
        return jnp.asarray(fn._mask) & seen_mask(fn.base_dist)
    if isinstance(fn, dist.ExpandedDistribution):
        return seen_mask(fn.base_dist)
    if isinstance(fn, dist.Independent):
        inner = fn.base_dist
        mask = jnp.broadcast_to(seen_mask(inner), inner.batch_shape)
        return mask.any(tuple(range(-fn.reinterpreted_batch_ndims, 0)))
    return jnp.ones((), bool)


def is_discrete(fn: Any) -> bool:
    """Return whether a distribution has discrete support; False if it does not define its support."""
    try:
        return bool(fn.support.is_discrete)
    except (AttributeError, NotImplementedError):
        return False

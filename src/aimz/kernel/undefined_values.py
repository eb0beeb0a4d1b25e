"""Values of discrete distributions that are undefined, since a parameter is NaN."""

__all__ = ["is_undefined"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist


def is_undefined(fn: dist.Distribution) -> jax.Array:
    """Return, in the batch shape of a distribution, whether a parameter is NaN.

    Samplers of discrete distributions return an ordinary integer for such parameters.
    """
    found: jax.Array = jnp.zeros(fn.batch_shape, bool)
    for name, value in vars(fn).items():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, dist.Distribution):
                found |= _aligned(is_undefined(part), fn.batch_shape)
            elif (
                name in fn.arg_constraints and part is not None and jnp.issubdtype(jnp.result_type(part), jnp.floating)
            ):
                event_dim = fn.arg_constraints[name].event_dim
                found |= _aligned(jnp.isnan(part).any(axis=tuple(range(-event_dim, 0))), fn.batch_shape)
    return found


def _aligned(undefined: Any, batch_shape: tuple[int, ...]) -> jax.Array:
    """Return flags in another batch shape; axes that only they have (of components, say) are reduced."""
    extra = undefined.ndim - len(batch_shape)
    if extra > 0:
        undefined = undefined.any(axis=tuple(range(-extra, 0)))
    try:
        fits = np.broadcast_shapes(undefined.shape, batch_shape) == tuple(batch_shape)
    except ValueError:
        fits = False
    return jnp.broadcast_to(undefined if fits else undefined.any(), batch_shape)

"""The one door for random keys."""

__all__ = ["read_key"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.errors import warn


def read_key(key: Any) -> jax.Array:
    """Return ``key`` as a typed key.

    Raises
    ------
    TypeError
        If it is no key.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,):
        warn(
            "A legacy `uint32` key was converted to a typed key. Make keys with `jax.random.key(seed)` rather "
            "than `jax.random.PRNGKey(seed)`."
        )
        return jax.random.wrap_key_data(jnp.asarray(key))
    got = f"an array of dtype {key.dtype}, shape {key.shape}" if hasattr(key, "dtype") else repr(key)
    msg = f"`rng_key` must be one typed JAX key; got {got}. Make one with `jax.random.key(seed)`."
    raise TypeError(msg)

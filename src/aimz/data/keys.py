"""PRNG keys: checked, and written as text."""

__all__ = ["GENERATOR", "check_key", "key_from_text", "key_to_text"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.errors import AimzWarning, warn

GENERATOR = "threefry2x32"
"""Generator of all keys, whose numbers for a key do not depend on the keys that are used together with it."""


def check_key(key: Any) -> jax.Array:
    """Return ``key`` as a typed key of the default generator; raise ``TypeError`` if it is neither a key nor a seed."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool) and -(2**63) <= key < 2**63:
        return jax.random.key(int(key), impl=GENERATOR)
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        if str(jax.random.key_impl(key)) == GENERATOR:
            return key
        warn(
            f"A key of the generator `{jax.random.key_impl(key)}` was converted to one of `{GENERATOR}`: the numbers "
            "of other generators depend on how many draws are computed together. Make keys with `jax.random.key(seed, "
            f"impl={GENERATOR!r})`.",
            AimzWarning,
        )
        words = np.asarray(jax.random.key_data(key)).ravel()
        converted = jax.random.wrap_key_data(jnp.asarray(words[:2]), impl=GENERATOR)
        for word in words[2:]:
            converted = jax.random.fold_in(converted, word)
        return converted
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,):
        warn(
            "A legacy `uint32` key was converted to a typed key. Make keys with `jax.random.key(seed)` rather "
            "than `jax.random.PRNGKey(seed)`.",
            AimzWarning,
        )
        return jax.random.wrap_key_data(jnp.asarray(key), impl=GENERATOR)
    got = f"an array of dtype {key.dtype}, shape {key.shape}" if hasattr(key, "dtype") else repr(key)
    msg = f"`rng_key` must be one typed JAX key, or a whole number as its seed; got {got}. Pass a number, such as 0."
    raise TypeError(msg)


def key_to_text(key: jax.Array) -> str:
    """Write a key as text, so that a result records the key it was drawn with."""
    words = "-".join(f"{int(word):08x}" for word in np.asarray(jax.random.key_data(key)).ravel())
    return f"{jax.random.key_impl(key)}:{words}"


def key_from_text(text: str) -> jax.Array:
    """Read a key that :func:`key_to_text` wrote."""
    implementation, _, words = text.partition(":")
    data = np.array([int(word, 16) for word in words.split("-")], dtype=np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=implementation)

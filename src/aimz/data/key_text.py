"""Keys as text, and back: where a result's noise came from."""

__all__ = ["key_from_text", "key_to_text"]

import jax
import jax.numpy as jnp
import numpy as np


def key_to_text(key: jax.Array) -> str:
    """Return a text that is the same for equal keys, to record where a result's noise came from."""
    words = "-".join(f"{int(word):08x}" for word in np.asarray(jax.random.key_data(key)).ravel())
    return f"{jax.random.key_impl(key)}:{words}"


def key_from_text(text: str) -> jax.Array:
    """Return the key that :func:`describe_key` described."""
    implementation, _, words = text.partition(":")
    data = np.array([int(word, 16) for word in words.split("-")], dtype=np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=implementation)

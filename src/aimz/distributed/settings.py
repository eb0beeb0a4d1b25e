"""Settings of JAX that the numbers depend on."""

__all__ = ["jax_settings", "use_jax_settings"]

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)


def jax_settings() -> dict[str, Any]:
    """Return the settings of this process."""
    return {name: getattr(jax.config, name) for name in _SETTINGS if hasattr(jax.config, name)}


@contextmanager
def use_jax_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Compute with settings of JAX, and restore the settings of this process afterwards."""
    before = {name: getattr(jax.config, name) for name in settings}
    changed = [name for name, value in settings.items() if before[name] != value]
    for name in changed:
        jax.config.update(name, settings[name])
    try:
        yield
    finally:
        for name in changed:
            jax.config.update(name, before[name])

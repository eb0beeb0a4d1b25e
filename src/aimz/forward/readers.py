"""What is taken from the sites of a pass: their values, or their log densities, pointwise."""

__all__ = ["READERS"]

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from aimz.kernel import Message


def _value(message: Message) -> Any:
    return jnp.asarray(message["value"])


def _score(message: Message) -> Any:
    """Score an observed site.

    Never scaled: neither by a subsampled plate nor by ``numpyro.handlers.scale``, as in
    :func:`numpyro.infer.log_likelihood`; masks count.
    """
    # Transformed distributions want their intermediate results back, where there are any.
    extra = (message["intermediates"],) if message["intermediates"] else ()
    return message["fn"].log_prob(message["value"], *extra)


def _weighed(message: Message) -> Any:
    """Score a site as a fit does, with weights that are arrays; plain numbers are no business of the rows."""
    scale = message.get("scale")
    return _score(message) * (scale if hasattr(scale, "shape") else 1)


READERS: Mapping[str, Callable[[Message], Any]] = {
    "predictive": _value,
    "log_density": _score,
    "batch_density": _weighed,
}
"""What a pass takes from the message of a return site."""

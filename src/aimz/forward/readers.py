"""What is taken from the sites of a pass: their values, or their log densities, pointwise."""

__all__ = ["READERS"]

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

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
    """Score a site as a fit does, event by event and with weights that are arrays.

    Plain numbers are no business of the rows, nor is the sum over axes that ``to_event`` declared.
    """
    fn, scale = message["fn"], message.get("scale")
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    density = _score({**message, "fn": fn})
    # A weight stands for a whole event, and may have fewer axes than what makes it up.
    return density if not hasattr(scale, "shape") else (density, scale)


READERS: Mapping[str, Callable[[Message], Any]] = {
    "predictive": _value,
    "log_density": _score,
    "batch_density": _weighed,
}
"""What a pass takes from the message of a return site."""

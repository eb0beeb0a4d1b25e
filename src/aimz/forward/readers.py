"""The log density of the data, pointwise, under each posterior draw."""

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


READERS: Mapping[str, Callable[[Message], Any]] = {"predictive": _value, "log_density": _score}
"""What a pass takes from the message of a return site."""

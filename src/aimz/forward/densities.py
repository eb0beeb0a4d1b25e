"""Functions that return the value or the log density of a site from its message."""

__all__ = ["READERS", "joint_density"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from aimz.kernel import Message, is_discrete, is_undefined, seen_mask
from aimz.statistics import UNSEEN


def _value(message: Message) -> Any:
    """Return the value of a site."""
    return jnp.asarray(message["value"])


def _log_density(message: Message) -> Any:
    """Return the pointwise log density of an observed site.

    As in :func:`numpyro.infer.log_likelihood`, it is scaled neither by a subsampled plate nor by
    ``numpyro.handlers.scale``; masks apply.
    """
    # Transformed distributions need their intermediate results, if there are any.
    extra = (message["intermediates"],) if message["intermediates"] else ()
    fn, value = message["fn"], jnp.asarray(message["value"])
    density = fn.log_prob(value, *extra)
    # NumPyro's log density of a value that is NaN is -inf, and a discrete one is a number for some NaN parameters.
    if value.size and jnp.issubdtype(value.dtype, jnp.inexact):  # the value of a factor is empty
        missing = jnp.isnan(value).any(axis=tuple(range(-fn.event_dim, 0)))
        density = jnp.where(missing & seen_mask(fn), jnp.nan, density)
    return jnp.where(is_undefined(fn) & seen_mask(fn), jnp.nan, density) if is_discrete(fn) else density


def joint_density(terms: Sequence[Message], *, marks_unseen: bool) -> Any:
    """Return the sum of the log densities of the output and of factors, for each observation.

    If ``marks_unseen``, an observation is ``UNSEEN`` if the masks of the output and of all factors exclude it.
    """
    total = sum(_log_density(term) for term in terms)
    if not marks_unseen:
        return total
    output, *factors = terms
    seen = seen_mask(output["fn"])
    # A factor of 0 adds nothing: kernels write `where(condition, density, 0)` in place of a mask.
    for factor in factors:
        seen = seen | (seen_mask(factor["fn"]) & (_log_density(factor) != 0))
    return jnp.where(seen, total, jnp.asarray(UNSEEN, jnp.promote_types(total.dtype, jnp.float32)))


def _batch_density(message: Message) -> Any:
    """Return the log density that a fit uses, per event before ``to_event``, and the scale if it is an array.

    Scalar scales do not depend on the rows and are left out.
    """
    fn, scale = message["fn"], message.get("scale")
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    density = _log_density({**message, "fn": fn})
    # A scale applies to a whole event, and may have fewer axes than the density.
    return density if not hasattr(scale, "shape") else (density, scale)


READERS: Mapping[str, Callable[[Message], Any]] = {
    "predictive": _value,
    "log_density": _log_density,
    "batch_density": _batch_density,
}
"""Functions, by kind of pass, that return the result for a return site from its message."""

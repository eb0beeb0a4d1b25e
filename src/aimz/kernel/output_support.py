"""The support of the output's distribution, as far as no latent site affects it."""

__all__ = ["OutputSupport", "describe_constraint", "find_support", "unbounded_multinomial", "within_support"]

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from aimz.kernel.handlers import Message
from aimz.kernel.masks import has_mask, seen_mask, strip_wrappers


@dataclass(frozen=True)
class OutputSupport:
    """Support of the distribution that the output's data are observed at."""

    site: str
    distribution: str
    constraint: Any
    """NumPyro constraint on the output's values; None if the kernel transforms or masks them, or computes bounds."""
    words: str
    """Description of the valid values."""
    is_discrete: bool


def find_support(message: Message, data: Any) -> OutputSupport | None:
    """Return the support of an observed site; ``data`` is the output that the kernel was called with."""
    fn = message["fn"]
    try:
        constraint = _without_circular(fn.support)
        is_discrete = bool(constraint.is_discrete)
    except (AttributeError, NotImplementedError):
        return None
    plain = message["value"] is data and not has_mask(fn)
    plain &= not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((constraint, vars(constraint))))
    name = type(strip_wrappers(fn)).__name__
    words = describe_constraint(constraint)
    return OutputSupport(message["name"], name, constraint if plain else None, words, is_discrete)


def _without_circular(constraint: Any) -> Any:
    """Return a constraint in which angles may have any finite value: their density is periodic."""
    if isinstance(constraint, constraints.independent):
        inner = _without_circular(constraint.base_constraint)
        return constraints.independent(inner, constraint.reinterpreted_batch_ndims)
    return constraints.real if isinstance(constraint, type(constraints.circular)) else constraint


def within_support(message: Message) -> Any:
    """Return for each observation whether its value is in the support of its distribution, or it is masked."""
    fn = message["fn"]
    valid = _without_circular(fn.support)(jnp.asarray(message["value"]))
    return valid | jnp.broadcast_to(~seen_mask(fn), jnp.shape(valid))


def describe_constraint(constraint: Any) -> str:
    """Return the values that a constraint allows, in words that follow "are not"."""
    if isinstance(constraint, constraints.independent):
        return describe_constraint(constraint.base_constraint)
    known = (
        (constraints.boolean, "0 or 1"),
        (constraints.real, "finite numbers"),
        (constraints.positive, "positive numbers"),
        (constraints.nonnegative, "numbers of at least 0"),
        (constraints.positive_integer, "positive whole numbers"),
        (constraints.nonnegative_integer, "whole numbers of at least 0"),
        (constraints.unit_interval, "numbers between 0 and 1"),
        (constraints.simplex, "non-negative numbers with sum 1"),
    )
    for other, words in known:
        if constraint is other:
            return words
    lower, upper = (_bound(getattr(constraint, f"{side}_bound", None)) for side in ("lower", "upper"))
    whole = "whole numbers" if getattr(constraint, "is_discrete", False) else "numbers"
    if isinstance(constraint, constraints.multinomial):
        return f"whole numbers of at least 0 with sum {upper or 'equal to the number of trials'}"
    if lower and upper:
        return f"{whole} from {lower} to {upper}"
    if lower or upper:
        return f"{whole} {'above' if lower else 'below'} {lower or upper}"
    return f"{whole} in the support ({type(constraint).__name__.strip('_')})"


def _bound(value: Any) -> str | None:
    """Return a bound as a text; None if there is none, or it has several values or is traced."""
    if value is None or isinstance(value, jax.core.Tracer):
        return None
    values = np.unique(np.asarray(value))
    return f"{values[0]:g}" if len(values) == 1 else None


def unbounded_multinomial(fn: Any) -> bool:
    """Return whether a distribution is a multinomial that cannot be drawn from in a compiled program."""
    base = strip_wrappers(fn)
    return (
        isinstance(base, dist.MultinomialProbs | dist.MultinomialLogits)
        and base.total_count_max is None
        and isinstance(base.total_count, jax.core.Tracer)
    )

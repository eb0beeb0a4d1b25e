"""The noise of a site, inferred from its value, and the value that it gives under other parameters.

A site is a function of its parameters and of noise that is independent of them. For a continuous univariate
distribution the noise is u = F(x), and the value under other parameters is the quantile of u. If both distributions
differ in location and scale only, this is an affine function of x, which needs no distribution function. A discrete
value determines u only up to an interval, in which u is drawn.
"""

__all__ = ["Abduction", "Recomputed", "abduction_of", "recompute", "shape_parameters"]

from collections.abc import Callable
from enum import StrEnum
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import transforms

from aimz.kernel.masks import is_discrete, strip_wrappers
from aimz.kernel.tails import Tails, has_tails, tails
from aimz.kernel.undefined_values import is_undefined
from aimz.samplers import Uniform, has_quantile, quantile


class Abduction(StrEnum):
    """A way of inferring the noise of a site from its value."""

    EXACT = "in closed form"
    INVERTED = "from its distribution function"
    MONOTONE = "by a monotone coupling"


class Recomputed(NamedTuple):
    """A value that was recomputed with its own noise."""

    value: jax.Array
    possible: jax.Array
    """Whether the noise could be inferred; False where the observed value has density 0."""


def abduction_of(fn: Any) -> Abduction | None:
    """Return how the noise of a site with this distribution is inferred, or None if it cannot be."""
    fn = strip_wrappers(fn)
    method = type(fn).log_prob
    if method is dist.TransformedDistribution.log_prob:
        base = abduction_of(fn.base_dist)
        return base if base is not Abduction.MONOTONE and all(map(_is_known, fn.transforms)) else None
    if method in _EXACT:
        return Abduction.EXACT
    if not has_tails(fn):
        return None
    return Abduction.MONOTONE if is_discrete(fn) else Abduction.INVERTED


def recompute(old: Any, value: Any, new: Any, key: jax.Array, *, same_shape: bool = False) -> Recomputed:
    """Return the value that the noise of ``value`` under ``old`` gives under ``new``, of the same family.

    ``key`` draws the noise of discrete sites within its interval. ``same_shape`` is whether the parameters other than
    location and scale (:func:`shape_parameters`) are known to be equal, which saves work.
    """
    given, old, new = jnp.asarray(value), strip_wrappers(old), strip_wrappers(new)
    floats = jnp.promote_types(given.dtype, jnp.float32)
    batch, event = given.shape[: given.ndim - old.event_dim], (1,) * old.event_dim

    def of_events(flags: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.broadcast_to(flags, batch).reshape(batch + event), given.shape)

    x = given.astype(floats)
    density = jnp.asarray(old.log_prob(given))
    if is_discrete(old):
        found = jnp.where(_unchanged(old, new), x, _monotone(old, x, jnp.exp(density), new, key))
    else:
        found = _recomputed(old, x, new, same_shape=same_shape)
    found = jnp.broadcast_to(found, given.shape)
    undefined = of_events(is_undefined(old) | is_undefined(new)) | jnp.isnan(x)
    inside = of_events(jnp.asarray(old.support(given)) & (density > -jnp.inf))
    possible = undefined | (inside & jnp.isfinite(found))
    if is_discrete(old) and given.dtype.kind in "biu":
        return Recomputed(found.astype(jnp.result_type(int)), possible)
    return Recomputed(jnp.where(undefined, jnp.nan, found), possible)


def _recomputed(old: Any, x: jax.Array, new: Any, *, same_shape: bool) -> jax.Array:
    """Return a recomputed continuous value; the given one, bit for bit, where no parameter differs."""
    old, new = strip_wrappers(old), strip_wrappers(new)
    method = type(old).log_prob
    if method is dist.TransformedDistribution.log_prob:
        return _transformed(old, x, new, same_shape=same_shape)
    if method in _EXACT:
        return _EXACT[method](old, x, new)
    if method not in _WITH_SHAPE:
        return jnp.where(_unchanged(old, new), x, _inverted(old, x, new))
    scale_of, shape = _WITH_SHAPE[method]
    found = _affine(scale_of(old), x, scale_of(new))
    if same_shape:
        return found
    equal = reduce(jnp.logical_and, (_equal(getattr(old, name), getattr(new, name)) for name in shape))
    return jnp.where(equal, found, _inverted(old, x, new))


def shape_parameters(fn: Any) -> list[Any]:
    """Return the parameters of a distribution that must be equal for an affine function of the value."""
    fn = strip_wrappers(fn)
    if isinstance(fn, dist.TransformedDistribution):
        return shape_parameters(fn.base_dist)
    return [getattr(fn, name) for name in _WITH_SHAPE.get(type(fn).log_prob, (None, ()))[1]]


def _unchanged(old: Any, new: Any) -> Any:
    """Return where all parameters of two univariate distributions are equal."""
    old, new = strip_wrappers(old), strip_wrappers(new)
    found: list[Any] = []
    for name, one in vars(old).items():
        other = vars(new).get(name)
        if isinstance(one, dist.Distribution):
            same = _unchanged(one, other)
            # Components are along the last axis of a mixture.
            found.append(same.all(-1) if name == "_component_distribution" and same.ndim else same)
        elif isinstance(one, list):
            found += map(_unchanged, one, other)
        elif not name.startswith("_") and hasattr(one, "dtype"):
            found.append(_equal(one, other, getattr(old.arg_constraints.get(name), "event_dim", 0)))
        elif not name.startswith("_") and isinstance(one, int | float) and one != other:
            found.append(jnp.zeros((), bool))
    return reduce(jnp.logical_and, found, jnp.ones((), bool))


def _equal(old: Any, new: Any, event_dim: int = 0) -> jax.Array:
    """Return where two parameters are equal, one flag for each event."""
    return jnp.asarray(old == new).all(axis=tuple(range(-event_dim, 0)))


# ------------------------------------------------------------------------------------------------- closed forms

type _LocScale = tuple[Any, Any]


def _affine(old: _LocScale, x: jax.Array, new: _LocScale) -> jax.Array:
    """Return ``loc* + scale* / scale * (x - loc)``; a shift alone is added without rounding x."""
    moved: jax.Array = x + (new[0] - old[0]) + (new[1] / old[1] - 1) * (x - old[0])
    return moved


def _by_location(old: Any, x: jax.Array, new: Any) -> jax.Array:
    return _affine((old.loc, old.scale), x, (new.loc, new.scale))


def _by_scale(old: Any, x: jax.Array, new: Any) -> jax.Array:
    return _affine((0.0, old.scale), x, (0.0, new.scale))


def _exponential(old: Any, x: jax.Array, new: Any) -> jax.Array:
    return _affine((0.0, 1 / old.rate), x, (0.0, 1 / new.rate))


def _uniform(old: Any, x: jax.Array, new: Any) -> jax.Array:
    return _affine((old.low, old.high - old.low), x, (new.low, new.high - new.low))


def _weibull(old: Any, x: jax.Array, new: Any) -> jax.Array:
    found = new.scale * (x / old.scale) ** (old.concentration / new.concentration)
    return jnp.where(_unchanged(old, new), x, found)


def _gompertz(old: Any, x: jax.Array, new: Any) -> jax.Array:
    found = jnp.log1p(old.concentration / new.concentration * jnp.expm1(old.rate * x)) / new.rate
    return jnp.where(_unchanged(old, new), x, found)


def _kumaraswamy(old: Any, x: jax.Array, new: Any) -> jax.Array:
    above = old.concentration0 / new.concentration0 * jnp.log1p(-(x**old.concentration1))
    return jnp.where(_unchanged(old, new), x, (-jnp.expm1(above)) ** (1 / new.concentration1))


def _delta(old: Any, x: jax.Array, new: Any) -> jax.Array:
    del old
    return jnp.broadcast_to(new.v, x.shape).astype(x.dtype)


def _multivariate_normal(old: Any, x: jax.Array, new: Any) -> jax.Array:
    same = _equal(old.loc, new.loc, 1) & _equal(old.scale_tril, new.scale_tril, 2)
    lower = jnp.broadcast_to(old.scale_tril, x.shape + x.shape[-1:])
    z = solve_triangular(lower, (x - old.loc)[..., None], lower=True)
    return jnp.where(same[..., None], x, new.loc + (new.scale_tril @ z)[..., 0])


_LOCATION_SCALE = (dist.Normal, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel, dist.Levy, dist.SoftLaplace)
_EXACT: dict[Any, Callable[[Any, jax.Array, Any], jax.Array]] = {
    **{family.log_prob: _by_location for family in _LOCATION_SCALE},
    dist.HalfNormal.log_prob: _by_scale,
    dist.HalfCauchy.log_prob: _by_scale,
    dist.Exponential.log_prob: _exponential,
    dist.Uniform.log_prob: _uniform,
    dist.Weibull.log_prob: _weibull,
    dist.Gompertz.log_prob: _gompertz,
    dist.Kumaraswamy.log_prob: _kumaraswamy,
    dist.Delta.log_prob: _delta,
    dist.MultivariateNormal.log_prob: _multivariate_normal,
}
"""Closed forms by the method that defines the family, so that a subclass with a density of its own has others."""

_WITH_SHAPE: dict[Any, tuple[Callable[[Any], _LocScale], tuple[str, ...]]] = {
    dist.StudentT.log_prob: (lambda fn: (fn.loc, fn.scale), ("df",)),
    dist.AsymmetricLaplace.log_prob: (lambda fn: (fn.loc, fn.scale), ("asymmetry",)),
    dist.Gamma.log_prob: (lambda fn: (0.0, 1 / fn.rate), ("concentration",)),
}
"""Location, scale and names of further parameters; an affine function if these do not differ."""


# ------------------------------------------------------------------------------------------------- transformations

_ELEMENTWISE = (
    *(transforms.AffineTransform, transforms.ExpTransform, transforms.IdentityTransform),
    *(transforms.PowerTransform, transforms.SigmoidTransform, transforms.SoftplusTransform),
)
_AFFINE = (transforms.LowerCholeskyAffine, transforms.PermuteTransform, transforms.ReshapeTransform)


def _is_known(step: Any) -> bool:
    """Return whether a transform is monotone in each element, or an affine one of vectors."""
    if isinstance(step, transforms.ComposeTransform):
        return all(map(_is_known, step.parts))
    if isinstance(step, transforms.IndependentTransform):
        return _is_known(step.base_transform)
    return type(step) in (*_ELEMENTWISE, *_AFFINE)


def _transformed(old: Any, x: jax.Array, new: Any, *, same_shape: bool) -> jax.Array:
    """Compute the value of the base distribution again; the given value is kept where nothing differs."""
    base = x
    for step in reversed(old.transforms):
        base = step.inv(base)
    moved = _recomputed(old.base_dist, base, new.base_dist, same_shape=same_shape)
    n_batch = x.ndim - old.event_dim
    same = (moved == base).all(axis=tuple(range(n_batch, base.ndim)))
    same = same.reshape(same.shape + (1,) * old.event_dim)
    found = moved
    for one, other in zip(old.transforms, new.transforms, strict=True):
        found, same = other(found), same & _is_same_step(one, other)
    return jnp.where(same, x, found)


def _is_same_step(old: Any, new: Any) -> Any:
    """Return where the parameters of two transforms are equal."""
    if isinstance(old, transforms.ComposeTransform):
        return reduce(jnp.logical_and, map(_is_same_step, old.parts, new.parts))
    if isinstance(old, transforms.IndependentTransform):
        return _is_same_step(old.base_transform, new.base_transform)
    if isinstance(old, transforms.LowerCholeskyAffine):
        return (_equal(old.loc, new.loc, 1) & _equal(old.scale_tril, new.scale_tril, 2))[..., None]
    names = [name for name in ("loc", "scale", "exponent") if hasattr(old, name)]
    return reduce(jnp.logical_and, (_equal(getattr(old, n), getattr(new, n)) for n in names), jnp.ones((), bool))


# ------------------------------------------------------------------------------------ distribution functions


def _inverted(old: Any, x: jax.Array, new: Any) -> jax.Array:
    """Return the quantile of F(x), found on the side on which the probability is smaller."""
    target = tails(old, x)
    reached = _reaches(target)
    integers = jnp.dtype(f"int{jnp.finfo(x.dtype).bits}")
    low, high = (jnp.broadcast_to(jnp.asarray(end, x.dtype), x.shape) for end in _bounds(new))

    def step(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        below, above = ends
        middle = (below & above) + ((below ^ above) >> 1)
        found = reached(tails(new, _as_float(middle, x.dtype)))
        return jnp.where(found, below, middle), jnp.where(found, middle, above)

    # Floats are ordered as integers, so that as many steps as they have bits find the nearest one.
    ends = _as_integer(low, integers), _as_integer(high, integers)
    found = _as_float(lax.fori_loop(0, jnp.finfo(x.dtype).bits, step, ends)[1], x.dtype)
    return jnp.where((found < high) & (jnp.minimum(*target) > 0), found, jnp.nan)


def _reaches(target: Tails) -> Callable[[Tails], jax.Array]:
    """Return a function of the probabilities on both sides of a value: whether the value is at least the quantile."""
    is_upper = target.upper < target.lower
    return lambda here: jnp.where(is_upper, here.upper <= target.upper, here.lower >= target.lower)


def _bounds(fn: Any) -> tuple[Any, Any]:
    """Return the smallest and the largest value of a distribution."""
    support, limits = fn.support, jnp.finfo(jnp.result_type(float))
    return getattr(support, "lower_bound", limits.min), getattr(support, "upper_bound", limits.max)


def _as_integer(x: jax.Array, integers: jnp.dtype) -> jax.Array:
    """Return integers that are ordered as floats are."""
    bits = lax.bitcast_convert_type(x, integers)
    return jnp.where(bits < 0, jnp.iinfo(integers).min - bits - 1, bits)


def _as_float(ordered: jax.Array, floats: jnp.dtype) -> jax.Array:
    """Return the floats of ordered integers."""
    bits = jnp.where(ordered < 0, jnp.iinfo(ordered.dtype).min - ordered - 1, ordered)
    return lax.bitcast_convert_type(bits, floats)


# ------------------------------------------------------------------------------------------------- discrete values


def _monotone(old: Any, x: jax.Array, mass: jax.Array, new: Any, key: jax.Array) -> jax.Array:
    """Return the quantile of a variate that is uniform in the step of the distribution function at x, of this mass."""
    at_x, above_u = tails(old, x), random.uniform(key, x.shape, x.dtype) * mass
    target = Tails(at_x.lower - above_u, at_x.upper + above_u)
    if not has_quantile(new):
        return _smallest(new, _reaches(target), x)
    found = quantile(new, Uniform(jnp.minimum(*target), target.upper < target.lower))
    at_least = _ORDERED.get(type(new).log_prob)
    if at_least is None:
        return found
    # Next to a step, the inversion of the samplers is approximate and might not be monotone in the parameters.
    falls = jnp.where(at_least(old, new), jnp.minimum(found, x), found)
    return jnp.where(at_least(new, old), jnp.maximum(found, x), falls)


def _more_successes(one: Any, other: Any) -> Any:
    name = "logits" if "logits" in one.arg_constraints else "probs"
    return (getattr(one, name) >= getattr(other, name)) & (one.total_count >= other.total_count)


_ORDERED: dict[Any, Callable[[Any, Any], Any]] = {
    dist.Poisson.log_prob: lambda one, other: one.rate >= other.rate,
    dist.BinomialProbs.log_prob: _more_successes,
    dist.BinomialLogits.log_prob: _more_successes,
}
"""Whether counts of the first distribution are at least as large as counts of the second."""


def _smallest(fn: Any, reached: Callable[[Tails], jax.Array], x: jax.Array) -> jax.Array:
    """Return the smallest integer of the support for which ``reached`` is true, by bisection."""
    limits = jnp.iinfo(jnp.int32)
    low, high = (jnp.clip(jnp.asarray(end, x.dtype), limits.min // 2, limits.max // 2) for end in _bounds(fn))
    ends = (jnp.broadcast_to(end, x.shape).astype(jnp.int32) for end in (low - 1, high))

    def step(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        below, above = ends
        middle = (below + above) >> 1
        found = reached(tails(fn, middle.astype(x.dtype)))
        return jnp.where(found, below, middle), jnp.where(found, middle, above)

    found: jax.Array = lax.fori_loop(0, limits.bits - 1, step, tuple(ends))[1]
    return found.astype(x.dtype)

"""Probabilities on both sides of a value, of univariate distributions.

The smaller of the two is precise where the other one rounds to 1.
"""

__all__ = ["Tails", "has_tails", "tails"]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.nn import sigmoid, softmax, softplus
from jax.scipy import special

from aimz.kernel.masks import is_discrete, strip_wrappers


class Tails(NamedTuple):
    """Probabilities of a distribution on both sides of a value."""

    lower: Any
    """P(X <= x)."""
    upper: Any
    """P(X > x)."""


def has_tails(fn: Any) -> bool:
    """Return whether :func:`tails` knows a distribution."""
    fn = strip_wrappers(fn)
    if fn.event_dim:
        return False
    if isinstance(fn, dist.MixtureSameFamily | dist.MixtureGeneral):
        return all(map(has_tails, _components(fn)))
    if isinstance(fn, (*_TRUNCATED, dist.ZeroInflatedProbs)):
        return has_tails(fn.base_dist)
    if isinstance(fn, dist.HurdleProbs):
        return is_discrete(fn.base_dist) and has_tails(fn.base_dist)
    return type(fn).log_prob in _TAILS or _has_own_cdf(fn)


def tails(fn: Any, x: Any) -> Tails:
    """Return the probabilities on both sides of x, an array that broadcasts with the parameters."""
    fn = strip_wrappers(fn)
    if isinstance(fn, dist.MixtureSameFamily | dist.MixtureGeneral):
        return _of_mixture(fn, x)
    if isinstance(fn, _TRUNCATED):
        return _of_truncated(fn, x)
    if isinstance(fn, dist.ZeroInflatedProbs):
        return _of_zero_inflated(fn, x)
    if isinstance(fn, dist.HurdleProbs):
        return _of_hurdle(fn, x)
    known = _TAILS.get(type(fn).log_prob)
    if known is not None:
        return known(fn, x)
    lower = fn.cdf(x)
    return Tails(lower, 1 - lower)


def _has_own_cdf(fn: Any) -> bool:
    """Return whether the class of a distribution defines a distribution function."""
    inherited = dist.Distribution.cdf, dist.TransformedDistribution.cdf
    return type(fn).cdf not in inherited


def _components(fn: Any) -> list[Any]:
    if isinstance(fn, dist.MixtureGeneral):
        return list(fn.component_distributions)
    return [fn.component_distribution]


def _of_mixture(fn: Any, x: Any) -> Tails:
    """Return the weighted sums of the probabilities of the components."""
    weights = fn.mixing_distribution.probs
    if isinstance(fn, dist.MixtureGeneral):
        parts = [tails(part, x) for part in _components(fn)]
        found = Tails(*(jnp.stack(jnp.broadcast_arrays(*side), -1) for side in zip(*parts, strict=True)))
    else:
        found = tails(fn.component_distribution, x[..., None])
    return Tails((weights * found.lower).sum(-1), (weights * found.upper).sum(-1))


_TRUNCATED = (
    *(dist.LeftTruncatedDistribution, dist.RightTruncatedDistribution, dist.TwoSidedTruncatedDistribution),
    *(dist.LeftTruncatedGamma, dist.RightTruncatedGamma, dist.TwoSidedTruncatedGamma),
)


def _of_truncated(fn: Any, x: Any) -> Tails:
    low = tails(fn.base_dist, fn.low) if hasattr(fn, "low") else Tails(0.0, 1.0)
    high = tails(fn.base_dist, fn.high) if hasattr(fn, "high") else Tails(1.0, 0.0)
    here, mass = tails(fn.base_dist, x), _between(low, high)
    return Tails(*(jnp.clip(part / mass, 0, 1) for part in (_between(low, here), _between(here, high))))


def _between(one: Tails, other: Tails) -> Any:
    """Return the probability between two values, from the sides on which it does not cancel."""
    return jnp.where(one.lower > one.upper, one.upper - other.upper, other.lower - one.lower)


def _of_zero_inflated(fn: Any, x: Any) -> Tails:
    base = tails(fn.base_dist, x)
    return Tails(jnp.where(x < 0, 0, fn.gate + (1 - fn.gate) * base.lower), (1 - fn.gate) * base.upper)


def _of_hurdle(fn: Any, x: Any) -> Tails:
    """Return the probabilities of counts, of which 0 has the probability of the gate."""
    here, zero = tails(fn.base_dist, jnp.maximum(x, 0)), tails(fn.base_dist, jnp.zeros_like(x))
    positive = (1 - fn.gate) / zero.upper
    lower = jnp.where(x < 0, 0, fn.gate + positive * (here.lower - zero.lower))
    return Tails(lower, jnp.where(x < 0, 1, positive * here.upper))


def _normal(fn: Any, x: Any) -> Tails:
    z = (x - fn.loc) / fn.scale
    return Tails(special.ndtr(z), special.ndtr(-z))


def _symmetric(fn: Any, x: Any) -> Tails:
    return Tails(fn.cdf(x), fn.cdf(fn.loc - (x - fn.loc)))


def _student_t(fn: Any, x: Any) -> Tails:
    z = (x - fn.loc) / fn.scale
    # The probability beyond z, from the argument that is precise: the smaller one of the two.
    beyond = _beta_tails(fn.df / 2, 0.5, fn.df / (fn.df + z * z), z * z / (fn.df + z * z))
    tail = jnp.where(z * z > fn.df, beyond.lower, 1 - beyond.upper) / 2
    return Tails(jnp.where(z < 0, tail, 1 - tail), jnp.where(z < 0, 1 - tail, tail))


def _exponential(fn: Any, x: Any) -> Tails:
    return Tails(-jnp.expm1(-fn.rate * x), jnp.exp(-fn.rate * x))


def _half_normal(fn: Any, x: Any) -> Tails:
    z = x / (fn.scale * jnp.sqrt(2.0))
    return Tails(special.erf(z), special.erfc(z))


def _gamma(fn: Any, x: Any) -> Tails:
    z = jnp.maximum(fn.rate * x, 0)
    return Tails(special.gammainc(fn.concentration, z), special.gammaincc(fn.concentration, z))


def _beta(fn: Any, x: Any) -> Tails:
    a, b, x = fn.concentration1, fn.concentration0, jnp.clip(x, 0, 1)
    return _beta_tails(a, b, x, 1 - x)


def _beta_tails(a: Any, b: Any, x: Any, rest: Any) -> Tails:
    """Return the probabilities of a beta distribution, with one incomplete beta function, which compiles slowly."""
    a, b, x, rest = jnp.broadcast_arrays(a, b, x, rest)
    both = special.betainc(jnp.stack([a, b]), jnp.stack([b, a]), jnp.stack([x, rest]))
    return Tails(both[0], both[1])


def _bernoulli(fn: Any, x: Any) -> Tails:
    failure = sigmoid(-fn.logits) if "logits" in fn.arg_constraints else 1 - fn.probs
    success = sigmoid(fn.logits) if "logits" in fn.arg_constraints else fn.probs
    lower = jnp.where(x < 0, 0, jnp.where(x < 1, failure, 1))
    return Tails(lower, jnp.where(x < 0, 1, jnp.where(x < 1, success, 0)))


def _categorical(fn: Any, x: Any) -> Tails:
    probs = softmax(fn.logits, -1) if "logits" in fn.arg_constraints else fn.probs
    at_most = jnp.arange(probs.shape[-1]) <= x[..., None]
    return Tails(jnp.where(at_most, probs, 0).sum(-1), jnp.where(at_most, 0, probs).sum(-1))


def _binomial(fn: Any, x: Any) -> Tails:
    if "logits" in fn.arg_constraints:
        success, failure = sigmoid(fn.logits), sigmoid(-fn.logits)
    else:
        success, failure = fn.probs, 1 - fn.probs
    n = jnp.asarray(fn.total_count).astype(jnp.result_type(float))
    k = jnp.clip(x, 0, jnp.maximum(n - 1, 0))
    return _inside(x, _beta_tails(n - k, k + 1, failure, success), n)


def _poisson(fn: Any, x: Any) -> Tails:
    k = jnp.maximum(x, 0) + 1
    return _inside(x, Tails(special.gammaincc(k, fn.rate), special.gammainc(k, fn.rate)))


def _gamma_poisson(fn: Any, x: Any) -> Tails:
    k, total = jnp.maximum(x, 0) + 1, 1 + fn.rate
    return _inside(x, _beta_tails(fn.concentration, k, fn.rate / total, 1 / total))


def _geometric(fn: Any, x: Any) -> Tails:
    log_failure = -softplus(fn.logits) if "logits" in fn.arg_constraints else jnp.log1p(-fn.probs)
    exponent = (x + 1) * log_failure
    return _inside(x, Tails(-jnp.expm1(exponent), jnp.exp(exponent)))


def _inside(x: Any, found: Tails, last: Any = jnp.inf) -> Tails:
    """Return the probabilities of counts from 0 to the last one."""
    lower = jnp.where(x < 0, 0, jnp.where(x >= last, 1, found.lower))
    return Tails(lower, jnp.where(x < 0, 1, jnp.where(x >= last, 0, found.upper)))


_TAILS: dict[Any, Callable[[Any, jax.Array], Tails]] = {
    dist.Normal.log_prob: _normal,
    dist.Cauchy.log_prob: _symmetric,
    dist.Laplace.log_prob: _symmetric,
    dist.Logistic.log_prob: _symmetric,
    dist.SoftLaplace.log_prob: _symmetric,
    dist.StudentT.log_prob: _student_t,
    dist.Exponential.log_prob: _exponential,
    dist.HalfNormal.log_prob: _half_normal,
    dist.Gamma.log_prob: _gamma,
    dist.Beta.log_prob: _beta,
    dist.BernoulliLogits.log_prob: _bernoulli,
    dist.BernoulliProbs.log_prob: _bernoulli,
    dist.BinomialLogits.log_prob: _binomial,
    dist.BinomialProbs.log_prob: _binomial,
    dist.CategoricalLogits.log_prob: _categorical,
    dist.CategoricalProbs.log_prob: _categorical,
    dist.GammaPoisson.log_prob: _gamma_poisson,
    dist.GeometricLogits.log_prob: _geometric,
    dist.GeometricProbs.log_prob: _geometric,
    dist.Poisson.log_prob: _poisson,
}
"""Probabilities by the method that defines the family, so that a subclass with a density of its own has others."""

"""Normal approximation of a posterior from its curvature, which gives an optimizer or a sampler its units."""

__all__ = ["Approximation", "approximate_by_normal", "approximate_scales"]

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random

type Potential = Callable[[Array], Array]
"""Negative log density of the unconstrained latent values, a vector."""

_STEPS = 40
_POINTS = 8
"""Number of points at which gradient and curvature are averaged."""
_WARMUP = 8
"""Number of steps over which the points spread from the location to the scale of the approximation."""
_FRACTIONS = (1.0, 0.3, 0.1, 0.01, 0.0)
"""Fractions of a step that are tried."""
_LEAST_CURVATURE = 0.135
"""Precision, in units of the current one, below which the density counts as flat and the scale grows."""


class Approximation(NamedTuple):
    """Normal distribution of the unconstrained latent values."""

    loc: Array
    scale: Array
    """Lower triangular matrix, or a vector of standard deviations."""
    loss: Array
    """Estimate of its negative ELBO, up to a constant; infinite if none was found."""


def approximate_by_normal(potential: Potential, start: Array, key: Array) -> Approximation:
    """Return the normal distribution that has the mean curvature of the posterior.

    Each step averages gradients and Hessians over points of the current approximation and replaces the precision by the
    mean Hessian (a natural-gradient step of the ELBO). Steps depend neither on the scales of the values nor on their
    correlation.
    """
    identity = jnp.eye(len(start))

    def hessian(point: Array) -> Array:
        products = lax.map(lambda v: jax.jvp(jax.grad(potential), (point,), (v,))[1], identity)
        symmetric: Array = 0.5 * (products + products.T)
        return symmetric

    def step(carry: tuple[Approximation, Approximation], inputs: tuple[Array, Array]) -> tuple[object, None]:
        (now, best), (key, spread) = carry, inputs
        half = random.normal(key, (_POINTS // 2, len(start))) * spread
        noise = jnp.concatenate([half, -half])
        values, gradients = lax.map(jax.value_and_grad(potential), now.loc + noise @ now.scale.T)
        curvature = lax.map(hessian, now.loc + noise @ now.scale.T).mean(0)
        loss = values.mean() - jnp.log(jnp.diagonal(now.scale)).sum()
        now = now._replace(loss=jnp.where(spread >= 1, loss, jnp.inf))
        better = jnp.isfinite(now.loss) & ~(now.loss >= best.loss)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), now, best)
        # In units of the current scale, in which the current precision is the identity.
        relative = now.scale.T @ curvature @ now.scale
        relative = jnp.where(jnp.isfinite(relative).all(), relative, identity)
        eigenvalues, vectors = jnp.linalg.eigh(relative)
        precision = jnp.maximum(eigenvalues, _LEAST_CURVATURE)
        slope = vectors.T @ (now.scale.T @ gradients.mean(0))
        move = jnp.where(jnp.isfinite(slope), slope, 0.0) / precision
        move = jnp.where(eigenvalues > _LEAST_CURVATURE, move, jnp.clip(move, -1.0, 1.0))
        scale = jnp.linalg.qr((now.scale @ vectors / jnp.sqrt(precision)).T, mode="r").T
        scale *= jnp.where(jnp.diagonal(scale) < 0, -1.0, 1.0)
        scale = jnp.where(jnp.isfinite(scale).all(), scale, now.scale)
        trials = now.loc - jnp.asarray(_FRACTIONS)[:, None] * (now.scale @ (vectors @ move))
        found = lax.map(lambda loc: lax.map(potential, loc + noise @ scale.T).mean(), trials)
        loc = trials[jnp.argmin(jnp.where(jnp.isfinite(found), found, jnp.inf))]
        return (Approximation(loc, scale, now.loss), best), None

    first = Approximation(start, identity, jnp.asarray(jnp.inf))
    spreads = jnp.minimum(1.0, jnp.arange(_STEPS) / _WARMUP)
    (_, best), _ = lax.scan(step, (first, first), (random.split(key, _STEPS), spreads))  # type: ignore[arg-type]
    return best


def approximate_scales(potential: Potential, start: Array, key: Array) -> Approximation:
    """Return a location and standard deviations, from the diagonal of the Hessian only, for many latent values."""

    def step(carry: Approximation, key: Array) -> tuple[Approximation, None]:
        loc, scale, _ = carry
        probes = random.rademacher(key, (_POINTS, len(start)), loc.dtype)
        value, gradient = jax.value_and_grad(potential)(loc)
        products = lax.map(lambda v: v * jax.jvp(jax.grad(potential), (loc,), (v * scale,))[1], probes).mean(0)
        relative = products * scale
        precision = jnp.clip(jnp.where(jnp.isfinite(relative), relative, 1.0), _LEAST_CURVATURE)
        move = jnp.clip(jnp.nan_to_num(gradient * scale) / precision, -1.0, 1.0) * scale
        trials = loc - jnp.asarray(_FRACTIONS)[:, None] * move
        found = lax.map(potential, trials)
        loc = trials[jnp.argmin(jnp.where(jnp.isfinite(found), found, jnp.inf))]
        return Approximation(loc, scale / jnp.sqrt(precision), value), None

    first = Approximation(start, jnp.ones(len(start)), jnp.asarray(jnp.inf))
    last, _ = lax.scan(step, first, random.split(key, _STEPS))
    return last

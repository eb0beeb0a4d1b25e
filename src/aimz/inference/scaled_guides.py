"""Normal guides that are optimized in units of an approximate posterior."""

__all__ = ["CENTER", "FACTOR", "ScaledLowRankNormal", "ScaledNormal"]

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient
from numpyro.distributions.transforms import LowerCholeskyAffine
from numpyro.handlers import substitute
from numpyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal

CENTER, FACTOR = "auto_center", "auto_factor"
"""Parameters that are not optimized: location and scale of the approximate posterior."""


class _PathwiseNormal(dist.MultivariateNormal):  # type: ignore[misc,unused-ignore]
    """Normal whose density has no gradient in its parameters, so that gradients vanish where guide and posterior agree.

    The omitted term has expectation zero (Roeder, Wu and Duvenaud 2017, *Sticking the Landing*).
    """

    def log_prob(self, value: Array) -> Array:
        """Return the log density of ``value``."""
        fixed = dist.MultivariateNormal(stop_gradient(self.loc), scale_tril=stop_gradient(self.scale_tril))
        density: Array = fixed.log_prob(value)
        return density


class _PathwiseLowRankNormal(dist.LowRankMultivariateNormal):  # type: ignore[misc,unused-ignore]
    """Same for a low-rank covariance."""

    def log_prob(self, value: Array) -> Array:
        """Return the log density of ``value``."""
        parts = map(stop_gradient, (self.loc, self.cov_factor, self.cov_diag))
        density: Array = dist.LowRankMultivariateNormal(*parts).log_prob(value)
        return density


class ScaledNormal(AutoMultivariateNormal):  # type: ignore[misc,unused-ignore]
    """Full-rank normal guide with location ``center + factor @ loc`` and scale ``factor @ scale_tril``.

    Adam takes steps of about the same size in each parameter. In these units all parameters have about the same scale,
    however badly scaled and correlated the latent sites are.
    """

    def _get_posterior(self) -> dist.Distribution:
        size = self.latent_dim
        center = stop_gradient(numpyro.param(CENTER, self._init_latent))
        factor = stop_gradient(numpyro.param(FACTOR, jnp.identity(size) * self._init_scale))
        loc = numpyro.param("auto_loc", jnp.zeros(size))
        scale_tril = numpyro.param("auto_scale_tril", jnp.identity(size), constraint=self.scale_tril_constraint)
        return _PathwiseNormal(center + factor @ loc, scale_tril=factor @ scale_tril)

    def get_transform(self, params: Mapping[str, Any]) -> LowerCholeskyAffine:
        """Return the map from independent standard normals to the posterior."""
        normal = substitute(self._get_posterior, params)()
        return LowerCholeskyAffine(normal.loc, normal.scale_tril)

    def median(self, params: Mapping[str, Any]) -> Any:
        """Return the median of each latent site."""
        return self._unpack_and_constrain(self.get_transform(params).loc, params)


class ScaledLowRankNormal(AutoLowRankMultivariateNormal):  # type: ignore[misc,unused-ignore]
    """Low-rank normal guide, of which location and scale are in units of ``factor``, a vector."""

    def _get_posterior(self) -> dist.Distribution:
        size = self.latent_dim
        center = stop_gradient(numpyro.param(CENTER, self._init_latent))
        factor = stop_gradient(numpyro.param(FACTOR, jnp.full(size, self._init_scale)))
        loc = numpyro.param("auto_loc", jnp.zeros(size))
        cov_factor = numpyro.param("auto_cov_factor", jnp.zeros((size, self.rank)))
        scale = numpyro.param("auto_scale", jnp.ones(size), constraint=self.scale_constraint)
        scale = factor * scale
        return _PathwiseLowRankNormal(center + factor * loc, cov_factor * scale[:, None], scale**2)

    def get_posterior(self, params: Mapping[str, Any]) -> dist.Distribution:
        """Return the posterior of the unconstrained latent sites."""
        return substitute(self._get_posterior, params)()

    def median(self, params: Mapping[str, Any]) -> Any:
        """Return the median of each latent site."""
        return self._unpack_and_constrain(self.get_posterior(params).loc, params)

    def quantiles(self, params: Mapping[str, Any], quantiles: Any) -> Any:
        """Return quantiles of each latent site."""
        normal = self.get_posterior(params)
        latent = dist.Normal(normal.loc, jnp.sqrt(normal.variance)).icdf(jnp.array(quantiles)[..., None])
        return self._unpack_and_constrain(latent, params)

"""Kernels that can be imported, for models that are saved without a pickle."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal


def shop(X, mail, y=None):
    level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    gain = numpyro.sample("gain", dist.Normal(0.0, 5.0))
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + X @ slope + mail * gain, 1.0), obs=y)


def centred(X, y=None):
    """Rows depend on one another: each is centred by the mean of all."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(slope * (X - jnp.mean(X)), 1.0), obs=y)


def pairs(design, sales=None):
    """Two values for each row, and other names for the input and the output."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("row", design.shape[0]):
        numpyro.sample("sales", dist.Normal(design[:, None] * slope, 1.0).to_event(1), obs=sales)


def regions(X, y=None):
    """Rows look up the level of their region."""
    with numpyro.plate("region", 3):
        level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[X], 1.0), obs=y)


def switches(X, group, n_groups=3, y=None):
    """A discrete outcome without noise: a row is 1 if its group's level and the difference of its columns exceed 0."""
    with numpyro.plate("groups", n_groups):
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=500.0 * (level[group] + X[:, 0] - X[:, 1])), obs=y)


def other_shop(X, mail, y=None):
    """The arguments of :func:`shop`, without the site ``gain``."""
    level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + mail, 1.0), obs=y)


svi = SVI(shop, AutoNormal(shop), numpyro.optim.Adam(0.05), Trace_ELBO())

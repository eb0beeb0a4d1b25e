"""Kernels the witnesses are fitted with; priors are those of the references, exactly."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def flat(*shape):
    """A density of one on the reals, of an event of ``shape``."""
    return dist.ImproperUniform(constraints.real, (), shape)


def earnings(X, treat, y=None):
    """Linear regression under p(coefficients, sigma) proportional to 1/sigma: flat on the log of sigma."""
    alpha = numpyro.sample("alpha", flat())
    gain = numpyro.sample("gain", flat())
    beta = numpyro.sample("beta", flat(X.shape[1]))
    log_sigma = numpyro.sample("log_sigma", flat())
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + gain * treat + X @ beta, jnp.exp(log_sigma)), obs=y)


def earnings_unadjusted(X, y=None):
    """The same with the treatment alone, which is then the input."""
    alpha = numpyro.sample("alpha", flat())
    gain = numpyro.sample("gain", flat())
    log_sigma = numpyro.sample("log_sigma", flat())
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + gain * X, jnp.exp(log_sigma)), obs=y)


def schools(X, y=None):
    """Eight schools, non-centred; the input is the standard error of each school."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", X.shape[0]):
        offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * offset)
        numpyro.sample("y", dist.Normal(theta, X), obs=y)


def wells(X, y=None):
    """Logistic regression of switching on distance (m), arsenic and education (years)."""
    alpha = numpyro.sample("alpha", flat())
    beta = numpyro.sample("beta", flat(3))
    with numpyro.plate("household", X.shape[0]):
        logits = alpha + X @ (beta / jnp.asarray([100.0, 1.0, 4.0]))
        numpyro.deterministic("p", 1.0 / (1.0 + jnp.exp(-logits)))
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def radon(X, county, n_counties, y=None):
    """Varying intercepts, non-centred; the input is uranium and floor."""
    mu_alpha = numpyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    sigma_alpha = numpyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    sigma_y = numpyro.sample("sigma_y", dist.HalfNormal(1.0))
    with numpyro.plate("counties", n_counties):
        offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
        alpha = numpyro.deterministic("alpha", mu_alpha + sigma_alpha * offset)
    with numpyro.plate("house", X.shape[0]):
        numpyro.sample("y", dist.Normal(alpha[county] + X @ beta, sigma_y), obs=y)


def conjugate(X, prior_mean, prior_sd, noise_sd, y=None):
    """A normal mean with known noise; the input only says how many rows there are."""
    theta = numpyro.sample("theta", dist.Normal(prior_mean, prior_sd))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(theta, noise_sd), obs=y)


def grouped(X, group, n_groups, y=None):
    """Scalars, a vector, a latent site per group, deterministic sites with and without rows."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.3))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("groups", n_groups):
        offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
        level = numpyro.deterministic("level", mu + tau * offset)
    with numpyro.plate("obs", X.shape[0]):
        mean = numpyro.deterministic("mean", level[group] + X @ beta)
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def counts(X, exposure, y=None):
    """Overdispersed counts with an exposure per row."""
    level = numpyro.sample("level", dist.Normal(0.5, 0.3))
    slope = numpyro.sample("slope", dist.Normal(0.0, 0.3))
    concentration = numpyro.sample("concentration", dist.LogNormal(1.0, 0.3))
    with numpyro.plate("obs", X.shape[0]):
        rate = numpyro.deterministic("rate", exposure * jnp.exp(level + slope * X[:, 0]))
        numpyro.sample("y", dist.NegativeBinomial2(rate, concentration), obs=y)


def weighted(X, y=None):
    """A latent site per row."""
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("obs", X.shape[0]):
        weight = numpyro.sample("weight", dist.Gamma(4.0, 4.0))
        scale = numpyro.deterministic("scale", sigma / jnp.sqrt(weight))
        numpyro.sample("y", dist.Normal(level + X[:, 0], scale), obs=y)


def paired(X, y=None):
    """An output with two correlated columns."""
    level = numpyro.sample("level", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    correlation = numpyro.sample("correlation", dist.Uniform(-0.8, 0.8))
    with numpyro.plate("obs", X.shape[0]):
        mean = numpyro.deterministic("mean", level + X)
        covariance = jnp.eye(2) + correlation * (1.0 - jnp.eye(2))
        numpyro.sample("y", dist.MultivariateNormal(mean, covariance_matrix=covariance), obs=y)


def cells(X, group, n_groups, y=None):
    """A mean and a spread for each group and arm; the input is the arm, 0 or 1."""
    level = numpyro.sample("level", flat(n_groups, 2))
    log_sigma = numpyro.sample("log_sigma", flat(n_groups, 2))
    with numpyro.plate("person", X.shape[0]):
        mean = numpyro.deterministic("mean", level[group, X])
        numpyro.sample("y", dist.Normal(mean, jnp.exp(log_sigma[group, X])), obs=y)


def plans(X, n_plans, y=None):
    """Counts with a rate for each plan, flat on its logarithm; the input is the plan."""
    log_rate = numpyro.sample("log_rate", flat(n_plans))
    with numpyro.plate("person_year", X.shape[0]):
        rate = numpyro.deterministic("rate", jnp.exp(log_rate)[X])
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def sloped(X, treat, noise_sd, y=None):
    """A line for the treated and a line for the others, around which the noise is known."""
    coefficients = numpyro.sample("coefficients", flat(4))
    with numpyro.plate("obs", X.shape[0]):
        terms = jnp.stack([jnp.ones_like(X), X, treat * jnp.ones_like(X), treat * X], -1)
        mean = numpyro.deterministic("mean", terms @ coefficients)
        numpyro.sample("y", dist.Normal(mean, noise_sd), obs=y)


def multiplied(X, treat, group, exposure, y=None):
    """Counts that the treatment multiplies, in each group by a factor of its own."""
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        rate = numpyro.deterministic("rate", exposure * jnp.exp(level + slope * X + shift[group] * treat))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

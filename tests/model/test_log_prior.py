"""Log densities of priors equal NumPyro's `log_density`, and ArviZ's power-scaling reads them."""

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

from aimz import ImpactModel

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

C, D, G = 2, 300, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=40).astype(np.float32)
GROUP = np.arange(40) % G
Y = (1 + 0.5 * X + 0.1 * RNG.normal(size=40)).astype(np.float32)


def kernel(X, group, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0 * jnp.abs(X).max()))
    coef = numpyro.sample("coef", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    shift = numpyro.sample("shift", dist.Normal(0, 1).expand([2]))
    with numpyro.plate("groups", G):
        level = numpyro.sample("level", dist.Normal(coef[0], scale))
    with numpyro.plate("rows", X.shape[0]):
        local = numpyro.sample("local", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(level[group] + coef[1] * X + shift.sum() + 0.01 * local, 0.1), obs=y)


def draws_of(rng):
    return {
        "scale": rng.uniform(0.5, 2, C * D),
        "coef": rng.normal(0.5, 0.1, (C * D, 2)),
        "shift": rng.normal(size=(C * D, 2)),
        "level": rng.normal(size=(C * D, G)),
        "local": rng.normal(size=(C * D, 40)),
    }


def model_of(draws):
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return model.set_posterior_sample(draws, num_chains=C)


def test_log_prior_equals_numpyro_and_serves_psense():
    draws = {name: np.float32(value) for name, value in draws_of(RNG).items()}
    model = model_of(draws)
    tree = model.log_prior(X, group=GROUP)
    own = tree["log_prior"]
    assert set(own.data_vars) == {"scale", "coef", "shift"}
    assert own["coef"].dims == ("chain", "draw")  # one density for each event
    assert own["shift"].shape == (C, D, 2)

    def one(latents):
        with_y = numpyro.handlers.condition(kernel, {"y": Y})
        return log_density(with_y, (X, GROUP), {}, latents)[0]

    first = {name: jnp.asarray(value[:5]) for name, value in draws.items()}
    joint = jax.vmap(one)(first)
    below = model.log_prior(X, group=GROUP, return_sites=["level", "local"])["log_prior"]
    scores = model.log_likelihood(X, Y, group=GROUP, store="memory", progress=False)
    total = sum(
        group[name].values[0, :5].reshape(5, -1).sum(1) for group in (own, below) for name in group.data_vars
    ) + scores["log_likelihood"]["y"].values[0, :5].sum(1)
    np.testing.assert_allclose(total, joint, rtol=1e-5)
    np.testing.assert_allclose(
        own["scale"].values.ravel(), dist.HalfNormal(2 * np.abs(X).max()).log_prob(draws["scale"]), rtol=1e-5
    )
    scores["log_prior"] = own
    found = arviz_stats.psense(scores, group="prior", var_names=["coef"])
    assert np.isfinite(found["coef"].values).all()


def test_log_prior_of_a_conjugate_model_has_its_known_sensitivity():
    """The posterior mean of a normal mean moves by a known amount if the prior is raised to a power."""

    def normal(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b, 1), obs=y)

    mean, sd = 1.0, np.sqrt(1 / 3)
    draws = np.float32(RNG.normal(mean, sd, 4000))
    model = ImpactModel(normal, random.key(0), MCMC(NUTS(normal), num_warmup=1, num_samples=1))
    tree = model.set_posterior_sample({"b": draws}).log_prior(np.zeros(2, np.float32))
    weights = np.exp(0.5 * tree["log_prior"]["b"].values.ravel())
    # Two observations of mean 1.5: at power 1.5 of the prior, the precision is 3.5 and the mean 3 / 3.5.
    np.testing.assert_allclose(np.average(draws, weights=weights), 3 / 3.5, atol=0.04)


def test_log_prior_without_data_or_draws_raises():
    model = model_of(draws_of(RNG))
    with pytest.raises(ValueError, match="`log_prior` needs the input"):
        model.log_prior()
    with pytest.raises(ValueError, match="latent sites"):
        model.log_prior(X, group=GROUP, return_sites=["y"])

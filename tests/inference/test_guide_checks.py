"""Two-sided checks of guides, verdicts after minibatches, and values that `obs_mask` masks out."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from aimz import ImpactModel

RNG = np.random.default_rng(19)
X = RNG.normal(size=5000)
Y = 1 + 2 * X + RNG.normal(size=5000)
KEYS = range(3)


def line(X, y=None):
    a, b = numpyro.sample("a", dist.Normal(0, 5)), numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + b * X, 1.0), obs=y)


def mean(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a), obs=y)


def by_svi(kernel, guide, optimizer) -> ImpactModel:
    return ImpactModel(kernel, random.key(0), SVI(kernel, guide(kernel), optimizer, Trace_ELBO()))


def verdicts(model) -> list[list[str]]:
    """Return the verdicts about the guide under each key."""
    lines = ["Pareto k", "effective share", "sd ratio"]
    return [[v[:3] for v in model.diagnose(rng_key=random.key(i)).loc[lines, "verdict"]] for i in KEYS]


def test_guide_four_times_too_wide_is_bad():
    """The learning rate decays before the scales shrink; k alone is below 0, because the weights are bounded."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.005, 4000))
    model = by_svi(line, AutoNormal, optimizer).fit_on_batch(X, Y, num_steps=4000, progress=False)
    assert float(model.posterior["b"].std()) > 3 * np.sum((X - X.mean()) ** 2) ** -0.5
    assert model.diagnose().loc["Pareto k", "value"] < 0
    assert verdicts(model).count(["bad", "bad", "bad"]) == len(KEYS)


@pytest.mark.parametrize(("width", "verdict"), [(1.0, "ok"), (4.0, "bad")])
def test_share_of_a_normal_guide_equals_closed_form(width, verdict):
    """Weights of a normal guide that is ``width`` times as wide have the share ``sqrt(2 - width**-2) / width``."""

    def guide(X, y=None):
        numpyro.sample("a", dist.Normal(numpyro.param("at", 0.0), width * 61**-0.5))

    y = Y[:60] - Y[:60].mean()
    model = ImpactModel(mean, random.key(0), SVI(mean, guide, numpyro.optim.Adam(1e-9), Trace_ELBO()))
    model.fit_on_batch(X[:60], y, num_steps=200, progress=False)
    found = model.diagnose(rng_key=random.key(1)).loc["effective share"]
    assert found["verdict"].startswith(verdict)
    assert found["value"] == pytest.approx(np.sqrt(2 - width**-2) / width, rel=0.08)


def test_guide_narrow_or_wide_in_one_direction():
    """Of 20 parameters one has another standard deviation than in the posterior, which is known."""

    def kernel(X, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([20]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=y)

    def guide(X, y=None):
        sd = numpyro.param("sd", 0.85, constraint=dist.constraints.positive)
        spread = jnp.ones(20).at[7].set(sd) * 61**-0.5
        numpyro.sample("w", dist.Normal(numpyro.param("at", jnp.zeros(20)), spread).to_event(1))

    y = RNG.normal(size=(60, 20))
    y -= y.mean(0)
    model = ImpactModel(kernel, random.key(0), SVI(kernel, guide, numpyro.optim.Adam(1e-9), Trace_ELBO()))
    model.fit_on_batch(X[:60], y, num_steps=200, progress=False)
    result = model.vi_result
    for sd, verdict in ((0.85, "ok"), (0.4, "bad"), (1.4, "bad")):
        model.vi_result = result._replace(params={**result.params, "sd": jnp.float32(sd)})
        table = model.diagnose(X[:60], y, rng_key=random.key(2)).loc[["Pareto k", "effective share", "sd ratio"]]
        assert table["verdict"].str.startswith(verdict).all()
        assert table.loc["sd ratio", "site"] == "w"
        if sd > 0.5:  # the weights of a narrower guide have a heavy tail
            assert table.loc["sd ratio", "value"] == pytest.approx(1 / sd, rel=0.08)


def test_keys_agree_about_few_groups():
    """Eight schools: a normal guide misses the funnel, and the scale of the groups is half as large as it should be."""
    effects = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    scales = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def schools(X, y=None):
        mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(theta, X), obs=y)

    model = by_svi(schools, AutoMultivariateNormal, numpyro.optim.Adam(0.01))
    model.fit_on_batch(scales, effects, num_steps=8000, progress=False)
    assert verdicts(model).count(["bad", "bad", "bad"]) == len(KEYS)


def test_minibatch_losses_and_data_frames_have_a_verdict():
    """The loss of a batch has a standard deviation of hundreds of nats; means of epochs have none of it."""
    frame = pd.DataFrame({"price": X[:2000]})

    def kernel(X, y=None):
        line(X[:, 0], y)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 4000))
    model = by_svi(kernel, AutoMultivariateNormal, optimizer)
    table = model.fit(frame, Y[:2000], batch_size=100, epochs=200, progress=False).diagnose()
    assert table["verdict"].tolist() == ["ok"] * 4


def test_masked_values_are_left_out():
    """Where the output has data, `y_unobserved` has no density, and NUTS never explores it."""

    def gaps(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 5))
        known = None if y is None else ~jnp.isnan(y)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X, 1.0), obs=None if y is None else jnp.nan_to_num(y), obs_mask=known)

    model = ImpactModel(gaps, random.key(0), MCMC(NUTS(gaps), num_warmup=1, num_samples=1))
    y = np.where(np.arange(50) < 20, np.nan, Y[:50])
    rng = np.random.default_rng(0)
    # Draws of values without density are walks.
    unobserved = np.where(np.isnan(y), rng.normal(size=(800, 50)), np.cumsum(rng.normal(size=(800, 50)), 0))
    draws = {"b": rng.normal(size=800), "y_unobserved": unobserved}
    model.set_posterior_sample(draws, num_chains=2)
    found = model.diagnose(X[:50], y)["verdict"]
    assert found[["R-hat", "bulk ESS", "tail ESS"]].tolist() == ["ok"] * 3

"""Law 12: further arguments reach the kernel on every path."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel

X = np.zeros(40, np.float32)
C = np.linspace(-1, 1, 40, dtype=np.float32)


def kernel(X, c, power, scale=1.0, y=None):
    """`c` runs along the rows; `power` and `scale` are plain numbers."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b + X + scale * c**power, 0.1), obs=y)


def new_model():
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi)


@pytest.mark.parametrize(
    "method", ["predict_on_batch", "sample_posterior_predictive_on_batch", "sample_prior_predictive_on_batch"]
)
def test_shifting_c_shifts_y(method):
    model = new_model().set_posterior_sample({"b": np.linspace(-1, 1, 9, dtype=np.float32)})
    options = {"power": 1, "return_datatree": False, "rng_key": random.key(2)}
    run = getattr(model, method)
    start = run(X, c=C, **options)["y"]
    np.testing.assert_allclose(run(X, c=C + 2, **options)["y"], start + 2, atol=1e-5)
    np.testing.assert_allclose(run(X, c=C, scale=3.0, **options)["y"], start + 2 * C, atol=1e-5)
    np.testing.assert_allclose(run(X, c=C, **{**options, "power": 2})["y"], start - C + C**2, atol=1e-5)


def test_log_likelihood_sees_c():
    model = new_model().set_posterior_sample({"b": np.zeros(3, np.float32)})
    y = np.zeros(40, np.float32)
    for c in (C, C + 2):
        got = model.log_likelihood(X, y, c=c, power=1)["log_likelihood"]["y"].values
        expected = -0.5 * (c / 0.1) ** 2 - np.log(0.1) - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(got[0], np.broadcast_to(expected, (3, 40)), rtol=1e-5)


@pytest.mark.parametrize("inference", ["svi", "mcmc"])
def test_fits_see_c(inference):
    """y = 5 + c: the intercept is 5 only if `c` got through; the sd of its posterior is 0.1 / sqrt(40)."""
    if inference == "svi":
        model = new_model()
    else:
        mcmc = MCMC(NUTS(kernel), num_warmup=200, num_samples=200, progress_bar=False)
        model = ImpactModel(kernel, random.key(0), mcmc)
    model.fit_on_batch(X, 0.5 + C, c=C, power=1, num_steps=2000, progress=False)
    # The prior pulls by less than 1e-3; 200 draws give the mean to 0.0012.
    assert abs(float(model.posterior["b"].mean()) - 0.5) < 0.01


def test_intervention_on_an_argument_is_that_argument():
    model = new_model().set_posterior_sample({"b": np.zeros(3, np.float32)})
    options = {"return_datatree": False, "rng_key": random.key(2)}
    given = model.predict_on_batch(X, c=C + 1, power=1, **options)["y"]
    for value in (C + 1, lambda c: c + 1):
        done = model.predict_on_batch(X, c=C, power=1, intervention={"c": value}, **options)["y"]
        np.testing.assert_array_equal(done, given)
    scaled = model.predict_on_batch(X, c=C, power=1, scale=2.0, **options)["y"]
    done = model.predict_on_batch(X, c=C, power=1, scale=1.0, intervention={"scale": 2.0}, **options)["y"]
    np.testing.assert_array_equal(done, scaled)

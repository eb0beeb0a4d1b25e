"""Law 12: further arguments reach the kernel on every path."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
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
        model, options = new_model(), {"num_steps": 2000}
    else:
        options = {}
        mcmc = MCMC(NUTS(kernel), num_warmup=200, num_samples=200, progress_bar=False)
        model = ImpactModel(kernel, random.key(0), mcmc)
    model.fit_on_batch(X, 0.5 + C, c=C, power=1, progress=False, **options)
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


def shops(X, store, statistics, epochs=1.0, y=None):
    """Arguments with the names of options."""
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(slope * store + statistics * epochs + 0 * X.reshape(X.shape[0]), 0.1), obs=y)


SHOPS = {"store": C, "statistics": 2.0, "epochs": 3.0}
QUIET = {"progress": False, "store": "memory"}
REACHING = {
    "predict": lambda m, X, **k: m.predict(X, **QUIET, **k)["posterior_predictive"],
    "sample_posterior_predictive": lambda m, X, **k: m.sample_posterior_predictive(X, **QUIET, **k)[
        "posterior_predictive"
    ],
    "predict_on_batch": lambda m, X, **k: m.predict_on_batch(X, **k)["posterior_predictive"],
    "sample_posterior_predictive_on_batch": lambda m, X, **k: m.sample_posterior_predictive_on_batch(X, **k)[
        "posterior_predictive"
    ],
}


@pytest.fixture(scope="module")
def shop_model():
    mcmc = MCMC(NUTS(shops), num_warmup=1, num_samples=1, progress_bar=False)
    return ImpactModel(shops, random.key(0), mcmc).set_posterior_sample({"slope": np.full(200, 4.0)})


@pytest.mark.parametrize("method", REACHING)
def test_arguments_with_names_of_options_are_passed_in_args_or_as_columns(shop_model, method):
    call = REACHING[method]
    found = call(shop_model, X, args=SHOPS)["y"].mean(("chain", "draw"))
    np.testing.assert_allclose(found, 4 * C + 6, atol=0.05)
    table = pd.DataFrame({"x": X, "store": C})
    found = call(shop_model, table, args={"statistics": 2.0})["y"].mean(("chain", "draw"))
    np.testing.assert_allclose(found, 4 * C + 2, atol=0.05)


def test_fits_scores_and_comparisons_take_args(shop_model):
    y = 4 * C + 6
    scores = shop_model.log_likelihood(X, y, args=SHOPS, **QUIET)["log_likelihood"]["y"].values
    np.testing.assert_allclose(scores, -np.log(0.1) - 0.5 * np.log(2 * np.pi), rtol=1e-4)
    scenarios = {"as is": {}, "twice": {"args": {"store": 2 * C + 1}}}
    found = shop_model.compare_scenarios(scenarios, baseline="as is", X=X, args=SHOPS, progress=False)
    np.testing.assert_allclose(found["effect"]["y"].values, 4 * (C + 1).mean(), rtol=1e-4)
    sides = [{"X": X, "args": SHOPS}, {"X": X, "args": {**SHOPS, "epochs": 4.0}}]
    effect = shop_model.estimate_effect(args_baseline=sides[0], args_intervention=sides[1], on_batch=True)
    np.testing.assert_allclose(effect["posterior_predictive"]["y"].values, 2.0, rtol=1e-4)
    mcmc = MCMC(NUTS(shops), num_warmup=2, num_samples=2, progress_bar=False)
    fitted = ImpactModel(shops, random.key(0), mcmc).fit_on_batch(X, y, args=SHOPS, progress=False)
    assert set(fitted.inputs.arrays) == {"X", "store"}
    assert fitted.inputs.static == {"statistics": 2.0, "epochs": 3.0}


def test_args_are_checked(shop_model):
    with pytest.raises(TypeError, match=r"`args` must map names of kernel parameters to values; got int. Pass"):
        shop_model.predict(X, args=3, **QUIET)
    with pytest.raises(TypeError, match="`c` must be given once; got it as a keyword argument and in `args`"):
        new_model().predict_on_batch(X, c=C, args={"c": C, "power": 1})
    hint = "As a keyword, `store` is an option of the method, so pass it as a column of a data frame, or in `args="
    with pytest.raises(TypeError, match=hint):
        shop_model.predict(X, store="memory", args={"statistics": 2.0})
    with pytest.raises(ValueError, match="`store` must be 'persistent' or 'memory'"):
        shop_model.predict(X, store="north", args={"statistics": 2.0})

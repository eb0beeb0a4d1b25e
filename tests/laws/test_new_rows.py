"""Kernels whose rows depend on one another warn if the rows are not the fitted ones, in every method."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel, OutputWarning, PerformanceWarning

pytestmark = pytest.mark.usefixtures("plain_code")
X = np.linspace(0.0, 1.0, 6, dtype=np.float32)
MANY = np.linspace(0.0, 1.0, 1100, dtype=np.float32)


def kernel_of(mean):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]) as rows:
            numpyro.sample("y", dist.Normal(b * mean(X, rows) + X, 1.0), obs=y)

    return kernel


def process(X, y=None):
    numpyro.sample("b", dist.Normal())
    near = jnp.exp(-((X[:, None] - X) ** 2)) + 0.01 * jnp.eye(len(X))
    numpyro.sample("y", dist.MultivariateNormal(0, near), obs=y)


def average(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        y = numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
    numpyro.deterministic("average", y.mean())


TREND = kernel_of(lambda X, _: jnp.arange(X.shape[0]))
DEPENDENT = {
    "trend": (TREND, "numbered from 0 again. Pass the number or the time of each row"),
    "row numbers of the plate": (kernel_of(lambda X, rows: rows), "numbered from 0 again"),
    "mean": (kernel_of(lambda X, _: X - X.mean()), "Means are computed over the rows of this call. Pass the means"),
    "sum": (
        kernel_of(lambda X, _: jnp.cumsum(X)),
        "A recursion starts again at the first of them. Pass the last state",
    ),
    "lag": (kernel_of(lambda X, _: jnp.concatenate([X[:1], X[:-1]])), "Rows are looked up among the rows of this call"),
    "share": (kernel_of(lambda X, _: X / X.shape[0]), "number of rows.* Pass the number of the fitted rows"),
    "process": (process, "The process begins at its prior, without the fitted rows. Condition on them"),
}
INDEPENDENT = {
    "regression": kernel_of(lambda X, _: X),
    "rows of the plate": kernel_of(lambda X, rows: X[rows]),
    "average over rows": average,
}


def new(kernel):
    """Return a model without a posterior."""
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=3, progress_bar=False))


def model_of(kernel):
    """Return a model with fixed draws."""
    return new(kernel).set_posterior_sample({"b": np.ones(3)})


def advice_of(call):
    """Return the texts of the warnings about dependent rows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found = [w for w in caught if "not the fitted rows" in str(w.message)]
    assert all(w.category is OutputWarning for w in found)
    return [str(w.message) for w in found]


@pytest.mark.parametrize("kernel", DEPENDENT)
def test_new_rows_warn_if_rows_depend_on_one_another(kernel):
    kernel, advice = DEPENDENT[kernel]
    model = model_of(kernel)
    (found,) = advice_of(lambda: model.predict_on_batch(X, in_sample=False))
    with pytest.warns(OutputWarning, match=advice):
        warnings.warn(found, OutputWarning, stacklevel=1)
    assert not advice_of(lambda: model.predict_on_batch(X))


@pytest.mark.parametrize("kernel", INDEPENDENT)
def test_rows_that_are_independent_do_not_warn(kernel):
    assert not advice_of(lambda: model_of(INDEPENDENT[kernel]).predict_on_batch(X, in_sample=False))


SCENARIOS = {"scenarios": {"a": {}, "b": {"intervention": {"X": 1.0}}}, "baseline": "a", "progress": False}
METHODS = {
    "predict": lambda m, X: m.predict(X, store="memory", progress=False),
    "predict_on_batch": lambda m, X: m.predict_on_batch(X, return_datatree=False),
    "sample_posterior_predictive": lambda m, X: m.sample_posterior_predictive(X, store="memory", progress=False),
    "sample_posterior_predictive_on_batch": lambda m, X: m.sample_posterior_predictive_on_batch(X),
    "log_likelihood": lambda m, X: m.log_likelihood(X, X, store="memory", progress=False),
    "compare_scenarios": lambda m, X: m.compare_scenarios(X=X, **SCENARIOS),
    "prior": lambda m, X: m.sample_prior_predictive_on_batch(X, num_samples=2),
}


@pytest.fixture(scope="module")
def fitted():
    """A model that was fitted to ``X``."""
    return new(TREND).fit_on_batch(X, X)


@pytest.mark.parametrize("method", METHODS)
def test_methods_warn_about_new_rows_but_not_about_fitted_rows(method, fitted):
    call = METHODS[method]
    assert len(advice_of(lambda: call(fitted, X + 1))) == (method != "prior")
    assert not advice_of(lambda: call(fitted, X))


def test_call_of_several_blocks_warns_about_both_time_and_meaning():
    model = model_of(TREND)
    with (
        pytest.warns(PerformanceWarning, match="computed together"),
        pytest.warns(OutputWarning, match="numbered from 0 again"),
    ):
        model.predict(MANY, in_sample=False, store="memory", progress=False)

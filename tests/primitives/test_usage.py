"""Tests of common uses of the primitives, as documentation shows them; uses that do not run have the reason.

Snippets are kept as users write them; where possible, a model of the snippet is fitted and used to predict.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

from aimz import ImpactModel
from aimz import primitives as aimz_primitives
from aimz.errors import KernelValidationError
from aimz.primitives import inspect_fn, validate_model


def run(function, *args, **kwargs):
    """Return the NumPyro trace of a snippet."""
    return handlers.trace(handlers.seed(function, 0)).get_trace(*args, **kwargs)


def shapes(function, *args):
    """Return the shapes of the sites of a snippet, traced abstractly by NumPyro."""
    return jax.eval_shape(lambda: {name: jnp.asarray(site["value"]) for name, site in run(function, *args).items()})


def by_svi(kernel, **names):
    return ImpactModel(
        kernel, random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO()), **names
    )


def unfitted(kernel, **names):
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1), **names)


# ------------------------------------------------------------------------------------------- each primitive by itself


def test_sample():
    def snippet(observed_y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(x, 0.5), obs=observed_y)
        batch_samples = numpyro.sample("batch", dist.Normal(0, 1), sample_shape=(10,))
        z = numpyro.sample("z", dist.Normal(0, 1), infer={"is_auxiliary": True})
        return x, y, batch_samples, z

    found = inspect_fn(snippet, 0.3)
    assert shapes(snippet, 0.3)["batch"].shape == found.sites["batch"].shape == (10,)
    assert found.sites["y"].is_observed
    assert found.sites["z"].infer["is_auxiliary"] is True
    assert found.dependencies["y"] == ["x"]


def test_param():
    def snippet():
        sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
        weights = numpyro.param("weights", lambda key: random.normal(key, (10, 5)), constraint=constraints.real)
        probs = numpyro.param("probs", jnp.ones(3) / 3, constraint=constraints.simplex)
        return sigma, weights, probs

    found = inspect_fn(snippet)
    assert found.sites["weights"].shape == shapes(snippet)["weights"].shape == (10, 5)
    assert found.sites["sigma"].kwargs["constraint"] is constraints.positive
    assert found.returned[2].shape == (3,)


def test_deterministic():
    def snippet():
        x = numpyro.sample("x", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(0, 1))
        sum_xy = numpyro.deterministic("sum", x + y)
        mean_xy = numpyro.deterministic("mean", (x + y) / 2)
        return sum_xy, mean_xy

    trace = run(snippet)
    np.testing.assert_allclose(trace["sum"]["value"], 2 * trace["mean"]["value"])
    assert inspect_fn(snippet).dependencies["mean"] == ["x", "y"]


def test_factor():
    def snippet(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        sigma = numpyro.sample("sigma", dist.Gamma(2, 1))
        mu = x
        numpyro.factor("custom_loglik", -0.5 * jnp.sum((y - mu) ** 2) / sigma**2)
        numpyro.factor("penalty", -1e6 * jnp.where(x < 0, 1.0, 0.0))
        numpyro.factor("custom_prior", dist.Gamma(2, 1).log_prob(sigma))

    assert set(shapes(snippet, jnp.ones(4))) == {"x", "sigma", "custom_loglik", "penalty", "custom_prior"}
    found = inspect_fn(snippet, jnp.ones(4))
    assert found.dependencies["custom_loglik"] == ["y", "x", "sigma"]
    assert {found.sites[name].type for name in ("custom_loglik", "penalty", "custom_prior")} == {"factor"}


def test_plate():
    def snippet():
        with numpyro.plate("data", 100):
            x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("large", 10000, subsample_size=100) as idx:
            part = numpyro.sample("part", dist.Normal(0, 1))
        with numpyro.plate("batch", 50, dim=-2), numpyro.plate("features", 10, dim=-1):
            weights = numpyro.sample("w", dist.Normal(0, 1))
        return x, part, idx, weights

    x, part, idx, weights = jax.eval_shape(handlers.seed(snippet, 0))
    assert (x.shape, part.shape, idx.shape, weights.shape) == ((100,), (100,), (100,), (50, 10))
    plates = {plate.name: plate for plate in inspect_fn(snippet).plate_stack}
    assert (plates["large"].size, plates["large"].subsample_size) == (10000, 100)
    assert (plates["batch"].dim, plates["features"].dim) == (-2, -1)


def test_plate_stack_is_one_context():
    def as_documented():
        plates = numpyro.plate_stack("data", [20, 30, 40], rightmost_dim=-3)
        with plates[0], plates[1], plates[2]:
            return numpyro.sample("x", dist.Normal(0, 1))

    # NumPyro returns one context manager for all plates, which cannot be indexed.
    with pytest.raises(TypeError, match="not subscriptable"):
        run(as_documented)

    def snippet():
        with numpyro.plate_stack("data", [20, 30, 40]):
            return numpyro.sample("x", dist.Normal(0, 1))

    assert inspect_fn(snippet).returned.shape == shapes(snippet)["x"].shape == (20, 30, 40)


def test_subsample():
    def snippet(full_data):
        with numpyro.plate("data", len(full_data), subsample_size=100):
            batch_data = numpyro.subsample(full_data, event_dim=0)
            return numpyro.sample("x", dist.Normal(batch_data, 1))

    assert shapes(snippet, jnp.zeros(1000))["x"].shape == (100,)


def test_mutable():
    # NumPyro keeps `mutable` in `numpyro.primitives`, not at the top.
    assert not hasattr(numpyro, "mutable")
    mutable = aimz_primitives.mutable

    def as_documented():
        count = mutable("counter", 0)
        mutable("counter", count + 1)

    # It runs, but what was kept is what both calls return, so that a state that is a plain number stays what it was.
    assert run(as_documented)["counter"]["value"] == 1
    assert run(handlers.substitute(as_documented, data={"counter": 5}))["counter"]["value"] == 5

    def snippet():
        state = mutable("counter", {"count": 0})
        state["count"] = state["count"] + 1

    assert run(snippet)["counter"]["value"]["count"] == 1
    assert run(handlers.substitute(snippet, data={"counter": {"count": 5}}))["counter"]["value"]["count"] == 6


def test_module_and_haiku_module():
    def net_fn(x):
        return hk.nets.MLP([64, 32, 1])(x)

    net = hk.transform(net_fn)
    x = jnp.ones((4, 10))

    def as_documented():
        return numpyro.module("mlp", net, input_shape=(10,))(x)

    # `hk.transform` initialises with an array and not with a shape, and applies with a key.
    with pytest.raises(Exception, match=r"has no \.shape|must be arrays|tuple"):
        run(as_documented)

    def init(key, input_shape):
        return None, net.init(key, jnp.ones(input_shape))

    def apply(params, x):
        return net.apply(params, None, x)

    def snippet(x):
        return numpyro.module("mlp", (init, apply), input_shape=(10,))(x)

    found = inspect_fn(snippet, x)
    assert found.returned.shape == jax.eval_shape(handlers.seed(snippet, 0), x).shape == (4, 1)
    assert found.sites["mlp$params"].n_arrays == 6


def test_prng_key():
    def snippet():
        key = numpyro.prng_key()
        if key is not None:
            return random.normal(key, shape=(10,))
        return None

    assert inspect_fn(snippet).returned.shape == jax.eval_shape(handlers.seed(snippet, 0)).shape == (10,)


def test_get_mask():
    def snippet():
        current_mask = numpyro.primitives.get_mask()
        return current_mask is not None

    assert not inspect_fn(snippet).returned
    assert inspect_fn(handlers.mask(snippet, mask=False)).returned


def test_my_model():
    def my_model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(x, 1))  # noqa: F841

    # It is a function of this package and not of NumPyro's.
    assert not hasattr(numpyro, "validate_model")
    validation_info = validate_model(my_model)
    assert f"Model has {len(validation_info['sites'])} sites" == "Model has 2 sites"
    assert validation_info.is_valid


# -------------------------------------------------------------------------------------------------------- whole models


def linear_regression(X, y=None):
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10))
    sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
    mu = alpha + beta * X
    prediction = numpyro.deterministic("prediction", mu)  # noqa: F841
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


X = np.linspace(-1, 1, 40, dtype=np.float32)
Y = 1 + 2 * X + 0.1 * np.sin(40 * X)


def test_linear_regression():
    """The snippet runs unchanged if `constraints` is imported from `numpyro.distributions`."""
    assert validate_model(linear_regression, X, Y).warnings == []
    model = by_svi(linear_regression)
    model.fit_on_batch(X, Y, num_steps=400, num_samples=50, progress=False)
    slope, intercept = np.polyfit(X, Y, 1)
    sd = np.std(Y - intercept - slope * X)
    assert abs(model.posterior["beta"].mean() - slope) < 10 * sd / np.sqrt(40)
    assert abs(model.posterior["alpha"].mean() - intercept) < 10 * sd / np.sqrt(40)
    effect = model.estimate_effect(
        args_baseline={"X": X, "intervention": {"X": 0.0}},
        args_intervention={"X": X, "intervention": {"X": 1.0}},
        on_batch=True,
    )
    prediction = effect["posterior_predictive"]["prediction"].to_numpy().reshape(50, 40)
    np.testing.assert_allclose(prediction, np.broadcast_to(model.posterior["beta"][:, None], (50, 40)), atol=1e-4)


def hierarchical_model(group_idx, y=None):
    n_groups = len(jnp.unique(group_idx))
    n_obs = len(y) if y is not None else len(group_idx)
    mu_global = numpyro.sample("mu_global", dist.Normal(0, 1))
    sigma_global = numpyro.sample("sigma_global", dist.Exponential(1))
    with numpyro.plate("groups", n_groups):
        mu_group = numpyro.sample("mu_group", dist.Normal(mu_global, sigma_global))
    with numpyro.plate("obs", n_obs):
        mu = mu_group[group_idx]
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def hierarchical_model_of_known_size(group_idx, y=None, *, n_groups):
    n_obs = len(y) if y is not None else len(group_idx)
    mu_global = numpyro.sample("mu_global", dist.Normal(0, 1))
    sigma_global = numpyro.sample("sigma_global", dist.Exponential(1))
    with numpyro.plate("groups", n_groups):
        mu_group = numpyro.sample("mu_group", dist.Normal(mu_global, sigma_global))
    with numpyro.plate("obs", n_obs):
        mu = mu_group[group_idx]
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_hierarchical_model():
    group_idx = np.array([0, 1, 2, 0, 1, 2])
    y = np.arange(6.0)
    # The size of a plate hangs on values here: `jnp.unique` has no shape until it is computed.
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.eval_shape(handlers.seed(hierarchical_model, 0), group_idx)
    (error,) = validate_model(hierarchical_model, group_idx, y).errors
    assert "`n_groups = len(jnp.unique(group_idx))`" in error
    with pytest.raises(KernelValidationError, match="number of groups"):
        unfitted(hierarchical_model, param_input="group_idx").sample_prior_predictive_on_batch(group_idx)

    result = validate_model(hierarchical_model_of_known_size, group_idx, y, n_groups=3)
    assert result.is_valid
    (warning,) = result.warnings
    assert "`param_input='group_idx'`" in warning
    model = unfitted(hierarchical_model_of_known_size, param_input="group_idx")
    levels = jnp.array([[1.0, 2.0, 3.0]])
    model.set_posterior_sample({"mu_global": jnp.zeros(1), "sigma_global": jnp.ones(1), "mu_group": levels})
    key = {"rng_key": random.key(1), "return_datatree": False, "n_groups": 3}
    low = model.predict_on_batch(group_idx, **key)["y"]
    high = model.predict_on_batch(group_idx, intervention={"group_idx": 2}, **key)["y"]
    np.testing.assert_allclose(high - low, [3.0 - levels[0, group_idx]], atol=1e-5)


def large_dataset_model(X, y=None):
    n_data, n_features = X.shape
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand((n_features,)))
    with numpyro.plate("data", n_data, subsample_size=min(1000, n_data)) as idx:
        X_batch = numpyro.subsample(X, event_dim=1)[idx] if idx is not None else X
        y_batch = numpyro.subsample(y, event_dim=0)[idx] if y is not None and idx is not None else y
        mu = X_batch @ weights
        numpyro.sample("y", dist.Normal(mu, 0.1), obs=y_batch)


def subsampled_once(X, y=None):
    n_data, n_features = X.shape
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand((n_features,)))
    with numpyro.plate("data", n_data, subsample_size=min(1000, n_data)):
        X_batch = numpyro.subsample(X, event_dim=1)
        y_batch = numpyro.subsample(y, event_dim=0) if y is not None else y
        mu = X_batch @ weights
        numpyro.sample("y", dist.Normal(mu, 0.1), obs=y_batch)


def test_large_dataset_model():
    few, many = jnp.arange(80.0).reshape(40, 2), jnp.arange(4000.0).reshape(2000, 2)
    # With fewer rows than the subsample nothing is taken twice, and it runs as it stands.
    model = unfitted(large_dataset_model).set_posterior_sample({"weights": jnp.ones((3, 2))})
    drawn = model.predict_on_batch(few, return_datatree=False)["y"]
    np.testing.assert_allclose(drawn, np.broadcast_to(few.sum(-1), (3, 40)), atol=1.0)

    # With more, `subsample(X)[idx]` takes the subsample of a subsample: row 1500 of 1000, which JAX takes for the last.
    def taken(X):
        with numpyro.plate("data", 2000, subsample_size=1000) as idx:
            return numpyro.subsample(X, event_dim=1), numpyro.subsample(X, event_dim=1)[idx], idx

    once, twice, idx = handlers.seed(taken, 0)(many)
    np.testing.assert_array_equal(once, many[idx])
    assert not np.array_equal(twice, many[idx])
    assert len(np.unique(twice[:, 0])) < 800

    for kernel in (subsampled_once, large_dataset_model):
        (warning,) = validate_model(kernel, many, jnp.zeros(2000)).warnings
        assert warning.kind == "subsampled"
    model = unfitted(subsampled_once).set_posterior_sample({"weights": jnp.ones((2, 2))})
    drawn = model.predict_on_batch(many, return_datatree=False)["y"]
    np.testing.assert_allclose(drawn, np.broadcast_to(many.sum(-1), (2, 2000)), atol=1.0)


def custom_likelihood_model(data):
    theta = numpyro.sample("theta", dist.Beta(1, 1))
    log_lik = jnp.sum(data * jnp.log(theta) + (1 - data) * jnp.log(1 - theta))
    numpyro.factor("custom_lik", log_lik)


def test_custom_likelihood_model():
    """A valid NumPyro model without an output, so that it cannot predict."""
    tosses = np.array([1, 0, 1, 1, 0, 1, 1, 1])
    theta = jnp.array([0.2, 0.5, 0.7, 0.9])
    density = [log_density(custom_likelihood_model, (tosses,), {}, {"theta": value})[0] for value in theta]
    exact = dist.Beta(7, 3).log_prob(theta)
    np.testing.assert_allclose(np.diff(density), np.diff(exact), rtol=1e-5)

    result = validate_model(custom_likelihood_model, tosses)
    assert result.is_valid
    assert result.dependencies == {"theta": [], "custom_lik": ["data", "theta"]}
    assert {warning.kind for warning in result.warnings} == {"signature", "minibatches"}
    with pytest.raises(KernelValidationError, match="must accept"):
        unfitted(custom_likelihood_model, param_input="data")

    def with_output(data, y=None):
        theta = numpyro.sample("theta", dist.Beta(1, 1))
        with numpyro.plate("toss", data.shape[0]):
            numpyro.sample("y", dist.Bernoulli(theta), obs=y)

    assert validate_model(with_output, tosses, tosses).is_valid
    model = unfitted(with_output, param_input="data").set_posterior_sample({"theta": theta})
    scores = model.log_likelihood(tosses, tosses, progress=False, store="memory")["log_likelihood"]["y"]
    by_hand = np.where(tosses, np.log(theta[:, None]), np.log1p(-theta[:, None]))
    np.testing.assert_allclose(scores.to_numpy()[0], by_hand, rtol=1e-5)

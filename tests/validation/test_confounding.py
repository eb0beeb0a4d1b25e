"""Kernels with a hidden common cause, against omitted variable bias in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import statsmodels.api as sm
from jax import random
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

from aimz import ImpactModel, KernelValidationError
from aimz.validation import ConfoundedGrid

N = 60
WIDE = dist.Normal(0.0, 1000.0)


def dosed(X, dose, y=None):
    a, b, gain = (numpyro.sample(name, WIDE) for name in ("a", "b", "gain"))
    with numpyro.plate("patient", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + b * X + gain * dose, 1.0), obs=y)


def unfitted(kernel):
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))


@pytest.fixture(scope="module")
def rows():
    noise = np.random.default_rng(3)
    X, hidden = noise.normal(size=(2, N))
    dose = 0.5 * X + 0.6 * hidden + noise.normal(size=N)
    return {"X": X, "dose": dose, "y": 1 + X + 0.5 * dose + 0.8 * hidden + noise.normal(size=N)}


def posterior_mean(kernel, known, arguments):
    """Return the mean of a posterior that is normal given ``known``: the maximum of a quadratic log density."""
    fixed = seed(substitute(kernel, known), random.key(0))
    sites = trace(fixed).get_trace(**arguments)
    latents = {
        name: jnp.zeros(jnp.shape(site["value"]))
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"] and name not in known
    }
    start, unravel = ravel_pytree(latents)

    def density(flat):
        return log_density(substitute(kernel, known), (), arguments, unravel(flat))[0]

    slope, curvature = jax.grad(density)(start), jax.hessian(density)(start)
    return unravel(jnp.asarray(np.linalg.solve(-np.asarray(curvature, float), np.asarray(slope, float))))


def test_effect_has_the_omitted_variable_bias_of_the_partial_r2(rows):
    regression = sm.OLS(rows["y"], np.column_stack([np.ones(N), rows["dose"], rows["X"]])).fit()
    model = unfitted(dosed).set_posterior_sample(
        {name: np.full(5, value) for name, value in zip(("a", "gain", "b"), regression.params, strict=True)}
    )
    found = model.sensitivity(treatment="dose", **rows, progress=False)
    gamma, delta = found.strength(r2_treatment=0.2, r2_outcome=0.1)
    hidden = model.with_confounder(treatment="dose", strength=(gamma, delta), **rows)
    left = found.strengths.sd_treatment
    noise = np.sqrt(left**2 - gamma**2) / rows["dose"].std()
    mean = posterior_mean(hidden.kernel, {"hidden_cause_noise": jnp.asarray(noise)}, rows)
    assert float(mean["gain"]) == pytest.approx(regression.params[1] - gamma * delta / left**2, abs=1e-3)
    assert float(mean["gain"]) == pytest.approx(float(found.adjusted(0.2, 0.1).mean()), abs=1e-3)
    # At the tipping point the product of the coefficients, over the variance that is left, equals the effect.
    tipping = float(found.tipping_point(0.6).mean())
    gamma, delta = found.strength(0.6, tipping)
    assert gamma * delta / left**2 == pytest.approx(float(found.effect.mean()), rel=1e-5)


def counted(X, campaign, seen=None, y=None):
    gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
    with numpyro.plate("shop", X.shape[0]):
        visited = numpyro.sample("visited", dist.BernoulliProbs(0.3), obs=seen)
        numpyro.sample("y", dist.Poisson(jnp.exp(X + gain * visited + 0 * campaign)), obs=y)


def test_the_cause_enters_log_odds_and_log_means(rows):
    cause = np.linspace(-1.0, 1.0, N)
    data = {"X": rows["X"], "campaign": rows["dose"], "y": np.arange(N), "seen": np.arange(N) % 2}
    priors = (dist.HalfNormal(1.0), 0.7)
    hidden = unfitted(counted).with_confounder(treatment="visited", strength=priors, **data)
    known = {"hidden_cause": cause, "hidden_cause_on_treatment": 0.4, "gain": 0.5}
    sites = trace(seed(substitute(hidden.kernel, known), random.key(0))).get_trace(**data)
    np.testing.assert_allclose(sites["visited"]["fn"].logits, np.log(0.3 / 0.7) + 0.4 * cause, rtol=1e-4, atol=1e-5)
    rate = np.exp(rows["X"] + 0.5 * data["seen"] + 0.7 * cause)
    np.testing.assert_allclose(sites["y"]["fn"].rate, rate, rtol=1e-4)
    assert "hidden_cause_treatment" not in sites


def test_a_binary_argument_gets_a_logistic_model(rows):
    cause, data = np.linspace(-1.0, 1.0, N), {**rows, "dose": (rows["dose"] > 0).astype(float)}
    hidden = unfitted(dosed).with_confounder(treatment="dose", strength=(5.0, 0.7), **data)
    known = {"hidden_cause": cause, "hidden_cause_intercept": 0.1, "hidden_cause_coefficients": np.array([2.0])}
    sites = trace(seed(substitute(hidden.kernel, known), random.key(0))).get_trace(**data)
    logits = 0.1 + 2 * (rows["X"] - rows["X"].mean()) / rows["X"].std() + 5.0 * cause
    np.testing.assert_allclose(sites["hidden_cause_treatment"]["fn"].logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(sites["hidden_cause_treatment"]["value"], data["dose"])


def ordered(X, dose, y=None):
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=jnp.stack([X, dose, X], -1)), obs=y)


def taken(X, dose, y=None):
    hidden = numpyro.sample("hidden_cause", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(hidden + X * dose, 1.0), obs=y)


@pytest.mark.parametrize(
    ("kernel", "strength", "error", "words"),
    [
        (dosed, 0.3, TypeError, r"must be the coefficients of the cause .* got 0\.3\. Pass \(0\.3, 0\.5\)"),
        (dosed, (0.3, np.nan), TypeError, r"each a finite number or a distribution"),
        (dosed, (3.0, 0.1), ValueError, r"must be below 1\.\d+, the standard deviation .* got 3\.0"),
        (ordered, (0.3, 0.1), KernelValidationError, r"got `y`, Categorical.*\. Write the cause into the kernel"),
        (taken, (0.3, 0.1), KernelValidationError, r"has a site `hidden_cause`.* Rename it"),
    ],
)
def test_causes_that_cannot_be_added_are_errors(rows, kernel, strength, error, words):
    data = {**rows, "y": (rows["y"] > 1).astype(int)} if kernel is ordered else rows
    with pytest.raises(error, match=words):
        unfitted(kernel).with_confounder(treatment="dose", strength=strength, **data)


def test_tipping_points_are_interpolated():
    def fits(*means):
        return tuple(np.array([mean - 0.1, mean + 0.1]) for mean in means)

    strengths = ((0.5, 0.0), (0.5, 1.0), (0.5, 2.0), (0.2, 1.0), (0.0, 0.0))
    grid = ConfoundedGrid("dose", "y", strengths, fits(1.0, 0.25, -0.5, 0.7, 1.0))
    line = grid.tipping_points().iloc[0]
    assert (line["treatment"], line["extrapolated"]) == (0.5, False)
    assert line["outcome"] == pytest.approx(1 + 1 / 3)
    assert len(grid.tipping_points()) == 1
    assert grid.table()["P(>0)"].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert "The effect is 0 for a cause of 0.5 on treatment and 1.33 on outcome." in repr(grid)


@pytest.mark.slow
def test_refits_agree_with_the_partial_r2(rows):
    def nuts(kernel):
        return MCMC(NUTS(kernel), num_warmup=400, num_samples=1500, progress_bar=False)

    model = ImpactModel(dosed, random.key(0), nuts(dosed)).fit(**rows, progress=False)
    found = model.sensitivity(treatment="dose", progress=False)
    strength = found.strength(r2_treatment=0.2, r2_outcome=0.1)
    grid = model.refit_with_confounder(treatment="dose", strengths=[strength], inference=nuts)
    expected = found.adjusted(0.2, 0.1)
    assert grid.effects[0].mean() == pytest.approx(float(expected.mean()), abs=0.03)
    assert grid.effects[0].std() == pytest.approx(float(expected.std()), rel=0.2)

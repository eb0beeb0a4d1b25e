"""Law 2: predictions and log-likelihoods are NumPyro's own."""

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import random
from scipy.stats import rankdata

from aimz import ImpactModel
from kernels import CASES, Case, each_kernel, fitted_model, fitted_params, on_device, posterior_draws

pytestmark = pytest.mark.usefixtures("quiet_local_latents", "plain_code")

N = 4000
# About 1,200 two-sided comparisons at 5 standard errors: a false alarm in one of 1,400 sets of keys.
Z = 5.0


@each_kernel([case for case in CASES if case.scored])
def test_log_likelihood_is_numpyros(case):
    draws = posterior_draws(case)
    model = fitted_model(case)
    ours = model.log_likelihood(**case.arguments(), y=case.y)["log_likelihood"]["y"].values[0]

    asked = numpyro.handlers.substitute(case.numpyro_kernel, data=fitted_params(case))
    theirs = numpyro.infer.log_likelihood(asked, draws, **on_device(case), y=jnp.asarray(case.y))
    theirs = theirs.get("y", theirs.get("y_observed"))

    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_log_likelihood_is_never_scaled():
    """A minibatch factor is for fitting: a score of an observation is its density, and as NumPyro gives it."""

    def kernel(X, y=None):
        b = numpyro.sample("b", numpyro.distributions.Normal())
        with numpyro.plate("obs", 1000, subsample_size=X.shape[0]), numpyro.handlers.scale(scale=7.0):
            numpyro.sample("y", numpyro.distributions.Normal(b * X, 2.0), obs=y)

    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(kernel), num_warmup=1, num_samples=1)
    b, X, y = np.array([0.0, 1.0]), np.arange(4.0), np.ones(4)
    model = ImpactModel(kernel, random.key(0), mcmc).set_posterior_sample({"b": b})
    expected = -0.5 * ((y - b[:, None] * X) / 2) ** 2 - np.log(2) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(model.log_likelihood(X, y)["log_likelihood"]["y"].values[0], expected, rtol=1e-5)


def test_scoring_uses_a_key_only_if_something_is_drawn():
    """A second observed site without data is drawn, and the next call must not reuse its noise."""

    def kernel(X, t=None, y=None):
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", numpyro.distributions.Normal(), obs=t)
            numpyro.sample("y", numpyro.distributions.Normal(z), obs=y)

    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(kernel), num_warmup=1, num_samples=1)
    model = ImpactModel(kernel, random.key(0), mcmc).set_posterior_sample({"unused": np.zeros(3)})
    X = np.zeros(4)
    key = model.rng_key
    with pytest.warns(UserWarning, match="`unused`, which belong to no site"):
        model.log_likelihood(X, X, t=X)
    assert model.rng_key == key
    with pytest.warns(UserWarning, match="`unused`, which belong to no site"):
        model.log_likelihood(X, X)
    assert model.rng_key != key


@each_kernel([case for case in CASES if case.has_mean])
def test_mean_and_sd_are_those_of_predictive(case):
    """One posterior draw many times over, so that only the noise differs between the two."""
    draws = {name: np.repeat(value[:1], N, axis=0) for name, value in posterior_draws(case).items()}
    model = fitted_model(case).set_posterior_sample(draws)
    ours = model.predict_on_batch(**case.arguments(), return_datatree=False)

    predictive = numpyro.infer.Predictive(
        case.numpyro_kernel, draws, params=fitted_params(case), return_sites=list(case.returns), batch_ndims=1
    )
    theirs = predictive(random.key(5), **on_device(case))

    for site in case.returns:
        assert_same_moments(np.asarray(ours[site], float), np.asarray(theirs[site], float), f"{case.name}.{site}")


@each_kernel([case for case in CASES if case.has_mean and not case.improper])
def test_prior_predictive_is_that_of_predictive(case):
    model = fitted_model(case)
    sites = [*case.returns, *model_latents(case)]
    ours = model.sample_prior_predictive_on_batch(
        **case.arguments(), num_samples=N, return_sites=sites, return_datatree=False
    )
    predictive = numpyro.infer.Predictive(
        case.numpyro_kernel, params=fitted_params(case), num_samples=N, return_sites=sites
    )
    theirs = predictive(random.key(6), **on_device(case))
    for site in sites:
        # The prior of a horseshoe has no mean; the ranks of the two samples do.
        a, b = np.asarray(ours[site], float), np.asarray(theirs[site], float)
        both = rankdata(np.concatenate([a, b]), axis=0)
        assert_same_moments(both[:N], both[N:], f"{case.name}.{site}", sd=False)


def model_latents(case: Case) -> list[str]:
    return [name for name in posterior_draws(case) if not name.endswith("_unobserved")]


def assert_same_moments(a: np.ndarray, b: np.ndarray, what: str, *, sd: bool = True) -> None:
    """Means, and sds, of two independent samples agree within ``Z`` standard errors, at each place."""
    assert a.shape == b.shape, what
    floor = 1e-5 * (1 + np.abs(a.mean(0)))
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
    gap = np.abs(a.mean(0) - b.mean(0))
    assert (gap <= Z * error + floor).all(), f"mean of {what}: {np.max(gap / (error + floor)):.1f} standard errors"
    if not sd:
        return
    fourth = [((x - x.mean(0)) ** 4).mean(0) for x in (a, b)]
    error = np.sqrt(sum((m4 - x.var(0) ** 2) / len(x) for m4, x in zip(fourth, (a, b), strict=True)))
    gap = np.abs(a.var(0) - b.var(0))
    floor = 1e-5 * (1 + a.var(0))
    assert (gap <= Z * error + floor).all(), f"variance of {what}: {np.max(gap / (error + floor)):.1f} standard errors"

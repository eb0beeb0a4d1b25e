"""The whole path, from data to effect, against references computed elsewhere by other means.

Every comparison is in standard errors: of Monte Carlo, from the effective sample size of the chains, and where the
reference is itself an average of draws, of the reference.  A correct library fails one comparison by chance with
probability 6.3e-5 at 4 standard errors and 6.8e-6 at 4.5 (a normal error taken as given); 4.5 is used where many are
made at once.  The whole file makes about 90 at 4 and 600 at 4.5, so a fresh set of keys would fail somewhere with
probability at most 1 %.  The keys are fixed: on one platform, what passes once passes again.
"""

from contextlib import nullcontext
from functools import partial

import arviz_stats as az
import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import pytest
import xarray as xr
from jax import random
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer import log_likelihood as numpyro_log_likelihood
from numpyro.infer.autoguide import AutoMultivariateNormal
from scipy.stats import norm

import reference_kernels as kernels
from aimz import ImpactModel
from oracles import DATA, by_hand, by_mcmc, chains, close, moments, needs_data, read, reference

# ------------------------------------------------------------------------------------------------- the yardstick


def test_the_yardstick_can_fail():
    draws = random.normal(random.key(0), (2, 2000))
    moments("draws", draws, 0.0, 1.0)
    with pytest.raises(AssertionError, match="mean of draws"):
        moments("draws", draws, 0.15, 1.0)
    with pytest.raises(AssertionError, match="sd of draws"):
        moments("draws", draws, 0.0, 1.1)
    with pytest.raises(AssertionError, match="of draws"):
        moments("draws", np.ones((2, 2000)), 1.0, 1.0)
    with pytest.raises(AssertionError, match=r"what\[1\]"):
        close("what", [1.0, np.nan], 1.0, 1.0)
    with pytest.raises(AssertionError):
        close("what", 1.0, 1.1, 0.0)
    with pytest.raises(AssertionError):
        close("what", 1.0, 1.0, np.inf)


# ------------------------------------------------------------------------------------ job training (LaLonde 1986)


def effect_of_treatment(model, name, X, **args):
    """Return the effect of treating everyone rather than no one, in dollars, averaged over rows in each draw."""
    effect = model.estimate_effect(
        args_baseline={"X": X, **args, "intervention": {name: 0}},
        args_intervention={"X": X, **args, "intervention": {name: 1}},
    )
    gain = 1000.0 * effect["posterior_predictive"]["y"]
    # The noise is common to both scenarios, so what is left of it is rounding.
    assert float(gain.std("person").max()) < 0.01
    return gain.mean("person")


@needs_data
def test_job_training():
    data = pd.read_csv(DATA / "lalonde_nsw_dw.csv.gz")
    references = read("reference_effects.json")["lalonde_nsw_dw"]
    adjusted, unadjusted = (
        references[key]["bayes_flat_beta_jeffreys_sigma"] for key in ("ols_adjusted_main_effects", "ols_unadjusted")
    )
    covariates = data.drop(columns=["treat", "re78"]).to_numpy()
    X = (covariates - covariates.mean(0)) / covariates.std(0)
    treat, y = data["treat"].to_numpy(), data["re78"].to_numpy() / 1000.0

    model = by_mcmc(kernels.earnings, 1, X, y, treat=treat)
    gain = effect_of_treatment(model, "treat", X, treat=treat)
    assert gain.dims == ("chain", "draw")
    moments("adjusted gain", gain, adjusted["mean"], adjusted["sd"])
    with pytest.raises(AssertionError, match="mean of adjusted gain"):
        moments("adjusted gain", gain, unadjusted["mean"], unadjusted["sd"])

    model = by_mcmc(kernels.earnings_unadjusted, 2, treat, y)
    gain = effect_of_treatment(model, "X", treat)
    moments("unadjusted gain", gain, unadjusted["mean"], unadjusted["sd"])


# ---------------------------------------------------------------------------------------------------- posteriordb


@needs_data
def test_eight_schools():
    data = pd.read_csv(DATA / "posteriordb" / "eight_schools.csv.gz")
    exact = read("posteriordb/eight_schools-eight_schools_noncentered.reference.json")["exact_quadrature"]
    X, y = data["sigma"].to_numpy(float), data["y"].to_numpy(float)
    model = by_mcmc(kernels.schools, 3, X, y, num_samples=4000, target_accept_prob=0.95)
    for name in ("mu", "tau"):
        moments(name, chains(model, name), exact[name]["mean"], exact[name]["sd"])

    with pytest.warns(UserWarning, match="`offset` keep their posterior draws"):
        tree = model.predict_on_batch(X, return_sites=["theta"])
    theta = tree["posterior_predictive"]["theta"]
    assert theta.dims == ("chain", "draw", "school")
    names = [f"theta[{i}]" for i in range(1, 9)]
    moments("theta", theta, [exact[n]["mean"] for n in names], [exact[n]["sd"] for n in names])

    # A school that was not among the eight: theta ~ N(mu, tau) given mu and tau, whose moments are known.
    with pytest.warns(UserWarning, match="`offset` are resampled"):
        tree = model.predict_on_batch(np.full(3, 5.0), in_sample=False, return_sites=["theta", "y"])
    sd = np.sqrt(exact["mu"]["sd"] ** 2 + exact["tau"]["sd"] ** 2 + exact["tau"]["mean"] ** 2)
    moments("theta of a new school", tree["predictions"]["theta"], exact["mu"]["mean"], sd)
    moments("y of a new school", tree["predictions"]["y"], exact["mu"]["mean"], np.hypot(sd, 5.0))


def column(index, change):
    """Return a callable intervention on one column of the input."""
    return lambda X: jnp.asarray(X).at[:, index].apply(change)


@needs_data
def test_wells():
    data = pd.read_csv(DATA / "posteriordb" / "wells.csv.gz")
    X, y = data[["dist", "arsenic", "educ"]].to_numpy(), data["switched"].to_numpy()
    target = partial(reference, "wells", "wells_dae_model")
    size = read("posteriordb/wells.reference.json")["posteriors"]["wells_dae_model"]["ess"]
    model = by_mcmc(kernels.wells, 4, X, y, num_samples=1000)
    (alpha, *beta), (alpha_sd, *beta_sd) = target(["alpha", "beta[1]", "beta[2]", "beta[3]"])
    moments("alpha", chains(model, "alpha"), alpha, alpha_sd, reference_size=size)
    moments("beta", chains(model, "beta"), beta, beta_sd, reference_size=size)

    little, much = X.copy(), X.copy()
    little[:, 1], much[:, 1] = 0.5, 1.0
    impacts = {
        "dist 0 -> 100 m": (column(0, jnp.zeros_like), column(0, lambda x: jnp.full_like(x, 100.0))),
        "arsenic 0.5 -> 1.0": (little, much),
        "educ 0 -> 12 years": (column(2, jnp.zeros_like), column(2, lambda x: jnp.full_like(x, 12.0))),
        "halve every distance": (None, column(0, lambda x: x / 2.0)),
    }
    for name, scenarios in impacts.items():
        baseline, intervention = (
            {"X": X, "return_sites": ["p", "y"], "intervention": None if value is None else {"X": value}}
            for value in scenarios
        )
        effect = model.estimate_effect(args_baseline=baseline, args_intervention=intervention)
        effect = effect["posterior_predictive"].to_dataset()
        (mean,), (sd,) = target([f"impact: {name}"])
        averaged = effect.astype(float).mean("household")
        moments(f"impact on P(switched), {name}", averaged["p"], mean, sd, reference_size=size)
        # The outcomes themselves, 0 or 1 with common noise, change as their probabilities do.
        difference = averaged["y"] - averaged["p"]
        se = az.mcse(difference.to_numpy(), method="mean")
        close(f"impact on switching beside that on its probability, {name}", difference.mean(), 0.0, se)


@needs_data
def test_radon():
    data = pd.read_csv(DATA / "posteriordb" / "radon_mn.csv.gz")
    X, y = data[["log_uppm", "floor_measure"]].to_numpy(), data["log_radon"].to_numpy()
    county = data["county_idx"].to_numpy() - 1
    assert county.dtype == np.int64
    args = {"county": county, "n_counties": 85}
    target = partial(reference, "radon_mn", "hierarchical_intercept")
    model = by_mcmc(kernels.radon, 5, X, y, num_samples=1500, **args)
    for name in ("mu_alpha", "sigma_alpha", "sigma_y"):
        (mean,), (sd,) = target([name])
        moments(name, chains(model, name), mean, sd)
    moments("beta", chains(model, "beta"), *target(["beta[1]", "beta[2]"]))

    tree = model.predict_on_batch(X, return_sites=["alpha"], **args)
    alpha = tree["posterior_predictive"]["alpha"]
    assert alpha.dims == ("chain", "draw", "counties")
    # 170 comparisons at once.
    moments("alpha", alpha, *target([f"alpha[{j}]" for j in range(1, 86)]), z=4.5)


# ------------------------------------------------------------------------------------------ closed forms (Gaussian)

PRIOR_MEAN, PRIOR_SD, NOISE_SD, N_OBS = 1.0, 2.0, 1.5, 12
CONJUGATE = {"prior_mean": PRIOR_MEAN, "prior_sd": PRIOR_SD, "noise_sd": NOISE_SD}


def conjugate_data():
    return np.zeros(N_OBS), np.random.default_rng(0).normal(2.5, NOISE_SD, N_OBS)


def conjugate_posterior(y):
    """Return mean and sd of the posterior of theta given all of ``y``."""
    precision = 1 / PRIOR_SD**2 + len(y) / NOISE_SD**2
    return (PRIOR_MEAN / PRIOR_SD**2 + y.sum() / NOISE_SD**2) / precision, precision**-0.5


@pytest.fixture(scope="module", params=["nuts", "svi"])
def conjugate(request):
    X, y = conjugate_data()
    if request.param == "nuts":
        return by_mcmc(kernels.conjugate, 6, X, y, num_samples=2000, **CONJUGATE)
    guide = AutoMultivariateNormal(kernels.conjugate)
    # The step size falls a thousandfold, so that the guide ends at the optimum, which is the posterior.
    optimizer = numpyro.optim.Adam(lambda step: 0.05 * 0.001 ** (step / 3000))
    svi = SVI(kernels.conjugate, guide, optimizer, Trace_ELBO(num_particles=16))
    model = ImpactModel(kernels.conjugate, random.key(7), svi)
    return model.fit_on_batch(X, y, num_steps=3000, num_samples=4000, progress=False, **CONJUGATE)


def test_conjugate_posterior_and_prediction(conjugate):
    X, y = conjugate_data()
    mean, sd = conjugate_posterior(y)
    tree = conjugate.predict_on_batch(X, **CONJUGATE)
    moments("theta", tree["posterior"]["theta"], mean, sd)
    predicted = tree["posterior_predictive"]["y"]
    moments("y", predicted, mean, np.hypot(sd, NOISE_SD), z=4.5)
    # The rows of a draw share its theta, which the sd of their average shows.
    moments("average of y", predicted.mean("obs"), mean, np.hypot(sd, NOISE_SD / N_OBS**0.5))
    # Other rows, and more of them, have the same law.
    predicted = conjugate.predict_on_batch(np.zeros(20), in_sample=False, **CONJUGATE)["predictions"]["y"]
    moments("y of other rows", predicted, mean, np.hypot(sd, NOISE_SD), z=4.5)
    moments("average of y of other rows", predicted.mean("obs"), mean, np.hypot(sd, NOISE_SD / 20**0.5))


def test_conjugate_intervention(conjugate):
    X, y = conjugate_data()
    mean, sd = conjugate_posterior(y)
    predicted = conjugate.predict_on_batch(X, intervention={"theta": -3.0}, **CONJUGATE)["posterior_predictive"]["y"]
    # All cells are independent now.
    cells = predicted.to_numpy().ravel()
    close("mean of y under do(theta)", cells.mean(dtype=float), -3.0, NOISE_SD / cells.size**0.5)
    close("sd of y under do(theta)", cells.std(dtype=float), NOISE_SD, NOISE_SD / (2 * cells.size) ** 0.5)

    effect = conjugate.estimate_effect(
        args_baseline={"X": X, **CONJUGATE}, args_intervention={"X": X, "intervention": {"theta": -3.0}, **CONJUGATE}
    )
    moments("effect of do(theta)", effect["posterior_predictive"]["y"].mean("obs"), -3.0 - mean, sd)

    shift = conjugate.estimate_effect(
        args_baseline={"X": X, **CONJUGATE},
        args_intervention={"X": X, "intervention": {"theta": lambda theta: theta + 0.5}, **CONJUGATE},
    )
    np.testing.assert_allclose(shift["posterior_predictive"]["y"], 0.5, atol=1e-5)


def log_of_average(what, values, truth, *, sign):
    """Assert ``sum over rows of sign * log(average over draws of values)``, by the delta method."""
    averages = values.mean((0, 1))
    se = az.mcse((values / averages).sum(-1), method="mean")
    close(what, sign * np.log(averages).sum(), truth, se)


def test_conjugate_log_likelihood(conjugate):
    X, y = conjugate_data()
    mean, sd = conjugate_posterior(y)
    tree = conjugate.log_likelihood(X, y, **CONJUGATE)
    scores = tree["log_likelihood"]["y"].to_numpy().astype(float)
    exact = norm.logpdf(y, mean, np.hypot(sd, NOISE_SD)).sum()
    log_of_average("log pointwise predictive density", np.exp(scores), exact, sign=1)

    left_out = [conjugate_posterior(np.delete(y, i)) for i in range(N_OBS)]
    exact = sum(norm.logpdf(y[i], m, np.hypot(s, NOISE_SD)) for i, (m, s) in enumerate(left_out))
    log_of_average("leave-one-out density by importance sampling", np.exp(-scores), exact, sign=-1)
    # ArviZ smooths the importance weights, which costs and saves little where they are as even as here.
    ratios = np.exp(-scores)
    se = az.mcse((ratios / ratios.mean((0, 1))).sum(-1), method="mean")
    close("elpd of arviz_stats.loo", az.loo(tree).elpd, exact, se)


# ---------------------------------------------------------------------------------------------- NumPyro as witness

ROWS, DRAWS = 30, 2000


def setting(name):
    """Return kernel, input and further arguments of a kernel of the table."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(ROWS, 2)).astype(np.float32)
    extra = {
        "grouped": {"group": rng.integers(0, 4, ROWS), "n_groups": 4},
        "counts": {"exposure": rng.uniform(0.5, 2.0, ROWS).astype(np.float32)},
    }
    return getattr(kernels, name), X, extra.get(name, {})


@pytest.fixture(scope="module", params=["grouped", "counts", "weighted", "paired"])
def injected(request):
    """Return a model with draws made elsewhere, those draws, and a data set."""
    kernel, X, extra = setting(request.param)
    prior = Predictive(kernel, num_samples=DRAWS, parallel=True)(random.key(9), X, **extra)
    y = np.asarray(prior.pop("y")[0])
    deterministic = {"level"} if request.param == "grouped" else set()
    deterministic |= {"mean", "rate", "scale"} & set(prior)
    latents = {name: draws for name, draws in prior.items() if name not in deterministic}
    return by_hand(kernel, latents, num_chains=2), kernel, latents, deterministic, X, y, extra


def expect_local_latents(latents):
    """Return the context that checks for the warning a latent site per row deserves."""
    if "weight" in latents:
        return pytest.warns(UserWarning, match="`weight` keep their posterior draws")
    return nullcontext()


def test_log_likelihood_equals_that_of_numpyro(injected):
    model, kernel, latents, _, X, y, extra = injected
    with expect_local_latents(latents):
        tree = model.log_likelihood(X, y, **extra)
    scores = tree["log_likelihood"]["y"]
    assert scores.sizes == {"chain": 2, "draw": DRAWS // 2, "obs": ROWS}
    witness = numpyro_log_likelihood(kernel, latents, X, y=y, **extra)["y"]
    np.testing.assert_allclose(scores.to_numpy().reshape(DRAWS, ROWS), witness, rtol=1e-5, atol=1e-5)


def test_prediction_agrees_with_that_of_numpyro(injected):
    model, kernel, latents, deterministic, X, _, extra = injected
    with expect_local_latents(latents):
        ours = model.predict_on_batch(X, rng_key=random.key(10), return_datatree=False, **extra)
    witness = Predictive(kernel, latents, parallel=True)(random.key(11), X, **extra)
    assert set(ours) == {"y", *deterministic} == set(witness)
    for name in deterministic:
        np.testing.assert_allclose(ours[name], witness[name], rtol=1e-6, atol=1e-6)

    # Given the latent sites, which both share draw by draw, the two are independent with the same law.
    a, b = (np.asarray(draws["y"], dtype=float) for draws in (ours, witness))
    assert not np.any(np.all(a == b, axis=tuple(range(1, a.ndim))))
    a, b = (np.concatenate([x.reshape(DRAWS, -1), x.reshape(DRAWS, -1).mean(1, keepdims=True)], 1) for x in (a, b))
    paired_difference("mean of y", a, b)
    centre = (a + b).mean(0) / 2.0
    paired_difference("variance of y", (a - centre) ** 2, (b - centre) ** 2)


def paired_difference(what, a, b):
    """Assert that two columns of draws have the same mean, by their difference draw by draw."""
    difference = a - b
    se = difference.std(0, ddof=1) / np.sqrt(len(difference))
    close(f"{what}, the last being the average over rows; difference", difference.mean(0), 0.0, se, z=4.5)


# ------------------------------------------------------------------------------------------- ArviZ on the results


@pytest.fixture(scope="module")
def fitted():
    kernel, X, extra = setting("grouped")
    y = np.asarray(Predictive(kernel, num_samples=1)(random.key(12), X, **extra)["y"][0])
    model = by_mcmc(kernel, 13, X, y, num_warmup=400, num_samples=500, target_accept_prob=0.9, **extra)
    return model, X, y, extra


def test_arviz_reads_posterior_and_prediction(fitted):
    model, X, _, extra = fitted
    tree = model.predict_on_batch(X, **extra)
    table = az.summary(tree)
    # beta has 2 elements, offset has 4.
    assert len(table) == 9
    assert float(az.rhat(tree).to_dataset().to_array().max()) < 1.05
    sizes = az.ess(tree)
    assert set(sizes.data_vars) == set(model.posterior)
    draws = tree["posterior"]["beta"]
    assert dict(draws.sizes) == {"chain": 2, "draw": 500, "beta_dim_0": 2}
    np.testing.assert_allclose(sizes["beta"], az.ess(draws.to_numpy()))
    np.testing.assert_array_equal(draws, chains(model, "beta"))
    rows = az.summary(tree, group="posterior_predictive", var_names=["y"], kind="stats")
    assert len(rows) == ROWS
    bounds = az.hdi(tree, prob=0.9, group="posterior_predictive")
    assert set(bounds.data_vars) == {"y", "level", "mean"}
    inside = (tree["posterior_predictive"]["y"] >= bounds["y"][..., 0]) & (
        tree["posterior_predictive"]["y"] <= bounds["y"][..., 1]
    )
    np.testing.assert_allclose(inside.mean(("chain", "draw")), 0.9, atol=2e-3)


def test_arviz_reads_an_effect(fitted):
    model, X, _, extra = fitted
    effect = model.estimate_effect(
        args_baseline={"X": X, **extra},
        args_intervention={"X": X, "intervention": {"X": column(0, lambda x: x + 1.0)}, **extra},
    )
    # Adding one to the first column of a linear kernel adds its coefficient.
    table = az.summary(effect, group="posterior_predictive", var_names=["y"], round_to="none")
    coefficient = az.summary(effect, var_names=["beta"], round_to="none").iloc[0]
    np.testing.assert_allclose(table["mean"], coefficient["mean"], atol=1e-5)
    np.testing.assert_allclose(table["sd"], coefficient["sd"], rtol=1e-3)
    bounds = az.hdi(effect, group="posterior_predictive")["y"]
    np.testing.assert_allclose(bounds - az.hdi(effect)["beta"][0], 0.0, atol=1e-4)


def test_arviz_loo_equals_that_of_numpyro(fitted):
    model, X, y, extra = fitted
    ours = az.loo(model.log_likelihood(X, y, **extra))
    by_chain = {name: chains(model, name) for name in model.posterior}
    scores = numpyro_log_likelihood(model.kernel, by_chain, X, y=y, batch_ndims=2, **extra)["y"]
    witness = az.loo(
        xr.DataTree.from_dict(
            {
                "/posterior": xr.Dataset(
                    {
                        name: (("chain", "draw", *(f"{name}_{i}" for i in range(draws.ndim - 2))), draws)
                        for name, draws in by_chain.items()
                    }
                ),
                "/log_likelihood": xr.Dataset({"y": (("chain", "draw", "row"), np.asarray(scores))}),
            }
        )
    )
    assert ours.n_samples == witness.n_samples == 1000
    assert ours.n_data_points == witness.n_data_points == ROWS
    for name in ("elpd", "se", "p"):
        np.testing.assert_allclose(getattr(ours, name), getattr(witness, name), rtol=1e-5)

"""The effect of an event on series with a local level, against statsmodels and closed forms; published examples."""

from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS
from scipy.optimize import nnls
from statsmodels.tsa.statespace.structural import UnobservedComponents

import aimz

N, START, STEP_SD, NOISE = 60, 50, 0.3, 1.0
OPTIONS = {"progress": False, "rng_key": random.key(1)}


def local_level(X, y=None):
    first = numpyro.sample("first", dist.Normal(100.0, 1000.0))
    with numpyro.plate("period", X.shape[0]):
        step = numpyro.sample("step", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(first + STEP_SD * jnp.cumsum(step) + X, NOISE), obs=y)


DESIGN = np.concatenate([np.ones((START, 1)), STEP_SD * np.tril(np.ones((START, START)))], 1)
PRECISION = np.diag(np.r_[1e-6, np.ones(START)]) + DESIGN.T @ DESIGN / NOISE**2
COVARIANCE = np.linalg.inv(PRECISION)
FACTOR = np.linalg.cholesky(COVARIANCE)
MODEL = aimz.ImpactModel(local_level, random.key(0), MCMC(NUTS(local_level), num_warmup=1, num_samples=1))


def estimate(y, n_draws, seed):
    """Return the effect in the last periods, with draws of the exact posterior of the first ones."""
    mean = COVARIANCE @ (np.r_[1e-4, np.zeros(START)] + DESIGN.T @ y[:START] / NOISE**2)
    draws = mean + np.random.default_rng([7, seed]).normal(size=(n_draws, START + 1)) @ FACTOR.T
    MODEL.set_posterior_sample({"first": draws[:, 0], "step": draws[:, 1:]})
    options = {**OPTIONS, "rng_key": random.key(seed)}
    return MODEL.estimate_impact(np.zeros(N), y, period=np.arange(N), start=START, **options)


def series(seed):
    rng = np.random.default_rng(seed)
    return 100.0 + np.cumsum(rng.normal(0.0, STEP_SD, N)) + rng.normal(0.0, NOISE, N)


def test_cumulative_effect_has_the_standard_deviation_of_a_sum_of_dependent_periods():
    y = series(0)
    found = estimate(y, 40_000, 1)
    filtered = UnobservedComponents(y[:START], "local level").smooth([NOISE**2, STEP_SD**2])
    ahead = filtered.get_forecast(N - START)
    without = found["counterfactual"]["y"].sel(reading="outcome")[..., START:]
    sd = without.std(("chain", "draw"))
    np.testing.assert_allclose(ahead.se_mean[:3], [1.1612, 1.1993, 1.2363], atol=1e-4)
    np.testing.assert_allclose(sd, ahead.se_mean, rtol=0.02)
    np.testing.assert_allclose(without.mean(("chain", "draw")), ahead.predicted_mean, atol=0.03)
    total = found["effect"]["y"].sel(quantity="cumulative").std(("chain", "draw"))
    assert total.sel(reading="outcome").item() == pytest.approx(8.396, rel=0.015)
    assert total.sel(reading="mean").item() == pytest.approx(np.sqrt(8.3956**2 - 10 * NOISE**2), rel=0.015)
    assert np.sqrt((sd**2).sum().item()) == pytest.approx(4.187, rel=0.01)  # if periods were independent


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_intervals_of_events_have_their_coverage(effect):
    """In 200 series, with and without an event; the standard error of a coverage is 2.1 percentage points."""
    after = np.arange(N) >= START
    inside = np.zeros((2, 2), int)
    for seed in range(200):
        found = estimate(series(seed + 1000 * (effect > 0)) + effect * after, 1000, seed)["effect"]["y"]
        truth = {"average": effect, "cumulative": effect * (N - START)}
        for i, (quantity, value) in enumerate(truth.items()):
            low, high = found.sel(quantity=quantity, reading="outcome").quantile([0.05, 0.95]).values
            inside[0, i] += low <= value <= high
            # Without the event, the interval of the expected values is narrower by the noise of the sum.
            low, high = found.sel(quantity=quantity, reading="mean").quantile([0.05, 0.95]).values
            inside[1, i] += low <= value <= high
    assert (np.abs(inside[0] / 200 - 0.9) <= 3 * 0.021).all(), inside
    assert (inside[1] < inside[0]).all(), inside


def proposition_99():
    """Return packs per head by year and state, and in California; skip without CausalPy, which ships the file."""
    package = find_spec("causalpy")
    if package is None:
        pytest.skip("CausalPy is not installed")
    path = Path(str(package.origin)).parent / "data" / "california_prop99.csv"
    packs = pd.read_csv(path).set_index("Year")
    return packs.drop(columns="California"), packs["California"]


def test_proposition_99_by_a_synthetic_control_and_by_difference_in_differences():
    others, california = proposition_99()
    before = others.index < 1989
    rows = [others[before], np.full((1, others.shape[1]), 1e5)]  # a heavy row that makes weights add up to one
    weights, _ = nnls(np.vstack(rows), np.r_[california[before], 1e5], maxiter=20_000)

    def weighted(X, y=None):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(X.shape[1])))
        numpyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)

    model = aimz.ImpactModel(weighted, random.key(0), MCMC(NUTS(weighted), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"w": np.tile(weights / weights.sum(), (2, 1))})
    found = model.estimate_impact(others, california, start=1989, **OPTIONS)
    pointwise = found["pointwise"]["y"].sel(reading="mean").mean(("chain", "draw"))
    assert pointwise.sel(Year=slice(1989, 2000)).mean().item() == pytest.approx(-19.51, abs=0.01)
    assert pointwise.sel(Year=2000).item() == pytest.approx(-26.60, abs=0.01)

    table = pd.concat([others, california], axis=1).reset_index().melt("Year", var_name="state", value_name="y")

    def two_ways(X, y=None, *, state, Year, num_states):
        level = numpyro.sample("level", dist.Normal(0.0, 1e3).expand([num_states]).to_event())
        shock = numpyro.sample("shock", dist.Normal(0.0, 1e3).expand([31]).to_event())
        numpyro.sample("y", dist.Normal(level[state] + shock[Year - 1970] + 0.0 * X, 1.0), obs=y)

    level, shock = others.mean(axis=0), others.mean(axis=1) - others.to_numpy().mean()
    level["California"] = (california - shock)[before].mean()
    names, mcmc = sorted(level.index), MCMC(NUTS(two_ways), num_warmup=1, num_samples=1)
    model = aimz.ImpactModel(two_ways, random.key(0), mcmc, coords={"state": names})
    model.set_posterior_sample({"level": np.tile(level[names], (2, 1)), "shock": np.tile(shock, (2, 1))})
    event = {"period": "Year", "start": 1989, "unit": "state", "treated": "California"}
    columns = {name: table[name] for name in ("state", "Year")}
    found = model.estimate_impact(np.zeros(len(table)), table["y"], **event, args=columns, **OPTIONS)
    average = found["effect"]["y"].sel(reading="mean", quantity="average")
    assert average.mean().item() == pytest.approx(-27.35, abs=0.01)


def test_example_of_causalimpact_has_the_standard_error_of_a_regression():
    """100 days, an autoregressive control, and an effect of 10 from day 71 on; noise of 1 is known."""
    rng, n, start = np.random.default_rng(1), 100, 70
    x = 100.0 + np.array([0.0, *np.cumsum(rng.normal(size=n - 1))])
    y = 1.2 * x + rng.normal(size=n) + 10.0 * (np.arange(n) >= start)

    def regression(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 10.0).expand([2]).to_event())
        numpyro.sample("y", dist.Normal(b[0] + b[1] * X, 1.0), obs=y)

    design = np.stack([np.ones(n), x], 1)
    center = np.linalg.inv(design[:start].T @ design[:start])
    fit = center @ design[:start].T @ y[:start]
    draws = fit + rng.normal(size=(20_000, 2)) @ np.linalg.cholesky(center).T
    model = aimz.ImpactModel(regression, random.key(0), MCMC(NUTS(regression), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"b": draws})
    found = model.estimate_impact(x, y, period=np.arange(1, n + 1), start=71, **OPTIONS)
    average = found["effect"]["y"].sel(quantity="average", reading="outcome")
    ahead = design[start:].mean(axis=0)
    sd = np.sqrt(1 / (n - start) + ahead @ center @ ahead)
    assert average.mean().item() == pytest.approx((y - design @ fit)[start:].mean(), abs=0.02)
    assert average.std().item() == pytest.approx(sd, rel=0.03)
    assert abs(average.mean().item() - 10.0) < 3 * sd


def test_factors_of_other_units_predict_the_treated_one_with_the_error_of_its_loadings():
    """Six units with two common factors, known from five of them; the loadings of the treated one are a regression."""
    rng, n, start = np.random.default_rng(6), 40, 30
    factor = np.stack([np.sin(np.arange(n) / 3), np.cos(np.arange(n) / 5)], 1)
    loading = rng.uniform(2.0, 6.0, (6, 2))
    panel = factor @ loading.T + rng.normal(0.0, 0.5, (n, 6))
    panel[start:, 0] += 4.0

    def factors(X, y=None, *, unit, month):
        of_unit = numpyro.sample("of_unit", dist.Normal(0.0, 10.0).expand([6, 2]).to_event(2))
        of_month = numpyro.sample("of_month", dist.Normal(0.0, 1.0).expand([40, 2]).to_event(2))
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal((of_unit[unit] * of_month[month]).sum(-1) + X, 0.5), obs=y)

    covariance = 0.25 * np.linalg.inv(factor[:start].T @ factor[:start])
    fit = np.linalg.lstsq(factor[:start], panel[:start, 0])[0]
    draws = np.tile(loading, (4000, 1, 1))
    draws[:, 0] = fit + rng.normal(size=(4000, 2)) @ np.linalg.cholesky(covariance).T
    model = aimz.ImpactModel(factors, random.key(0), MCMC(NUTS(factors), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"of_unit": draws, "of_month": np.broadcast_to(factor, (4000, n, 2))})
    rows = {"unit": np.tile(np.arange(6), n), "month": np.repeat(np.arange(n), 6)}
    event = {"period": "month", "start": start, "unit": "unit", "treated": 0}
    found = model.estimate_impact(np.full(6 * n, 100.0), 100.0 + panel.ravel(), **event, args=rows, **OPTIONS)
    average = found["effect"]["y"].sel(quantity="average")
    ahead = factor[start:].mean(axis=0)
    expected = panel[start:, 0].mean() - ahead @ fit
    for reading, noise in (("mean", 0.0), ("outcome", 0.25 / (n - start))):
        assert average.sel(reading=reading).mean().item() == pytest.approx(expected, abs=0.015)
        sd = np.sqrt(ahead @ covariance @ ahead + noise)
        assert average.sel(reading=reading).std().item() == pytest.approx(sd, rel=0.05)
    assert abs(expected - 4.0) < 3 * sd

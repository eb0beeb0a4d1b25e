"""The effect of an event on many series, each a row of the input with time as its second axis."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam
from statsmodels.tsa.statespace.structural import UnobservedComponents

import aimz

N, START, STEP_SD, NOISE = 60, 50, 0.3, 1.0
OPTIONS = {"progress": False, "rng_key": random.key(1)}
EVENT = {"period": np.arange(N), "start": START}


def new_model(kernel, draws=None):
    guide = AutoNormal(kernel)
    model = aimz.ImpactModel(kernel, random.key(0), SVI(kernel, guide, Adam(0.05), Trace_ELBO()))
    return model if draws is None else model.set_posterior_sample(draws)


def local_levels(X, y=None):
    with numpyro.plate("series", X.shape[0]):
        first = numpyro.sample("first", dist.Normal(100.0, 1000.0))
        step = numpyro.sample("step", dist.Normal().expand([X.shape[1]]).to_event(1))
        level = first[:, None] + STEP_SD * jnp.cumsum(step, -1)
        numpyro.sample("y", dist.Normal(level + X, NOISE).to_event(1), obs=y)


@pytest.fixture(scope="module")
def levels():
    """Return a model with draws of the exact posterior of three series, and the series."""
    rng, shape = np.random.default_rng(0), (3, N)
    y = 100.0 + np.cumsum(rng.normal(0.0, STEP_SD, shape), 1) + rng.normal(0.0, NOISE, shape)
    design = np.concatenate([np.ones((START, 1)), STEP_SD * np.tril(np.ones((START, START)))], 1)
    covariance = np.linalg.inv(np.diag(np.r_[1e-6, np.ones(START)]) + design.T @ design / NOISE**2)
    mean = (np.r_[1e-4, np.zeros(START)] + y[:, :START] @ design / NOISE**2) @ covariance
    draws = mean + rng.normal(size=(20_000, 3, START + 1)) @ np.linalg.cholesky(covariance).T
    return new_model(local_levels, {"first": draws[..., 0], "step": draws[..., 1:]}), y


def test_effects_on_series_agree_with_a_filter_of_each_series(levels):
    model, y = levels
    found = model.estimate_impact(np.zeros(y.shape), y, by={"shop": ["a", "b", "c"]}, **EVENT, **OPTIONS)
    without = found["counterfactual"]["y"].sel(reading="outcome").isel(period=slice(START, None))
    total = found["effect"]["y"].sel(quantity="cumulative")
    for i, shop in enumerate("abc"):
        filtered = UnobservedComponents(y[i, :START], "local level").smooth([NOISE**2, STEP_SD**2])
        ahead = filtered.get_forecast(N - START)
        np.testing.assert_allclose(ahead.se_mean[:3], [1.1612, 1.1993, 1.2363], atol=1e-4)
        np.testing.assert_allclose(without.sel(shop=shop).std(("chain", "draw")), ahead.se_mean, rtol=0.025)
        np.testing.assert_allclose(without.sel(shop=shop).mean(("chain", "draw")), ahead.predicted_mean, atol=0.04)
        assert total.sel(reading="outcome", shop=shop).std().item() == pytest.approx(8.396, rel=0.02)
        sd = np.sqrt(8.3956**2 - 10 * NOISE**2)
        assert total.sel(reading="mean", shop=shop).std().item() == pytest.approx(sd, rel=0.02)
        mean = y[i, START:].sum() - ahead.predicted_mean.sum()
        assert total.sel(reading="outcome", shop=shop).mean().item() == pytest.approx(mean, abs=0.3)
    overall = found["effect_overall"]["y"].sel(quantity="cumulative", reading="outcome")
    assert overall.std().item() == pytest.approx(8.396 * np.sqrt(3), rel=0.02)  # the series are independent
    assert found["groups"]["rows"].values.tolist() == [10, 10, 10]


@pytest.mark.slow
def test_placebo_in_time_refits_the_steps_before_it():
    y = np.random.default_rng(1).normal(10.0, 0.1, (3, 12))

    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        with numpyro.plate("series", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + X, 0.1).to_event(1), obs=y)

    y[:, 9:] += 2.0
    options = {**OPTIONS, "fit_options": {"epochs": 600}}
    found = new_model(kernel).estimate_impact(
        np.zeros(y.shape), y, period=np.arange(12), start=9, placebo="time", **options
    )
    average = found["effect"]["y"].sel(quantity="average", reading="mean") / 3
    assert average.mean().item() == pytest.approx(y[:, 9:].mean() - y[:, :9].mean(), abs=0.02)
    assert found["placebo"].sizes["placebo"] == 1
    assert abs(found["placebo"]["y"].sel(reading="mean").mean().item()) < 0.3


def priced(X, y=None, *, price=None):
    """Levels as random walks, with the price as an argument that has an axis along time."""
    inputs = X if X.ndim == 2 else X[..., 0]
    with numpyro.plate("series", X.shape[0]):
        level = numpyro.sample("level", dist.GaussianRandomWalk(1e-3, num_steps=X.shape[1]))
        price = 0.0 if price is None else price
        numpyro.sample("y", dist.Normal(level + 2.0 * inputs - price, 0.5).to_event(1), obs=y)


S, T, FIRST = 40, 8, 4  # as many steps before the event as after
LAST = np.linspace(20.0, 90.0, S)
RNG = np.random.default_rng(4)
PRICE = RNG.normal(size=(S, T))
PANEL = LAST[:, None] + 2.0 - PRICE + np.where(np.arange(T) < FIRST, 0.0, 3.0)
REGION = np.where(np.arange(S) % 3 == 0, "north", "south")


@pytest.fixture(scope="module")
def panel():
    return new_model(priced, {"level": np.broadcast_to(LAST[:, None], (16, S, FIRST))})


def impact(model, **options):
    """Return the effect with the steps in another order, and an input with a further axis."""
    order = np.random.default_rng(0).permutation(T)
    days = pd.date_range("2025-01-01", periods=T)[order]
    event = {"period": days, "start": "2025-01-05", "by": {"region": REGION}, "price": PRICE[:, order]}
    return model.estimate_impact(np.ones((S, T, 2)), PANEL[:, order], **event, **OPTIONS, **options)


def test_effects_are_summed_by_period_and_group(panel):
    found = impact(panel)
    average = found["effect"]["y"].sel(quantity="average", reading="mean").mean(("chain", "draw"))
    sizes = np.array([np.isin(REGION, name).sum() for name in average["region"].values])
    np.testing.assert_allclose(average, 3.0 * sizes, rtol=1e-3)
    np.testing.assert_array_equal(found["groups"]["rows"], sizes * (T - FIRST))
    by_day = found["counterfactual_overall"]["y"].sel(reading="mean").mean(("chain", "draw"))
    np.testing.assert_allclose(by_day, (LAST[:, None] + 2.0 - PRICE).sum(0), rtol=1e-5)
    averaged = impact(panel, aggregate="mean")
    average = averaged["effect"]["y"].sel(quantity="average", reading="mean").mean(("chain", "draw"))
    np.testing.assert_allclose(average, 3.0, atol=1e-3)


def test_baseline_changes_arguments_in_the_event(panel):
    found = impact(panel, baseline={"price": 0.0})
    average = found["effect"]["y"].sel(quantity="average", reading="mean").mean(("chain", "draw"))
    expected = (3.0 - PRICE[:, FIRST:]).mean(1)
    for name in ("north", "south"):
        assert average.sel(region=name).item() == pytest.approx(expected[name == REGION].sum(), rel=1e-3)
    assert found["effect"].attrs["without"] == "price = 0"


@pytest.mark.slow
def test_blocks_of_series_with_states_in_a_scan():
    """The output of a `scan` has the series as its last axis."""

    def kernel(X, y=None):
        def step(level, given):
            x, seen = given if y is not None else (given, None)
            with numpyro.plate("series", X.shape[0]):
                level = numpyro.sample("level", dist.Normal(level, 1e-3))
                numpyro.sample("y", dist.Normal(level + 2.0 * x, 0.5), obs=seen)
            return level, None

        scan(step, jnp.zeros(X.shape[0]), X.T if y is None else (X.T, y.T))

    model = new_model(kernel, {"level": np.broadcast_to(LAST, (16, FIRST, S))})
    event = {"period": np.arange(T), "start": FIRST, "by": {"region": REGION}, "batch_size": 16}
    found = model.estimate_impact(np.ones((S, T)), PANEL + PRICE, **event, **OPTIONS)
    total = found["effect"]["y"].sel(quantity="cumulative", reading="mean").mean(("chain", "draw"))
    np.testing.assert_allclose(total, 12.0 * found["groups"]["rows"] / 4, rtol=1e-3)


@pytest.mark.parametrize("as_frame", [pd.DataFrame, pl.DataFrame])
def test_columns_of_a_table_are_the_periods(panel, as_frame):
    days = [str(day.date()) for day in pd.date_range("2025-01-01", periods=T)]
    X, y = (as_frame(dict(zip(days, values.T, strict=True))) for values in (np.ones((S, T)), PANEL))
    found = panel.estimate_impact(X, y, start="2025-01-05", end="2025-01-06", price=PRICE, **OPTIONS)
    average = found["effect"]["y"].sel(quantity="average", reading="mean").mean()
    assert average.item() == pytest.approx(3.0 * S, rel=1e-3)
    assert found["cumulative"].sizes["period"] == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"unit": REGION[:8]}, r"`unit` must have a label for each of the 40 rows; got 8"),
        ({"period": np.arange(S)}, r"label for each of the 8 steps of each series; got 40"),
        ({"by": {"region": REGION[:8]}}, r"`by` must have|`region` must have a label for each of the 40 rows; got 8"),
        (
            {"placebo": "space"},
            r"`placebo='space'` needs units without the event; got one row for each series.*as `treated`",
        ),
        ({"y": np.where(np.arange(T) == 6, np.nan, PANEL)}, r"NaN in 40 of 160 \(the first in series 0, period 6"),
        ({"period": None}, r"`period` must be given.*of each step, if a row is a series"),
        ({"X": np.ones(S)}, r"got an output of shape \(40, 8\).*an input of shape \(n_series, n_steps"),
    ],
)
def test_wrong_arguments_in_wide_form_raise(panel, change, text):
    given = {"X": np.ones((S, T)), "y": PANEL, "period": np.arange(T), "start": FIRST, "price": PRICE, **change}
    with pytest.raises((ValueError, TypeError), match=text):
        panel.estimate_impact(given.pop("X"), given.pop("y"), **given, **OPTIONS)


def test_fit_to_steps_of_the_event_raises():
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        with numpyro.plate("series", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + X, 1.0).to_event(1), obs=y)

    X, y = np.zeros((3, T)), np.ones((3, T))
    model = new_model(kernel).fit_on_batch(X, y, num_steps=2, progress=False)
    with pytest.raises(ValueError, match=r"fitted to the 4 steps of each series before.*8 steps of each series, among"):
        model.estimate_impact(X, y, period=np.arange(T), start=FIRST, **OPTIONS)

"""Placebo events and backtests: refits of a kernel whose least-squares fit is known."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS
from scipy import stats

import aimz
from aimz.statistics import crps, lagged_forecast
from aimz.timeseries.design import read_design
from aimz.timeseries.placebos import placebo_designs

N, START = 40, 32
RNG = np.random.default_rng(4)
SERIES = 50.0 + np.cumsum(RNG.normal(size=(N, 1)), 0) + RNG.normal(size=(N, 4))
WEEK = np.arange(N)
OPTIONS = {"progress": False, "rng_key": random.key(1)}

pytestmark = pytest.mark.filterwarnings("ignore::aimz.FitWarning", "ignore::aimz.SupportWarning")


def kernel(X, y=None):
    """The output is the mean of the input's columns, plus a level."""
    level = numpyro.sample("level", dist.Normal(0.0, 1e3))
    numpyro.sample("y", dist.Normal(level + X.reshape(len(X), -1).mean(1), 1.0), obs=y)


def new_model():
    mcmc = MCMC(NUTS(kernel), num_warmup=100, num_samples=300, progress_bar=False)
    return aimz.ImpactModel(kernel, random.key(0), mcmc)


def gap(target, controls, start, stop):
    """Return the average effect by least squares: the change of the difference from the mean of the controls."""
    difference = target - controls.mean(1)
    return difference[start:stop].mean() - difference[:start].mean()


@pytest.fixture(scope="module")
def in_space():
    y = SERIES[:, 0] + 6.0 * (WEEK >= START)
    event = {"period": WEEK, "start": START, "placebo": "space", "placebos": [0, 2]}
    return new_model().estimate_impact(SERIES[:, 1:], y, **event, **OPTIONS), y


@pytest.mark.slow
def test_placebo_events_in_space_refit_each_control_series(in_space):
    found, y = in_space
    placebo = found["placebo"].to_dataset()
    assert placebo.attrs["n_refits"] == placebo.sizes["placebo"] == 2
    means = placebo["y"].sel(reading="mean").mean(("chain", "draw"))
    for i in (0, 2):
        expected = gap(SERIES[:, 1 + i], np.delete(SERIES[:, 1:], i, 1), START, N)
        assert means.sel(placebo=i).item() == pytest.approx(expected, abs=0.1)
    text = aimz.in_words(found)[-1]
    assert text.startswith("In 2 refits with a placebo event in other units, the average effect on `y` was ")
    assert "0 of 2 were at least as far from 0 as" in text
    assert "p-value" not in text
    effect = found["effect"]["y"].sel(reading="mean", quantity="average").mean().item()
    assert effect == pytest.approx(gap(y, SERIES[:, 1:], START, N), abs=0.1)


@pytest.mark.slow
def test_placebo_events_in_time_keep_half_of_the_history():
    event = {"period": WEEK, "start": START, "placebo": "time"}
    found = new_model().estimate_impact(SERIES[:, 1:], SERIES[:, 0], **event, **OPTIONS)
    placebo = found["placebo"].to_dataset()
    assert placebo["placebo"].values.tolist() == [24, 16]
    assert placebo["n_periods"].values.tolist() == [8, 8]
    for start in (24, 16):
        average = placebo["y"].sel(placebo=start, reading="mean").mean().item()
        assert average == pytest.approx(gap(SERIES[:, 0], SERIES[:, 1:], start, start + 8), abs=0.15)


def test_placebo_designs_have_rows_before_the_event_or_of_other_units():
    engine = new_model()._engine
    columns = {"X": np.zeros(3 * N), "y": np.arange(3.0 * N), "arguments": {}, "method": "estimate_impact"}
    period, unit = np.tile(WEEK, 3), np.repeat(["a", "b", "c"], N)
    event = {"period": period, "start": START, "end": None, "by": None, "unit": unit, "treated": "a"}
    design = read_design(engine, **columns, **event)
    assert sorted(design.rows.observed[design.held]) == list(range(START, N))
    in_time = placebo_designs(design, engine, "time", None)
    assert list(in_time) == [24, 16]
    earlier = in_time[16]
    assert sorted(earlier.rows.observed[earlier.held]) == list(range(16, 24))
    assert sorted(earlier.rows.observed[earlier.fitted]) == [*range(16), *range(N, N + 24), *range(2 * N, 2 * N + 24)]
    in_space = placebo_designs(design, engine, "space", None)
    assert list(in_space) == ["b", "c"]
    other = in_space["c"]
    assert sorted(other.rows.observed[other.held]) == list(range(2 * N + START, 3 * N))
    assert sorted(other.rows.observed[other.fitted]) == [*range(N, 2 * N + START)]
    assert list(placebo_designs(design, engine, "time", [20, 3])) == [20, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placebo": "unit"}, r"`placebo` must be 'time' \(events that start earlier\) or 'space'.*got 'unit'"),
        ({"placebos": [3]}, r"`placebos` needs `placebo='time'` or 'space'; got \[3\]"),
        ({"placebo": "space", "placebos": ["Utah"]}, r"`placebos` must name units without the event; got 'Utah'"),
        (
            {"placebo": "time", "placebos": [35]},
            r"must start between the second period and the event, 32; 1 of 1 do not",
        ),
        ({"placebo": "space", "X": SERIES[:, 1]}, r"needs other units.*got an input of 1 column"),
    ],
)
def test_invalid_placebos_raise_before_a_fit(changes, message):
    model = new_model()
    X = changes.get("X", SERIES[:, 1:])
    options = {name: value for name, value in changes.items() if name != "X"}
    with pytest.raises(ValueError, match=message):
        model.estimate_impact(X, SERIES[:, 0], period=WEEK, start=START, **options, **OPTIONS)
    assert not model.is_fitted()


def test_crps_equals_the_closed_form_of_a_normal_and_arviz():
    import arviz_stats

    draws, observed = np.random.default_rng(0).normal(1.0, 2.0, (20_000, 2)), np.array([0.0, 4.5])
    z = (observed - 1.0) / 2.0
    exact = 2.0 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps(draws, observed), exact, atol=0.03)
    few, score = draws[:50], arviz_stats.base.array_stats.loo_score
    by_arviz = [-score(few[None, :, i], observed[i], np.zeros((1, 50)), kind="crps") for i in range(2)]
    np.testing.assert_allclose(crps(few, observed), by_arviz, rtol=1e-6)
    np.testing.assert_allclose(crps(draws[:1], observed), np.abs(draws[0] - observed))


def test_lagged_forecasts_are_centered_at_the_last_value_of_the_season():
    history = np.array([1.0, 5.0, 2.0, 7.0, 4.0])
    assert sorted(lagged_forecast(history, 1, 1)) == sorted([4 + c for c in (4, -3, 5, -3, -4, 3, -5, 3)])
    assert sorted(lagged_forecast(history, 2, 1)) == sorted([7 + c for c in (1, 2, 2, -1, -2, -2)])
    assert lagged_forecast(np.array([1.0, np.nan]), 1, 1).size == 0
    assert lagged_forecast(history, 5, 1).size == 0


@pytest.fixture(scope="module")
def backtest():
    table = pd.DataFrame(SERIES, columns=list("yabc"), index=pd.date_range("2024-01-01", periods=N, freq="W-MON"))
    order = np.random.default_rng(1).permutation(N)
    options = {"horizon": 4, "origins": 2, "season": 6, "ci_prob": 0.9}
    return new_model().backtest(table.iloc[order], **options, **OPTIONS)


def test_backtest_scores_of_the_model_are_of_refits_before_each_origin(backtest):
    scores = backtest.to_pandas().query("method == 'model'")
    dates = pd.date_range("2024-01-01", periods=N, freq="W-MON")
    assert scores["origin"].unique().tolist() == dates[[32, 36]].tolist()
    assert scores["horizon"].tolist() == [1, 2, 3, 4] * 2
    for origin, (_, rows) in zip((32, 36), scores.groupby("origin"), strict=True):
        level = (SERIES[:origin, 0] - SERIES[:origin, 1:].mean(1)).mean()
        expected = level + SERIES[origin : origin + 4, 1:].mean(1)
        np.testing.assert_allclose(rows["mean"], expected, atol=0.3)
        np.testing.assert_allclose(rows["observed"], SERIES[origin : origin + 4, 0], rtol=1e-6)
        half = stats.norm.ppf(0.95) * np.sqrt(1 + 1 / origin)
        np.testing.assert_allclose(rows["width"], 2 * half, rtol=0.25)
    inside = (scores["low"] <= scores["observed"]) & (scores["observed"] <= scores["high"])
    np.testing.assert_array_equal(scores["covered"], inside)


def test_backtest_compares_with_the_last_value_and_the_same_season(backtest):
    y = SERIES[:, 0]
    last = backtest.scores.query("method == 'last value' and horizon == 3")
    np.testing.assert_allclose(last["absolute_error"], [abs(y[o + 2] - y[o - 1]) for o in (32, 36)], rtol=1e-4)
    season = backtest.scores.query("method == 'same season (6)' and horizon == 2")
    np.testing.assert_allclose(season["absolute_error"], [abs(y[o + 1] - y[o - 5]) for o in (32, 36)], rtol=1e-4)
    table = backtest.summary()
    assert table["n"].tolist() == [8, 8, 8]
    assert table.loc["model", "skill"] == pytest.approx(
        1 - table.loc["model", "crps"] / table.loc["last value", "crps"]
    )
    assert table.loc["last value", "skill"] == 0
    lines = repr(backtest).splitlines()
    assert lines[0].split()[:1] == ["CRPS"]
    assert "in 90 % interval" in lines[0]
    assert lines[-1].startswith("8 forecasts from 2 origins, up to 4 periods ahead.")
    by_horizon = backtest.summary("horizon")
    assert by_horizon.loc[(1, "model"), "n"] == 2
    with pytest.raises(ValueError, match="`by` must be among 'horizon', 'origin', 'period'; got 'region'"):
        backtest.summary("region")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 30}, r"history of at least half of the periods before each origin; got 40 periods, `horizon=30`"),
        ({"origins": [1]}, r"`origins` must have at least two periods before them; got \[1\]"),
        ({"origins": [99]}, r"`origins` must be one of the 40 periods"),
        ({"season": 1}, r"`season` must be a number of periods, at least 2; got 1"),
        (
            {"period": np.repeat(np.arange(20), 2)},
            r"20 rows repeat one \(the first in 0\). Pass the series of each row",
        ),
    ],
)
def test_invalid_backtests_raise_before_a_fit(changes, message):
    options = {"period": WEEK, "horizon": 4, **OPTIONS, **changes}
    with pytest.raises(ValueError, match=message):
        new_model().backtest(SERIES[:, 1:], SERIES[:, 0], **options)

"""Backtests with a row for each series and time as the second axis, and of one fit for several origins."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.optim import Adam

import aimz
from aimz.statistics import lagged_forecast, read_ci
from aimz.timeseries.folds import read_folds, score_table

S, T, NOISE = 3, 12, 0.5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(S, T))
Y = 10.0 + np.cumsum(X, 1) + RNG.normal(size=(S, T))
OPTIONS = {
    "horizon": 3,
    "origins": 2,
    "rng_key": random.key(1),
    "progress": False,
    "fit_options": {"epochs": 1, "num_samples": 500},
}

pytestmark = pytest.mark.filterwarnings("ignore::aimz.FitWarning", "ignore::aimz.SupportWarning")


def new_model(kernel):
    guide = AutoDelta(kernel)
    return aimz.ImpactModel(kernel, random.key(0), SVI(kernel, guide, Adam(0.1), Trace_ELBO()))


def autoregressive(X, y=None):
    """A value is the one before it plus the input; the output has the steps as its first axis."""
    numpyro.sample("unused", dist.Normal())

    def step(before, given):
        x, seen = given if y is not None else (given, None)
        with numpyro.plate("series", X.shape[0]):
            now = numpyro.sample("y", dist.Normal(before + x, NOISE), obs=seen)
        return now, None

    scan(step, jnp.zeros(X.shape[0]), X.T if y is None else (X.T, y.T))


@pytest.mark.parametrize("refit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_series_go_on_from_their_outcomes_before_each_origin(refit):
    """In closed form: the last value plus the later inputs, with variance k NOISE^2 after k steps."""
    order = np.random.default_rng(1).permutation(T)
    days = pd.date_range("2025-01-01", periods=T)
    found = new_model(autoregressive).backtest(
        X[:, order], Y[:, order], period=days[order], unit=["a", "b", "c"], ci_prob=0.9, refit=refit, **OPTIONS
    )
    scores = found.to_pandas().query("method == 'model'")
    assert scores["origin"].unique().tolist() == days[[6, 9]].tolist()
    assert scores["unit"].tolist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    np.testing.assert_array_equal(scores["horizon"], np.tile([1, 2, 3], 6))
    for origin, (_, rows) in zip((6, 9), scores.groupby("origin"), strict=True):
        later = slice(origin, origin + 3)
        expected = Y[:, [origin - 1]] + np.cumsum(X[:, later], 1)
        sd = NOISE * np.sqrt(rows["horizon"].to_numpy())
        np.testing.assert_allclose(rows["observed"], Y[:, later].ravel(), rtol=1e-6)
        assert (np.abs(rows["mean"] - expected.ravel()) < 4.5 * sd / np.sqrt(500)).all()
        np.testing.assert_allclose(rows["width"], 2 * 1.645 * sd, rtol=0.2)
    assert found.summary("unit").index.get_level_values("unit").unique().tolist() == ["a", "b", "c"]


def test_baselines_of_rows_that_are_series_are_those_of_a_row_for_each_period():
    y = Y.copy()
    y[1, 2] = np.nan  # a series with a gap has other past changes
    engine = new_model(autoregressive)._engine
    asked = {"period": np.arange(T), "unit": None}
    wide = read_folds(engine, X, y, {}, asked, 3, 2, 4)
    asked = {"period": np.tile(np.arange(T), S), "unit": np.repeat(np.arange(S), T)}
    rows = read_folds(engine, np.zeros(S * T), y.ravel(), {}, asked, 3, 2, 4)
    tables = []
    for folds in (wide, rows):
        draws = [np.zeros((2, 3 * S))] * 2
        table = score_table(folds, draws, read_ci(0.9, None)).drop(columns="row").query("method != 'model'")
        tables.append(table.sort_values(["method", "origin", "unit", "horizon"], ignore_index=True))
    pd.testing.assert_frame_equal(*tables)
    of_gap = lagged_forecast(y[1, :6], 2, 2)
    one = tables[0].query("method == 'last value' and origin == 6 and unit == 1 and horizon == 2")
    assert len(of_gap) == 4  # two changes of four do not involve the missing value
    assert one["mean"].item() == pytest.approx(of_gap.mean())


@pytest.mark.slow
def test_one_fit_does_not_know_states_at_later_origins():
    def walk(X, y=None):
        with numpyro.plate("series", X.shape[0]):
            level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[1]))
            numpyro.sample("y", dist.Normal(level + X, NOISE).to_event(1), obs=y)

    with pytest.raises(ValueError, match=r"latent states, `level` for one: its values from there .* `refit=True`"):
        new_model(walk).backtest(X, Y, period=np.arange(T), refit=False, **OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"period": np.zeros(S)}, r"label for each of the 12 steps of each series; got 3"),
        ({"unit": np.zeros(T)}, r"label for each of the 3 rows; got 12"),
        ({"period": np.arange(T) // 2}, r"must have one row in each period; 6 rows repeat one \(the first in 0\)"),
    ],
)
def test_labels_that_do_not_fit_the_series_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        new_model(autoregressive).backtest(X, Y, **{"period": np.arange(T), **changes}, **OPTIONS)

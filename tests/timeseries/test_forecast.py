"""Forecasts continue series from their last fitted state: statsmodels, closed forms, and structures of kernels."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive
from statsmodels.tsa.statespace.structural import UnobservedComponents

from aimz import ImpactModel, OutputWarning
from stream_helpers import KEY, new_model

T, H, S = 24, 5, 3000
AHEAD = np.arange(1, H + 1)
MEMORY = {"progress": False, "store": "memory", "rng_key": KEY}
HISTORY = {"X": np.zeros(T), "y": np.zeros(T)}
LAST = 70.0


def smoothed(design, prior, noise, y, n_draws):
    """Return draws of `u` in `y ~ N(design u, noise)`, `u ~ N(0, prior)`, from the exact posterior."""
    precision = np.linalg.inv(prior) + design.T @ design / noise**2
    root = np.linalg.cholesky(np.linalg.inv(precision))
    mean = root @ root.T @ design.T @ y / noise**2
    return mean + np.random.default_rng(1).normal(size=(n_draws, len(mean))) @ root.T


def assert_close(found, mean, sd):
    """Compare draws `(n_draws, n_steps)` with a normal distribution, in standard errors."""
    n = len(found)
    assert (np.abs(found.mean(0) - mean) < 4.5 * np.asarray(sd) / np.sqrt(n)).all()
    assert (np.abs(found.std(0) / sd - 1) < 4.5 / np.sqrt(2 * n)).all()


def local_level(X, y=None):
    def step(level, x):
        level = numpyro.sample("level", dist.Normal(level, 0.3))
        return level, level

    first = numpyro.sample("first", dist.Normal(0.0, 1000.0))
    level = numpyro.deterministic("mu", scan(step, first, None, length=X.shape[0])[1])
    with numpyro.plate("week", X.shape[0]):
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)


def test_local_level_agrees_with_statsmodels():
    """The filtered variance P has converged, so the variances are P + k q + s^2."""
    n, h, draws = 60, 10, 20_000
    rng = np.random.default_rng(0)
    y = 60 + np.cumsum(rng.normal(0, 0.3, n)) + rng.normal(size=n)
    lower = np.hstack([np.ones((n, 1)), 0.3 * np.tril(np.ones((n, n)))])
    prior = np.diag([1e6, *np.ones(n)])
    u = smoothed(lower, prior, 1.0, y, draws)
    model = new_model(local_level, {"first": u[:, 0], "level": u @ lower.T})
    found = model.forecast(np.zeros(h), history={"X": np.zeros(n), "y": y}, **MEMORY)["predictions"]
    assert list(found["week"]) == list(range(n, n + h))
    ahead = UnobservedComponents(y, "llevel").smooth([1.0, 0.09]).get_forecast(h)
    exact = np.sqrt(ahead.var_pred_mean)
    np.testing.assert_allclose(exact[:3], [1.1612, 1.1993, 1.2363], atol=6e-5)
    assert_close(found["y"].values[0], ahead.predicted_mean, exact)
    assert_close(found["mu"].values[0], ahead.predicted_mean, np.sqrt(exact**2 - 1))
    theirs = Predictive(local_level, {"first": u[:, 0], "level": u @ lower.T})(KEY, np.zeros(n + h))["mu"][:, n:]
    assert_close(np.asarray(theirs), ahead.predicted_mean, np.sqrt(exact**2 - 1))  # of NumPyro
    total = found["y"].values[0].sum(1)  # periods are dependent: 4.187 if they were not
    assert_close(total[:, None], ahead.predicted_mean.sum(), 8.396)


def structural(X, y=None):
    """Local linear trend with a seasonal component of period 4, written in innovations."""
    state = numpyro.sample("first", dist.Normal(0.0, 100.0).expand([5]))

    def step(state, _):
        shock = numpyro.sample("shock", dist.Normal(0.0, 1.0).expand([3]))
        return _TRANSITION @ state + _SHOCKS @ shock, _OBSERVED @ state

    mean = scan(step, state, None, length=X.shape[0])[1]
    numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


_TRANSITION = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, -1, -1, -1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], float)
_SHOCKS = np.zeros((5, 3))
_SHOCKS[[0, 1, 2], [0, 1, 2]] = 0.4, 0.1, 0.2
_OBSERVED = np.array([1.0, 0, 1, 0, 0])


def test_trend_and_season_agree_with_statsmodels():
    rng = np.random.default_rng(3)
    y = 5 + 0.3 * np.arange(T) + np.tile([1.0, -1, 2, -2], T // 4) + rng.normal(0, 0.5, T)
    weights, design = np.hstack([np.eye(5), np.zeros((5, 3 * T))]), []
    for t in range(T):
        design.append(_OBSERVED @ weights)
        weights = _TRANSITION @ weights
        weights[:, 5 + 3 * t : 8 + 3 * t] += _SHOCKS
    u = smoothed(np.array(design), np.diag([1e4] * 5 + [1.0] * 3 * T), 0.5, y, S)
    model = new_model(structural, {"first": u[:, :5], "shock": u[:, 5:].reshape(S, T, 3)})
    found = model.forecast(np.zeros(H), history={"X": np.zeros(T), "y": y}, **MEMORY)["predictions"]
    witness = UnobservedComponents(y, "lltrend", seasonal=4)
    witness.ssm.initialize_approximate_diffuse(1e4)
    ahead = witness.smooth([0.25, 0.16, 0.01, 0.04]).get_forecast(H)
    assert_close(found["y"].values[0], ahead.predicted_mean, ahead.se_mean)


LEVEL = np.concatenate([np.zeros((S, T - 1)), np.full((S, 1), LAST)], axis=1)


def walk(X, y=None):
    level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[0]))
    numpyro.sample("y", dist.Normal(level + X, 0.5), obs=y)


def innovations(X, y=None):
    first = numpyro.sample("first", dist.Normal(0.0, 10.0))
    shock = numpyro.sample("shock", dist.Normal().expand([X.shape[0] - 1]).to_event(1))
    level = first + jnp.concatenate([jnp.zeros(1), jnp.cumsum(shock)])
    numpyro.sample("y", dist.Normal(level + X, 0.5), obs=y)


def plated(X, y=None):
    with numpyro.plate("week", X.shape[0]):
        shock = numpyro.sample("shock", dist.Normal())
        numpyro.sample("y", dist.Normal(jnp.cumsum(shock) + X, 0.5), obs=y)


def process(X, y=None):
    """Brownian motion as a Gaussian process."""
    time = 1.0 + jnp.arange(X.shape[0])
    level = numpyro.sample("level", dist.MultivariateNormal(0.0, jnp.minimum(time[:, None], time)))
    numpyro.sample("y", dist.Normal(level + X, 0.5), obs=y)


def linear_system(X, y=None):
    """A random walk as the first component of a state space model; the second one is constant."""
    factor = jnp.diag(jnp.array([1.0, 1e-4]))
    state = numpyro.sample("state", dist.GaussianStateSpace(X.shape[0], jnp.eye(2), scale_tril=factor))
    numpyro.sample("y", dist.Normal(state[:, 0] + X, 0.5), obs=y)


SHOCKS = np.diff(LEVEL, axis=1, prepend=0.0)
WALKS = {
    "random walk": (walk, {"level": LEVEL}),
    "cumulative sum": (innovations, {"first": SHOCKS[:, 0], "shock": SHOCKS[:, 1:]}),
    "plate along time": (plated, {"shock": SHOCKS}),
    "Gaussian process": (process, {"level": LEVEL}),
    "linear state space": (linear_system, {"state": np.stack([LEVEL, np.zeros((S, T))], axis=-1)}),
}


SLOW = ("Gaussian process", "linear state space", "plate along time")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in WALKS])
def test_structures_along_time_are_continued(name):
    """All kernels are the same random walk, with variance k + 0.25 after k steps."""
    kernel, posterior = WALKS[name]
    found = new_model(kernel, posterior).forecast(np.zeros(H), history=HISTORY, **MEMORY)["predictions"]["y"]
    assert_close(found.values[0], LAST, np.sqrt(AHEAD + 0.25))


def test_intervention_changes_later_steps_only():
    model = new_model(walk, {"level": LEVEL})
    plain, moved = (
        model.forecast(np.zeros(H), history=HISTORY, intervention=given, **MEMORY)["predictions"]["y"].values
        for given in (None, {"X": np.array([0.0, 0, 3, 0, 0])})
    )
    np.testing.assert_allclose(moved - plain, np.broadcast_to([0.0, 0, 3, 0, 0], plain.shape), atol=2e-5)


def autoregressive(X, y=None):
    phi = numpyro.sample("phi", dist.Normal())
    b = numpyro.sample("b", dist.Normal())

    def step(previous, given):
        x, seen = given if y is not None else (given, None)
        now = numpyro.sample("y", dist.Normal(phi * previous + b * x, 1.0), obs=seen)
        return now, None

    scan(step, 0.0, X if y is None else (X, y))


def test_autoregression_uses_the_fitted_outcome():
    """Closed form of AR(1): mean 10 phi^k and variance (1 - phi^2k) / (1 - phi^2); interventions reach later steps."""
    model = new_model(autoregressive, {"phi": np.full(S, 0.8), "b": np.full(S, 2.0)})
    history = {"X": np.zeros(T), "y": np.append(np.zeros(T - 1), 10.0)}
    found = model.forecast(np.zeros(H), history=history, **MEMORY)["predictions"]["y"].values[0]
    assert_close(found, 10 * 0.8**AHEAD, np.sqrt((1 - 0.8 ** (2 * AHEAD)) / (1 - 0.64)))
    pulse = {"X": np.array([0.0, 1, 0, 0, 0])}
    moved = model.forecast(np.zeros(H), history=history, intervention=pulse, **MEMORY)["predictions"]["y"].values[0]
    np.testing.assert_allclose(moved - found, np.broadcast_to([0, 2, 1.6, 1.28, 1.024], found.shape), atol=2e-5)
    expected = model.forecast(np.zeros(H), history=history, kind="expected", **MEMORY)["predictions"]["y"].values[0]
    np.testing.assert_allclose(expected[:, 1], 0.8 * found[:, 0], rtol=1e-5)  # given the same earlier outcomes


def regression(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 0.5), obs=y)


def trend(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * jnp.arange(X.shape[0]), 0.5), obs=y)


def test_kernels_without_states_are_predicted():
    """Independent rows need no history; numbers of rows continue."""
    b = {"b": np.full(S, 2.0)}
    model = new_model(regression, b)
    found = model.forecast(np.arange(5.0), history=HISTORY, **MEMORY)["predictions"]["y"]
    same = model.predict(np.arange(5.0), in_sample=False, **MEMORY)["predictions"]["y"]
    np.testing.assert_array_equal(found, same)
    found = new_model(trend, b).forecast(np.zeros(H), history=HISTORY, **MEMORY)["predictions"]["y"]
    assert_close(found.values[0], 2.0 * (T + np.arange(H)), 0.5)


def linspace(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.sample("y", dist.Normal(slope * jnp.linspace(0.0, 1.0, X.shape[0]), 0.5), obs=y)


def closes_over_rows(X, y=None):
    level = numpyro.sample("level", dist.Normal().expand([T]))
    numpyro.sample("y", dist.Normal(level + X, 0.5), obs=y)


def heavy_tails(X, y=None):
    level = numpyro.sample("level", dist.MultivariateStudentT(5.0, jnp.zeros(X.shape[0]), jnp.eye(X.shape[0])))
    numpyro.sample("y", dist.Normal(level, 0.5), obs=y)


def with_promotion(X, promotion, y=None):
    level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[0]))
    numpyro.sample("y", dist.Normal(level + promotion, 0.5), obs=y)


AR = {"phi": np.full(2, 0.8), "b": np.ones(2)}
ONE = {"level": LEVEL[:2]}
ERRORS = {
    "time scaled by the number of steps": (
        linspace,
        {"slope": np.ones(2)},
        {},
        "`y` of kernel `linspace` has",
    ),
    "one number of rows": (closes_over_rows, ONE, {}, "accepts 24 rows only"),
    "no draws": (walk, {"other": np.ones(2)}, {}, "continues the fitted values of `level`, and the posterior has no"),
    "other rows": (walk, {"level": LEVEL[:2, :9]}, {}, r"`level` have shape \(9,\), and the fitted steps need \(24,\)"),
    "unknown joint distribution": (heavy_tails, ONE, {}, "along an event axis of MultivariateStudentT. Write it as"),
    "later values of an argument": (
        with_promotion,
        ONE,
        {"history": {**HISTORY, "promotion": np.ones(T)}},
        "needs the values of `promotion` in the later steps",
    ),
    "unknown outcome": (autoregressive, AR, {"history": {"X": np.zeros(T)}}, "Later steps depend on `y` in the fitted"),
    "outcome with NaN": (
        autoregressive,
        AR,
        {"history": {"X": np.zeros(T), "y": np.append(np.zeros(T - 1), np.nan)}},
        r"which is NaN 1 time\(s\), first in row 23",
    ),
    "no rows": (walk, ONE, {"history": None}, r"Pass `history=\{'X': X, 'y': y\}` with the rows of the fit"),
    "no input": (walk, ONE, {"history": {"y": [1.0]}}, r"`history` must map names .* got \['y'\]"),
}


@pytest.mark.filterwarnings("ignore:Draws of `other`")
@pytest.mark.parametrize("name", ERRORS)
def test_series_that_cannot_be_continued_raise(name):
    kernel, posterior, options, text = ERRORS[name]
    model = new_model(kernel, posterior)
    key = model.rng_key
    with pytest.raises((ValueError, TypeError), match=text):
        model.forecast(np.zeros(H), **{"history": HISTORY, "progress": False, **options})
    assert model.rng_key == key


def test_dates_label_later_steps_and_must_follow():
    days = pd.date_range("2025-01-01", periods=T + H, name="day")
    frame = pd.DataFrame({"x": np.zeros(T + H)}, index=days)
    model = new_model(lambda X, y=None: walk(X[:, 0], y), {"level": LEVEL[:2]})
    history = {"X": frame[:T], "y": np.zeros(T)}
    found = model.forecast(frame[T:], history=history, **MEMORY)["predictions"]["y"]
    assert list(found.indexes[found.dims[-1]]) == list(days[T:])
    with pytest.raises(ValueError, match=r"must follow the fitted rows, which end at Timestamp.*; 2 row\(s\) do not"):
        model.forecast(frame[T - 2 :], history=history, **MEMORY)


def test_new_rows_of_a_series_point_to_forecast():
    model = new_model(walk, {"level": LEVEL[:2]})
    with (
        pytest.warns(OutputWarning, match="`level` are resampled"),
        pytest.warns(OutputWarning, match=r"begins at its prior.*If they follow .*, call `model.forecast`"),
    ):
        found = model.predict_on_batch(np.zeros(H), in_sample=False, rng_key=KEY)["predictions"]["y"]
    assert abs(float(found.mean())) < 10  # the last fitted value is 70


def test_condition_on_the_fitted_outcome_continues_states():
    """`predict` with the fitted rows and their outcome is the forecast, and effects are 0 in the given steps."""
    model = new_model(walk, {"level": LEVEL})
    rows = {"condition": {"y": HISTORY["y"]}, "in_sample": False}
    found = model.predict(np.zeros(T + H), **rows, **MEMORY)["predictions"]["y"].values[0]
    assert (found[:, :T] == 0).all()
    assert_close(found[:, T:], LAST, np.sqrt(AHEAD + 0.25))
    arms = {str(x): {"intervention": {"X": x}, **rows} for x in (0.0, 1.0)}
    effect = model.compare_scenarios(arms, baseline="0.0", X=np.zeros(T + H), progress=False)["effect"]["y"]
    np.testing.assert_allclose(effect.values, H / (T + H), rtol=1e-5)
    for length, text in ((T + 1, "has 25 steps, and the posterior of `level`"), (T + H + 1, "has 30 entries")):
        with pytest.raises(ValueError, match=text):
            model.predict(np.zeros(T + H), condition={"y": np.zeros(length)}, in_sample=False, **MEMORY)


def many_series(X, y=None):
    n_series = X.shape[0]

    def step(level, given):
        x, seen = given if y is not None else (given, None)
        with numpyro.plate("series", n_series):
            level = numpyro.sample("level", dist.Normal(level, 1.0))
            numpyro.sample("y", dist.Normal(level + 2 * x, 0.5), obs=seen)
        return level, None

    scan(step, jnp.zeros(n_series), X.T if y is None else (X.T, y.T))


@pytest.fixture(scope="module")
def series():
    n = 1100  # two blocks of rows
    last = np.linspace(20.0, 90.0, n)
    level = np.zeros((64, T, n), np.float32)
    level[:, -1] = last
    return new_model(many_series, {"level": level}), {"X": np.zeros((n, T)), "y": np.zeros((n, T))}, last


def test_many_series_are_forecast_in_blocks(series):
    model, history, last = series
    ahead = np.ones((len(last), H))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.forecast(ahead, history=history, **MEMORY)["predictions"]["y"]
    values = found.values[0] - last - 2  # (draw, step, series)
    assert_close(values.transpose(0, 2, 1).reshape(-1, H), 0.0, np.sqrt(AHEAD + 0.25))
    assert found.sizes == {"chain": 1, "draw": 64, "y_dim_0": H, "series": len(last)}
    options = {**MEMORY, "history": history, "batch_size": 300}
    some = model.forecast(ahead, statistics=("mean",), **options)["predictions"]["y"]
    np.testing.assert_allclose(some.values[0], found.values[0].mean(0), rtol=2e-6)


def test_labels_of_steps_go_on():
    days = pd.date_range("2025-01-01", periods=T)
    labels = {"dims": {"y": ["series", "day"], "level": ["series", "day"]}, "coords": {"day": days}}
    model = ImpactModel(_series_of_walks, 0, **labels).set_posterior_sample({"level": np.zeros((2, 3, T))})
    history = {"X": np.zeros((3, T)), "y": np.zeros((3, T))}
    tree = model.forecast(np.zeros((3, H)), history=history, **MEMORY)
    assert list(tree["predictions"].indexes["day"]) == list(pd.date_range(days[-1], periods=H + 1)[1:])
    assert list(tree["posterior"].indexes["day"]) == list(days)
    with pytest.raises(ValueError, match=r"later steps of the same series have shape \(3, 'n_steps'\)"):
        model.forecast(np.zeros((4, H)), history=history, **MEMORY)


def _series_of_walks(X, y=None):
    with numpyro.plate("series", X.shape[0]):
        level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[1]))
        numpyro.sample("y", dist.Normal(level, 0.5).to_event(1), obs=y)

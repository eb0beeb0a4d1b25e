"""``check`` in one pass: statistics by group, LOO-PIT and the calibration of probabilities, against NumPy and ArviZ."""

import arviz_stats
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from scipy import stats

from aimz import ImpactModel, plots
from aimz.statistics import Calibration, PredictiveChecks

RNG = np.random.default_rng(7)
N, M, S = 1500, 400, 200
X = RNG.normal(size=N).astype(np.float32)
Y = (X + RNG.normal(size=N)).astype(np.float32)
REGION = RNG.choice(["north", "south", "west"], N)
KEY = random.key(5)
DRAWS = {"a": 0.03 * RNG.normal(size=S)}
STATISTICS = {"positive": lambda y: y > 0, "upper": lambda y: np.quantile(y, 0.9)}


def normal(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X, 1.0), obs=y)


def binary(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=a + X), obs=y)


def counts(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + 0.3 * X)), obs=y)


def centered(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    mean = a + X - X.mean()
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def given(kernel, y, **draws):
    model = ImpactModel(kernel, 0)
    model.describe(X[: len(y)], y)
    return model.set_posterior_sample({**DRAWS, **draws}, num_chains=2)


@pytest.fixture(scope="module")
def model():
    return given(normal, Y)


@pytest.fixture(scope="module")
def tree(model):
    """Return draws of the same key and the log-likelihood, stored in memory."""
    predicted = model.predict(X, rng_key=KEY, store="memory", progress=False)
    scores = model.log_likelihood(X, Y, store="memory", progress=False)
    groups = {name: scores[name].to_dataset() for name in ("posterior", "log_likelihood", "observed_data")}
    return xr.DataTree.from_dict({**groups, "posterior_predictive": predicted["posterior_predictive"].to_dataset()})


def stored(tree):
    return tree["posterior_predictive"]["y"].values.reshape(S, -1).astype(np.float64)


def test_shares_by_group_equal_numpy_on_stored_draws(model, tree):
    table = model.check(X, Y, by={"region": REGION}, statistics=STATISTICS, max_rows=None, rng_key=KEY).statistics
    functions = {
        "mean": np.mean,
        "sd": np.std,
        "smallest": np.min,
        "largest": np.max,
        "positive": lambda y: (y > 0).mean(),
        "upper": lambda y: np.quantile(y.astype(np.float32), 0.9),
    }
    drawn, observed = stored(tree), Y.astype(np.float64)
    for line in table.itertuples():
        rows = line.region == REGION
        values = np.array([functions[line.statistic](each[rows]) for each in drawn])
        value = functions[line.statistic](observed[rows])
        np.testing.assert_allclose(line.observed, value, rtol=1e-6)
        np.testing.assert_allclose(line.predicted, values.mean(), rtol=1e-5)
        np.testing.assert_allclose(line.p, (values > value).mean() + 0.5 * (values == value).mean(), atol=1e-9)
    assert len(table) == 6 * 3
    assert set(table["verdict"]) == {"ok"}


def test_pit_values_equal_arviz_on_the_same_draws(model, tree):
    found = model.check(X, Y, max_rows=None, rng_key=KEY).calibration
    values = np.minimum(arviz_stats.loo_pit(tree)["y"].values, 1.0)
    expected = (values[:, None] <= found.edges).mean(axis=0)
    # A value on an edge may be counted on either side after rounding.
    np.testing.assert_allclose(found.ecdf, expected, atol=2.5 / N)
    assert found.leave_one_out
    assert found.n == N
    np.testing.assert_allclose(found.histogram().sum(), 1.0)


def test_discrete_pit_is_the_mean_of_the_randomized_one():
    x = X[:M]
    y = RNG.poisson(np.exp(0.3 * x))
    model = given(counts, y)
    found = model.check(x, y, rng_key=KEY).calibration
    drawn = model.predict(x, rng_key=KEY, store="memory", progress=False)
    scores = model.log_likelihood(x, y, store="memory", progress=False)
    groups = {name: scores[name].to_dataset() for name in ("posterior", "log_likelihood", "observed_data")}
    tree = xr.DataTree.from_dict({**groups, "posterior_predictive": drawn["posterior_predictive"].to_dataset()})
    randomized = arviz_stats.loo_pit(tree)["y"].values
    np.testing.assert_allclose(found.ecdf, (randomized[:, None] <= found.edges).mean(axis=0), atol=0.06)
    assert found.is_discrete
    assert not found.is_binary


def test_result_does_not_depend_on_how_rows_are_read(model):
    whole = model.check(X, Y, by={"region": REGION}, max_rows=None, rng_key=KEY)
    batches = model.check(iter([(X[:700], Y[:700]), (X[700:], Y[700:])]), by={"region": REGION}, rng_key=KEY)
    np.testing.assert_array_equal(batches.calibration.below, whole.calibration.below)
    assert batches.lines == whole.lines


def test_parts_of_rows_add_up_to_the_whole():
    drawn, density = RNG.normal(size=(S, 60, 2)), -(RNG.normal(size=(S, 60, 2)) ** 2)
    observed, codes = RNG.normal(size=(60, 2)), RNG.integers(0, 3, 60)
    observed[5, 0] = np.nan
    whole = PredictiveChecks(S, 3, 1.0, row_statistics={"positive": STATISTICS["positive"]}, kept=np.arange(0, 60, 7))
    whole.add(0, drawn, observed, density, codes)
    parts = whole.empty()
    for rows in (slice(40, 60), slice(0, 40)):
        part = whole.empty()
        part.add(rows.start, drawn[:, rows], observed[rows], density[:, rows], codes[rows])
        parts.merge(part)
    for name in ("count", "mean", "sd", "zeros", "low", "high"):
        np.testing.assert_allclose(getattr(parts.drawn, name), getattr(whole.drawn, name), rtol=1e-12)
    np.testing.assert_allclose(parts.calibration.below, whole.calibration.below, rtol=1e-12)
    np.testing.assert_array_equal(parts.kept_values(codes)[0], whole.kept_values(codes)[0])
    assert whole.calibration.n == 119


def test_probabilities_of_binary_outcomes_are_compared_with_shares():
    y = (RNG.random(N) < 1 / (1 + np.exp(-X))).astype(np.int32)
    model = given(binary, y)
    right = model.check(X, y)
    p, share, error, count = right.calibration.reliability()
    assert right.calibration.is_binary
    assert count.sum() == N
    assert (abs(share - p) < 4 * error + 0.01).all()
    np.testing.assert_allclose((p * count).sum() / N, (1 / (1 + np.exp(-X))).mean(), atol=5e-3)
    wrong = model.set_posterior_sample({"a": DRAWS["a"] + 1}, num_chains=2).check(X, y)
    assert "predicted probabilities differ" in " ".join(str(wrong).split())
    assert [ax.get_ylabel() for ax in wrong.plot().axes] == ["observed share", "number of rows"]


def test_interacting_rows_are_checked_together():
    found = given(centered, Y).check(X[:M], Y[:M], rng_key=KEY)
    assert found.calibration.n == M
    assert found.calibration.leave_one_out
    assert found.calibration.distance < found.calibration.tolerated_distance


def test_pit_of_a_wrong_scale_equals_its_closed_form(model):
    """Values with sd 2 are predicted with sd 1: the PIT is below u with probability ``cdf(ppf(u) / 2)``."""
    y = (X + 2 * RNG.normal(size=N)).astype(np.float32)
    found = model.check(X, y).calibration
    expected = stats.norm.cdf(stats.norm.ppf(found.edges[1:-1]) / 2)
    np.testing.assert_allclose(found.ecdf[1:-1], expected, atol=0.04)
    assert found.distance > found.tolerated_distance


def test_other_rows_than_those_of_the_fit_are_not_left_out(model):
    found = model.check(X[:50], Y[:50], max_rows=20)
    assert found.n_obs == 20
    assert not found.calibration.leave_one_out
    assert found.why_not_loo == "the rows are not the rows of the fit"


def test_bad_group_is_named_and_many_groups_raise_no_false_alarm(model):
    shifted = Y + np.where(REGION == "south", 3.0, 0.0).astype(np.float32)
    text = " ".join(str(model.check(X, shifted, by={"region": REGION}, max_rows=None)).split())
    assert "the predicted mean is off: check the link, the intercept and the priors (in south)" in text
    many = model.check(X, Y, by={"store": np.arange(N) % 100}, max_rows=None).statistics
    assert (many["verdict"] == "ok").mean() > 0.98


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (["mean"], "must map names to functions"),
        ({"rank": np.argsort}, "depends on no other value"),
        ({"two": lambda y: np.array([1.0, 2.0])}, "must return one number"),
    ],
)
def test_statistics_are_functions_of_values(model, statistics, message):
    with pytest.raises((TypeError, ValueError), match=message):
        model.check(X, Y, statistics=statistics)


def test_masked_rows_are_left_out():
    def kernel(X, keep, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 5.0))
        with numpyro.plate("obs", X.shape[0]), numpyro.handlers.mask(mask=keep):
            numpyro.sample("y", dist.Normal(a + X, 1.0), obs=y)

    keep = np.arange(M) % 5 > 0
    x, y = X[:M], np.where(keep, Y[:M], 1e6).astype(np.float32)
    model = ImpactModel(kernel, 0)
    model.describe(x, y, keep=keep)
    found = model.set_posterior_sample(DRAWS).check(x, y, args={"keep": keep})
    assert found.calibration.n == keep.sum()
    assert found.to_pandas().query("question == 'data'")["verdict"].eq("ok").all()


def test_plot_shows_calibration_and_needs_it(model):
    figure = model.check(X, Y).plot()
    assert [ax.get_xlabel() for ax in figure.axes] == ["PIT value", "PIT value"]
    with pytest.raises(TypeError, match="needs the calibration"):
        plots.plot_calibration(3)
    with pytest.raises(ValueError, match="got none"):
        plots.plot_calibration(Calibration())

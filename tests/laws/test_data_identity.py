"""What looks alike and is not: other functions, other scales, other names, and numbers that have lost their meaning."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random

import aimz
from stream_helpers import new_model

N = 1500
KEY = random.key(5)
X = np.linspace(0.0, 1.0, N, dtype=np.float32)
QUIET = {"progress": False, "rng_key": KEY}


def kernel(X, y=None):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", level + X)
        numpyro.sample("y", dist.Normal(mu, 0.1), obs=y)


@pytest.fixture(scope="module")
def model():
    return new_model(kernel, {"level": np.array([1.0, 2.0], np.float32)})


def means(model, how: str, values) -> list[float]:
    """Set `mu` by a function that is made for each call, and gone after it."""
    found = []
    for value in values:
        intervention = {"mu": lambda mu, value=value: 0 * mu + value}
        options = {"store": "memory", **QUIET}
        if how == "compare_scenarios":
            scenarios = {"as is": {"intervention": {"mu": 0.0}}, "set": {"intervention": intervention}}
            tree = model.compare_scenarios(scenarios, baseline="as is", return_sites="mu", X=X, **QUIET)
            array = tree["scenarios"]["mu"].sel(scenario="set")
        elif how == "estimate_effect":
            tree = model.estimate_effect(
                args_baseline={"X": X, "intervention": {"mu": 0.0}, "return_sites": "mu"},
                args_intervention={"X": X, "intervention": intervention, "return_sites": "mu", **options},
                statistics="mean",
            )
            array = tree["posterior_predictive"]["mu"]
        else:
            tree = getattr(model, how)(X, intervention=intervention, return_sites="mu", **options)
            array = tree["posterior_predictive"]["mu"]
        found.append(float(array.mean()))
    return found


@pytest.mark.parametrize("how", ["predict", "sample_posterior_predictive", "compare_scenarios", "estimate_effect"])
def test_a_function_is_not_taken_for_one_that_is_gone(model, how):
    """The place of a function that was dropped is given to the next."""
    values = [0.0, 1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(means(model, how, values), values, atol=1e-6)


def test_a_callable_that_changes_is_asked_again(model):
    class Add:
        by = 0.0

        def __call__(self, mu):
            return 0 * mu + self.by

    act, found = Add(), []
    for by in (1.0, 2.0, 3.0):
        act.by = by
        tree = model.predict(X, intervention={"mu": act}, return_sites="mu", store="memory", **QUIET)
        found.append(float(tree["posterior_predictive"]["mu"].mean()))
    assert found == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("scale", [1e-40, 1e-300, 1e38, 1e300, 3.0])
def test_the_scale_of_weights_does_not_matter(model, scale):
    weights = np.arange(N) % 3
    two = {"as is": {}, "set": {"intervention": {"X": 1.0}}}
    options = {"baseline": "as is", "return_sites": "mu", "X": X, **QUIET}
    plain = model.compare_scenarios(two, weights=weights, **options)
    scaled = model.compare_scenarios(two, weights=weights * scale, **options)
    np.testing.assert_allclose(scaled["effect"]["mu"], plain["effect"]["mu"], rtol=1e-6)
    np.testing.assert_allclose(scaled["groups"]["weight"], weights.sum() * scale, rtol=1e-6)


def test_an_argument_of_the_kernel_is_no_option():
    def weighted(X, weights=None, y=None):
        level = numpyro.sample("level", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(level + (0.0 if weights is None else weights), 0.1), obs=y)

    model = new_model(weighted, {"level": np.zeros(2)})
    with pytest.raises(TypeError, match="could be the option"):
        model.compare_scenarios({"a": {}, "b": {}}, baseline="a", X=X, weights=X)
    found = model.compare_scenarios({"a": {}, "b": {"weights": np.ones(N)}}, baseline="a", X=X, **QUIET)
    np.testing.assert_allclose(found["effect"]["y"], 1.0, atol=1e-5)


def test_half_of_a_negative_number_is_no_less():
    model = new_model(kernel, {"level": np.array([-10.0, -10.1])})
    with pytest.warns(UserWarning, match="is below 0"):
        found = model.compare_scenarios(
            {"as is": {}, "half": {"intervention": {"level": -5.0}}},
            baseline="as is",
            contrast="lift",
            return_sites="mu",
            X=X,
            **QUIET,
        )
    (text,) = aimz.in_words(found)
    assert "lower" not in text
    assert "higher" not in text
    assert "lift" in text


def test_what_was_computed_from_ratios_is_no_ratio(model):
    two = {"as is": {}, "up": {"intervention": {"level": 3.0}}, "down": {"intervention": {"level": 0.5}}}
    found = model.compare_scenarios(two, baseline="as is", contrast="ratio", return_sites="mu", X=X, **QUIET)
    ratio = found["effect"]["mu"]
    assert "P(>1)" in aimz.summary(ratio)
    assert "P(>1)" in aimz.summary(ratio.sel(scenario=["up"]))
    difference = ratio.sel(scenario="up") - ratio.sel(scenario="down")
    assert "P(>0)" in aimz.summary(difference)
    assert "times" not in aimz.in_words(difference)[0]


@pytest.mark.parametrize("name", ["site", "mean", "sd", "P(>0)", "eti89_lb"])
def test_groups_do_not_take_the_place_of_columns(model, name):
    with pytest.raises(ValueError, match="its table has that name"):
        model.compare_scenarios({"a": {}, "b": {}}, baseline="a", by={name: np.arange(N) % 2}, X=X)


def test_a_group_may_be_called_all(model):
    two = {"as is": {}, "up": {"intervention": {"level": 3.0}}}
    by = np.where(X < 0.5, "all", "some")
    found = model.compare_scenarios(two, baseline="as is", by={"part": by}, return_sites="mu", X=X, **QUIET)
    texts = aimz.in_words(found)
    assert [text.startswith("For part") for text in texts] == [False, True, True]
    assert texts[1].startswith("For part all:")


def test_digits_are_enough_to_show_the_spread():
    import xarray as xr

    draws = xr.DataArray(123456 + 10 * np.linspace(-1, 1, 999)[None], dims=("chain", "draw"), name="total")
    (text,) = aimz.in_words(draws)
    assert "123456" in text
    assert "123447" in text
    draws = xr.DataArray(np.where(np.arange(9999) < 1, -1.0, 1.0)[None], dims=("chain", "draw"), name="total")
    assert "probability over 99.9 %" in aimz.in_words(draws)[0]


def mixing(X, y=None):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", level * (X - X.mean()))
        numpyro.sample("y", dist.Normal(mu, 0.1), obs=y)


@pytest.mark.filterwarnings("ignore:Kernel .* cannot be split")
@pytest.mark.parametrize("intervention", [{"mu": 2.0}, {"X": 0.5}, {"X": lambda x: 2 * x}])
def test_rows_of_an_iterable_that_mix(intervention):
    model = new_model(mixing, {"level": np.array([1.0, 2.0], np.float32)})

    def batches():
        for start in range(0, N, 300):
            yield {"X": X[start : start + 300]}

    two = {"as is": {}, "set": {"intervention": intervention}}
    by = np.arange(N) % 3
    options = {"baseline": "as is", "return_sites": "mu", **QUIET}
    if callable(intervention.get("X")):
        two["set"] = {"intervention": intervention}
    found = model.compare_scenarios(two, X=batches(), by=by, **options)
    expected = model.compare_scenarios(two, X=X, by=by, **options)
    np.testing.assert_allclose(found["effect"]["mu"], expected["effect"]["mu"], atol=1e-6)
    with pytest.raises(ValueError, match="1500 rows, and `by`"):
        model.compare_scenarios(two, X=batches(), by=np.arange(2000) % 3, **options)


def test_a_contrast_is_tried_before_any_work(model):
    seen = []

    def batches():
        for start in range(0, N, 300):
            seen.append(start)
            yield {"X": X[start : start + 300]}

    with pytest.raises(ValueError, match="must return an array"):
        model.compare_scenarios(
            {"a": {}, "b": {}}, baseline="a", X=batches(), contrast=lambda s, b: s.values - b.values
        )
    assert len(seen) < N // 300


def test_to_compare_nothing_is_refused(model):
    with pytest.raises(ValueError, match="must name a site"):
        model.compare_scenarios({"a": {}, "b": {}}, baseline="a", X=X, return_sites=[])


def frame(**columns):
    return pd.DataFrame({"a": np.zeros(9), "b": np.ones(9)} | columns)


def table_kernel(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(slope * X[:, 0] + 2 * X[:, 1], 0.1), obs=y)


def test_frames_are_not_mixed_up():
    model = new_model(table_kernel, {"slope": np.ones(2)})
    twice = pd.DataFrame(np.zeros((9, 2)), columns=["a", "a"])
    with pytest.raises(ValueError, match="must have different names"):
        model.predict(twice, intervention={"a": 1.0})
    with pytest.raises(ValueError, match="in one order"):
        model.compare_scenarios({"one": {"X": frame()}, "other": {"X": frame()[["b", "a"]]}}, baseline="one")
    labels = pd.Series(np.arange(9) % 2, index=np.arange(9)[::-1])
    with pytest.raises(ValueError, match="another index"):
        model.compare_scenarios({"one": {}, "other": {}}, baseline="one", by=labels, X=frame())
    numbered = pd.DataFrame(np.zeros((9, 2)), columns=[0, 1])
    found = model.predict_on_batch(numbered, intervention={0: 3.0}, rng_key=KEY)["posterior_predictive"]["y"]
    np.testing.assert_allclose(found.mean(), 3.0, atol=0.1)
    with pytest.raises(TypeError, match="numeric"):
        model.predict(frame(), intervention={"a": lambda a: a.astype(str)})


def scaled(X, scale=1.0, y=None):
    level = numpyro.sample("level", dist.Normal(0, 10))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + X, scale), obs=y)


def test_scores_are_those_of_the_fit():
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    svi = SVI(scaled, AutoNormal(scaled), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = aimz.ImpactModel(scaled, random.key(0), svi)
    y = X + np.asarray(random.normal(random.key(1), X.shape))
    model.fit_on_batch(X, y, scale=1.0, num_steps=300, progress=False)
    for ask in (model.loo, model.diagnose):
        with pytest.raises(ValueError, match="fit"):
            ask(X, y, scale=0.05)
    assert np.isfinite(model.loo(X, y, scale=1.0, progress=False).elpd)


def test_a_bound_is_compared_as_a_double(model):
    """The nearest float to 0.1 lies above it."""
    found = model.predict(
        X, intervention={"mu": 0.1}, return_sites="mu", statistics=(("exceeds", 0.1),), store="memory", **QUIET
    )
    assert (found["posterior_predictive"]["mu"] == 1).all()

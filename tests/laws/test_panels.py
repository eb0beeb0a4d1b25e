"""Labels and weights that vary within a row, along further axes of the output, equal NumPy's on draws of each row."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader

S, N, T, K = 6, 1500, 5, 2
RNG = np.random.default_rng(5)
X, PRICE = RNG.normal(size=N).astype(np.float32), RNG.uniform(1, 2, (N, T)).astype(np.float32)
SLOPE = np.linspace(-1, 1, S).astype(np.float32)
TREND = RNG.normal(size=(S, T, K)).astype(np.float32)
WEIGHTS = RNG.integers(0, 4, (N, T)).astype(np.float64)
QUARTER = np.where(np.arange(T) < 2, "q1", "q2")
REGION = np.arange(N) % 3
ACTIVE = RNG.integers(0, 2, (N, T))
SCENARIOS = {"as is": {}, "dear": {"intervention": {"price": 3.0}}}
OPTIONS = {"baseline": "as is", "X": X, "price": PRICE, "progress": False, "rng_key": random.key(3)}


def kernel(X, price, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    trend = numpyro.sample("trend", dist.Normal(0, 1).expand([T, K]).to_event(2))
    numpyro.deterministic("level", slope * X)
    mean = (slope * X[:, None] * price)[:, :, None] + trend
    numpyro.deterministic("mean", mean)
    with numpyro.plate("shop", X.shape[0], dim=-3):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def kernel_of_sums(X, price, y=None):
    """Rows depend on one another, so that all are computed together."""
    kernel(X - X.mean(), price, y)


def model_of(function=kernel):
    dims = {"y": ["shop", "week", "product"], "mean": ["shop", "week", "product"]}
    model = ImpactModel(
        function,
        random.key(0),
        MCMC(NUTS(function), num_warmup=1, num_samples=1),
        dims=dims,
        coords={"week": [f"w{i}" for i in range(T)]},
    )
    return model.set_posterior_sample({"slope": SLOPE, "trend": TREND})


def expected(price, x=X):
    level = SLOPE.astype(float)[:, None] * x
    return level, (level[:, :, None] * price)[..., None] + TREND[:, None].astype(float)


def average(values, weights, codes, n_codes):
    """Return averages ``(S, n_codes, ...)`` of ``(S, N, T, ...)``."""
    cells = [weights * (codes == code) for code in range(n_codes)]
    return np.stack([np.einsum("snt...,nt->s...", values, cell) / cell.sum() for cell in cells], axis=1)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("function", [kernel, kernel_of_sums])
@pytest.mark.filterwarnings("ignore:Kernel `kernel_of_sums`")
def test_panel_averages_equal_those_of_stored_rows(function, batch_size):
    x = X if function is kernel else X - X.mean(dtype=np.float64)
    options = {**OPTIONS, "batch_size": batch_size}
    found = model_of(function).compare_scenarios(
        SCENARIOS, weights=WEIGHTS, by={"region": REGION, "active": ACTIVE}, **options
    )
    codes = REGION[:, None] * 2 + ACTIVE
    assert found["groups"]["rows"].dims == ("region", "active")
    np.testing.assert_array_equal(found["groups"]["rows"].values.ravel(), np.bincount(codes.ravel()))
    np.testing.assert_allclose(
        found["groups"]["weight"].values.ravel(), np.bincount(codes.ravel(), WEIGHTS.ravel()), rtol=1e-12
    )
    assert list(found["groups"].attrs["averaged_over"]) == ["shop", "week"]
    for scenario, price in (("as is", PRICE.astype(float)), ("dear", np.full_like(PRICE, 3.0, float))):
        level, mean = expected(price, x)
        there = found["scenarios"].sel(scenario=scenario)
        assert there["y"].dims == ("chain", "draw", "region", "active", "product")
        hand = average(mean, WEIGHTS, codes, 6).reshape(S, 3, 2, K)
        np.testing.assert_allclose(there["y"].values[0], hand, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(there["mean"].values[0], hand, rtol=1e-5, atol=1e-5)
        by_row = np.broadcast_to(level[:, :, None], (S, N, T))
        hand = average(by_row, WEIGHTS, codes, 6).reshape(S, 3, 2)
        np.testing.assert_allclose(there["level"].values[0], hand, rtol=1e-5, atol=1e-5)
    overall = found["scenarios_overall"]["y"].sel(scenario="dear").values[0]
    np.testing.assert_allclose(overall, average(mean, WEIGHTS, codes * 0, 1)[:, 0], rtol=1e-5, atol=1e-5)


def test_panel_averages_of_outcomes_equal_stored_draws():
    """Means over the same draws as `predict` returns, in memory, from a loader and from xarray with other order."""
    model = model_of()
    draws = model.predict(X, price=PRICE, progress=False, rng_key=OPTIONS["rng_key"], store="memory")
    y = draws["posterior_predictive"]["y"].values[0].astype(float)
    found = model.compare_scenarios(SCENARIOS, weights=WEIGHTS, kind="outcome", return_sites="y", **OPTIONS)
    hand = average(y, WEIGHTS, np.zeros((N, T)), 1)[:, 0]
    np.testing.assert_allclose(found["scenarios"]["y"].sel(scenario="as is").values[0], hand, rtol=1e-5, atol=1e-5)
    assert int(found["groups"]["rows"]) == N * T
    named = xr.DataArray(WEIGHTS.T, dims=("week", "shop"), coords={"week": [f"w{i}" for i in range(T)]})
    loader = ArrayLoader(ArrayDataset(X=X, price=PRICE), rng_key=random.key(0), batch_size=400)
    streamed = {name: value for name, value in OPTIONS.items() if name not in ("X", "price")} | {"X": loader}
    for options in (
        {"weights": named, **OPTIONS},
        {"weights": named[::-1], **OPTIONS},
        {"weights": WEIGHTS, **streamed},
    ):
        other = model.compare_scenarios(SCENARIOS, kind="outcome", return_sites="y", **options)
        xr.testing.assert_equal(other["scenarios"].to_dataset(), found["scenarios"].to_dataset())


def test_labels_of_one_axis_hold_for_all_rows():
    by = {"quarter": xr.DataArray(QUARTER, dims="week")}
    found = model_of().compare_scenarios(SCENARIOS, by=by, return_sites="y", **OPTIONS)
    _, mean = expected(PRICE.astype(float))
    there = found["scenarios"]["y"].sel(scenario="as is")
    for quarter in ("q1", "q2"):
        hand = mean[:, :, quarter == QUARTER].mean((1, 2))
        np.testing.assert_allclose(there.sel(quarter=quarter).values[0], hand, rtol=1e-5, atol=1e-5)
    # An argument of the kernel with the axes of the output can give the weights, too.
    found = model_of().compare_scenarios(SCENARIOS, weights="price", return_sites="y", **OPTIONS)
    hand = average(mean, PRICE.astype(float), np.zeros((N, T)), 1)[:, 0]
    np.testing.assert_allclose(found["scenarios"]["y"].sel(scenario="as is").values[0], hand, rtol=1e-5, atol=1e-5)


def test_rows_with_nan_are_left_out_of_a_panel():
    price = PRICE.copy()
    price[[3, 900], 1] = np.nan
    kept = ~np.isnan(price).any(1)
    options = {**OPTIONS, "price": price, "nan_policy": "omit", "return_sites": "y"}
    with pytest.warns(UserWarning, match="NaN"):
        found = model_of().compare_scenarios(SCENARIOS, by={"active": ACTIVE}, **options)
    np.testing.assert_array_equal(found["groups"]["rows"], np.bincount(ACTIVE[kept].ravel()))
    hand = average(expected(PRICE.astype(float))[1][:, kept], np.ones((N - 2, T)), ACTIVE[kept], 2)
    np.testing.assert_allclose(found["scenarios"]["y"].sel(scenario="as is").values[0], hand, rtol=1e-5, atol=1e-5)


def test_panel_values_that_do_not_fit_raise():
    model, options = model_of(), {**OPTIONS, "return_sites": "y"}
    week = xr.DataArray(np.ones(T), dims="week", coords={"week": [*"abcd", "w0"]})
    for wrong, message in (
        ({"weights": np.ones((T, N))}, r"`weights` must have one number for each row, or for each entry of `y`; .*fit"),
        ({"weights": np.ones((N, T + 1))}, r"got shape \(1500, 6\), which does not fit: `y` has shape"),
        ({"weights": np.ones((N - 1, T))}, r"`weights` must have one value for each of the 1500 rows; got 1499"),
        ({"by": {"q": xr.DataArray(np.ones((N, T)), dims=("shop", "month"))}}, r"got \('shop', 'month'\)"),
        ({"weights": week}, "of which 4 of 5 are missing"),
        ({"weights": -WEIGHTS}, "at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.compare_scenarios(SCENARIOS, **wrong, **options)

    def square(X, y=None):
        numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("shop", X.shape[0], dim=-3):
            numpyro.sample("y", dist.Normal(X[:, None, None], jnp.ones((T, T))), obs=y)
            numpyro.deterministic("other", jnp.ones((X.shape[0], 3)))

    ambiguous = ImpactModel(square, random.key(0), MCMC(NUTS(square), num_warmup=1, num_samples=1))
    ambiguous.set_posterior_sample({"slope": SLOPE})
    pair = {"baseline": "a", "X": X, "progress": False}
    with pytest.raises(ValueError, match="could run along several of its axes"):
        ambiguous.compare_scenarios({"a": {}, "b": {}}, weights=WEIGHTS, **pair)
    named = xr.DataArray(WEIGHTS, dims=("shop", "y_dim_2"))
    with pytest.raises(ValueError, match="which axis of `other` it is"):
        ambiguous.compare_scenarios({"a": {}, "b": {}}, weights=named, **pair)

"""Interventions whose value differs between draws equal NumPyro's `do`, applied draw by draw."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from jax import random
from numpyro.handlers import do
from numpyro.infer import MCMC, NUTS, Predictive

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader

pytestmark = pytest.mark.filterwarnings("ignore:.*`price`, which are not in the posterior")

C, D, N = 2, 5, 1500
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, 2)).astype(np.float32)
COST = RNG.uniform(1, 2, N).astype(np.float32)
DRAWS = {"slope": RNG.normal(size=C * D).astype(np.float32), "lift": RNG.normal(size=C * D).astype(np.float32)}
PRICE = xr.DataArray(RNG.normal(size=(C, D)), dims=("chain", "draw"))
FLAT = PRICE.values.reshape(-1)
OPTIONS = {"cost": COST, "progress": False, "rng_key": random.key(8)}


def kernel(X, cost, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    lift = numpyro.sample("lift", dist.Normal(0, 1))
    with numpyro.plate("shop", X.shape[0]):
        price = numpyro.sample("price", dist.Normal(X[:, 0], 0.0001))
        mean = numpyro.deterministic("mean", slope * price + lift * X[:, 1] * cost)
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


@cache
def model():
    made = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return made.set_posterior_sample(DRAWS, num_chains=C)


def mean_of(price=None, lift=None, cost=COST, second=X[:, 1]):
    """Return the mean ``(C, D, N)`` under interventions of shape ``(C * D, 1)`` or ``(N,)``."""
    lift = DRAWS["lift"][:, None] if lift is None else lift
    price = X[:, 0] if price is None else price
    return (DRAWS["slope"][:, None] * price + lift * second * cost).reshape(C, D, N)


def mean(tree):
    return next(tree[name] for name in tree.children if name.endswith("predictive"))["mean"].values


CASES = {
    "site with rows": ({"price": PRICE}, lambda: mean_of(price=FLAT[:, None])),
    "site without rows": ({"lift": PRICE}, lambda: mean_of(lift=FLAT[:, None])),
    "argument": ({"cost": PRICE}, lambda: mean_of(cost=FLAT[:, None])),
    "two": ({"cost": PRICE, "price": 2 * PRICE}, lambda: mean_of(cost=FLAT[:, None], price=2 * FLAT[:, None])),
}


@pytest.mark.parametrize("name", CASES)
def test_values_by_draw_equal_closed_form_in_every_method(name, tmp_path):
    intervention, expected = CASES[name]
    given = {"return_sites": ["mean", "y"], "intervention": intervention, **OPTIONS}
    streamed = model().predict(X, store="memory", **given)
    np.testing.assert_allclose(mean(streamed), expected(), rtol=1e-4, atol=2e-3)
    if name != "two":
        return
    on_batch = model().predict_on_batch(X, **{key: value for key, value in given.items() if key != "progress"})
    np.testing.assert_allclose(mean(on_batch), expected(), rtol=1e-4, atol=2e-3)
    by_draws = model().predict(X, store="memory", shard_axis="draw", **given)
    np.testing.assert_array_equal(mean(by_draws), mean(streamed))
    stored = model().predict(X, output_dir=tmp_path, batch_size=1, **given)
    np.testing.assert_array_equal(mean(stored), mean(streamed))
    noise = streamed["posterior_predictive"]["y"].values - mean(streamed)
    plain = model().predict(X, store="memory", **{**given, "intervention": None})["posterior_predictive"]
    np.testing.assert_allclose(noise, plain["y"].values - plain["mean"].values, atol=1e-5)
    loader = ArrayLoader(ArrayDataset(X=X, cost=COST), random.key(0), batch_size=400)
    rows = {key: value for key, value in given.items() if key != "cost"}
    np.testing.assert_array_equal(mean(model().predict(loader, store="memory", **rows)), mean(streamed))


def test_values_by_draw_equal_numpyro_do():
    """Also of a site that is drawn and of an outcome, in distribution: the mean of many rows is that of `do`."""
    flat = {name: jnp.asarray(value) for name, value in DRAWS.items()}
    theirs = []
    for i in range(C * D):
        done = do(kernel, {"price": jnp.full(N, FLAT[i], jnp.float32)})
        one = {name: value[i : i + 1] for name, value in flat.items()}
        theirs.append(Predictive(done, one, return_sites=["mean"])(random.key(0), X, COST)["mean"][0])
    ours = model().predict(X, store="memory", intervention={"price": PRICE}, **OPTIONS)
    np.testing.assert_allclose(mean(ours).reshape(C * D, N), np.stack(theirs), rtol=1e-5, atol=1e-5)


def test_values_by_draw_of_columns_rows_and_priors():
    frame = pd.DataFrame(X, columns=["visits", "size"])
    here = model()
    found = here.predict(frame, store="memory", intervention={"size": PRICE}, **OPTIONS)
    np.testing.assert_allclose(mean(found), mean_of(second=FLAT[:, None]), rtol=1e-4, atol=2e-3)
    # A prediction of a site can be set in another call: one value for each draw and row, in any order.
    predicted = here.predict(X, store="memory", return_sites=["price"], **OPTIONS)["posterior_predictive"]["price"]
    for value in (predicted, predicted[::-1, ::-1].transpose("shop", "draw", "chain")):
        found = here.predict(X, store="memory", intervention={"price": value}, **OPTIONS)
        expected = mean_of(price=predicted.values.reshape(C * D, N))
        np.testing.assert_allclose(mean(found), expected, rtol=1e-5, atol=1e-5)
    by_row = here.predict(X, store="memory", intervention={"cost": predicted}, **OPTIONS)
    np.testing.assert_allclose(mean(by_row), mean_of(cost=predicted.values.reshape(C * D, N)), rtol=1e-4, atol=2e-3)
    sites = ["mean", "slope", "lift"]
    found = here.sample_prior_predictive_on_batch(
        X,
        intervention={"price": xr.DataArray(FLAT, dims="draw")},
        num_samples=C * D,
        return_sites=sites,
        cost=COST,
        rng_key=random.key(1),
    )["prior_predictive"]
    slope, lift = (found[name].values[0][:, None] for name in ("slope", "lift"))
    np.testing.assert_allclose(found["mean"].values[0], slope * FLAT[:, None] + lift * X[:, 1] * COST, atol=1e-4)


def test_effects_of_values_by_draw():
    scenarios = {
        "as is": {},
        "one": {"intervention": {"price": PRICE}},
        "double": {"intervention": {"price": 2 * PRICE}},
        "cheap": {"intervention": {"cost": 0.5 * PRICE}},
    }
    found = model().compare_scenarios(scenarios, baseline="as is", X=X, **OPTIONS)["scenarios"]["mean"]
    for name, expected in (
        ("one", mean_of(price=FLAT[:, None])),
        ("double", mean_of(price=2 * FLAT[:, None])),
        ("cheap", mean_of(cost=0.5 * FLAT[:, None])),
    ):
        np.testing.assert_allclose(found.sel(scenario=name), expected.mean(-1), rtol=1e-4, atol=2e-3)
    by_row = model().estimate_effect(
        args_baseline={"X": X, **OPTIONS, "intervention": {"price": 0.0}},
        args_intervention={"X": X, **OPTIONS, "intervention": {"price": PRICE}, "store": "memory"},
        statistics="mean",
    )
    expected = (DRAWS["slope"] * FLAT).mean()
    found = by_row["posterior_predictive"]["mean"].sel(statistic="mean")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_values_by_draw_that_do_not_fit_raise():
    here = model()
    for wrong, error, message in (
        ({"price": PRICE[:, :3]}, ValueError, r"must have one value for each draw, \{'chain': 2, 'draw': 5\}; got"),
        ({"price": PRICE.isel(chain=0)}, ValueError, r"got \{'draw': 5\}"),
        ({"price": FLAT}, ValueError, r"For one value for each draw, pass an xarray.DataArray with dimensions"),
        ({"price": PRICE.expand_dims(week=3)}, ValueError, "must broadcast to its shape"),
    ):
        with pytest.raises(error, match=message):
            here.predict(X, intervention=wrong, **OPTIONS)


def test_indices_by_draw_are_checked():
    def grouped(X, shop, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([3]))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(level[shop] + X, 1.0), obs=y)

    made = ImpactModel(grouped, random.key(0), MCMC(NUTS(grouped), num_warmup=1, num_samples=1))
    made.set_posterior_sample({"level": np.arange(12.0).reshape(4, 3)})
    shop = xr.DataArray([0, 1, 2, 1], dims="draw")
    given = {"shop": np.zeros(4, int), "progress": False, "return_sites": ["y"]}
    found = made.compare_scenarios(
        {"as is": {}, "other": {"intervention": {"shop": shop}}}, baseline="as is", X=np.zeros(4), **given
    )
    np.testing.assert_allclose(found["scenarios"]["y"].sel(scenario="other")[0], [0, 4, 8, 10])
    with pytest.raises(ValueError, match="index outside of"):
        made.predict(np.zeros(4), intervention={"shop": shop + 1}, **given)

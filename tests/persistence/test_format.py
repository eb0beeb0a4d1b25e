"""Models saved in format 1, which every later version must read.

The files in ``format_1`` were written once, by the functions :func:`make_sales` and :func:`make_normalised` below, and
stay as they are.  If a change makes this fail, it is the change that is wrong.
"""

import json
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
from flax import linen
from jax import random
from numpyro.contrib.module import flax_module
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from safetensors.numpy import load_file

from aimz import ImpactModel

HERE = Path(__file__).parent / "format_1"
WEEKS = pd.date_range("2024-01-01", periods=8, freq="W", tz="UTC", name="week")
FRAME = pd.DataFrame({"price": np.linspace(1, 2, 8), "rain": np.cos(np.arange(8))}, index=WEEKS, dtype="float32")
SALES = np.round(5 - 2 * FRAME["price"].to_numpy() + 0.5 * FRAME["rain"].to_numpy(), 2).astype("float32")
SHOP = np.array([0, 1] * 4)


def sales(X, y=None, *, shop, n_shops):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("shops", n_shops):
        level = numpyro.sample("level", dist.Normal(5, 3))
    mu = numpyro.deterministic("mu", level[shop] + X @ b)
    with numpyro.plate("weeks", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(linen.BatchNorm(use_running_average=False)(x))[:, 0]


def normalised(X, y=None):
    net = flax_module("net", Net(), mutable=["batch_stats"], input_shape=(1, X.shape[1]))
    z = numpyro.sample("z", dist.Normal())
    with numpyro.plate("weeks", X.shape[0]):
        numpyro.sample("y", dist.Normal(net(X) + z, 0.5), obs=y)


def chains():
    return MCMC(NUTS(sales), num_warmup=20, num_samples=3, num_chains=2, chain_method="vectorized", progress_bar=False)


def steps():
    return SVI(normalised, AutoNormal(normalised), optax.adam(0.01), Trace_ELBO())


def make_sales():
    dims = {"level": ["shop"]}
    model = ImpactModel(sales, random.key(1), chains(), dims=dims, coords={"shop": ["old", "new"]})
    return model.fit_on_batch(FRAME, SALES, shop=SHOP, n_shops=2, progress=False)


def make_normalised():
    model = ImpactModel(normalised, random.key(1), steps())
    return model.fit_on_batch(FRAME, SALES, num_steps=20, num_samples=4, progress=False)


def test_load_mcmc_model_with_labels_and_arguments():
    model = ImpactModel.load(HERE / "sales", sales, chains())
    stored = load_file(next((HERE / "sales").glob("*.safetensors")))
    tree = model.predict_on_batch(FRAME[["rain", "price"]], shop=SHOP, n_shops=2)
    assert dict(tree["posterior"].sizes) == {"chain": 2, "draw": 3, "b_dim_0": 2, "shop": 2}
    assert tree["posterior"].coords["shop"].values.tolist() == ["old", "new"]
    np.testing.assert_array_equal(tree["posterior"]["b"].values.reshape(6, 2), stored["posterior/b"])
    by_hand = stored["posterior/level"][:, SHOP] + stored["posterior/b"] @ FRAME.to_numpy().T
    np.testing.assert_allclose(tree["posterior_predictive"]["mu"].values.reshape(6, 8), by_hand, rtol=1e-5)
    assert tree["posterior_predictive"].indexes["weeks"].equals(WEEKS.tz_localize(None))  # results are in UTC
    np.testing.assert_array_equal(tree["observed_data"]["y"], SALES)
    assert set(tree["sample_stats"].data_vars) >= {"diverging", "energy", "n_steps"}
    more = model.sample(num_samples=2, X=FRAME, y=SALES, shop=SHOP, n_shops=2, return_datatree=False)
    assert more["level"].shape == (4, 2)


def test_load_svi_state_and_mutable_state():
    model = ImpactModel.load(HERE / "normalised", normalised, steps())
    assert len(model.vi_result.losses) == 20
    stored = load_file(next((HERE / "normalised").glob("*.safetensors")))
    mutable = {name: array for name, array in stored.items() if "mutable_state" in name and name.endswith("mean")}
    (mean,) = mutable.values()
    np.testing.assert_array_equal(model.vi_state.mutable_state["net$state"]["batch_stats"]["BatchNorm_0"]["mean"], mean)
    model.fit_on_batch(FRAME, SALES, num_steps=5, num_samples=2, progress=False)
    assert len(model.vi_result.losses) == 25
    assert ImpactModel.load(HERE / "normalised", normalised).predict_on_batch(FRAME)["posterior"].sizes["draw"] == 4


def test_fixtures_have_format_1():
    for name in ("sales", "normalised"):
        index = json.loads((HERE / name / "model.json").read_text())
        assert (index["format"], index["format_version"]) == ("aimz-model", 1)
        assert index["versions"]["aimz"] == "0.1.0"

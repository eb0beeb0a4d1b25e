"""Arguments that are arrays without a row axis are passed whole; misaligned arrays are rejected."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel

N, DRAWS = 2100, 4
TABLE = np.array([1.0, 10.0, 100.0], np.float32)
SHOP = np.random.default_rng(0).integers(0, 3, N).astype(np.int32)
X = np.linspace(-1.0, 1.0, N, dtype=np.float32)
POSTERIOR = {"b": np.linspace(1.0, 2.0, DRAWS, dtype=np.float32)}
OPTIONS = {"store": "memory", "progress": False, "rng_key": random.key(2)}


def kernel(X, y=None, *, shop, table):
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", b * X + table[shop])
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def closed(X, y=None, *, shop):
    kernel(X, y, shop=shop, table=jnp.asarray(TABLE))


def new_model(kernel) -> ImpactModel:
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return model.set_posterior_sample(POSTERIOR)


def expected(table=TABLE) -> np.ndarray:
    return POSTERIOR["b"][:, None] * X + table[SHOP]


@pytest.mark.parametrize("table", [TABLE, TABLE.astype(float), jnp.asarray(TABLE), TABLE.astype(np.int32)])
def test_table_is_passed_whole(table):
    """Results equal, bit for bit, the results of a kernel with the table in its closure, in blocks and at once."""
    model, other = new_model(kernel), new_model(closed)
    streamed = model.predict(X, shop=SHOP, table=table, **OPTIONS)["posterior_predictive"]
    same = other.predict(X, shop=SHOP, **OPTIONS)["posterior_predictive"]
    assert streamed.attrs["row_block"] < N  # split along the rows
    np.testing.assert_array_equal(streamed["y"], same["y"])
    np.testing.assert_allclose(streamed["mu"].values[0], expected(), atol=1e-5)
    few = model.predict_on_batch(X[:3], shop=SHOP[:3], table=table, in_sample=False, return_datatree=False)
    np.testing.assert_allclose(few["mu"], expected()[:, :3], atol=1e-5)  # as many rows as the table has


def test_table_in_scores_effects_and_interventions():
    model = new_model(kernel)
    y = X + TABLE[SHOP]
    scores = model.log_likelihood(X, y, shop=SHOP, table=TABLE, store="memory", progress=False)["log_likelihood"]["y"]
    normal = -0.5 * (y - expected()) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(scores.values[0], normal, rtol=1e-3, atol=1e-3)
    found = model.compare_scenarios(
        {
            "is": {},
            "set": {"intervention": {"table": TABLE + 2.0}},
            "map": {"intervention": {"table": lambda t: t + 3.0}},
        },
        baseline="is",
        X=X,
        shop=SHOP,
        table=TABLE,
        progress=False,
    )["effect"]["mu"]
    np.testing.assert_allclose(found.sel(scenario="set"), 2.0, rtol=1e-4)
    np.testing.assert_allclose(found.sel(scenario="map"), 3.0, rtol=1e-4)
    with pytest.raises(ValueError, match=r"argument `table` must broadcast to its shape \(3,\)"):
        model.predict_on_batch(X, shop=SHOP, table=TABLE, intervention={"table": np.ones(2)})


def test_table_in_a_minibatch_fit_and_a_saved_model(tmp_path):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi)
    model.fit(X, 2 * X + TABLE[SHOP], shop=SHOP, table=TABLE, batch_size=500, epochs=20, num_samples=50, progress=False)
    assert abs(float(model.posterior["b"].mean()) - 2.0) < 0.2
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", kernel, arguments={"table": TABLE})
    call = {"X": X[:3], "shop": SHOP[:3], "table": TABLE, "rng_key": random.key(3), "return_datatree": False}
    call["in_sample"] = False
    np.testing.assert_array_equal(loaded.predict_on_batch(**call)["y"], model.predict_on_batch(**call)["y"])


def test_misaligned_arrays_are_rejected():
    model = new_model(kernel)
    for method in ("predict", "predict_on_batch"):
        with pytest.raises(ValueError, match=r"same number of rows .*`X`: 2100, `shop`: 2099"):
            getattr(model, method)(X, shop=SHOP[:-1], table=TABLE)  # the kernel does not accept one length of `shop`

    def centred(X, y=None, *, dose):
        b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * (X - dose.mean()), 1.0), obs=y)

    model = new_model(centred)
    model.predict_on_batch(X, dose=X)
    with pytest.raises(ValueError, match="same number of rows"):  # either meaning is possible, and `dose` had rows
        model.predict_on_batch(X, dose=X[:-1])

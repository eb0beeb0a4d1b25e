"""Interventions on columns of a data frame, and groups by a column."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random

from stream_helpers import new_model

N = 1500


def kernel(X, y=None):
    slopes = numpyro.sample("slopes", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", jnp.dot(X, slopes))
        numpyro.sample("y", dist.Normal(mu), obs=y)


@pytest.fixture(scope="module")
def model():
    return new_model(kernel, {"slopes": np.array([[1.0, 2.0, -1.0], [0.5, 2.5, 0.0]])})


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"age": rng.integers(20, 60, N), "price": rng.normal(size=N), "region": rng.integers(0, 3, N)})


KEY = {"rng_key": random.key(3)}


def changed(table, **columns):
    return table.assign(**columns).to_numpy()


@pytest.mark.parametrize(
    ("intervention", "apply"),
    [
        ({"price": 1.5}, lambda t: changed(t, price=1.5)),
        ({"price": lambda p: 2 * p}, lambda t: changed(t, price=2 * t["price"])),
        ({"price": np.arange(N) / N, "age": 30}, lambda t: changed(t, price=np.arange(N) / N, age=30)),
        ({"age": 30.5}, lambda t: changed(t, age=30.5)),
    ],
)
def test_intervention_on_a_column_equals_a_changed_table(model, table, intervention, apply):
    expected = model.predict_on_batch(apply(table), **KEY)["posterior_predictive"]["y"]
    before = table.copy()
    for tree in (
        model.predict_on_batch(table, intervention=intervention, **KEY),
        model.predict(table, intervention=intervention, store="memory", progress=False, **KEY),
    ):
        # Streaming methods have keys for blocks of rows, so only the mean is equal to that of one pass.
        found = tree["posterior_predictive"]
        expected_mu = model.predict_on_batch(apply(table), return_sites="mu", **KEY)["posterior_predictive"]["mu"]
        np.testing.assert_allclose(found["mu"], expected_mu, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        model.predict_on_batch(table, intervention=intervention, **KEY)["posterior_predictive"]["y"],
        expected,
        rtol=1e-5,
        atol=1e-5,
    )
    pd.testing.assert_frame_equal(table, before)


def test_fraction_in_an_integer_column_is_not_truncated(model):
    """The column becomes floating point; 0.5 must not silently become 0."""
    counts = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]})
    found = model.predict_on_batch(counts, intervention={"a": 0.5}, return_sites="mu", **KEY)
    expected = np.array([[1.0, 2.0, -1.0], [0.5, 2.5, 0.0]]) @ np.array([[0.5, 0.5, 0.5], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_allclose(found["posterior_predictive"]["mu"].values[0], expected, rtol=1e-6)


def test_compare_scenarios_by_a_column(model, table):
    tree = model.compare_scenarios(
        {"as is": {}, "dearer": {"intervention": {"price": lambda price: price + 1}}},
        baseline="as is",
        by="region",
        return_sites="mu",
        X=table,
        progress=False,
    )
    np.testing.assert_allclose(tree["effect"]["mu"].values[0, :, 0], [[2.0] * 3, [2.5] * 3], atol=1e-5)
    np.testing.assert_array_equal(tree["groups"]["rows"], table["region"].value_counts().sort_index())
    assert '"price": "callable' in tree["effect"].attrs["interventions"]


def test_unknown_columns_raise(model, table):
    with pytest.raises(ValueError, match="Columns: age, price, region"):
        model.predict(table, intervention={"prize": 1.0})
    with pytest.raises(ValueError, match="together"):
        model.predict(table, intervention={"price": 1.0, "X": 0.0})
    with pytest.raises(ValueError, match="must broadcast"):
        model.predict(table, intervention={"price": np.zeros(7)})
    with pytest.raises(ValueError, match="neither a column of a data frame"):
        model.compare_scenarios({"a": {}, "b": {}}, baseline="a", by="country", X=table)

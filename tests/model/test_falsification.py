"""Tests of the independences that a causal graph implies."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from jax import random

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader


def kernel(X, shop, n_shop, y=None, *, visits=None):
    b = numpyro.sample("b", dist.Normal().expand([3]))
    with numpyro.plate("shops", n_shop):
        level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("week", X.shape[0]):
        visitors = numpyro.sample("visitors", dist.Normal(X @ b[:2] + level[shop]), obs=visits)
        numpyro.sample("y", dist.Normal(b[2] * visitors), obs=y)


GRAPH = "demand -> campaign -> visits -> y; demand -> visits"


def data_of(rng, n_obs=300):
    """Return data of the graph, with a shop that is unrelated to everything."""
    demand = rng.normal(size=n_obs)
    campaign = demand + rng.normal(size=n_obs)
    visits = campaign + demand + rng.normal(size=n_obs)
    sales = 2 * visits + rng.normal(size=n_obs)
    shop = rng.choice(["a", "b", "c"], n_obs)
    return pd.DataFrame({"campaign": campaign, "demand": demand, "shop": shop, "visits": visits, "sales": sales})


DATA = data_of(np.random.default_rng(0))


def test_correct_graph_is_not_contradicted():
    found = ImpactModel(kernel, 0).falsify(DATA, "sales", graph=f"{GRAPH}; shop")
    assert {frozenset((one.one, one.other)): one.given for one in found.tests} == {
        frozenset({"campaign", "y"}): ("visitors",),
        frozenset({"demand", "y"}): ("visitors",),
        **{frozenset({name, "shop"}): () for name in ("campaign", "demand", "visitors", "y")},
    }
    assert not found.falsified
    assert found.n_rows == 300
    assert "does not confirm it" in found.sentence
    assert "not tested" not in str(found).lower()


def test_probability_of_a_false_rejection_is_controlled():
    model = ImpactModel(kernel, 0)
    rng = np.random.default_rng(3)
    rejected = [model.falsify(data_of(rng), "sales", graph=f"{GRAPH}; shop").falsified for _ in range(120)]
    # At most 5 % in expectation; 12 or more have a probability below 2 % then.
    assert sum(rejected) < 12


def test_wrong_graph_is_contradicted():
    model = ImpactModel(kernel, 0)
    found = model.falsify(DATA, "sales", graph="campaign -> demand; campaign -> visits -> sales; demand -> sales")
    assert found.falsified
    worst = min(found.tests, key=lambda one: one.p_value)
    assert (worst.one, worst.other, worst.given) == ("demand", "visitors", ("campaign",))
    # The residuals of both, by hand.
    design = np.column_stack([np.ones(300), DATA["campaign"]])
    one, other = (
        DATA[name] - design @ np.linalg.lstsq(design, DATA[name], rcond=None)[0] for name in ("demand", "visits")
    )
    assert worst.correlation == pytest.approx(np.corrcoef(one, other)[0, 1], rel=1e-5)
    assert found.to_pandas()["verdict"].tolist().count("rejected") == len(found.rejected)
    # Few graphs of other names fit as badly.
    assert found.permuted > 0.3
    assert model.falsify(DATA, "sales", graph=GRAPH).permuted < 0.3


@pytest.mark.parametrize("source", ["loader", "parquet"])
def test_streamed_rows_give_the_same_tests(source, tmp_path):
    model = ImpactModel(kernel, 0)
    arrays = {"X": DATA[["campaign", "demand"]].to_numpy(), "visits": DATA["visits"].to_numpy()}
    arrays["shop"] = pd.factorize(DATA["shop"])[0]
    sales = DATA["sales"].to_numpy()
    numbered = '"X[:, 1]" -> "X[:, 0]" -> visits -> y; "X[:, 1]" -> visits'
    rest = {"visits": arrays["visits"], "shop": arrays["shop"], "n_shop": 3}
    expected = model.falsify(arrays["X"], sales, args=rest, graph=numbered)
    if source == "loader":
        loader = ArrayLoader(ArrayDataset(**arrays, y=sales), random.key(0), batch_size=64)
        found = model.falsify(loader, args={"n_shop": 3}, graph=numbered)
    else:
        pa.parquet.write_table(pa.Table.from_pandas(DATA), tmp_path / "data.parquet", row_group_size=50)
        found = model.falsify(pa.dataset.dataset(tmp_path), "sales", graph=GRAPH)
    assert len(found.tests) == len(expected.tests) == 2
    for one, other in zip(found.tests, expected.tests, strict=True):
        assert one.correlation == pytest.approx(other.correlation, abs=1e-5)
        assert one.adjusted == pytest.approx(other.adjusted, abs=1e-4)


def test_rows_of_the_fit_and_the_kept_graph():
    model = ImpactModel(kernel, 0, "svi")
    model.fit_on_batch(DATA, "sales", num_steps=20, progress=False)
    model.identify("campaign", graph=GRAPH)
    found = model.falsify()
    assert [one.text for one in found.tests] == ["demand _||_ y | visitors", "campaign _||_ y | visitors"]
    assert found.tests == model.falsify(DATA, "sales", graph=GRAPH).tests


def test_variables_that_cannot_be_tested():
    rows = DATA.assign(demand=2 * DATA["campaign"], shop="a")
    missing = rows["campaign"].where(np.arange(300) > 9)
    rows = rows.assign(campaign=missing, demand=2 * missing)
    found = ImpactModel(kernel, 0).falsify(
        rows, "sales", graph=f"{GRAPH}; shop; budget -> campaign", observed={"budget": np.arange(300.0)}
    )
    assert found.not_tested == {"shop": "constant"}
    assert found.n_rows == 290
    by_pair = {(one.one, one.other): one for one in found.tests}
    # Given `campaign`, nothing of `demand` is left.
    assert by_pair["budget", "visitors"].given == ("campaign", "demand")
    assert {one.verdict for one in found.tests} >= {"rejected"}
    assert np.isfinite(by_pair["budget", "visitors"].p_value)
    found = ImpactModel(kernel, 0).falsify(rows, "sales", graph="campaign -> {demand visits}; visits -> y")
    tested = {(one.one, one.other, one.given): one.verdict for one in found.tests}
    assert tested["demand", "visitors", ("campaign",)] == "not tested"
    assert "Not tested" not in str(found)


def test_graph_without_independences():
    found = ImpactModel(kernel, 0).falsify(DATA, "sales", graph="demand -> campaign")
    assert found.tests == ()
    assert found.permuted is None
    assert str(found).startswith("The graph implies no independence of measured variables")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got none. Pass it as `graph`"),
        ({"graph": GRAPH, "alpha": 5}, "probability between 0 and 1"),
        ({"graph": f"{GRAPH}; budget", "observed": {"budget": np.ones(3)}}, r"shape \(300,\)"),
        ({"graph": "demnad -> campaign"}, "Did you mean 'demand'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ImpactModel(kernel, 0).falsify(DATA, "sales", **options)

"""Results are labelled by indexes of data frames, coordinates of arrays, and names of columns."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz

N, K = 40, 3
QUIET = {"progress": False, "num_steps": 5, "num_samples": 4}


def kernel(X, y=None):
    n_obs, n_columns = X.shape
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([n_columns]).to_event(1))
    table = numpyro.sample("table", dist.Normal().expand([2, n_columns]).to_event(2))
    other = numpyro.sample("other", dist.Normal().expand([K]).to_event(1))  # same length as the columns, by chance
    with numpyro.plate("shop", n_obs):
        level = numpyro.sample("level", dist.Normal())
        parts = numpyro.deterministic("parts", X * (beta + table[0] + other[0]))
        numpyro.sample("y", dist.Normal(level + parts.sum(-1), 1.0), obs=y)


def new(**labels):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    return aimz.ImpactModel(kernel, random.key(0), svi, **labels)


def frame(index=None):
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(N, K)), columns=["age", "income", "price"], index=index)


Y = np.random.default_rng(1).normal(size=N)
INDEXES = {
    "texts": pd.Index([f"shop {i}" for i in range(N)]),
    "numbers": pd.Index(np.arange(N) * 10 + 7),
    "a range that begins later": pd.RangeIndex(5, 5 + N),
    "days": pd.date_range("2026-01-01", periods=N),
    "days with a zone": pd.date_range("2026-01-01", periods=N, tz="Europe/Berlin"),
    "months": pd.period_range("2020-01", periods=N, freq="M"),
    "categories": pd.CategoricalIndex([f"c{i}" for i in range(N)]),
    "repeated": pd.Index(["a", "b"] * (N // 2)),
    "of several kinds": pd.Index([1, "b"] * (N // 2), dtype=object),
}


def shown(index):
    """Return the labels of an index in a result: times without a time zone, strings for other types."""
    if isinstance(index, pd.PeriodIndex):
        return index.to_timestamp()
    if getattr(index, "tz", None) is not None:
        return index.tz_convert("UTC").tz_localize(None)
    return index.astype(str) if index.dtype == object else index


@pytest.fixture(scope="module")
def model():
    return new().fit_on_batch(frame(INDEXES["texts"]), Y, **QUIET)


@pytest.mark.filterwarnings("ignore:.*local latent")
@pytest.mark.parametrize("name", INDEXES)
def test_index_labels_rows_in_memory_and_on_disk(model, tmp_path, name):
    index = INDEXES[name]
    expected = np.asarray(shown(index))
    options = {"rng_key": random.key(1), "in_sample": False}
    trees = [model.predict_on_batch(frame(index), **options)]
    trees.append(model.predict(frame(index), output_dir=tmp_path, progress=False, **options))
    path = trees[-1].attrs["artifact_path"]
    trees += [aimz.open_result(path), xr.open_datatree(path, engine="zarr")]
    for tree in trees:
        labels = tree["predictions"]["y"]["shop"]
        if expected.dtype.kind == "M":
            np.testing.assert_array_equal(labels.values.astype("datetime64[s]"), expected.astype("datetime64[s]"))
        else:
            assert list(labels.values) == list(expected)


@pytest.mark.filterwarnings("ignore:.*local latent")
def test_index_levels_are_coordinates_of_the_rows(model, tmp_path):
    index = pd.MultiIndex.from_product([["n", "s"], range(N // 2)], names=["region", None])
    tree = model.predict(frame(index), in_sample=False, output_dir=tmp_path, progress=False)
    for found in (tree, aimz.open_result(tree.attrs["artifact_path"])):
        y = found["predictions"]["y"]
        np.testing.assert_array_equal(y["shop"], np.arange(N))
        np.testing.assert_array_equal(y["region"], index.get_level_values(0))
        np.testing.assert_array_equal(y["shop_level_1"], index.get_level_values(1))
    by_region = tree["predictions"]["y"].groupby("region").mean()
    assert dict(by_region.sizes)["region"] == 2


@pytest.mark.filterwarnings("ignore:.*local latent")
def test_fitted_rows_have_the_labels_of_the_fit(model):
    texts = list(INDEXES["texts"])
    table = frame(INDEXES["texts"])
    for X in (table, table.to_numpy(), pl.from_pandas(table)):
        tree = model.predict_on_batch(X)
        for group, site in [("posterior", "level"), ("posterior_predictive", "y"), ("observed_data", "y")]:
            assert list(tree[group][site]["shop"].values) == texts
    assert list(model.predict_on_batch(table.to_numpy() + 1)["posterior_predictive"]["shop"].values) == list(range(N))
    assert list(model.predict_on_batch(table.to_numpy(), in_sample=False)["predictions"]["shop"].values) == list(
        range(N)
    )
    scores = model.log_likelihood(table, Y, store="memory", progress=False)
    assert list(scores["log_likelihood"]["shop"].values) == texts
    effect = model.estimate_effect(
        args_baseline={"X": table}, args_intervention={"X": table, "intervention": {"price": 1.0}}, on_batch=True
    )
    assert list(effect["posterior_predictive"]["shop"].values) == texts


def test_different_row_labels_are_different_observations(model):
    """Rows in another order are not the fitted rows, and do not share their local latents."""
    table = frame(INDEXES["texts"])
    with pytest.warns(UserWarning, match="`level` keep their posterior draws"):
        same = model.predict_on_batch(table * 2)
    assert same["posterior_predictive"].attrs["local_latents"] == "posterior"
    for other in (table.iloc[::-1], table.iloc[:20], table.set_axis([f"new {i}" for i in range(N)])):
        with pytest.warns(UserWarning, match="`level` are resampled"):
            tree = model.predict_on_batch(other)
        assert tree["posterior_predictive"].attrs["local_latents"] == "drawn anew"
        assert "observed_data" not in tree
    with pytest.warns(UserWarning, match="`level` are resampled"):
        model.log_likelihood(table.iloc[::-1], Y[::-1], store="memory", progress=False)


def test_user_coords_are_used_for_input_without_labels():
    ids = [f"id {i}" for i in range(N)]
    model = new(coords={"shop": ids}).fit_on_batch(frame(), Y, **QUIET)
    with pytest.warns(UserWarning, match="local latent"):
        assert list(model.predict_on_batch(frame())["posterior_predictive"]["shop"].values) == ids
    model = new(coords={"shop": ids}).fit_on_batch(frame(INDEXES["texts"]), Y, **QUIET)
    with pytest.warns(UserWarning, match="local latent"):
        tree = model.predict_on_batch(frame(INDEXES["texts"]))
    assert list(tree["posterior_predictive"]["shop"].values) == list(INDEXES["texts"])


@pytest.mark.filterwarnings("ignore:.*local latent")
def test_column_names_label_only_axes_along_columns():
    """Axes along columns are found by tracing the kernel with one more column, not by comparing lengths."""
    model = new(dims={"beta": ["feature"]}).fit_on_batch(frame(), Y, **QUIET)
    tree = model.predict_on_batch(frame().to_numpy(), return_sites=["y", "parts"])
    names = ["age", "income", "price"]
    posterior = tree["posterior"]
    assert list(posterior["beta"]["feature"].values) == names
    assert list(posterior["table"]["table_dim_1"].values) == names
    assert list(posterior["table"]["table_dim_0"].values) == [0, 1]
    assert list(posterior["other"]["other_dim_0"].values) == [0, 1, 2]
    assert list(tree["posterior_predictive"]["parts"]["parts_dim_1"].values) == names
    assert posterior["beta"].sel(feature="price").shape == (1, 4)
    found = model.compare_scenarios(
        {"a": {}, "b": {"intervention": {"price": lambda p: p + 1}}},
        baseline="a",
        X=frame(),
        return_sites="parts",
        progress=False,
    )
    effect = found["effect"]["parts"].mean(("chain", "draw")).isel(scenario=0)
    assert list(effect["parts_dim_1"].values) == names
    assert float(abs(effect.sel(parts_dim_1="age"))) < 1e-6 < float(abs(effect.sel(parts_dim_1="price")))
    named = new(dims={"beta": ["feature"]}, coords={"feature": ["A", "B", "C"]}).fit_on_batch(frame(), Y, **QUIET)
    assert list(named.predict_on_batch(frame())["posterior"]["feature"].values) == ["A", "B", "C"]


@pytest.mark.filterwarnings("ignore:.*local latent")
def test_labelled_arrays(tmp_path):
    array = xr.DataArray(
        frame().to_numpy(), dims=("store", "feature"), coords={"store": INDEXES["texts"], "feature": ["a", "b", "c"]}
    )
    model = new().fit_on_batch(array, xr.DataArray(Y, dims="store", coords={"store": INDEXES["texts"]}), **QUIET)
    tree = model.predict(array[:, ::-1], output_dir=tmp_path, progress=False)
    assert list(tree["posterior_predictive"]["y"]["shop"].values) == list(INDEXES["texts"])
    assert list(tree["posterior"]["beta"]["beta_dim_0"].values) == ["a", "b", "c"]
    same = model.predict(array, store="memory", progress=False, rng_key=random.key(0))["posterior_predictive"]
    turned = model.predict(array[:, ::-1], store="memory", progress=False, rng_key=random.key(0))
    np.testing.assert_array_equal(turned["posterior_predictive"]["y"].values, same["y"].values)


@pytest.mark.filterwarnings("ignore:.*local latent")
def test_every_dimension_has_coordinates_shared_by_all_sites(tmp_path):
    mcmc = MCMC(NUTS(kernel), num_warmup=3, num_samples=3, num_chains=2, chain_method="sequential", progress_bar=False)
    model = aimz.ImpactModel(kernel, random.key(0), mcmc).fit_on_batch(frame(), Y, progress=False)
    stored = model.predict(frame(), output_dir=tmp_path, progress=False)
    path = stored.attrs["artifact_path"]
    for tree in (stored, aimz.open_result(path), xr.open_datatree(path, engine="zarr")):
        for group in tree.children.values():
            assert set(group.sizes) <= set(group.coords), group.path
        predictive = tree["posterior_predictive"]
        residual = predictive["y"] - predictive["parts"].sum("parts_dim_1") - tree["posterior"]["level"]
        assert dict(residual.sizes) == {"chain": 2, "draw": 3, "shop": N}

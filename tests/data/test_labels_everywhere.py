"""Names and labels of tables are used wherever a table is accepted; they are never ignored silently."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow.dataset
import pytest
import xarray as xr
import zarr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta

import aimz
from aimz import OutputWarning
from aimz.utils.data import ArrayDataset, ArrayLoader

N = 6
QUIET = {"progress": False, "store": "memory"}
ROWS = [f"r{i}" for i in range(N)]
Y = pd.Series(np.random.default_rng(1).normal(size=N), index=ROWS)


def kernel(X, Z=None, y=None):
    b = numpyro.param("b", np.array([1.0, 100.0]))  # swapped columns change the result
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", X @ b + (0.0 if Z is None else 1000 * (Z @ b)))
        numpyro.sample("y", dist.Normal(mu + a), obs=y)


def new():
    """Return a model fitted with a step size of 0, which does not change its parameters."""
    svi = SVI(kernel, AutoDelta(kernel), numpyro.optim.SGD(0.0), Trace_ELBO())
    return aimz.ImpactModel(kernel, random.key(0), svi)


def fitted(X, y=Y, **more):
    return new().fit_on_batch(X, y, num_steps=1, num_samples=1, progress=False, **more)


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(np.random.default_rng(0).normal(size=(N, 2)), columns=["p", "q"], index=ROWS)


@pytest.fixture(scope="module")
def swapped(table):
    return table[["q", "p"]]


@pytest.fixture(scope="module")
def model(table):
    return fitted(table)


def mu(tree):
    group = next(name for name in tree.children if "predicti" in name)
    return tree[group]["mu"].isel(chain=0, draw=0)


def by_hand(table):
    return (table["p"] + 100 * table["q"]).to_numpy()


def test_fields_of_batches_and_data_sets_are_matched_by_name(model, table, swapped):
    new_rows = {"in_sample": False, **QUIET}
    sources = [
        [{"X": swapped.iloc[:3]}, {"X": swapped.iloc[3:]}],
        [(swapped.iloc[:3], Y[:3]), (swapped.iloc[3:], Y[3:])],
        ArrayDataset(X=swapped),
        ArrayLoader(ArrayDataset(X=swapped), random.key(0), batch_size=2),
        xr.Dataset({"X": (("obs", "f"), swapped.to_numpy())}, coords={"f": ["q", "p"]}),
    ]
    for source in sources:
        np.testing.assert_allclose(mu(model.predict(source, **new_rows)), by_hand(table), rtol=1e-5)


def test_labelled_columns_are_matched_by_name(table):
    given = xr.Dataset({"X": (("obs", "f"), table.to_numpy())}, coords={"f": ["p", "q"]})
    model = fitted(given, Y.to_numpy())
    np.testing.assert_allclose(mu(model.predict_on_batch(given.isel(f=[1, 0]))), by_hand(table), rtol=1e-5)


def test_integer_column_names_are_matched(table):
    array = xr.DataArray(table.to_numpy(), dims=("obs", "year"), coords={"year": [2010, 2020]})
    model = fitted(array, Y.to_numpy())
    np.testing.assert_allclose(mu(model.predict_on_batch(array[:, ::-1])), by_hand(table), rtol=1e-5)
    plain = fitted(pd.DataFrame(table.to_numpy()), Y.to_numpy())  # columns 0 and 1
    np.testing.assert_allclose(mu(plain.predict_on_batch(pd.DataFrame(table.to_numpy()))), by_hand(table), rtol=1e-5)
    levels = pd.DataFrame(table.to_numpy(), columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]))
    with pytest.raises(ValueError, match="one name each; got 2 levels"):
        new().fit_on_batch(levels, Y.to_numpy(), progress=False)


def test_other_arguments_are_matched_by_name(table, swapped):
    model = fitted(table, Z=table)
    expected = 1001 * by_hand(table)
    for given in (swapped, pl.from_pandas(swapped)):
        np.testing.assert_allclose(mu(model.predict_on_batch(swapped, Z=given)), expected, rtol=1e-5)
        np.testing.assert_allclose(mu(model.predict(swapped, Z=given, **QUIET)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="`Z` is missing column 'q'"):
        model.predict(table, Z=table[["p"]])


def test_labelled_interventions_are_matched(model, table, swapped):
    there = model.predict_on_batch(table, intervention={"X": swapped})
    np.testing.assert_allclose(mu(there), by_hand(table), rtol=1e-5)
    with pytest.raises(ValueError, match="has another index"):
        model.predict_on_batch(table, intervention={"q": pd.Series(np.arange(6.0), index=ROWS)[::-1]})
    with pytest.raises(ValueError, match="has another index"):
        model.predict(table, intervention={"X": table.iloc[::-1]})


def test_labels_of_the_fit_apply_to_its_rows_only(model, table, tmp_path):
    assert list(mu(model.predict_on_batch(table.to_numpy()))["obs"].values) == ROWS
    table.iloc[::-1].to_parquet(tmp_path / "turned.parquet", index=False)
    turned = model.predict(pyarrow.dataset.dataset(tmp_path / "turned.parquet"), **QUIET)
    pieces = model.predict([table.iloc[3:], table.iloc[:3]], **QUIET)
    for tree in (turned, pieces):
        assert list(mu(tree)["obs"].values) == list(range(N))


def test_scenarios_must_have_the_same_rows(model, table):
    turned = table.iloc[::-1].assign(q=table["q"] + 1)
    calls = [
        lambda: model.compare_scenarios({"b": {"X": table}, "i": {"X": turned}}, baseline="b"),
        lambda: model.estimate_effect(args_baseline={"X": table}, args_intervention={"X": turned}),
        lambda: model.estimate_effect(args_baseline={"X": table}, args_intervention={"X": turned}, statistics="mean"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must have the same labels"):
            call()


def test_scenario_without_labels_uses_labels_of_the_other(model, table):
    other = table.assign(q=table["q"] + 1)
    for X in (other.to_numpy(), pl.from_pandas(other), other):
        effect = model.estimate_effect(args_baseline={"X": table, **QUIET}, args_intervention={"X": X, **QUIET})
        assert list(mu(effect)["obs"].values) == ROWS
        np.testing.assert_allclose(mu(effect), 100.0, rtol=1e-4)


def test_effect_without_a_fit_requires_one_order_of_columns(table, swapped):
    svi = SVI(kernel, AutoDelta(kernel), numpyro.optim.SGD(0.0), Trace_ELBO())
    model = aimz.ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"a": np.zeros(2)})
    with pytest.raises(ValueError, match="the same columns, in one order"):
        model.estimate_effect(args_baseline={"X": swapped}, args_intervention={"X": table}, on_batch=True)


def test_labels_of_all_arguments_are_compared(table):
    with pytest.raises(ValueError, match="`Z` has another index than `y`"):
        fitted(table.to_numpy(), Y, Z=table.iloc[::-1])


def test_columns_of_different_lengths_raise(model):
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    group["p"], group["q"] = np.arange(6.0), np.arange(9.0)
    with pytest.raises(ValueError, match="the same number of rows; got 'p': 6, 'q': 9"):
        model.predict(group, in_sample=False)
    unlike = xr.Dataset({"p": ("obs", np.arange(3.0)), "q": ("shop", np.arange(3.0))})
    with pytest.raises(TypeError, match="'q' \\(along 'shop', not 'obs'\\)"):
        model.predict(unlike, in_sample=False)


def test_integers_next_to_floats_are_not_rounded(model):
    for given in (pd.DataFrame({"p": [20240115, 20240116], "q": [0.5, 0.0]}), None):
        if given is None:
            given = pl.DataFrame({"p": [2**24 + 1], "q": [0.5]})
        with pytest.raises(ValueError, match="column 'p' of `X` holds whole numbers that do not fit float32"):
            model.predict(given, in_sample=False)
    missing = pd.DataFrame({"p": pd.array([20240115, None], dtype="Int64"), "q": [0.5, 0.0]})
    for given in (missing, pl.from_pandas(missing)):
        with pytest.raises(ValueError, match=r"`X\['p'\]` holds whole numbers that do not fit float32"):
            model.predict(given, in_sample=False)
    model.predict_on_batch(pd.DataFrame({"p": [2**24], "q": [0.5]}), in_sample=False)


def test_column_named_as_the_input(model, table):
    extra = table.assign(X=1.0)
    np.testing.assert_allclose(mu(model.predict_on_batch(extra)), by_hand(table), rtol=1e-5)
    with pytest.raises(ValueError, match="the input is ambiguous"):
        fitted(extra)


def test_call_with_other_labels_is_not_resumed(model, table, tmp_path):
    options = {"in_sample": False, "progress": False, "rng_key": random.key(1)}
    path = model.predict(table, output_dir=tmp_path, **options).attrs["artifact_path"]
    assert list(mu(model.predict(table, resume=path, **options))["obs"].values) == ROWS
    with pytest.raises(ValueError, match="labels of rows differ"):
        model.predict(table.set_axis(list("uvwxyz")), resume=path, **options)


def test_late_missing_value_is_named_in_the_error(model):
    whole = pd.DataFrame({"p": [1, 2, 3], "q": [1, 2, 3]})
    late = whole.astype("Int64")
    late.loc[1, "q"] = pd.NA
    with pytest.raises(ValueError, match=r"`X` is float32 in a batch and int32 in the first\. A column of integers"):
        model.predict([whole, late], in_sample=False, **QUIET)
    with pytest.warns(OutputWarning, match="column 'q' of `X`: 1 row"):
        early = model.predict([late, whole], in_sample=False, **QUIET)
    np.testing.assert_array_equal(np.isnan(mu(early)), [False, True, False, False, False, False])


def test_fit_from_a_file_has_as_many_steps_as_from_memory(tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"p": rng.normal(size=3000), "q": rng.normal(size=3000), "y": rng.normal(size=3000)})
    frame.write_parquet(tmp_path / "rows.parquet")
    options = {"epochs": 2, "progress": False, "num_samples": 1}
    sources = (frame, pyarrow.dataset.dataset(tmp_path / "rows.parquet"), pl.scan_parquet(tmp_path / "rows.parquet"))
    steps = [len(new().fit(source, **options).vi_result.losses) for source in sources]
    assert steps[0] > 10
    assert steps == [steps[0]] * 3


def test_text_labels_of_unordered_tables_raise(model, table):
    lazy = pl.from_pandas(table.assign(g="a")).lazy()
    with pytest.raises(ValueError, match="order of rows may differ between passes"):
        model.compare_scenarios({"a": {}, "b": {}}, baseline="a", X=lazy, by="g", progress=False)


def test_weights_can_be_a_column(model, table):
    weighed = table.assign(w=[0, 0, 0, 1, 1, 0])
    scenarios = {"a": {}, "b": {"intervention": {"q": 0.0}}}
    options = {"baseline": "a", "X": weighed, "return_sites": "mu", "progress": False}
    found = model.compare_scenarios(scenarios, weights="w", **options)["effect"]["mu"]
    np.testing.assert_allclose(found, -100 * table["q"].iloc[3:5].mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="`weights` names 'v'"):
        model.compare_scenarios(scenarios, weights="v", **options)


def test_column_labels_apply_to_axes_of_equal_length(model):
    """Labels of columns are dropped if an axis has another length."""
    with pytest.raises(ValueError, match=r"`X` must have the shape \(n_obs, 2\), as in the fit; got \(n_obs, 3\)"):
        model.predict_on_batch(np.ones((4, 3)))


def test_level_names_are_storable_and_distinct(model, table, tmp_path):
    index = pd.MultiIndex.from_arrays([list("abcdef"), range(6), range(6)], names=["rate/h", "rate h", "mu"])
    stored = model.predict(table.set_axis(index), in_sample=False, output_dir=tmp_path, progress=False)
    for tree in (stored, aimz.open_result(stored.attrs["artifact_path"])):
        found = mu(tree)
        assert list(found["rate_h"].values) == list("abcdef")
        assert list(found["rate_h_label"].values) == list(found["mu_label"].values) == list(range(6))


def test_lazy_frames_raise_in_methods_that_do_not_stream(model, table):
    import dask.dataframe

    with pytest.raises(TypeError, match="Collect it"):
        model.predict_on_batch(pl.from_pandas(table).lazy())
    frame = dask.dataframe.from_pandas(table, npartitions=2)
    for lazy in (frame, frame[frame.columns[0]]):
        for method in (model.predict_on_batch, model.predict):
            with pytest.raises(
                TypeError, match=r"`X` .* got a Dask data frame .* `frame.to_dask_array\(lengths=True\)`"
            ):
                method(lazy)
    with pytest.raises(TypeError, match="`y` must come with the batches of `X`"):
        new().fit(pl.from_pandas(table).lazy(), Y.to_numpy(), progress=False)


def test_stream_with_unknown_columns(model, table):
    import datasets

    def rows():
        yield from table.to_dict("records")

    stream = datasets.IterableDataset.from_generator(rows)
    np.testing.assert_allclose(mu(model.predict(stream, in_sample=False, **QUIET)), by_hand(table), rtol=1e-5)

"""Tables of all kinds give the same results: frames, labelled arrays, groups of arrays, chunks of files."""

import cloudpickle
import dask.array as da
import grain
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz

N = 1100  # more than one block
KEY = {"rng_key": random.key(1)}
QUIET = {"progress": False, "store": "memory"}


def kernel(X, exposure, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        mu = numpyro.deterministic("mu", X @ beta + exposure)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def new(**labels):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    return aimz.ImpactModel(kernel, random.key(0), svi, **labels)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "price": rng.normal(size=N),
            "exposure": rng.normal(size=N),
            "age": rng.integers(20, 60, N) / 10,
            "region": rng.choice(["north", "south", "west"], N),
        },
        index=[f"u{i}" for i in range(N)],
    )
    return frame.assign(y=2 * frame["price"] - frame["age"] + frame["exposure"] + rng.normal(size=N))


@pytest.fixture(scope="module")
def numeric(table):
    return table.drop(columns="region")


@pytest.fixture(scope="module")
def model(numeric):
    return new(dims={"beta": ["feature"]}).fit_on_batch(numeric, num_steps=200, num_samples=8, progress=False)


@pytest.fixture(scope="module")
def expected(model, numeric):
    """Return the result with plain arrays."""
    X, exposure = numeric[["price", "age"]].to_numpy(), numeric["exposure"].to_numpy()
    return model.predict(X, exposure=exposure, **KEY, **QUIET)["posterior_predictive"]


def in_other_orders(table):
    return table[[name for name in ("y", "region", "exposure", "age", "price") if name in table]]


def labelled(table):
    columns = ["age", "price"]
    coords = {"who": np.asarray(table.index, dtype=str), "what": columns}
    return xr.DataArray(table[columns].to_numpy(), dims=("who", "what"), coords=coords)


def zarr_group(table, folder):
    group = zarr.open_group(folder / "group.zarr", mode="w")
    group.create_array("X", data=table[["price", "age"]].to_numpy(), chunks=(300, 2))
    group.create_array("exposure", data=table["exposure"].to_numpy(), chunks=(300,))
    return group


def parquet(table, folder):
    """Write a data set of three files, whose row groups do not match the row blocks."""
    for i, start in enumerate(range(0, N, 400)):
        part = pa.Table.from_pandas(table.iloc[start : start + 400], preserve_index=False)
        pq.write_table(part, folder / f"{i}.parquet", row_group_size=170)
    return folder


def hugging_face(table):
    import datasets

    return datasets.Dataset.from_pandas(table, preserve_index=False)


def grain_batches(table):
    rows = {"X": table[["price", "age"]].to_numpy(), "exposure": table["exposure"].to_numpy()}
    source = [{name: array[i] for name, array in rows.items()} for i in range(N)]
    return grain.MapDataset.source(source).to_iter_dataset().batch(300, drop_remainder=False)


SOURCES = {
    "pandas": lambda t, _: t,
    "pandas, other orders": lambda t, _: in_other_orders(t),
    "pandas, numbers that may be missing": lambda t, _: t.convert_dtypes(),
    "polars": lambda t, _: pl.from_pandas(in_other_orders(t)),
    "arrow": lambda t, _: pa.Table.from_pandas(in_other_orders(t)),
    "xarray data set": lambda t, _: xr.Dataset.from_dataframe(t.rename_axis("who")),
    "zarr group": zarr_group,
    "parquet": lambda t, folder: pyarrow.dataset.dataset(parquet(t, folder)),
    "parquet, lazily": lambda t, folder: pl.scan_parquet(parquet(t, folder) / "*.parquet"),
    "one parquet file": lambda t, folder: pq.ParquetFile(write_one(t, folder)),
    "hugging face": lambda t, _: hugging_face(t),
    "hugging face, iterable": lambda t, _: hugging_face(t).to_iterable_dataset(),
    "batches that are frames": lambda t, _: [t.iloc[:300], in_other_orders(t).iloc[300:]],
    "record batches": lambda t, _: pa.Table.from_pandas(t).to_reader(max_chunksize=256),
    "grain": lambda t, _: grain_batches(t),
}


def write_one(table, folder):
    path = folder / "one.parquet"
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path, row_group_size=333)
    return path


@pytest.mark.parametrize("source", SOURCES)
def test_every_table_gives_the_same_numbers(model, table, expected, tmp_path, source):
    given = SOURCES[source](table, tmp_path)
    found = model.predict(given, **KEY, **QUIET)["posterior_predictive"]
    for name in ("y", "mu"):
        np.testing.assert_array_equal(found[name].values, expected[name].values)


def test_arrays_of_other_libraries_are_accepted(model, table, expected, tmp_path):
    X = table[["price", "age"]].to_numpy()
    group = zarr_group(table, tmp_path)
    for inputs, exposure in [
        (labelled(table), table["exposure"]),
        (xr.DataArray(X, dims=("row", "column")), xr.DataArray(table["exposure"].to_numpy(), dims="row")),
        (da.from_array(X, chunks=(500, 2)), da.from_array(table["exposure"].to_numpy(), chunks=400)),
        (group["X"], group["exposure"]),
        (X, pl.Series(table["exposure"].to_numpy())),
        (X, pa.chunked_array([table["exposure"].to_numpy()[:7], table["exposure"].to_numpy()[7:]])),
        (X, pa.array(table["exposure"].to_numpy())),
    ]:
        found = model.predict(inputs, exposure=exposure, **KEY, **QUIET)["posterior_predictive"]
        np.testing.assert_array_equal(found["y"].values, expected["y"].values)


def test_all_methods_accept_a_table(model, numeric, table, expected):
    X, exposure, y = numeric[["price", "age"]].to_numpy(), numeric["exposure"].to_numpy(), numeric["y"].to_numpy()
    frame = pl.from_pandas(in_other_orders(table))
    on_batch = model.predict_on_batch(X, exposure=exposure, **KEY)["posterior_predictive"]["y"].values
    for method in (model.predict_on_batch, model.sample_posterior_predictive_on_batch):
        np.testing.assert_array_equal(method(frame, **KEY)["posterior_predictive"]["y"].values, on_batch)
    found = model.sample_posterior_predictive(frame, **KEY, **QUIET)["posterior_predictive"]["y"]
    np.testing.assert_array_equal(found.values, expected["y"].values)
    scores = model.log_likelihood(X, y, exposure=exposure, **QUIET)["log_likelihood"]["y"].values
    np.testing.assert_array_equal(model.log_likelihood(frame, **QUIET)["log_likelihood"]["y"].values, scores)
    np.testing.assert_array_equal(model.log_likelihood(frame, y, **QUIET)["log_likelihood"]["y"].values, scores)
    few = {"num_samples": 3, **KEY}
    np.testing.assert_array_equal(
        model.sample_prior_predictive_on_batch(frame, **few)["prior_predictive"]["y"].values,
        model.sample_prior_predictive_on_batch(X, exposure=exposure, **few)["prior_predictive"]["y"].values,
    )
    one, other = new(), new()
    loss = one.train_on_batch(numeric, None, random.key(5))[1]
    assert loss == other.train_on_batch(X, y, random.key(5), exposure=exposure)[1]


@pytest.mark.parametrize("source", ["pandas", "polars", "xarray data set", "parquet", "hugging face"])
def test_minibatch_fit_accepts_any_table(table, numeric, tmp_path, source):
    """Rows are not shuffled, so that all fits take the same steps."""
    given = SOURCES[source](numeric, tmp_path)
    options = {"batch_size": 100, "epochs": 2, "shuffle": False, "progress": False, "num_samples": 4, **KEY}
    fitted = new().fit(given, **options)
    columns = list(fitted.predict(numeric, **KEY, **QUIET)["posterior"]["beta"]["beta_dim_0"].values)
    assert sorted(columns) == ["age", "price"]
    X, y, exposure = numeric[columns].to_numpy(), numeric["y"].to_numpy(), numeric["exposure"].to_numpy()
    arrays = new().fit(X, y, exposure=exposure, **options)
    np.testing.assert_allclose(fitted.vi_result.losses, arrays.vi_result.losses, rtol=1e-5)
    again = fitted.predict(in_other_orders(table), **KEY, **QUIET)["posterior_predictive"]["mu"]
    by_hand = arrays.predict(X, exposure=exposure, **KEY, **QUIET)["posterior_predictive"]["mu"]
    np.testing.assert_allclose(again.values, by_hand.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["pandas", "polars", "parquet", "hugging face"])
def test_effects_of_columns_by_columns_of_text(model, table, tmp_path, source):
    given = SOURCES[source](table, tmp_path)
    found = model.compare_scenarios(
        {"as is": {}, "set": {"intervention": {"price": 1.25}}, "dearer": {"intervention": {"price": lambda p: p + 1}}},
        baseline="as is",
        by="region",
        X=given,
        return_sites="mu",
        progress=False,
    )
    slope = np.asarray(model.posterior["beta"])[:, 0]
    effect = found["effect"]["mu"].sel(chain=0)
    regions = table.groupby("region")["price"].mean()
    assert list(effect["region"].values) == list(regions.index)
    np.testing.assert_allclose(effect.sel(scenario="dearer"), np.stack([slope] * 3, axis=1), rtol=1e-4)
    by_hand = slope[:, None] * (1.25 - regions.to_numpy())
    np.testing.assert_allclose(effect.sel(scenario="set"), by_hand, rtol=1e-3)


def test_intervention_on_lazy_rows_sets_the_right_rows(model, table, tmp_path):
    """Also for a lazy table, and for a column of integers that is set to a half."""
    half = {"intervention": {"age": 0.5}, **KEY, **QUIET}
    expected = model.predict(table.assign(age=0.5), **KEY, **QUIET)["posterior_predictive"]["y"].values
    whole = table.assign(age=(10 * table["age"]).astype(int))
    for given in (table, xr.Dataset.from_dataframe(whole), SOURCES["parquet"](whole, tmp_path)):
        np.testing.assert_array_equal(model.predict(given, **half)["posterior_predictive"]["y"].values, expected)
    by_row = np.linspace(0, 1, N)
    found = model.predict(whole, intervention={"age": by_row}, **KEY, **QUIET)["posterior_predictive"]["y"].values
    by_hand = model.predict(whole.assign(age=by_row), **KEY, **QUIET)["posterior_predictive"]["y"].values
    np.testing.assert_array_equal(found, by_hand)


def test_passed_argument_takes_precedence_over_a_column(model, table):
    zeros = np.zeros(N)
    found = model.predict(table, exposure=zeros, **KEY, **QUIET)["posterior_predictive"]["mu"]
    without = model.predict(table.assign(exposure=0.0), **KEY, **QUIET)["posterior_predictive"]["mu"]
    np.testing.assert_array_equal(found.values, without.values)


def test_continued_fit_requires_the_same_columns_and_a_new_fit_does_not(numeric):
    svi = new().fit_on_batch(numeric, num_steps=2, num_samples=2, progress=False)
    with pytest.raises(ValueError, match="is missing column 'age'"):
        svi.fit_on_batch(numeric.drop(columns="age"), num_steps=2, progress=False)
    svi.fit_on_batch(numeric[["exposure", "y", "age", "price"]], num_steps=2, num_samples=2, progress=False)
    mcmc = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=2, num_samples=2, progress_bar=False))
    small = numeric.iloc[:20]
    mcmc.fit_on_batch(small, progress=False)
    mcmc.fit_on_batch(small.assign(weight=1.0), progress=False)
    assert mcmc.posterior["beta"].shape == (2, 3)
    with pytest.raises(ValueError, match="is missing column 'weight'"):
        mcmc.predict(small)
    again = cloudpickle.loads(cloudpickle.dumps(mcmc))
    with pytest.raises(ValueError, match="is missing column 'weight'"):
        again.predict(small)


def test_non_numeric_columns_are_named_in_the_error(numeric):
    bad = numeric.assign(plan=pd.Categorical(["a", "b"] * (N // 2)), city="x", day=pd.Timestamp("2026-01-01"))
    for given in (bad, pl.from_pandas(bad), pa.Table.from_pandas(bad)):
        with pytest.raises(TypeError, match=r"'plan' \(categorical\), 'city' \(text\), 'day' \(date\).*Encode"):
            new().fit_on_batch(given, progress=False)
        with pytest.raises(TypeError, match="'plan'"):
            new().fit(given, progress=False)
    with pytest.raises(TypeError, match=r"`y` must be numeric; got text data"):
        new().fit_on_batch(numeric.drop(columns="y"), bad["city"], progress=False)
    with pytest.raises(TypeError, match=r"`exposure` must be numeric; .*`kernel` has no groups of it. Encode it"):
        new().fit_on_batch(numeric.assign(exposure=bad["plan"]), progress=False)
    # Numeric categories are categories too: their codes are what a kernel needs.
    with pytest.raises(TypeError, match="categorical"):
        new().fit_on_batch(numeric.assign(price=pd.Categorical([1, 2] * (N // 2))), progress=False)
    with pytest.raises(ValueError, match=r"X\['price'\].*do not fit"):
        new().fit_on_batch(numeric.assign(price=2**40), progress=False)
    with pytest.raises(ValueError, match="different names"):
        new().fit_on_batch(pd.concat([numeric, numeric[["age"]]], axis=1), progress=False)
    with pytest.raises(ValueError, match="must have a column for the input; got 'exposure', 'y'"):
        new().fit_on_batch(numeric[["exposure", "y"]], progress=False)


def test_rows_with_different_labels_raise(model, numeric):
    turned = numeric.iloc[::-1]
    calls = [
        lambda: new().fit_on_batch(numeric.drop(columns="y"), turned["y"], progress=False),
        lambda: new().fit(numeric.drop(columns="y"), turned["y"], progress=False),
        lambda: model.predict(numeric, exposure=turned["exposure"]),
        lambda: model.predict_on_batch(numeric, exposure=turned["exposure"]),
        lambda: model.log_likelihood(numeric, turned["y"]),
        lambda: model.compare_scenarios({"a": {}, "b": {}}, baseline="a", X=numeric, by=turned["y"] > 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="has another index than `X`"):
            call()
    swapped = xr.DataArray(turned["exposure"].to_numpy(), dims="who", coords={"who": np.asarray(turned.index, str)})
    with pytest.raises(ValueError, match="has another index than `X`"):
        model.predict(labelled(numeric), exposure=swapped)


@pytest.mark.filterwarnings("ignore:Arguments have NaN")
def test_missing_values_become_nan(model, table):
    holed = table.assign(price=table["price"].where(table["price"] > 0))
    for given in (holed, holed.convert_dtypes(), pl.from_pandas(holed), pa.Table.from_pandas(holed)):
        mu = model.predict(given, **KEY, **QUIET)["posterior_predictive"]["mu"].values
        np.testing.assert_array_equal(np.isnan(mu[0, 0]), (table["price"] <= 0).to_numpy())


def test_column_of_lists_is_an_argument():
    """Images and embeddings are stored like this in Parquet; as the input, the column is a matrix."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    arrow = pa.table({"X": lists, "exposure": np.zeros(50), "y": y})
    frames = [arrow, pl.from_arrow(arrow), pd.DataFrame({"X": list(X), "exposure": 0.0, "y": y})]
    by_hand = new().fit_on_batch(X, y, exposure=np.zeros(50), num_steps=3, num_samples=2, progress=False)
    for frame in frames[:2]:
        found = new().fit_on_batch(frame, num_steps=3, num_samples=2, progress=False)
        np.testing.assert_array_equal(found.posterior["beta"], by_hand.posterior["beta"])
    with pytest.raises(TypeError, match="got object data"):
        new().fit_on_batch(frames[2], progress=False)


def test_column_of_another_axis_raises():
    """Otherwise 200 observations would broadcast to 40,000, and make the posterior far too narrow."""

    def slope(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X), obs=y)

    x = np.linspace(0, 1, 20)
    for X, y in [(x[:, None], x), (x, x[:, None]), (pd.DataFrame({"x": x}), x), (x, pd.DataFrame({"y": x}))]:
        model = aimz.ImpactModel(
            slope, random.key(0), SVI(slope, AutoNormal(slope), numpyro.optim.Adam(0.1), Trace_ELBO())
        )
        with pytest.raises(aimz.errors.KernelValidationError, match="each observation would be compared with all"):
            model.fit_on_batch(X, y, progress=False)
        assert jax.tree.leaves(model.vi_state) == []


def test_chunked_table_reads_only_the_used_columns_in_each_pass(table, tmp_path):
    from aimz.data import KernelParameters, open_chunked_table

    dataset = pyarrow.dataset.dataset(parquet(table, tmp_path))
    pieces = open_chunked_table(dataset, KernelParameters("X", "y", ("exposure",), {"X": ("price", "age")}))
    assert pieces.n_obs == N
    assert pieces.names == ("price", "exposure", "age", "y")
    for _ in range(2):
        assert sum(piece.num_rows for piece in pieces) == N
    assert next(iter(pieces)).schema.names == ["price", "exposure", "age", "y"]
    np.testing.assert_array_equal(pieces.labels("region"), table["region"])


class Counted:
    """An array in chunks that records what is read."""

    def __init__(self, array, chunk):
        self._array = array
        self.shape, self.dtype, self.ndim, self.chunks = array.shape, array.dtype, array.ndim, (chunk, *array.shape[1:])
        self.read = []

    def __getitem__(self, rows):
        self.read.append(rows)
        return self._array[rows]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._array, dtype)


def test_chunks_larger_than_blocks_are_read_once():
    """A Zarr chunk is decompressed as a whole for any of its rows."""
    X = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    counted = Counted(X, 3000)
    model = new().set_posterior_sample({"beta": np.ones((2, 2))})
    options = {"exposure": np.zeros(len(X)), "in_sample": False, **KEY, **QUIET}
    found = model.predict(counted, **options)["predictions"]["mu"]
    np.testing.assert_array_equal(found, model.predict(X, **options)["predictions"]["mu"])
    starts = [rows.start for rows in counted.read if rows.stop > rows.start]
    assert starts == [0, 3000, 6000, 9000]


def test_grain_data_sets_work_in_fits_and_comparisons(numeric):
    rows = {"X": numeric[["price", "age"]].to_numpy(), "exposure": numeric["exposure"].to_numpy()}
    rows["y"] = numeric["y"].to_numpy()
    source = [{name: array[i] for name, array in rows.items()} for i in range(N)]

    def batches():
        return grain.MapDataset.source(source).to_iter_dataset().batch(100, drop_remainder=False)

    options = {"epochs": 1, "num_samples": 4, "progress": False, **KEY}
    model = new().fit(batches(), **options)
    fields = {"exposure": rows["exposure"], "shuffle": False, "batch_size": 100}
    arrays = new().fit(rows["X"], rows["y"], **fields, **options)
    np.testing.assert_allclose(model.vi_result.losses, arrays.vi_result.losses, rtol=1e-5)
    found = model.compare_scenarios(
        {"as is": {}, "more": {"intervention": {"exposure": lambda exposure: exposure + 1}}},
        baseline="as is",
        X=batches(),
        progress=False,
    )
    np.testing.assert_allclose(found["effect"]["y"], 1.0, rtol=1e-4)

"""Values of rows that are read lazily are checked while they are read, in the words for arrays in memory."""

import warnings

import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import zarr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import FitWarning, ImpactModel, OutputWarning
from aimz.utils.data import ArrayDataset, ArrayLoader

pytestmark = pytest.mark.usefixtures("plain_code")
N = 3000
QUIET = {"store": "memory", "progress": False}


def table(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


def new(kernel):
    return ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO()))


def model_of(kernel):
    return new(kernel).set_posterior_sample({"b": np.ones(3, np.float32)})


def warned(call):
    """Return the texts of all warnings about the values of rows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, OutputWarning)]


def _stored(X, path):
    array = zarr.create_array(path / "X.zarr", shape=X.shape, chunks=(1000, 2), dtype=X.dtype)
    array[:] = X
    return array


def _mapped(X, path):
    np.save(path / "X.npy", X)
    return np.load(path / "X.npy", mmap_mode="r")


def _frame(X):
    return pd.DataFrame(X, columns=["dose", "time"])


SOURCES = {
    "memory map": _mapped,
    "zarr": _stored,
    "dask": lambda X, _: da.from_array(X, chunks=(1000, 2)),
    "frame": lambda X, _: _frame(X),
    "data set": lambda X, _: ds.dataset(pa.Table.from_pandas(_frame(X))),
    "batches": lambda X, _: [{"X": part} for part in np.array_split(X, 7)],
    "frames": lambda X, _: (_frame(part) for part in np.array_split(X, 7)),
    "zarr group": lambda X, path: _zarr_group(X, path),
}
SLOW = ("memory map", "dask", "frame", "batches")
EACH_SOURCE = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SOURCES]


def _zarr_group(X, path):
    group = zarr.create_group(path / "table.zarr")
    for i, name in enumerate(["dose", "time"]):
        group.create_array(name, data=X[:, i], chunks=(1000,))
    return group


COLUMN = {"memory map": "Column 1 of `X`", "zarr": "Column 1 of `X`", "dask": "Column 1 of `X`", "batches": "Column 1"}


@pytest.mark.parametrize("source", EACH_SOURCE)
def test_columns_that_collapse_warn_once_after_all_rows_are_read(source, tmp_path):
    """Unix seconds of an hour are 128 seconds apart in float32, so that 29 values remain (1.7e9 is one of them)."""
    seconds = 1.7e9 + np.arange(N)
    X = np.column_stack([np.arange(N) / N, seconds])
    (text,) = warned(lambda: model_of(table).predict(SOURCES[source](X, tmp_path), in_sample=False, **QUIET))
    remain = len(np.unique(seconds.astype(np.float32)))
    where = COLUMN.get(source, "`X['time']`")
    assert text.startswith(where)
    assert f"has {N} distinct values, of which {remain} remain in float32" in text
    assert f"{N - remain} are lost" in text


@pytest.mark.parametrize("source", EACH_SOURCE)
def test_columns_that_are_narrow_in_each_batch_but_not_in_all_rows_do_not_warn(source, tmp_path):
    """Seconds of four years are rounded to 128 seconds, a negligible part of their range."""
    X = np.column_stack([np.arange(N) / N, 1.7e9 + np.arange(N) * 40_000.0])
    assert not warned(lambda: model_of(table).predict(SOURCES[source](X, tmp_path), in_sample=False, **QUIET))


CALLS = {
    "scores": lambda m, X, y: m.log_likelihood(X, y, **QUIET),
    "by draws": lambda m, X, y: m.predict(X, in_sample=False, shard_axis="draw", **QUIET),
    "batches by draws": lambda m, X, y: m.predict([{"X": X.compute()}], in_sample=False, shard_axis="draw", **QUIET),
    "scenarios": lambda m, X, y: m.compare_scenarios(
        {"a": {}, "b": {"intervention": {"X": lambda x: x + 1}}}, baseline="a", X=X, progress=False
    ),
    "on a batch": lambda m, X, y: m.predict_on_batch(X, in_sample=False),
    "intervention": lambda m, X, y: m.predict_on_batch(
        np.zeros(X.shape, np.float32), intervention={"X": X.compute()}, in_sample=False
    ),
    "fit": lambda m, X, y: m.fit(X, y, epochs=1, batch_size=1000, progress=False),
    "fit on a batch": lambda m, X, y: m.fit_on_batch(X.compute(), y, num_steps=1, progress=False),
}


@pytest.mark.filterwarnings("ignore:The draws are not from the posterior yet")
@pytest.mark.parametrize(
    "call", [pytest.param(name, marks=pytest.mark.slow if "fit" in name else ()) for name in CALLS]
)
def test_every_method_warns_about_columns_that_collapse(call):
    X = np.column_stack([np.zeros(N), 1.7e9 + np.arange(N) % 10])
    texts = warned(lambda: CALLS[call](model_of(table), da.from_array(X, chunks=(1000, 2)), np.zeros(N, np.float32)))
    assert texts
    assert all("has 10 distinct values, of which 1 remain in float32" in text for text in texts)


def test_fit_of_batches_warns_about_columns_that_collapse():
    X = np.column_stack([np.zeros(N), 1.7e9 + np.arange(N) % 10])
    batches = [{"X": part, "y": 0 * part[:, 0]} for part in np.array_split(X, 6)]
    (text,) = warned(lambda: model_of(table).fit(batches, progress=False))
    assert "has 10 distinct values, of which 1 remain in float32" in text


def test_data_sets_and_loaders_that_cast_warn_about_columns_that_collapse():
    X = np.column_stack([np.zeros(N), 1.7e9 + np.arange(N) % 10])
    loader = ArrayLoader(ArrayDataset(X=X), random.key(0), batch_size=900, shuffle=True, device=jax.devices()[0])
    for call in (
        lambda: ArrayDataset(X=_frame(X)),
        lambda: ArrayDataset(X=X, to_jax=True),
        lambda: model_of(table).predict(loader, in_sample=False, **QUIET),
    ):
        (text,) = [text for text in warned(call) if "shuffles" not in text]
        assert "has 10 distinct values, of which 1 remain in float32" in text


@pytest.mark.parametrize("axis", ["obs", "draw"])
def test_nan_in_lazy_rows_are_counted_once_whichever_axis_is_split(axis):
    X = np.zeros((N, 2), np.float32)
    X[[5, 2900], 1] = np.nan
    for given in (da.from_array(X, chunks=(1000, 2)), ArrayLoader(ArrayDataset(X=X), random.key(0), batch_size=900)):
        (text,) = warned(lambda given=given: model_of(table).predict(given, in_sample=False, shard_axis=axis, **QUIET))
        assert text.startswith("Arguments have NaN (column 1 of `X`: 2 row(s), the first row 5)")


# ------------------------------------------------------------------------------------------------- the output


def counts(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(0.0 * b * X[:, 0])), obs=y)


def masked(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    seen = X[:, 1] > 0
    with numpyro.plate("obs", X.shape[0]), numpyro.handlers.mask(mask=seen):
        numpyro.sample("y", dist.Gamma(jnp.exp(0.0 * b * X[:, 0]), 1.0), obs=y)


def classes(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.OrderedLogistic(b * X[:, 0], jnp.array([-1.0, 1.0])), obs=y)


X_SCORED = np.ones((N, 2), np.float32)


def lazily(X, y):
    return da.from_array(X, chunks=(1000, 2)), {"y": da.from_array(y, chunks=1000)}


def in_batches(X, y):
    return [{"X": a, "y": b} for a, b in zip(np.array_split(X, 7), np.array_split(y, 7), strict=True)], {}


def of_table(X, y):
    return ds.dataset(pa.table({"dose": X[:, 0], "seen": X[:, 1], "y": y})), {}


SCORED = {"dask": lazily, "batches": in_batches, "data set": of_table}
EACH_SCORED = ["batches", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dask", "data set"))]


@pytest.mark.parametrize(
    ("source", "method"),
    [
        ("dask", "log_likelihood"),
        ("batches", "loo"),
        pytest.param("data set", "loo", marks=pytest.mark.slow),
        pytest.param("data set", "log_likelihood", marks=pytest.mark.slow),
    ],
)
def test_values_outside_of_the_support_raise_while_they_are_read(source, method):
    y = np.ones(N, np.float32)
    y[[2500, 2600]] = -1, 0.5
    X, kwargs = SCORED[source](X_SCORED, y)
    options = QUIET if method == "log_likelihood" else {"progress": False}
    with pytest.raises(
        ValueError,
        match=r"^2 of [\d,]+ values of `y` in rows 2,048 to 2,999 are not whole numbers of at least 0; got .* first in "
        r"row 2,500\. Site `y` observes them with distribution Poisson\. Recode `y`",
    ):
        getattr(model_of(counts), method)(X, **kwargs, **options)


@pytest.mark.parametrize("source", EACH_SCORED)
def test_values_that_the_kernel_masks_are_not_checked_while_they_are_read(source):
    """A Gamma density of shape 1 and rate 1 is ``-y``; masked rows have 0."""
    X, y = X_SCORED.copy(), np.ones(N, np.float32)
    X[10, 1], y[10] = 0, -1
    given, kwargs = SCORED[source](X, y)
    scores = model_of(masked).log_likelihood(given, **kwargs, **QUIET)["log_likelihood"]["y"].values[0, 0]
    np.testing.assert_allclose(scores, np.where(np.arange(N) == 10, 0.0, -1.0), atol=1e-6)
    y[2999] = -2
    given, kwargs = SCORED[source](X, y)
    with pytest.raises(
        ValueError, match=r"^1 of [\d,]+ values of `y` in rows .* first in row 2,999\. Site `y` .*Gamma"
    ):
        model_of(masked).log_likelihood(given, **kwargs, **QUIET)


@pytest.mark.parametrize("source", EACH_SCORED)
def test_missing_values_have_score_nan_and_are_rejected_by_loo(source):
    y = np.ones(N, np.float32)
    y[2999] = np.nan
    X, kwargs = SCORED[source](X_SCORED, y)
    scores = model_of(counts).log_likelihood(X, **kwargs, **QUIET)["log_likelihood"]["y"].values
    np.testing.assert_array_equal(np.isnan(scores).all((0, 1)), np.isnan(y))
    X, kwargs = SCORED[source](X_SCORED, y)
    with pytest.raises(ValueError, match=r"^1 of .* got nan, first in row 2,999\. .* Drop or impute the rows"):
        model_of(counts).loo(X, **kwargs, progress=False)


@pytest.mark.parametrize("source", EACH_SCORED)
def test_floats_for_an_output_of_integers_must_be_whole(source):
    y = np.arange(N) % 3
    X, kwargs = SCORED[source](X_SCORED, y.astype(np.float64))
    found = model_of(classes).log_likelihood(X, **kwargs, **QUIET)["log_likelihood"]["y"].values
    of_integers = model_of(classes).log_likelihood(X_SCORED, y, **QUIET)["log_likelihood"]["y"].values
    np.testing.assert_array_equal(found, of_integers)
    X, kwargs = SCORED[source](X_SCORED, y + 0.5 * (np.arange(N) == 2999))
    with pytest.raises(ValueError, match=r"`y` must hold whole numbers; got 1 others, such as 2\.5"):
        model_of(classes).log_likelihood(X, **kwargs, **QUIET)


# --------------------------------------------------------------------------------------------------------- fits


def unchecked(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], validate_args=False), obs=y)


@pytest.mark.filterwarnings("ignore:The loss")
@pytest.mark.parametrize("once", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_fit_of_batches_names_the_batch_and_the_row_that_are_not_finite(once):
    X = np.ones((70, 2), np.float32)
    X[33, 0] = np.inf
    batches = [{"X": part, "y": np.ones(10, np.float32)} for part in np.array_split(X, 7)]
    model = new(unchecked)
    with pytest.warns(
        FitWarning, match=r"not finite, first in row 3 of batch 3 of `X` \(both counted from 0\), so the"
    ):
        model.fit(iter(batches) if once else batches, total_size=70, epochs=1, batch_size=14, progress=False)
    assert not model.is_fitted()

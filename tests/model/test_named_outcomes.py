"""`y="sales"` names the column of the outcome, which later calls leave out of the input."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import zarr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset

pytestmark = pytest.mark.usefixtures("plain_code")
rng = np.random.default_rng(0)
FRAME = pd.DataFrame({"foot": rng.normal(size=64), "price": rng.normal(size=64)})
FRAME["sales"] = 1 + 2 * FRAME["price"] - FRAME["foot"]
INPUT = FRAME[["foot", "price"]].to_numpy()
QUIET = {"progress": False}


def kernel(X, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ slope, 1.0), obs=y)


SVI_OBJECT = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())


def new_model():
    return ImpactModel(kernel, random.key(0), SVI_OBJECT)


def group():
    found = zarr.create_group(zarr.storage.MemoryStore())
    for name in FRAME:
        found.create_array(name, data=FRAME[name].to_numpy())
    return found


IN_MEMORY = {
    "pandas": lambda _: FRAME,
    "polars": lambda _: pl.from_pandas(FRAME),
    "pyarrow": lambda _: pa.table(FRAME),
    "xarray": lambda _: FRAME.to_xarray(),
    "zarr": lambda _: group(),
}


def parquet(path):
    FRAME.to_parquet(path / "rows.parquet")
    return path / "rows.parquet"


STREAMED = {
    "parquet": lambda path: ds.dataset(parquet(path)),
    "lazy frame": lambda path: pl.scan_parquet(parquet(path)),
    "frames": lambda _: [FRAME[:40], FRAME[40:]],
    "mappings": lambda _: [{"X": INPUT[rows], "sales": FRAME["sales"][rows]} for rows in (slice(40), slice(40, 64))],
    "data set": lambda _: ArrayDataset(X=INPUT, sales=FRAME["sales"].to_numpy()),
}


@pytest.mark.parametrize("kind", ["pandas", "zarr"])
def test_fit_with_the_name_of_the_outcome_equals_fit_with_its_values(kind, tmp_path):
    table = IN_MEMORY[kind](tmp_path)
    options = {"num_steps": 3, "num_samples": 5, **QUIET}
    named = new_model().fit_on_batch(table, y="sales", **options)
    given = new_model().fit_on_batch(INPUT, FRAME["sales"].to_numpy(), **options)
    np.testing.assert_array_equal(named.posterior["slope"], given.posterior["slope"])
    assert set(named.inputs.columns) == {"foot", "price"}
    draws = [
        model.predict_on_batch(X, rng_key=random.key(1), return_datatree=False)["y"]
        for model, X in ((named, table), (given, INPUT))
    ]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize("kind", [*IN_MEMORY, *STREAMED])
def test_scores_use_the_column_of_the_fit(kind, tmp_path):
    table = {**IN_MEMORY, **STREAMED}[kind](tmp_path)
    posterior = {"slope": np.array([[0.0, 0.0], [-1.0, 2.0]])}
    expected = -0.5 * (FRAME["sales"].to_numpy() - (INPUT @ posterior["slope"].T).T) ** 2 - 0.5 * np.log(2 * np.pi)
    model = new_model().set_posterior_sample(posterior)
    scores = model.log_likelihood(table, y="sales", store="memory", **QUIET)["log_likelihood"]["y"].values[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    fitted = new_model().fit(table, y="sales", epochs=1, batch_size=32, num_samples=3, **QUIET)
    fitted = fitted.set_posterior_sample(posterior)
    scores = fitted.log_likelihood(table, store="memory", **QUIET)["log_likelihood"]["y"].values[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert fitted.predict(table, store="memory", **QUIET)["posterior_predictive"].sizes["row"] == 64


def test_saved_model_knows_the_column_of_the_outcome(tmp_path):
    model = new_model().fit_on_batch(FRAME, y="sales", num_steps=2, num_samples=3, **QUIET)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", kernel)
    scores = (one.log_likelihood(FRAME, store="memory", **QUIET)["log_likelihood"] for one in (model, loaded))
    np.testing.assert_array_equal(*(found["y"].values for found in scores))


METHODS = {
    "fit_on_batch": lambda model, X, y: model.fit_on_batch(X, y, num_steps=1, num_samples=1, **QUIET),
    "fit": lambda model, X, y: model.fit(X, y, num_samples=1, **QUIET),
    "train_on_batch": lambda model, X, y: model.train_on_batch(X, y),
    "log_likelihood": lambda model, X, y: model.log_likelihood(X, y, store="memory", **QUIET),
    "loo": lambda model, X, y: model.loo(X, y, **QUIET),
    "diagnose": lambda model, X, y: model.diagnose(X, y),
    "describe": lambda model, X, y: model.describe(X, y),
}


@pytest.mark.parametrize("method", METHODS)
def test_unknown_names_are_rejected(method):
    call = METHODS[method]
    model = new_model().set_posterior_sample({"slope": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"got 'sale', and `X` has 'foot', 'price', 'sales'\. Pass one of them"):
        call(model, FRAME, "sale")
    with pytest.raises(TypeError, match="names a column, but `X` has none; got an object of type `ndarray`"):
        call(model, INPUT, "sales")


def test_outcome_that_is_not_named_is_an_error_in_the_input():
    with pytest.raises(ValueError, match="its column 'sales' has the name of `y`"):
        new_model().fit_on_batch(FRAME, FRAME["sales"], **QUIET)

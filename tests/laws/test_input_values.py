"""Values of arrays in every kind of input: masks, narrow integers, missing values, rounding."""

import dask.array as da
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import zarr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader

pytestmark = pytest.mark.usefixtures("plain_code")


def linear(X, offset=None, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.deterministic("centred", X - 128)
    mu = numpyro.deterministic("mu", b * X + (0 if offset is None else offset))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def model_of(kernel, **draws):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi).set_posterior_sample(draws or {"b": np.ones(2)})


def predict(model, X, *, site="mu", **kwargs):
    result = model.predict(X, in_sample=False, store="memory", progress=False, return_sites=site, **kwargs)
    return result["predictions"][site].values[0, 0]


SOURCES = {
    "array": lambda X, path: X,
    "dask": lambda X, path: da.from_array(X, chunks=2),
    "batches": lambda X, path: [{"X": X[:2]}, {"X": X[2:]}],
    "data set": lambda X, path: ArrayDataset(X=X),
    "loader": lambda X, path: ArrayLoader(ArrayDataset(X=X), rng_key=random.key(0), batch_size=2),
}


@pytest.mark.parametrize("source", SOURCES)
def test_masked_floats_become_nan(source, tmp_path):
    X = np.ma.array([1.0, -999.0, 1.2], mask=[False, True, False])
    found = predict(model_of(linear), SOURCES[source](X, tmp_path))
    np.testing.assert_allclose(found, [1.0, np.nan, 1.2], rtol=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_masked_integers_raise_with_count_and_first_row(source, tmp_path):
    X = np.ma.array([1, 7, -999], mask=[False, False, True])
    with pytest.raises(ValueError, match=r"`X` has masked values in 1 row\(s\), the first in row \d"):
        predict(model_of(linear), SOURCES[source](X, tmp_path))


def test_masks_of_further_arguments_interventions_outputs_and_weights():
    model, X = model_of(linear), np.ones(3, np.float32)
    masked = np.ma.array([0.0, 1.0, 2.0], mask=[False, True, False])
    expected = [1.0, np.nan, 3.0]
    np.testing.assert_allclose(predict(model, X, offset=masked), expected)
    np.testing.assert_allclose(predict(model, X, offset=np.zeros(3), intervention={"offset": masked}), expected)
    np.testing.assert_allclose(
        predict(model, X, offset=np.zeros(3), intervention={"offset": lambda _: masked}), expected
    )
    on_batch = model.predict_on_batch(X, offset=masked, in_sample=False, return_sites="mu")
    np.testing.assert_allclose(on_batch["predictions"]["mu"].values[0, 0], expected)
    outputs = [np.ma.array([1.0, -999.0, 1.0], mask=[0, 1, 0]), np.array([1.0, np.nan, 1.0])]
    scores = [model.log_likelihood(X, y, store="memory", progress=False)["log_likelihood"]["y"] for y in outputs]
    np.testing.assert_array_equal(*scores)
    integers = np.ma.array([1, 2, 3], mask=[True, True, False])
    scenarios = {"one": {}, "other": {"intervention": {"X": 2.0}}}
    options = {"baseline": "one", "X": X, "in_sample": False, "progress": False}
    for bad, match in (
        ({"weights": integers}, "`weights` has masked values in 2 row"),
        ({"by": integers}, "2 of `group` are missing"),
    ):
        with pytest.raises(ValueError, match=match):
            model.compare_scenarios(scenarios, **options, **bad)
    for call in (model.fit_on_batch, model.fit):
        with pytest.raises(ValueError, match="`X` has masked values in 2 row"):
            call(integers, X, progress=False)


def _in_zarr(X, path):
    array = zarr.create_array(path / "X.zarr", overwrite=True, shape=X.shape, chunks=(2,), dtype=X.dtype)
    array[:] = X
    return array


NARROW = {**SOURCES, "zarr": _in_zarr, "frame": lambda X, path: pd.DataFrame({"X": X})}


@pytest.mark.parametrize("source", NARROW)
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_narrow_integers_are_widened_before_kernels_and_callables(source, dtype, tmp_path):
    top = np.iinfo(dtype).max
    X = np.array([20, 100, top], dtype)
    given = NARROW[source](X, tmp_path)
    np.testing.assert_array_equal(predict(model_of(linear), given, site="centred"), X.astype(int) - 128)
    given = NARROW[source](X, tmp_path)
    moved = predict(model_of(linear), given, intervention={"X": lambda x: x + 100})
    np.testing.assert_array_equal(moved, X.astype(float) + 100)


def test_narrow_integers_on_a_batch_and_as_weights_equal_wide_ones():
    X, model = np.array([20, 200, 255], np.uint8), model_of(linear)
    found = model.predict_on_batch(X, in_sample=False, return_sites=["centred", "mu"])["predictions"]
    np.testing.assert_array_equal(found["centred"].values[0, 0], X.astype(int) - 128)
    scenarios = {"as is": {}, "more": {"intervention": {"X": lambda x: x + 100}}}
    options = {"baseline": "as is", "X": X, "in_sample": False, "progress": False, "return_sites": "mu"}
    effects = [
        model.compare_scenarios(scenarios, weights=np.array([200, 200, 200], dtype), rng_key=random.key(0), **options)
        for dtype in (np.uint8, np.int64)
    ]
    for tree in effects:
        np.testing.assert_allclose(tree["effect"]["mu"], 100.0, rtol=1e-6)

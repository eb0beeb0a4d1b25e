"""Values of arrays in every kind of input: masks, narrow integers, missing values, rounding."""

from contextlib import nullcontext

import dask.array as da
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
import zarr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader, with_missing_chunks
from slow_cases import slow_except

pytestmark = pytest.mark.usefixtures("plain_code")
MISSING = pytest.mark.filterwarnings("ignore:Arguments have NaN")


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


@MISSING
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


@MISSING
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


def _discrete(likelihood):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            y = numpyro.sample("y", likelihood(b * X), obs=y)
        numpyro.deterministic("revenue", 2 * y)

    return kernel


LIKELIHOODS = {
    "bernoulli": lambda eta: dist.Bernoulli(logits=eta),
    "poisson": lambda eta: dist.Poisson(jnp.exp(eta)),
    "categorical": lambda eta: dist.Categorical(logits=jnp.stack([eta, 0 * eta, -eta], -1)),
    "negative binomial": lambda eta: dist.NegativeBinomial2(jnp.exp(eta), 3.0),
    "zero-inflated": lambda eta: dist.ZeroInflatedDistribution(dist.Poisson(2.0), gate=1 / (1 + jnp.exp(eta))),
    "mixture": lambda eta: dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.5, 0.5])), dist.Poisson(jnp.exp(jnp.stack([eta, eta + 1], -1)))
    ),
    "ordered": lambda eta: dist.OrderedLogistic(eta, jnp.array([-1.0, 1.0])),
    "finite input": lambda eta: dist.Poisson(jnp.log(eta)),
}


@MISSING
@pytest.mark.parametrize(
    "likelihood", slow_except(LIKELIHOODS, "poisson", "categorical", "zero-inflated", "finite input")
)
def test_discrete_outputs_are_nan_in_rows_with_nan_parameters_and_unchanged_in_others(likelihood, tmp_path):
    X = np.array([1.0, -1.0 if likelihood == "finite input" else np.nan, 1.5, 2.0], np.float32)
    clean = np.where(np.arange(4) == 1, np.float32(1), X)
    model = model_of(_discrete(LIKELIHOODS[likelihood]), b=np.full(5, 1.0))
    options = {"in_sample": False, "rng_key": random.key(3)}
    expected = model.predict_on_batch(clean, **options)["predictions"]
    results = [
        model.predict_on_batch(X, **options),
        model.predict(X, store="memory", progress=False, **options),
        model.predict(X, output_dir=tmp_path, progress=False, **options),
    ]
    stored = aimz.open_result(results[-1].attrs["artifact_path"])
    for found in (*results, stored, xr.open_datatree(results[-1].attrs["artifact_path"], engine="zarr")):
        for site in ("y", "revenue"):
            assert expected[site].dtype == np.int32
            values = found["predictions"][site].values
            assert values.dtype == np.float64
            np.testing.assert_array_equal(np.isnan(values).all((0, 1)), [False, True, False, False])
            np.testing.assert_array_equal(values[..., [0, 2, 3]], expected[site].values[..., [0, 2, 3]])
    clean = model.predict(clean, output_dir=tmp_path, progress=False, **options)
    assert clean["predictions"]["y"].dtype == np.int32
    statistics = model.predict(X, store="memory", progress=False, statistics=("mean", "sd", 0.5), **options)
    found = np.isnan(statistics["predictions"]["y"].values)
    np.testing.assert_array_equal(found, [[False, True, False, False]] * 3)
    y = np.ones(4, np.int32)
    scores = model.log_likelihood(X, y, store="memory", progress=False)["log_likelihood"]["y"].values
    np.testing.assert_array_equal(np.isnan(scores).all((0, 1)), [False, True, False, False])


@MISSING
@pytest.mark.parametrize("source", ["dask", "batches", "zarr", "generator"])
def test_discrete_outputs_of_lazy_rows_are_nan_where_their_parameters_are(source, tmp_path):
    X = np.array([1.0, 2.0, np.nan, 1.0])
    model = model_of(_discrete(LIKELIHOODS["poisson"]), b=np.full(3, 1.0))
    X = np.tile(X, 512)[:2000] if source == "generator" else X
    rows = (X[i : i + 100] for i in range(0, 2000, 100)) if source == "generator" else NARROW[source](X, tmp_path)
    with pytest.warns(UserWarning, match=r"Arguments have NaN \(`X`: \d+ row\(s\), the first row 2\)"):
        found = model.predict(rows, in_sample=False, output_dir=tmp_path / "out", batch_size=2, progress=False)
    np.testing.assert_array_equal(np.isnan(found["predictions"]["y"].values[0, 0]), np.isnan(X))


def test_missing_rows_are_counted_by_column_in_one_warning():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=b * X.sum(1)), obs=y)

    frame = pd.DataFrame({"age": [1.0, np.nan, np.nan], "income": [np.nan, 1.0, 2.0]})
    text = r"column 'age' of `X`: 2 row\(s\), the first row 1; column 'income' of `X`: 1 row\(s\), the first row 0\)"
    for method in ("predict", "predict_on_batch"):
        options = {"store": "memory", "progress": False} if method == "predict" else {}
        with pytest.warns(UserWarning, match=text) as record:
            getattr(model_of(kernel), method)(frame, in_sample=False, **options)
        assert len(record) == 1


@MISSING
@pytest.mark.parametrize("lazy", [False, True])
def test_averages_are_nan_or_leave_out_and_count_rows_with_nan(lazy):
    """With a logit of 0 and a site set to 1, closed forms: an average of the other rows, or NaN."""
    X = np.array([1.0, np.nan, 3.0, 5.0])
    given = da.from_array(X, chunks=2) if lazy else X
    model = model_of(_discrete(LIKELIHOODS["bernoulli"]), b=np.full(4, 50.0))
    scenarios = {"as is": {}, "none": {"intervention": {"X": lambda x: -x}}}
    options = {"baseline": "as is", "X": given, "in_sample": False, "progress": False, "return_sites": ["y", "revenue"]}
    found = model.compare_scenarios(scenarios, **options)
    assert np.isnan(found["effect"]["y"]).all()
    assert np.isnan(found["effect"]["revenue"]).all()
    by = np.array(["a", "a", "a", "b"])
    found = model.compare_scenarios(scenarios, nan_policy="omit", by=by, **options)
    np.testing.assert_array_equal(found["effect"]["y"], -1.0)
    np.testing.assert_array_equal(found["effect"]["revenue"], -2.0)
    np.testing.assert_array_equal(found["groups"]["rows"], [2, 1])
    assert found["effect"].attrs["rows_omitted"] == 1
    assert found["effect"].attrs["weights"] == "equal"
    with pytest.raises(ValueError, match="`nan_policy` must be 'propagate' or 'omit'; got 'drop'"):
        model.compare_scenarios(scenarios, nan_policy="drop", **options)
    on_rows = model.estimate_effect(
        args_baseline={"X": X, "in_sample": False},
        args_intervention={"X": X, "in_sample": False, "intervention": {"X": lambda x: -x}, "store": "memory"},
        statistics=("mean",),
    )
    np.testing.assert_array_equal(on_rows["predictions"]["y"].values, [[-1.0, np.nan, -1.0, -1.0]])


@MISSING
def test_sites_below_an_intervention_do_not_depend_on_missing_values_above_it():
    model = model_of(_discrete(LIKELIHOODS["bernoulli"]), b=np.full(2, 1.0))
    found = model.predict_on_batch(
        np.array([1.0, np.nan]), in_sample=False, intervention={"y": 1}, return_sites=["revenue"]
    )
    np.testing.assert_array_equal(found["predictions"]["revenue"].values, 2)


def _table(X, weights=None, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b), obs=y)


OUTCOMES = {
    "floats": np.linspace(0, 1, 40),
    "zeros and ones": np.arange(40) % 3 == 0,
    "counts": np.arange(40),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("method", ["fit_on_batch", "fit", "log_likelihood", "train_on_batch"])
def test_outcome_among_the_columns_of_the_input_raises(outcome, method):
    y = OUTCOMES[outcome].astype(np.float32)
    frame = pd.DataFrame({"a": np.linspace(1, 2, 40), "sales": y, "b": 1.0})
    model = model_of(_table, b=np.zeros((2, 3)))
    options = {} if method == "train_on_batch" else {"progress": False}
    call = getattr(model, method)
    with pytest.raises(ValueError, match=r"column 'sales' has the name of `y`.*`X.drop\(columns='sales'\)`"):
        call(frame, frame["sales"], **options)
    with pytest.raises(ValueError, match="column 'sales' equals, in all 40 rows, `y`"):
        call(frame, y, **options)
    with pytest.raises(ValueError, match=r"column 1 equals, in all 40 rows, `y`.*numpy.delete\(X, 1, axis=1\)"):
        call(frame.to_numpy(), y, **options)
    if method in ("fit", "log_likelihood"):
        with pytest.raises(ValueError, match="column 1 equals, in all 40 rows, `y`"):
            call(da.from_array(frame.to_numpy(), chunks=16), da.from_array(y, chunks=16), **options)
    assert model.vi_state is None


def test_outcome_that_equals_a_column_in_few_rows_or_is_constant_is_accepted():
    model = model_of(_table, b=np.zeros((2, 2)))
    few = np.array([[0.0, 1.0], [1.0, 0.0]])
    model.log_likelihood(few, few[:, 0], store="memory", progress=False)
    constant = np.column_stack([np.ones(40), np.arange(40)])
    model.log_likelihood(constant, constant[:, 0], store="memory", progress=False)


@pytest.mark.parametrize("given", ["array", "frame", "vector", "further argument"])
def test_float64_columns_that_collapse_in_float32_warn_with_their_name(given):
    seconds = 1.7e9 + np.arange(10.0)
    X = np.column_stack([np.arange(10.0), seconds])
    model = model_of(_table, b=np.zeros((2, 2)))
    frame = pd.DataFrame(X, columns=["dose", "time"])
    where, args, kwargs = {
        "array": ("Column 1 of `X`", X, {}),
        "frame": (r"`X\['time'\]`", frame, {}),
        "vector": ("`X`", seconds, {}),
        "further argument": ("`weights`", X[:, :1].repeat(2, 1), {"weights": seconds}),
    }[given]
    model = model_of(linear) if given == "vector" else model
    with pytest.warns(UserWarning, match=rf"{where} has 10 distinct values, of which 1 remain in float32.*9 are lost"):
        model.predict_on_batch(args, in_sample=False, **kwargs)
    with pytest.warns(UserWarning, match=where):
        model.predict(args, in_sample=False, store="memory", progress=False, **kwargs)


def test_float64_columns_that_keep_their_values_do_not_warn():
    """Unix seconds of a year are rounded to 128 seconds, a negligible part of their range."""
    model = model_of(linear)
    for X in (np.linspace(1.7e9, 1.73e9, 50), np.full(5, 1.7e9), np.array([1e9, np.nan, 1.0]), np.array([0.1, 0.2])):
        warnings = [UserWarning] if np.isnan(X).any() else []
        with pytest.warns(*warnings, match="NaN") if warnings else nullcontext():
            model.predict_on_batch(X, in_sample=False, return_sites="mu")


def test_time_zones_of_row_labels_are_recorded(tmp_path):
    index = pd.date_range("2026-03-28 12:00", periods=3, freq="D", tz="Europe/Berlin")
    frame = pd.DataFrame({"X": [1.0, 2.0, 3.0]}, index=index)
    found = model_of(linear).predict(frame, in_sample=False, output_dir=tmp_path, progress=False)
    for tree in (found, aimz.open_result(found.attrs["artifact_path"])):
        labels = tree["predictions"]["obs"]
        assert labels.attrs["time_zone"] == "Europe/Berlin"
        restored = labels.to_index().tz_localize("UTC").tz_convert(labels.attrs["time_zone"])
        assert (restored == index).all()


@pytest.mark.parametrize("shards", [None, (4,)])
def test_zarr_arrays_with_chunks_that_were_never_written_raise_unless_allowed(shards, tmp_path):
    X = zarr.create_array(tmp_path / "X", shape=(10,), chunks=(2,), shards=shards, dtype="float32")
    X[:4] = np.arange(1, 5)
    total, missing = (5, 3) if shards is None else (3, 2)
    text = f"`X` must be a Zarr array .* {missing} of {total} are missing, the first at row 4, and .* fill value 0.0"
    model = model_of(linear)
    for call in (
        lambda: predict(model, X),
        lambda: model.predict_on_batch(X, in_sample=False),
        lambda: model.log_likelihood(X, np.ones(10), store="memory", progress=False),
        lambda: model.fit(X, np.ones(10), progress=False),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    expected = [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(predict(model, with_missing_chunks(X)), expected)
    found = model.predict_on_batch(with_missing_chunks(X), in_sample=False, return_sites="mu")
    np.testing.assert_array_equal(found["predictions"]["mu"].values[0, 0], expected)
    X[:] = np.arange(10)
    np.testing.assert_array_equal(predict(model, X), np.arange(10))


def test_columns_of_zarr_groups_with_missing_chunks_raise():
    group = zarr.create_group({})
    group.create_array("a", shape=(4,), chunks=(2,), dtype="float32")[:] = 1.0
    group.create_array("b", shape=(4,), chunks=(2,), dtype="float32")[:2] = 1.0
    with pytest.raises(ValueError, match="1 of 2 are missing from 'b', the first at row 2"):
        model_of(_table, b=np.zeros((2, 2))).predict(group, in_sample=False, store="memory", progress=False)
    allowed = model_of(_table, b=np.zeros((2, 2))).predict(
        with_missing_chunks(group), in_sample=False, store="memory", progress=False
    )
    assert allowed["predictions"]["y"].shape == (1, 2, 4)
    nan = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="float32", fill_value=np.nan)
    with pytest.warns(UserWarning, match="Arguments have NaN"):
        assert np.isnan(predict(model_of(linear), nan)).all()

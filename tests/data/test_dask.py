"""Dask arrays, plain and in xarray, as arguments of a model: no array is loaded whole, or twice for its digest."""

import dask.array as da
import dask.dataframe
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
import zarr
from jax import random

from aimz.data import lazy_arrays as sources
from aimz.store import ZarrStore
from stream_helpers import KEY, new_model

N = 5000
RNG = np.random.default_rng(3)
X, T = RNG.normal(size=(N, 2)).astype(np.float32), RNG.normal(size=N).astype(np.float32)
OPTIONS = {"rng_key": KEY, "progress": False}


def kernel(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0] + X[:, 1] + t, 1.0), obs=y)


@pytest.fixture(scope="module")
def model():
    return new_model(kernel, {"b": np.array([0.5, 1.0], np.float32)})


@pytest.fixture(scope="module")
def expected(model):
    return drawn(model.predict(X, t=T, store="memory", **OPTIONS))


def drawn(tree):
    return tree["posterior_predictive"]["y"].values


class Watched:
    """A Dask array that records which chunks were computed."""

    def __init__(self, array, chunk=500):
        self.made = []
        whole = da.from_array(np.arange(len(array)), chunks=chunk)
        shape = {"new_axis": [1], "chunks": (whole.chunks[0], array.shape[1:])} if array.ndim == 2 else {}
        self.lazy = whole.map_blocks(self._make, array, dtype=array.dtype, meta=array[:0], **shape)

    def _make(self, rows, array):
        self.made.append(int(rows[0]))
        return array[rows]


def as_data_set():
    both = Watched(np.column_stack([X, T]))
    names = {name: ("row", both.lazy[:, i]) for i, name in enumerate(("a", "b", "t"))}
    return both, (xr.Dataset(names),), {}


def as_labelled():
    given = Watched(X)
    labelled = xr.DataArray(given.lazy, dims=("row", "column"), coords={"column": ["a", "b"]})
    return given, (labelled,), {"t": xr.DataArray(da.from_array(T, chunks=700), dims="row")}


def as_array():
    given = Watched(X)
    return given, (given.lazy,), {"t": da.from_array(T, chunks=700)}


@pytest.mark.parametrize(("make", "times"), [(as_array, 1), (as_labelled, 1), (as_data_set, 2)])
def test_chunks_are_computed_once_per_argument_and_in_order(model, expected, make, times):
    given, args, kwargs = make()
    found = model.predict(*args, **kwargs, store="memory", **OPTIONS)
    np.testing.assert_array_equal(drawn(found), expected)
    assert sorted(row for row in given.made if row) == sorted([*range(500, N, 500)] * times)
    made = np.array(given.made)
    assert (made >= np.maximum.accumulate(made) - 2500).all()  # within a step of 2,048 rows in any order


@pytest.mark.parametrize("what", ["X", "t"])
@pytest.mark.parametrize("make", [lambda frame: frame.to_dask_array(), lambda frame: frame.values])
def test_arrays_of_unknown_length_raise(model, expected, what, make):
    frame = dask.dataframe.from_pandas(pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "t": T}), npartitions=2)
    one = make(frame[["a", "b"]] if what == "X" else frame["t"])
    given = {"X": X, "t": T, what: one}
    said = rf"`{what}` must be an array of a known number of rows; got a Dask array .*to_dask_array\(lengths=True\)"
    with pytest.raises(ValueError, match=said):
        model.predict(**given, store="memory")
    with pytest.raises(ValueError, match=said):
        model.log_likelihood(**given, y=T, store="memory")
    with pytest.raises(ValueError, match=said):
        model.compare_scenarios({"a": {}, "b": {"intervention": {"b": 1.0}}}, baseline="a", **given)
    if what == "t":
        with pytest.raises(ValueError, match=said):
            model.predict(iter([X]), t=one, store="memory")
    found = model.predict(**{**given, what: one.compute_chunk_sizes()}, store="memory", **OPTIONS)
    np.testing.assert_array_equal(drawn(found), expected)


def test_data_frame_of_known_length_is_read_by_column(model, expected):
    frame = dask.dataframe.from_pandas(pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "t": T}), npartitions=3)
    found = model.predict(
        frame[["a", "b"]].to_dask_array(lengths=True),
        t=frame["t"].to_dask_array(lengths=True),
        store="memory",
        **OPTIONS,
    )
    np.testing.assert_array_equal(drawn(found), expected)


def test_digest_of_a_dask_array_is_cached(monkeypatch):
    monkeypatch.setattr(sources, "_MAX_DIGESTS", 2)
    sources._DIGESTS.clear()
    one, other = Watched(X), Watched(X + 1)
    digest = sources.LazyArray(one.lazy, "X").digest
    seen = list(one.made)
    assert sources.LazyArray(one.lazy, "X").digest == digest == sources.LazyArray(X, "X").digest
    assert one.made[len(seen) :] == [0]  # for an empty slice
    assert sources.LazyArray(other.lazy, "X").digest != digest
    assert sources.LazyArray(one.lazy[:-1], "X").digest == sources.LazyArray(X[:-1], "X").digest
    assert sources.LazyArray(one.lazy[:, ::-1], "X").digest == sources.LazyArray(X[:, ::-1], "X").digest != digest
    changed = sources.LazyArray(one.lazy, "X").apply(lambda rows: rows + 1)
    assert changed.digest == sources.LazyArray(X + 1, "X").digest
    columns = [xr.Dataset({name: ("row", one.lazy[:, i]) for i, name in enumerate(names)}) for names in ("ab", "ba")]
    assert len({sources.LazyArray(_matrix(table), "X").digest for table in columns}) == 1
    assert len(sources._DIGESTS) == 2


@pytest.mark.parametrize("how", ["array", "labelled", "columns"])
def test_digest_changes_when_a_store_is_rewritten(how, tmp_path):
    """Dask names an array of a Zarr store by its path, whatever it contains."""
    stored = zarr.create_array(str(tmp_path / "X.zarr"), data=X, chunks=(500, 2))
    given = {
        "array": lambda lazy: lazy,
        "labelled": lambda lazy: _matrix(xr.DataArray(lazy, dims=("row", "column"), coords={"column": ["a", "b"]})),
        "columns": lambda lazy: _matrix(xr.Dataset({"a": ("row", lazy[:, 0]), "b": ("row", lazy[:, 1])})),
    }[how]
    first = da.from_zarr(str(tmp_path / "X.zarr"))
    digest = sources.LazyArray(given(first), "X").digest
    stored[:] = X + 1
    second = da.from_zarr(str(tmp_path / "X.zarr"))
    assert first.name == second.name
    assert sources.LazyArray(given(second), "X").digest == sources.LazyArray(given(X + 1), "X").digest != digest


def test_digests_of_labelled_arrays_and_columns_are_cached():
    one = Watched(X)
    labelled = xr.DataArray(one.lazy, dims=("row", "column"), coords={"column": ["a", "b"]})
    for table in (labelled, labelled.isel(column=[1, 0]), labelled.to_dataset("column")):
        digest = sources.LazyArray(_matrix(table), "X").digest
        one.made.clear()
        assert sources.LazyArray(_matrix(table), "X").digest == digest
        assert not any(one.made)


def test_digest_changes_when_an_array_is_assigned_to():
    one = da.from_array(X.copy(), chunks=(500, 2))
    digest = sources.LazyArray(one, "X").digest
    one[0] = 7
    assert sources.LazyArray(one, "X").digest != digest


def _matrix(table):
    from aimz.data import KernelParameters, open_table

    return KernelParameters("X", "y").fields(open_table(table, "X"))["X"]


def test_calls_recognise_the_fitted_data(monkeypatch):
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    from aimz import ImpactModel

    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    data, more, out = Watched(X), Watched(T), Watched(T + 1)
    fitted = ImpactModel(kernel, random.key(0), svi)
    fitted.fit(data.lazy, out.lazy, t=more.lazy, epochs=2, batch_size=1000, progress=False)
    for one in (data, more, out):
        one.made.clear()
    fitted.log_likelihood(data.lazy, out.lazy, t=more.lazy, store="memory", progress=False)
    for one in (data, more, out):
        assert sorted(row for row in one.made if row) == list(range(500, N, 500))


# ------------------------------------------------------------------------------------------ calls that are resumed


class Trouble(Exception):
    """An error in the middle of a call."""


class Failing:
    """A Dask array whose chunks raise from some row on."""

    def __init__(self, array, at):
        self.at = at
        whole = da.from_array(np.arange(len(array)), chunks=500)
        self.lazy = whole.map_blocks(self._make, array, dtype=array.dtype, meta=array[:0], new_axis=1, chunks=(500, 2))

    def _make(self, rows, array):
        if rows[0] >= self.at:
            raise Trouble
        return array[rows]


def as_zarr(array, path):
    return zarr.create_array(str(path), data=array, chunks=(500, 2), overwrite=True)


AS = {"Dask": lambda array, _: da.from_array(array, chunks=(700, 2)), "Zarr": as_zarr}


def interrupted(model, path, **options):
    with pytest.raises(Trouble):
        model.predict(Failing(X, 4000).lazy, t=T, output_dir=path, **options)
    (found,) = path.iterdir()
    return found


@pytest.mark.parametrize("kind", AS)
@pytest.mark.parametrize("how", [{}, {"statistics": ["mean"]}])
def test_call_is_resumed_only_with_the_same_rows(model, tmp_path, kind, how):
    options = {**OPTIONS, "batch_size": 1024, **how}
    stopped, other = interrupted(model, tmp_path / "results", **options), X.copy()
    other[1500] += 1
    said = "cannot be resumed by this one: the data from row 1024 on differ from the data of the interrupted run"
    with pytest.raises(ValueError, match=said):
        model.predict(AS[kind](other, tmp_path / "X.zarr"), t=T, resume=stopped, **options)
    with pytest.raises(ValueError, match="cannot be resumed by this one: data of `t` differ"):
        model.predict(AS[kind](X, tmp_path / "X.zarr"), t=T + 1, resume=stopped, **options)
    rows = AS[kind](X, tmp_path / "X.zarr")
    found = model.predict(rows, t=T, resume=stopped, **options)
    expected = model.predict(X, t=T, store="memory", **options)
    np.testing.assert_array_equal(drawn(found), drawn(expected))
    np.testing.assert_array_equal(drawn(model.predict(rows, t=T, resume=stopped, **options)), drawn(expected))
    other[4700] += 1
    for changed in (other, np.roll(X, 1)):
        with pytest.raises(ValueError, match="is complete, and its data were others"):
            model.predict(AS[kind](changed, tmp_path / "X.zarr"), t=T, resume=stopped, **options)


def test_digested_rows_are_read_once_per_call(model, tmp_path):
    options = {**OPTIONS, "batch_size": 1024}
    given = Watched(X)
    stored = model.predict(given.lazy, t=T, output_dir=tmp_path, **options)
    assert sorted(row for row in given.made if row) == list(range(500, N, 500))
    given.made.clear()
    model.predict(given.lazy, t=T, resume=stored.attrs["artifact_path"], **options)
    assert sorted(row for row in given.made if row) == list(range(500, N, 500))


def test_effect_is_resumed_only_with_the_same_rows(model, tmp_path):
    """The scenarios have two versions of the rows, one of them a function of the other."""

    def effect(rows, **where):
        first = {"X": rows, "t": T, "rng_key": KEY, "progress": False}
        second = {**first, "intervention": {"X": lambda X: X * 2}, **where}
        return drawn(model.estimate_effect(args_baseline=first, args_intervention=second, statistics=["mean"]))

    with pytest.raises(Trouble):
        effect(Failing(X, 4000).lazy, output_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="the data from row 0 on differ from the data of the interrupted run"):
        effect(da.from_array(X + 1, chunks=(700, 2)), resume=path)
    expected = effect(X, store="memory")
    for _ in range(2):
        np.testing.assert_array_equal(effect(da.from_array(X, chunks=(700, 2)), resume=path), expected)
    with pytest.raises(ValueError, match="is complete, and its data were others"):
        effect(da.from_array(X + 1, chunks=(700, 2)), resume=path)


def test_call_begun_in_memory_is_resumed_with_lazy_rows(model, tmp_path):
    options = {**OPTIONS, "batch_size": 1024}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrStore, "finish", lambda *_: (_ for _ in ()).throw(Trouble()))
        with pytest.raises(Trouble):
            model.predict(X, t=T, output_dir=tmp_path, **options)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="data of `X` differ"):
        model.predict(da.from_array(X + 1, chunks=(700, 2)), t=T, resume=path, **options)
    for _ in range(2):  # to finish it, and when it is complete
        found = model.predict(da.from_array(X, chunks=(700, 2)), t=T, resume=path, **options)
        np.testing.assert_array_equal(drawn(found), drawn(model.predict(X, t=T, store="memory", **options)))


def test_call_split_by_draws_is_resumed(model, tmp_path):
    options = {**OPTIONS, "shard_axis": "draw"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrStore, "finish", lambda *_: (_ for _ in ()).throw(Trouble()))
        with pytest.raises(Trouble):
            model.predict(da.from_array(X, chunks=(700, 2)), t=T, output_dir=tmp_path, **options)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="data of `X` differ"):
        model.predict(da.from_array(X + 1, chunks=(700, 2)), t=T, resume=path, **options)
    for _ in range(2):
        found = model.predict(da.from_array(X, chunks=(700, 2)), t=T, resume=path, **options)
        np.testing.assert_array_equal(drawn(found), drawn(model.predict(X, t=T, store="memory", **options)))

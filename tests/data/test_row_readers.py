"""Slices of arguments that are sent to another process: the same rows, bit for bit, under the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import dask
import dask.array as da
import jax.numpy as jnp
import numpy as np
import obstore
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

import aimz
from aimz.data import (
    BatchField,
    KernelParameters,
    LazyArray,
    RowSlice,
    StackedArrays,
    open_rows,
    open_table,
    with_missing_chunks,
)

N = 103
NUMBERS = np.random.default_rng(0).normal(size=(N, 3))  # float64, so that it is converted
PLAIN = NUMBERS.astype(np.float32)
START, STOP = 20, 71


def memmap(path):
    np.save(path / "x.npy", NUMBERS)
    return np.load(path / "x.npy", mmap_mode="r")


def stored(path, array=NUMBERS, *, store=None, **options):
    store = LocalStore(path / "x.zarr") if store is None else store
    return zarr.create_array(store, data=array, **{"chunks": (10, 2), **options})


def by_fsspec(path):
    return FsspecStore.from_url(f"file://{path}/x.zarr", storage_options={"auto_mkdir": True})


def columns(table):
    """Return the input that a table with three columns becomes."""
    return KernelParameters("X", "y", known={"X": ("a", "b", "c")}).fields(open_table(table, "X"))["X"]


def data_set(_):
    """Return a data set with one column in memory."""
    lazy = {name: ("row", da.from_array(NUMBERS[:, i], chunks=30)) for i, name in enumerate("ab")}
    return columns(xr.Dataset({**lazy, "c": ("row", NUMBERS[:, 2])}))


def labelled(_):
    given = xr.DataArray(da.from_array(NUMBERS, chunks=(40, 2)), dims=("row", "column"), coords={"column": list("abc")})
    return KernelParameters("X", "y", known={"X": ("a", "b", "c")}).matched("X", given)


def group(path):
    found = zarr.open_group(LocalStore(path / "group.zarr"), mode="w")
    for i, name in enumerate("abc"):
        found.create_array(name, data=NUMBERS[:, i], chunks=(7 + i,))
    return columns(found)


SOURCES = {
    "NumPy": lambda _: NUMBERS,
    "JAX": lambda _: jnp.asarray(PLAIN),
    "memmap": memmap,
    "data frame": lambda _: columns(pd.DataFrame(NUMBERS, columns=list("abc"))),
    "Dask": lambda _: da.from_array(NUMBERS, chunks=(30, 2)),
    "Dask in xarray": lambda _: xr.DataArray(da.from_array(NUMBERS, chunks=(30, 2)), dims=("row", "column")),
    "data set": data_set,
    "labelled": labelled,
    "Zarr": stored,
    "Zarr, version 2": lambda path: stored(path, zarr_format=2),
    "Zarr in shards": lambda path: stored(path, shards=(20, 4)),
    "Zarr in memory": lambda path: stored(path, store=MemoryStore()),
    "Zarr by fsspec": lambda path: stored(path, store=by_fsspec(path)),
    "Zarr by obstore": lambda path: stored(path, store=ObjectStore(obstore.store.LocalStore(path, mkdir=True))),
    "Zarr by obstore in memory": lambda path: stored(path, store=ObjectStore(obstore.store.MemoryStore())),
    "group": group,
}
BY_REFERENCE = {name for name in SOURCES if name.startswith(("Dask", "Zarr")) and "memory" not in name}
BY_REFERENCE |= {"data set", "labelled", "group"}
CHUNKS = {"Dask": 30, "Dask in xarray": 30, "data set": 30, "labelled": 40, "group": 9}


def arrived(given):
    """Return a slice as a worker receives it: computed by Dask, and pickled."""
    return dask.delayed(lambda one: cloudpickle.loads(cloudpickle.dumps(one)))(given).compute(scheduler="sync")


@pytest.mark.parametrize("function", [None, lambda rows: rows * np.float32(1.1)], ids=["", "with a function"])
@pytest.mark.parametrize("kind", SOURCES)
def test_slice_reads_the_rows_of_the_whole(kind, function, tmp_path):
    whole = LazyArray(SOURCES[kind](tmp_path), "X")
    expected = PLAIN if function is None else function(PLAIN)
    if function is not None:
        if not whole.is_lazy:  # `apply` returns an array then
            return
        whole = whole.apply(function)
    assert whole.by_reference == (kind in BY_REFERENCE)
    assert whole.longest_chunk == CHUNKS.get(kind, 10 if "Zarr" in kind else None)
    got = arrived(whole.slice_for_worker(START, STOP))
    assert isinstance(got, RowSlice)
    assert (got.shape, got.dtype, got.ndim) == (whole.shape, whole.dtype, whole.ndim) == ((N, 3), np.float32, 2)
    for start, stop in ((START, STOP), (20, 21), (33, 50), (69, 71), (40, 40)):
        found = got.read(start, stop)
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[start:stop])
        np.testing.assert_array_equal(found, whole[start:stop])
    for start, stop in ((19, 30), (60, 72)):
        with pytest.raises(IndexError, match="`X`"):
            got[start:stop]
    assert not got.is_constant
    assert got.by_reference == whole.by_reference == (kind in BY_REFERENCE)


@pytest.mark.parametrize("kind", sorted(BY_REFERENCE - {"Dask in xarray", "Dask", "data set", "labelled"}))
def test_slice_of_a_stored_array_is_a_reference(kind, tmp_path):
    size = len(cloudpickle.dumps(LazyArray(SOURCES[kind](tmp_path), "X").slice_for_worker(0, N)))
    small = len(cloudpickle.dumps(LazyArray(SOURCES[kind](tmp_path / "other"), "X").slice_for_worker(0, 1)))
    assert size < small + 100


def test_slice_of_a_dask_array_is_computed_by_the_worker():
    seen = []
    given = da.from_array(NUMBERS, chunks=(10, -1)).map_blocks(lambda block: seen.append(len(block)) or block)
    one = LazyArray(given, "X").slice_for_worker(20, 40)
    seen.clear()  # Dask and the reader compute a sample for the dtype
    got = dask.delayed(lambda one: one)(one)
    assert seen == []
    assert isinstance(got.compute(scheduler="sync").rows.rows, np.ndarray)
    assert seen == [10, 10]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("to", [np.asarray, jnp.asarray])
def test_row_axis_can_be_any_axis(axis, to):
    whole = np.moveaxis(np.random.default_rng(1).normal(size=(N, 4, 5)).astype(np.float32), 0, axis)
    got = arrived(open_rows(to(whole), axis).slice_for_worker(START, STOP))
    assert got.shape == whole.shape
    np.testing.assert_array_equal(got.read(30, 50), open_rows(whole, axis).read(30, 50))


@pytest.mark.parametrize("axis", [0, 1])
def test_slice_of_a_constant_holds_one_row(axis):
    whole = np.broadcast_to(np.float32(2), (3, 10**7) if axis else (10**7, 3))
    one = open_rows(whole, axis).slice_for_worker(10, 10**6)
    assert len(cloudpickle.dumps(one)) < 2000
    got = arrived(one)
    assert got.is_constant
    found = got.read(100, 200)
    assert found.strides[axis] == 0
    np.testing.assert_array_equal(found, open_rows(whole, axis).read(100, 200))


def test_slice_of_a_stack_is_a_stack_of_slices(tmp_path):
    one, other = stored(tmp_path), da.from_array(2 * NUMBERS, chunks=(30, 2))
    field = BatchField("t", PLAIN[:3], N, function=lambda rows: rows + 1)
    got = arrived(
        StackedArrays([LazyArray(one, "X"), LazyArray(other, "X"), open_rows(NUMBERS.astype("f4"))]).slice_for_worker(
            START, STOP
        )
    )
    assert isinstance(got, StackedArrays)
    assert (got.shape, got.dtype, got.ndim) == ((N, 3, 3), np.float32, 3)
    expected = np.stack([PLAIN, (2 * NUMBERS).astype(np.float32), PLAIN], axis=-1)
    np.testing.assert_array_equal(got.read(22, 60), expected[22:60])
    assert field.slice_for_worker(START, STOP) is field
    same = StackedArrays([open_rows(np.broadcast_to(np.float32(i), (N,))) for i in range(2)]).slice_for_worker(0, N)
    assert arrived(same).is_constant
    assert isinstance(arrived(StackedArrays([field, field]).slice_for_worker(0, 5)).parts[1], BatchField)


def test_slice_does_not_convert_to_the_whole_array():
    with pytest.raises(IndexError, match=r"rows 1 to 5 only"):
        np.asarray(LazyArray(NUMBERS, "X").slice_for_worker(1, 5))


# ------------------------------------------------------------------------------------------------ errors


def test_values_are_checked_by_the_worker():
    wide = np.arange(N) + 2**40
    one = dask.delayed(lambda one: one[0:5])(LazyArray(da.from_array(wide, chunks=10), "t").slice_for_worker(0, 10))
    with pytest.raises(ValueError, match="`t` holds values that do not fit int32"):
        one.compute(scheduler="sync")
    other = da.from_array(NUMBERS, chunks=(10, 3)).map_blocks(lambda block: block[1:], dtype=float)
    with pytest.raises(ValueError, match=r"has 9 rows, but its chunks declare 10"):
        dask.delayed(lambda one: one[0:5])(LazyArray(other, "X").slice_for_worker(0, 10)).compute(scheduler="sync")


READ = "import cloudpickle, sys; print(cloudpickle.load(sys.stdin.buffer)[{}:{}].tolist())"


def read_elsewhere(one, cwd, start=START, stop=STOP):
    """Read a slice in a new process, in another directory."""
    return subprocess.run(
        [sys.executable, "-c", READ.format(start, stop)],
        input=cloudpickle.dumps(one),
        capture_output=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(aimz.__file__).parents[1])},
        timeout=120,
    )


def test_another_process_reads_a_stored_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = LazyArray(zarr.create_array("x.zarr", data=NUMBERS, chunks=(10, 3)), "X").slice_for_worker(START, STOP)
    done = read_elsewhere(one, "/")
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(np.array(eval(done.stdout), np.float32), PLAIN[START:STOP])
    Path("x.zarr").rename("elsewhere.zarr")
    with pytest.raises(FileNotFoundError, match=r"(?s)cannot find the Zarr array .*x\.zarr'.* Store it under a name"):
        arrived(one)[START:STOP]
    assert not Path("x.zarr").exists()  # opening it does not create it
    Path("x.zarr").mkdir()
    with pytest.raises(FileNotFoundError, match=r"cannot find the Zarr array .*x\.zarr'"):
        arrived(one)[START:STOP]
    zarr.create_array("x.zarr", data=NUMBERS[:-1], chunks=(10, 3), overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"got shape \(102, 3\) .* given shape \(103, 3\) of float64"):
        arrived(one)[START:STOP]


@pytest.mark.parametrize("shards", [None, (20, 4)])
def test_lost_chunk_raises_instead_of_reading_zeros(shards, tmp_path):
    numbers = NUMBERS.copy()
    numbers[40:60] = 0  # not written, since it is the fill value
    given = with_missing_chunks(stored(tmp_path, numbers, shards=shards))
    one = LazyArray(given, "X").slice_for_worker(START, STOP)
    np.testing.assert_array_equal(arrived(one)[START:STOP], numbers[START:STOP].astype(np.float32))
    (tmp_path / "x.zarr" / "c" / ("6" if shards is None else "3") / "0").unlink()
    got = arrived(one)
    np.testing.assert_array_equal(got[40:60], numbers[40:60].astype(np.float32))
    with pytest.raises(FileNotFoundError, match=rf"without its chunk \({3 if shards else 6}, 0\), which existed"):
        arrived(one)[START:STOP]


def test_unwritten_chunk_of_a_column_reads_the_fill_value(tmp_path):
    found = zarr.open_group(LocalStore(tmp_path / "group.zarr"), mode="w")
    numbers = NUMBERS.copy()
    numbers[:, 1] = 0
    for i, (name, length) in enumerate({"a": 20, "b": 3, "c": 103}.items()):
        found.create_array(name, data=numbers[:, i], chunks=(length,))
    got = arrived(LazyArray(columns(with_missing_chunks(found)), "X").slice_for_worker(31, 39))
    np.testing.assert_array_equal(got[32:38], numbers[32:38].astype(np.float32))

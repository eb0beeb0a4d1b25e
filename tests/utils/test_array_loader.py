"""Data sets and loaders: batches cover the data, epochs are reproducible, padding repeats the last row."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import random
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from aimz.utils.data import ArrayDataset, ArrayLoader

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6)
KEY = random.key(0)


def rows_of(loader: ArrayLoader) -> list[list[int]]:
    """Return the row numbers of each batch of an epoch, for a data set whose field `i` has them."""
    return [np.asarray(batch["i"])[: len(batch["i"]) - n_pad].tolist() for batch, n_pad in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def numbered(n_obs: int, **options) -> ArrayLoader:
    return ArrayLoader(ArrayDataset(i=np.arange(n_obs)), options.pop("rng_key", KEY), **options)


# -------------------------------------------------------------------------------------------------- datasets


def test_dataset_of_the_documentation():
    dataset = ArrayDataset(X=X, y=Y)
    assert len(dataset) == 6
    sample = dataset[0]
    assert list(sample) == ["X", "y"]
    np.testing.assert_array_equal(sample["X"], X[0])
    assert sample["y"] == Y[0]


def test_arrays_are_kept_as_supplied(tmp_path):
    on_disk = np.memmap(tmp_path / "X.bin", np.float64, "w+", shape=(6, 2))
    on_disk[:] = X
    jax_array = jnp.arange(6)
    dataset = ArrayDataset(X=X, y=Y, disk=on_disk, device=jax_array)
    for name, value in {"X": X, "y": Y, "disk": on_disk, "device": jax_array}.items():
        assert dataset.arrays[name] is value
    batch, _ = next(iter(ArrayLoader(dataset, KEY, batch_size=4)))
    assert isinstance(batch["disk"], np.memmap)
    assert isinstance(batch["device"], jax.Array)
    assert batch["X"].dtype == np.float64
    assert np.shares_memory(batch["X"], X)


def test_other_values_become_numpy_arrays():
    dataset = ArrayDataset(a=[0.1, 0.2], b=(1, 2), c=range(2))
    assert all(type(array) is np.ndarray for array in dataset.arrays.values())
    assert dataset[0] == {"a": 0.1, "b": 1, "c": 0}


def test_to_jax_converts_at_construction():
    mutable = Y.copy()
    dataset = ArrayDataset(to_jax=True, X=X, y=mutable, z=[True] * 6)
    mutable[:] = 9
    assert all(isinstance(array, jax.Array) for array in dataset.arrays.values())
    assert dataset.arrays["X"].dtype == jnp.float32
    np.testing.assert_array_equal(dataset.arrays["y"], Y)


def test_arrays_returns_a_new_mapping():
    dataset = ArrayDataset(X=X, y=Y)
    dataset.arrays.pop("y")
    assert list(dataset.arrays) == ["X", "y"]


@pytest.mark.parametrize("to_jax", [False, True])
@pytest.mark.parametrize(
    "index", [3, -1, np.int64(2), slice(1, 4), slice(None, None, -2), [4, 0, 4], np.array([-1]), []]
)
def test_index_selects_as_in_numpy(index, to_jax):
    found = ArrayDataset(to_jax=to_jax, X=X, y=Y)[index]
    rows = np.arange(6)[index if not isinstance(index, list) else np.array(index, int)]
    np.testing.assert_array_equal(found["X"], X[rows])
    np.testing.assert_array_equal(found["y"], Y[rows])


@pytest.mark.parametrize("to_jax", [False, True])
def test_narrow_integer_indices(to_jax):
    dataset = ArrayDataset(to_jax=to_jax, y=np.arange(300))
    assert dataset[np.array([-100, 100], np.int8)]["y"].tolist() == [200, 100]
    assert dataset[np.array([[255], [0]], np.uint8)]["y"].tolist() == [[255], [0]]


@pytest.mark.parametrize("to_jax", [False, True])
@pytest.mark.parametrize("index", [6, -7, [0, 6], np.array([-7])])
def test_out_of_range_index_raises(index, to_jax):
    with pytest.raises(IndexError, match=r"must be less than the number of rows, 6; got (6|-7)\."):
        ArrayDataset(to_jax=to_jax, y=Y)[index]


@pytest.mark.parametrize("index", [1.0, "y", None, True, Y > 2, (0, 1), ...], ids=str)
def test_other_index_types_raise(index):
    with pytest.raises(TypeError, match=r"must be an integer, a slice or an array of integers; got .*flatnonzero"):
        ArrayDataset(y=Y)[index]


def test_iteration_over_a_dataset_ends():
    assert [int(row["y"]) for row in ArrayDataset(to_jax=True, y=Y)] == Y.tolist()


ROWS = "Arrays must have the same number of rows"


@pytest.mark.parametrize("to_jax", [False, True])
@pytest.mark.parametrize(
    ("arrays", "error", "match"),
    [
        ({}, ValueError, r"must hold at least one array; got none.*ArrayDataset\(X=X, y=y\)"),
        ({"X": X, "y": Y[:5], "z": Y[:4]}, ValueError, f"{ROWS}.*`X`: 6, `y`: 5, `z`: 4"),
        ({"X": np.float32(1)}, ValueError, "`X` must have a row axis; got a 0-d array"),
        ({"X": X, "y": np.array(1.0)}, ValueError, "`y` must have a row axis; got a 0-d array"),
        ({"X": jnp.float32(1)}, ValueError, "`X` must have a row axis; got a 0-d array"),
        ({"X": X[:0]}, ValueError, "`X` must not be empty; got no rows"),
        ({"X": None}, TypeError, "`X` must be an array; got None"),
        ({"X": [[1.0], [1.0, 2.0]]}, TypeError, "`X` must be an array; got something ragged"),
        ({"X": np.array(["a", "b"])}, TypeError, "`X` must be numeric; got dtype"),
        ({"X": ["a", "b"]}, TypeError, "`X` must be numeric; got dtype"),
        ({"X": np.zeros(2, "datetime64[D]")}, TypeError, "`X` must be numeric; got dtype datetime64"),
        ({"X": [2**40]}, ValueError, "`X` holds values that do not fit int32"),
    ],
)
def test_invalid_arrays_raise(arrays, error, match, to_jax):
    with pytest.raises(error, match=match):
        ArrayDataset(to_jax=to_jax, **arrays)


def test_values_too_large_for_the_device_raise_when_they_are_placed():
    big = Y + 2**40
    dataset = ArrayDataset(y=big)
    np.testing.assert_array_equal(next(iter(ArrayLoader(dataset, KEY)))[0]["y"], big)
    with pytest.raises(ValueError, match="`y` holds values that do not fit int32"):
        ArrayDataset(to_jax=True, y=big)
    with pytest.raises(ValueError, match="`y` holds values that do not fit int32"):
        next(iter(ArrayLoader(dataset, KEY, device=jax.devices()[0])))


def test_repr():
    dataset = ArrayDataset(X=X, y=Y)
    assert repr(dataset) == "ArrayDataset(X=float64[6,2], y=int64[6])"
    assert repr(ArrayLoader(dataset, KEY)) == f"ArrayLoader({dataset!r}, batch_size=32, shuffle=False, device=None)"


def test_dataset_can_be_pickled():
    copy = pickle.loads(pickle.dumps(ArrayDataset(X=X, y=Y)))
    assert len(copy) == 6
    np.testing.assert_array_equal(copy.arrays["X"], X)


# --------------------------------------------------------------------------------------------------- loaders

SIZES = st.integers(1, 40)


@given(SIZES, SIZES, st.booleans())
@settings(deadline=None)
def test_batches_cover_the_data_in_order(n_obs, batch_size, to_jax):
    values = np.arange(n_obs)
    loader = ArrayLoader(ArrayDataset(to_jax=to_jax, i=values), KEY, batch_size=batch_size)
    batches = rows_of(loader)
    assert len(batches) == len(loader)
    assert flat(batches) == values.tolist()
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 0 < len(batches[-1]) <= batch_size


@given(SIZES, SIZES, st.integers(0, 2**31 - 1), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_each_epoch_yields_every_row_once(n_obs, batch_size, seed, n_epochs):
    alike = [numbered(n_obs, rng_key=random.key(seed), batch_size=batch_size, shuffle=True) for _ in range(2)]
    for epoch in range(n_epochs):
        one, other = map(rows_of, alike)
        assert one == other
        assert sorted(flat(one)) == list(range(n_obs))
        expected = random.permutation(random.fold_in(random.key(seed), epoch), n_obs)
        assert flat(one) == expected.tolist()


def test_fields_are_shuffled_together():
    loader = ArrayLoader(ArrayDataset(X=X, y=Y, z=jnp.asarray(Y)), KEY, batch_size=4, shuffle=True)
    for batch, _ in loader:
        np.testing.assert_array_equal(batch["X"], X[batch["y"]])
        np.testing.assert_array_equal(batch["y"], batch["z"])


def test_shuffled_epochs_differ():
    loader = numbered(40, shuffle=True)
    assert len({str(rows_of(loader)) for _ in range(3)}) == 3
    assert rows_of(numbered(40, shuffle=True)) != rows_of(numbered(40, shuffle=True, rng_key=random.key(1)))


def test_interrupted_epoch_does_not_change_the_next():
    whole, broken = numbered(20, batch_size=3, shuffle=True), numbered(20, batch_size=3, shuffle=True)
    rows_of(whole)
    next(iter(broken))
    assert rows_of(whole) == rows_of(broken)
    rows_of(whole)
    iter(broken)  # without reading a batch
    assert rows_of(whole) == rows_of(broken)


@pytest.mark.parametrize("shuffle", [False, True])
def test_concurrent_iterators_are_independent(shuffle):
    apart, together = (numbered(20, batch_size=3, shuffle=shuffle) for _ in range(2))
    expected = [rows_of(apart), rows_of(apart)]
    first, second = iter(together), iter(together)
    assert isinstance(first, Iterator)
    # The second iterator is read first.
    pairs = [(next(second), next(first)) for _ in range(len(together))]
    assert [[pair[k][0]["i"].tolist() for pair in pairs] for k in (1, 0)] == expected


SHAPES = st.lists(st.integers(0, 3), max_size=3)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), SHAPES, st.booleans())
@settings(deadline=None, max_examples=50)
def test_padding_repeats_the_last_row(n_obs, batch_size, n_devices, shape, to_jax):
    values = np.arange(n_obs * int(np.prod(shape)), dtype=np.float32).reshape(n_obs, *shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: n_devices)
        loader = ArrayLoader(ArrayDataset(to_jax=to_jax, X=values), KEY, batch_size=batch_size, device=jax.devices()[0])
    start = 0
    for batch, n_pad in loader:
        array = batch["X"]
        assert isinstance(array, jax.Array)
        n_rows = len(array) - n_pad
        assert 0 <= n_pad < n_devices
        assert len(array) % n_devices == 0
        np.testing.assert_array_equal(array[:n_rows], values[start : start + n_rows])
        np.testing.assert_array_equal(array[n_rows:], np.repeat(values[start + n_rows - 1][None], n_pad, axis=0))
        start += n_rows
    assert start == n_obs


def test_batches_without_a_device_are_not_padded():
    for batch, n_pad in numbered(7, batch_size=3):
        assert n_pad == 0
        assert type(batch["i"]) is np.ndarray


def test_attributes():
    dataset, sharding = ArrayDataset(y=Y), SingleDeviceSharding(jax.devices()[0])
    loader = ArrayLoader(dataset, rng_key=KEY, batch_size=np.int64(4), shuffle=True, device=sharding)
    assert (loader.dataset, loader.batch_size, loader.shuffle, loader.device) == (dataset, 4, True, sharding)
    assert loader.rng_key == KEY
    assert [n_pad for _, n_pad in loader] == [0, 0]


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, True, "10", None])
def test_invalid_batch_size_raises(batch_size):
    with pytest.raises(ValueError, match=rf"`batch_size` must be a positive integer; got {batch_size!r}"):
        numbered(6, batch_size=batch_size)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((X, KEY), {}, r"`dataset` must be an ArrayDataset; got ndarray\. .*ArrayLoader\(ArrayDataset\(X=X, y=y\)"),
        (({"X": X}, KEY), {}, "`dataset` must be an ArrayDataset; got dict"),
        ((ArrayDataset(X=X), 0.5), {}, r"`rng_key` must be one typed JAX key, or .*; got 0\.5\. .*a number"),
        ((ArrayDataset(X=X), random.split(KEY, 2)), {}, "`rng_key` must be one typed JAX key, or .*; got an array"),
        ((ArrayDataset(X=X), KEY), {"device": "cpu"}, r"`device` must be a jax\.Device.*got 'cpu'\. .*jax\.devices"),
        ((ArrayDataset(X=X), KEY), {"device": jax.devices()}, r"`device` must be a jax\.Device"),
    ],
)
def test_invalid_loader_arguments_raise(arguments, options, match):
    with pytest.raises(TypeError, match=match):
        ArrayLoader(*arguments, **options)


def test_legacy_key_is_converted_with_a_warning():
    with pytest.warns(UserWarning, match="legacy `uint32` key was converted") as caught:
        loader = numbered(20, rng_key=random.PRNGKey(3), shuffle=True)
    assert caught[0].filename == __file__
    assert rows_of(loader) == rows_of(numbered(20, rng_key=random.key(3), shuffle=True))


# -------------------------------------------------------------------------------------------- several devices

EXAMPLE = """
import jax, numpy as np
from jax import random
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from aimz.utils.data import ArrayDataset, ArrayLoader

X, y = np.arange(60.0).reshape(20, 3), np.arange(20)
assert jax.local_device_count() == 8
loader = ArrayLoader(
    ArrayDataset(X=X, y=y), rng_key=random.key(0), batch_size=10, shuffle=True, device=jax.devices()[0]
)
seen = []
for batch, n_pad in loader:
    assert n_pad == 6
    assert batch["X"].shape == (16, 3) and batch["y"].shape == (16,)
    assert batch["X"].devices() == {jax.devices()[0]}
    assert (np.asarray(batch["y"][10:]) == int(batch["y"][9])).all()
    seen += batch["y"][:10].tolist()
assert sorted(seen) == y.tolist()

devices = np.array(jax.devices())
W = np.arange(80.0).reshape(20, 4)
by_row = NamedSharding(Mesh(devices, "rows"), P("rows"))
four = NamedSharding(Mesh(devices[4:], "rows"), P("rows"))
grid = NamedSharding(Mesh(devices.reshape(4, 2), ("rows", "columns")), P("rows", "columns"))
for to_jax in (False, True):
    for sharding, pads, rows in ((by_row, [6, 6], 2), (four, [2, 2], 3), (grid, [6, 6], 4)):
        loader = ArrayLoader(
            ArrayDataset(to_jax=to_jax, W=W, y=y), random.key(0), batch_size=10, device=sharding
        )
        batches = list(loader)
        assert [n_pad for _, n_pad in batches] == pads
        for start, (batch, n_pad) in zip((0, 10), batches, strict=True):
            np.testing.assert_array_equal(batch["W"][:10], W[start : start + 10])
            assert batch["W"].sharding == sharding
            assert batch["y"].sharding.device_set == sharding.device_set
            # A field with fewer axes than the sharding is still split along its rows.
            assert {len(shard.data) for a in batch.values() for shard in a.addressable_shards} == {rows}
"""


def test_loader_and_shardings_on_eight_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-W", "error", "-c", EXAMPLE], env=environment, check=True, timeout=240)


def test_sharding_of_one_device():
    sharding = NamedSharding(jax.make_mesh((1,), ("rows",), devices=jax.devices()[:1]), PartitionSpec("rows"))
    batch, n_pad = next(iter(ArrayLoader(ArrayDataset(X=X), KEY, batch_size=5, device=sharding)))
    assert n_pad == 0
    assert batch["X"].sharding == sharding

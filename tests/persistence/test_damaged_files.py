"""Round trips of plain values, labels, pytrees and arrays; truncated, altered and malicious files."""

import contextlib
import datetime as dt
import decimal
import hashlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import random
from numpyro.infer import MCMC, NUTS
from safetensors.numpy import save

from aimz import ImpactModel
from aimz.errors import KernelValidationError, SavedModelError
from aimz.persistence import (
    TreeMismatchError,
    check_leaves,
    is_plain,
    read_bundle,
    read_labels,
    read_plain,
    read_tree,
    write_bundle,
    write_labels,
    write_plain,
    write_tree,
)

X = np.linspace(-1, 1, 6, dtype="float32")


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


def through_file(tmp_path, content, arrays):
    write_bundle(tmp_path / "bundle", content, arrays, overwrite=True)
    return read_bundle(tmp_path / "bundle")


# ----------------------------------------------------------------------------------------- round trips

NUMBERS = st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.booleans() | st.none()
PLAIN = st.recursive(
    NUMBERS | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.text()), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_plain_values_round_trip(value):
    back = read_plain(json.loads(json.dumps(write_plain(value), allow_nan=False)))
    assert repr(back) == repr(value)  # distinguishes 1, 1.0 and True, and lists from tuples


@pytest.mark.parametrize("value", [object(), np.float64(1.0), {"a": {1, 2}}, [lambda: 0], b"bytes"])
def test_other_values_are_not_plain(value):
    assert not is_plain(value)


LABELS = [
    pd.RangeIndex(2, 20, 3),
    pd.Index([3, 1, 2], name="id"),
    pd.Index([0.5, np.nan, -np.inf]),
    pd.Index([True, False]),
    pd.Index(["b", "ä", ""], name="region"),
    pd.Index(["a", "b"], dtype=object),
    pd.Index(["a", 1, 2.5, None], dtype=object),
    pd.date_range("2024-03-30", periods=4, freq="D", tz="Europe/Berlin", name="day"),
    pd.DatetimeIndex(["2024-01-02", "1999-12-31 23:59:59.5", pd.NaT]),
    pd.date_range("2024-03-30", periods=3, freq="h").as_unit("s"),
    pd.to_timedelta([1, 5], unit="h"),
    pd.period_range("2024Q1", periods=3, freq="Q", name="quarter"),
    pd.IntervalIndex.from_breaks([0.0, 1.0, 2.5], closed="left"),
    pd.CategoricalIndex(["m", "l", "m"], categories=["s", "m", "l"], ordered=True),
    pd.MultiIndex.from_product([["n", "s"], pd.date_range("2024", periods=2)], names=["region", 7]),
    np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]"),
    ["x", "y"],
    pd.Index([dt.date(2024, 1, 1), dt.date(2024, 2, 1)], name="day"),
    pd.Index([np.int64(3), "a"], dtype=object),
    pd.date_range("2024", periods=2, tz=dt.timezone(dt.timedelta(hours=2, seconds=30))),
    pd.DatetimeIndex(pd.date_range("2024-01-01", periods=3, freq=pd.offsets.Easter()), freq=None),
    pd.date_range("2024", periods=2, tz=dt.timezone(dt.timedelta(hours=1), "ours")).tz_convert("UTC"),
]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: type(labels).__name__)
def test_labels_round_trip(labels, tmp_path):
    arrays = {}
    node = write_labels(labels, "rows", arrays)
    content, arrays = through_file(tmp_path, {"labels": node}, arrays)
    expected = labels if isinstance(labels, pd.Index) else pd.Index(labels)
    found = read_labels(content["labels"], arrays, rows=True)
    pd.testing.assert_index_equal(found, expected, exact=True)
    assert found.equals(expected)


def test_unnamed_frequency_is_omitted():
    index, arrays = pd.date_range("2024-01-01", periods=3, freq=pd.offsets.Easter()), {}
    found = read_labels(write_labels(index, "rows", arrays), arrays)
    assert found.equals(index)
    assert found.freq is None


@pytest.mark.parametrize(
    "labels",
    [
        pd.Index([decimal.Decimal("1.5")]),
        pd.Index([1, None], dtype="Int64"),
    ],
)
def test_labels_of_unsupported_types_become_strings(labels):
    arrays = {}
    with pytest.warns(UserWarning, match="cannot be saved and are saved as strings"):
        node = write_labels(labels, "rows", arrays)
    assert read_labels(node, arrays).tolist() == [str(label) for label in labels]


def test_rows_are_recognised_by_labels_saved_as_strings(tmp_path):
    frame = pd.DataFrame({"x": X}, index=pd.Index([decimal.Decimal(i) for i in range(6)]))

    def local(X, y=None):
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal())
            numpyro.sample("y", dist.Normal(z + X[:, 0], 1.0), obs=y)

    model = ImpactModel(local, random.key(0), MCMC(NUTS(local), num_warmup=2, num_samples=3))
    model.fit_on_batch(frame, X, progress=False)
    with pytest.warns(UserWarning, match="`Decimal`"):
        model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", local)
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        loaded.predict_on_batch(frame)
    with pytest.warns(UserWarning, match="resampled"):
        loaded.predict_on_batch(frame.iloc[::-1])


def test_label_array_names_are_unique(tmp_path):
    arrays = {}
    nodes = [
        write_labels(pd.CategoricalIndex(["b", "a"]), "coords/a", arrays),
        write_labels([1.5, 2.5], "coords/a/codes", arrays),
        write_labels([3, 4], "coords/a", arrays),
    ]
    assert [read_labels(node, arrays).tolist() for node in nodes] == [["b", "a"], [1.5, 2.5], [3, 4]]


def test_pytrees_round_trip(tmp_path):
    layer = eqx.nn.Linear(2, 3, key=random.key(0))
    tree = {
        "plain": {("a", "b"): jnp.arange(3), ("x/y",): [None, 2, (0.5, jnp.ones(2, "bfloat16"))]},
        "x": {"y": jnp.zeros((0, 3), "int8")},
        "key": random.key(7, impl="rbg"),
        "complex": np.array([1 + 2j], "complex64"),
        "layer": layer,
        "state": nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
    }
    arrays = {}
    node = json.loads(json.dumps(write_tree(tree, "tree", arrays)))
    _, arrays = through_file(tmp_path, {}, arrays)
    back = read_tree(node, arrays, jax.tree.map(lambda leaf: leaf, tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    check_leaves(back, tree)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        a, b = (random.key_data(x) if "key" in str(jnp.result_type(x)) else x for x in (a, b))
        np.testing.assert_array_equal(a, b)
    with pytest.raises(TreeMismatchError, match="Linear"):
        read_tree(node, arrays)  # nodes of other classes need a template
    with pytest.raises(TreeMismatchError, match="bias"):
        read_tree(node, arrays, {**tree, "layer": eqx.nn.Linear(2, 3, use_bias=False, key=random.key(0))})
    with pytest.raises(TreeMismatchError) as mismatch:
        check_leaves(back, {**tree, "complex": np.ones(2, "complex64")})
    assert mismatch.value.args == ("`complex` (complex64 of shape (1,) saved, complex64 of shape (2,) here)",)


# ------------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=5, num_samples=5))
    model.fit_on_batch(X, X, progress=False).save(path)
    return path


@pytest.fixture
def path(original, tmp_path):
    """Copy of a saved model, to be altered."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def arrays_of(path):
    return next(path.glob("*.safetensors"))


def flip_last_bit(file):
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def tamper(path, change):
    """Change the content and update the checksum, as a deliberate attack would."""
    index = json.loads((path / "model.json").read_text())
    del index["checksum"]
    index = change(index) or index
    index["checksum"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    (path / "model.json").write_text(json.dumps(index))


def replace_arrays(path, content):
    """Replace the file of arrays and update its digests."""
    arrays_of(path).write_bytes(content)

    def change(index):
        index["arrays"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    tamper(path, change)


def test_unaltered_model_loads(path):
    assert ImpactModel.load(path, kernel).is_fitted()
    tamper(path, lambda index: None)
    assert ImpactModel.load(path, kernel).is_fitted()


@pytest.mark.parametrize(
    "tear",
    [
        lambda p: arrays_of(p).write_bytes(arrays_of(p).read_bytes()[:-1]),
        lambda p: flip_last_bit(arrays_of(p)),
        lambda p: arrays_of(p).unlink(),
        lambda p: (p / "model.json").write_bytes((p / "model.json").read_bytes()[:-20]),
        lambda p: (p / "model.json").write_text((p / "model.json").read_text().replace('"b"', '"c"')),
        lambda p: (p / "model.json").write_bytes(b""),
        lambda p: (p / "model.json").write_bytes(pickle.dumps({"format": "aimz-model"})),
        lambda p: (p / "model.json").write_text("[" * 100_000),
        lambda p: (p / "model.json").write_text('{"format": "another", "format_version": 1}'),
        lambda p: (p / "model.json").write_text("[]"),
    ],
    ids=["short", "a bit", "no arrays", "short json", "other json", "empty", "pickle", "deep", "another", "list"],
)
def test_damaged_files_raise(path, tear):
    tear(path)
    with pytest.raises(SavedModelError, match=r"is damaged: .*Use another copy"):
        ImpactModel.load(path, kernel)


def test_missing_model_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model\.json"):
        ImpactModel.load(tmp_path, kernel)
    with pytest.raises(FileNotFoundError, match=r"has no model\.json"):
        ImpactModel.load(tmp_path / "nowhere", kernel)


def test_newer_format_names_required_version(path):
    tamper(path, lambda index: {**index, "format_version": 2, "readable_since": "3.4.0", "kernel": "unknown yet"})
    with pytest.raises(SavedModelError, match=r"has format 2; .* reads up to 1\. Install aimz 3\.4\.0 or newer"):
        ImpactModel.load(path, kernel)


class Bomb:
    """Object that creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_not_loaded(path, tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "it works")))
    assert (tmp_path / "it works").exists()
    bomb = pickle.dumps(Bomb(tmp_path / "harm"))
    replace_arrays(path, bomb)
    with pytest.raises(SavedModelError, match="cannot be read"):
        ImpactModel.load(path, kernel)
    (path / "model.json").write_bytes(bomb)
    with pytest.raises(SavedModelError, match="is damaged"):
        ImpactModel.load(path, kernel)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("size", [2**62, 2**40, 99_999_999, 10])
def test_wrong_header_size_raises(path, size):
    replace_arrays(path, struct.pack("<Q", size) + b'{"posterior/b": {"dtype": "F32", "shape": [5]}}')
    with pytest.raises(SavedModelError, match="cannot be read"):
        ImpactModel.load(path, kernel)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "arrays-0.safetensors", "..", "", None, ["a"], "C:\\arrays", "model.json"]
)
def test_arrays_cannot_be_in_other_files(path, name):
    def change(index):
        index["arrays"]["file"] = name

    (path.parent / "secret").write_bytes(arrays_of(path).read_bytes())
    tamper(path, change)
    with pytest.raises(
        SavedModelError, match=r"not a valid name of the file of arrays|entry for the arrays is invalid"
    ):
        ImpactModel.load(path, kernel)


@pytest.mark.parametrize("name", ["../../b", "a/b", "..", "__init__", ""])
def test_site_names_cannot_be_paths(path, name):
    def in_spec(index):
        for part in (index["kernel"]["spec"], index["kernel"]["example"]["spec"]):
            part["sites"][0]["name"] = name

    def in_posterior(index):
        index["kernel"] |= {"spec": None, "example": None}
        index["posterior"]["sites"] = [name]
        content = save({f"posterior/{name}": np.ones(5, "float32")})
        arrays_of(copy).write_bytes(content)
        index["arrays"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    for change in (in_spec, in_posterior):
        copy = Path(shutil.copytree(path, path.parent / change.__name__))
        tamper(copy, change)
        with pytest.raises(SavedModelError, match="is not a valid site name"):
            ImpactModel.load(copy, kernel)


def test_time_zones_cannot_be_paths_and_labels_cannot_be_large_ranges(path, monkeypatch):
    opened = []
    monkeypatch.setattr("dateutil.tz.tzfile", lambda *args: opened.append(args))
    arrays = {}
    node = write_labels(pd.date_range("2024", periods=2, tz="UTC"), "coords/f", arrays)
    for zone in ("dateutil//etc/passwd", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(Exception, match=r"(?i)zone|key"):
            read_labels({**node, "zone": zone}, arrays)
    assert not opened

    def change(index):
        index["coords"] = {"f": {"range": [0, 10**9, 1], "names": [None]}}

    tamper(path, change)
    with pytest.raises(SavedModelError, match="Only row labels can be a range"):
        ImpactModel.load(path, kernel)


@pytest.mark.parametrize("change", [{"format_version": True}, {"format_version": 0}, {"settings": {}}])
def test_missing_entries_raise(path, change):
    tamper(path, lambda index: {**index, **change})
    with pytest.raises(SavedModelError, match="is damaged"):
        ImpactModel.load(path, kernel)


def test_chain_state_of_another_numpyro_raises(path):
    def change(index):
        index["fit"]["last_state"]["fields"].pop()

    tamper(path, change)
    mcmc = MCMC(NUTS(kernel), num_warmup=5, num_samples=5)
    with pytest.raises(SavedModelError, match="a state that this version of NumPyro does not have: `HMCState`"):
        ImpactModel.load(path, kernel, mcmc)
    assert ImpactModel.load(path, kernel).is_fitted()


def test_arrays_cannot_have_object_dtype(path):
    def change(index):
        index["arrays"]["views"] = {"posterior/b": ["O", [1]]}

    tamper(path, change)
    with pytest.raises(SavedModelError, match="cannot be read"):
        ImpactModel.load(path, kernel)


def ways_into(node, way=()):
    """Yield the path of every node in a JSON document."""
    if isinstance(node, dict | list):
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*way, key)
            yield from ways_into(item, (*way, key))


JUNK = [None, -1, 1e300, "", "x" * 10, [], {}, [[]], {"a": 1}, True, "../x", {"dict": 3}, {"tuple": [{}]}]


@pytest.mark.parametrize("seed", range(20))
def test_random_junk_raises_saved_model_error_or_is_harmless(path, seed):
    rng = np.random.default_rng(seed)

    def change(index):
        ways = [way for way in ways_into(index) if way[0] not in ("format", "format_version")]
        *inner, last = ways[rng.integers(len(ways))]
        for key in inner:
            index = index[key]
        index[last] = JUNK[rng.integers(len(JUNK))]

    tamper(path, change)
    with contextlib.suppress(SavedModelError, KernelValidationError):  # any other exception fails
        assert isinstance(ImpactModel.load(path, kernel), ImpactModel)

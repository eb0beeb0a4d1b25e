"""Lifetime of stored results: temporary directories, cleanup, damage, pickling and the end of a process."""

import gc
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from aimz.errors import IncompleteResultError, StaleResultError

X = np.random.default_rng(1).normal(size=3000).astype(np.float32)
OPTIONS = {"batch_size": 1024, "progress": False, "rng_key": random.key(5)}


def kernel(X, y=None):
    # A small kernel: each model compiles its own programs, and these tests make many models.
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X), obs=y)


def new_model() -> ImpactModel:
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False))
    return model.set_posterior_sample({"b": np.linspace(-1, 1, 6, dtype=np.float32)})


@pytest.fixture
def tmp(tmp_path, monkeypatch):
    """Parent of all temporary directories; otherwise empty."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(params=["as a whole", "by Dask"])
def read(request, monkeypatch):
    """Way in which arrays are read. Without the change, small arrays are always read as a whole."""
    if request.param == "by Dask":
        monkeypatch.setattr("aimz.output.datasets._SMALL_BYTES", 0)
    return request.param


@pytest.fixture(scope="module")
def compiled():
    return new_model()


@pytest.fixture
def model(compiled):
    """A shared model without a temporary directory."""
    compiled.cleanup()
    yield compiled
    compiled.cleanup()


def draws_of(tree: xr.DataTree) -> np.ndarray:
    return tree["posterior_predictive"]["y"].values


@pytest.fixture(scope="module")
def expected(compiled):
    return draws_of(compiled.predict(X, store="memory", **OPTIONS))


def only_entry(directory: Path) -> Path:
    """Return the only entry of a directory."""
    (path,) = directory.iterdir()
    return path


# ------------------------------------------------------------------------------------- references to a result


def test_result_is_readable_after_its_model_is_deleted(tmp, expected):
    model = new_model()
    tree = model.predict(X, **OPTIONS)
    home = Path(model.temp_dir)
    assert home == only_entry(tmp)
    del model
    gc.collect()
    assert home.is_dir()
    np.testing.assert_array_equal(draws_of(tree), expected)


@pytest.mark.usefixtures("read")
def test_directory_is_removed_with_the_last_reference(tmp):
    model = new_model()
    one, other = (model.predict(X, **OPTIONS) for _ in range(2))
    part = one["posterior_predictive"]["y"][:, 2:4]
    kept = part.compute()
    for holder in ("model", "other", "one", "part"):
        assert len(list(tmp.iterdir())) == 1, holder
        match holder:
            case "model":
                del model
            case "other":
                del other
            case "one":
                del one
                gc.collect()
                xr.testing.assert_equal(part.compute(), kept)
            case "part":
                del part
        gc.collect()
    assert list(tmp.iterdir()) == []


def test_model_without_stored_results_leaves_no_directory(tmp):
    model = new_model()
    assert model.temp_dir is None
    model.predict(X, store="memory", **OPTIONS)
    assert model.temp_dir is None
    del model
    gc.collect()
    assert list(tmp.iterdir()) == []


def test_directory_without_results_is_removed_with_the_model(tmp):
    model = new_model()
    model.predict(X, **OPTIONS)
    gc.collect()
    assert Path(model.temp_dir).is_dir()  # the model alone keeps the directory
    del model
    gc.collect()
    assert list(tmp.iterdir()) == []


def test_lazy_difference_keeps_both_results(tmp):
    model = new_model()
    given = {"X": X, **OPTIONS}
    effect = model.estimate_effect(
        args_baseline=given, args_intervention={**given, "intervention": {"X": lambda X: X + 1}}
    )
    del model
    gc.collect()
    moved = effect["posterior_predictive"]["y"].values
    assert np.isfinite(moved).all()
    assert np.ptp(moved, axis=-1).max() < 1e-5  # the same shift in every row
    assert np.ptp(moved) > 1
    del effect
    gc.collect()
    assert list(tmp.iterdir()) == []


def test_models_do_not_share_a_directory(tmp):
    one, other = new_model(), new_model()
    trees = [model.predict(X, **OPTIONS) for model in (one, other)]
    assert one.temp_dir != other.temp_dir
    one.cleanup()
    assert np.isfinite(draws_of(trees[1])).all()
    with pytest.raises(StaleResultError):
        draws_of(trees[0])


# ---------------------------------------------------------------------------------------------------- cleanup


def test_reading_after_cleanup_raises(model, tmp, read):
    tree = model.predict(X, **OPTIONS)
    y = tree["posterior_predictive"]["y"]
    assert (y.chunks is not None) == (read == "by Dask")
    lazy = y[:, 1:].mean("draw") if read == "by Dask" else y[:, 1:]
    model.cleanup()
    assert list(tmp.iterdir()) == []
    assert model.temp_dir is None
    for read in (
        lambda: tree["posterior_predictive"]["y"].values,
        lambda: float(tree["posterior_predictive"]["y"][0, 0, 0]),
        lambda: float(tree["posterior_predictive"]["y"].mean()),
        lazy.compute,
        tree.load,
        tree.compute,
    ):
        with pytest.raises(StaleResultError, match=r"cleaned up.*output_dir"):
            read()
    assert issubclass(StaleResultError, FileNotFoundError)
    assert StaleResultError.__module__ == "aimz.errors"
    np.testing.assert_array_equal(tree["posterior"]["b"].values[0], np.asarray(model.posterior["b"]))  # in memory
    model.cleanup()  # twice is no error


def test_model_predicts_after_cleanup(model, tmp, expected):
    stale = model.predict(X, **OPTIONS)
    model.cleanup()
    tree = model.predict(X, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)
    with pytest.raises(StaleResultError):  # also after a new directory was created
        draws_of(stale)


def test_cleanup_keeps_loaded_results_and_output_dir(tmp_path, tmp, expected):
    model = new_model()
    loaded = model.predict(X, **OPTIONS).load()
    memory = model.predict(X, store="memory", **OPTIONS)
    kept = model.predict(X, output_dir=tmp_path / "kept", **OPTIONS)
    model.cleanup()
    ImpactModel.cleanup_models()
    del model
    gc.collect()
    for tree in (loaded, memory, kept):
        np.testing.assert_array_equal(draws_of(tree), expected)
    assert only_entry(tmp_path).name == "kept"


def test_cleanup_models_removes_the_results_of_all_models(tmp):
    models = [new_model()]
    models.append(pickle.loads(pickle.dumps(models[0])))
    trees = [model.predict(X, **OPTIONS) for model in models]
    assert len(list(tmp.iterdir())) == 2
    ImpactModel.cleanup_models()
    assert list(tmp.iterdir()) == []
    for tree in trees:
        with pytest.raises(StaleResultError):
            draws_of(tree)


def test_cleanup_models_keeps_results_of_deleted_models(tmp, expected):
    """Only the remaining references decide about them."""
    tree = new_model().predict(X, **OPTIONS)
    gc.collect()
    ImpactModel.cleanup_models()
    np.testing.assert_array_equal(draws_of(tree), expected)


def test_unpickled_model_does_not_share_the_directory(model, tmp):
    tree = model.predict(X, **OPTIONS)
    restored = pickle.loads(pickle.dumps(model))
    assert restored.temp_dir is None
    restored.cleanup()
    del restored
    gc.collect()
    assert draws_of(tree).shape[-1] == len(X)


# ------------------------------------------------------------------------------------ deleted or damaged files


@pytest.mark.parametrize("where", ["temporary", "output_dir"])
@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "zeros"])
def test_damaged_chunks_raise_instead_of_reading_as_zeros(model, tmp_path, where, damage):
    tree = model.predict(X, output_dir=tmp_path if where == "output_dir" else None, **OPTIONS)
    chunk = Path(tree.attrs["artifact_path"]) / "posterior_predictive" / "y" / "c" / "0" / "0" / "1"
    content = chunk.read_bytes()
    altered = {
        "deleted": b"",
        "truncated": content[: len(content) // 2],
        "flipped": content[:999] + bytes([content[999] ^ 8]) + content[1000:],
        "zeros": bytes(len(content)),
    }[damage]
    chunk.unlink()
    if altered:
        chunk.write_bytes(altered)
    y = tree["posterior_predictive"]["y"]
    for read in (lambda: y.values, lambda: y.mean().values, lambda: y[0, 0, 1500].values):
        with pytest.raises(IncompleteResultError, match="missing data, or they were altered"):
            read()
    assert np.isfinite(y[:, :, :1024].values).all()  # another chunk


def test_reading_a_removed_directory_raises(model, tmp_path):
    tree = model.predict(X, output_dir=tmp_path, **OPTIONS)
    shutil.rmtree(only_entry(tmp_path))
    with pytest.raises(StaleResultError, match="no longer exists"):
        draws_of(tree)


# ---------------------------------------------------------------------------------------------- names and labels


def test_directories_are_named_by_time_and_method(model, tmp_path):
    calls = {
        "predict": {},
        "sample_posterior_predictive": {},
        "sample_prior_predictive": {"num_samples": 4},
        "log_likelihood": {"y": X},
    }
    for method, more in calls.items():
        before = datetime.now(UTC)
        tree = getattr(model, method)(X, output_dir=tmp_path / method, **OPTIONS, **more)
        path = only_entry(tmp_path / method)
        assert tree.attrs["artifact_path"] == str(path)
        stamp, _, name = path.name.partition("_")
        assert name == method
        made = datetime.strptime(stamp, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        assert before <= made <= datetime.now(UTC)
    tree = (lambda: model.predict(X, **OPTIONS))()  # also when called from a lambda
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z_predict", Path(tree.attrs["artifact_path"]).name)
    assert Path(tree.attrs["artifact_path"]).parent == Path(model.temp_dir)


@pytest.mark.parametrize("given", [str, Path, lambda path: path.relative_to(Path.cwd())])
def test_attributes_contain_output_dir_and_artifact_path(model, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "some" / "where"  # neither directory exists yet
    tree = model.predict(X, output_dir=given(top), **OPTIONS)
    path = str(only_entry(top))
    with xr.open_datatree(path, engine="zarr") as stored:
        for found in (tree, stored):
            assert found.attrs["output_dir"] == str(top)
            assert found.attrs["artifact_path"] == path
            for group in ("posterior", "posterior_predictive"):
                assert found[group].attrs["output_dir"] == path
                assert found[group].attrs["artifact_path"] == path
        for group in ("/", "posterior", "posterior_predictive"):
            attrs = {name: value for name, value in stored[group].attrs.items() if name != "aimz_store"}
            assert attrs == dict(tree[group].attrs)


def test_attributes_of_a_temporary_result(model):
    tree = model.predict(X, **OPTIONS)
    assert tree.attrs["output_dir"] == model.temp_dir
    assert Path(tree.attrs["artifact_path"]).parent == Path(model.temp_dir)
    assert tree["posterior_predictive"].attrs["output_dir"] == tree.attrs["artifact_path"]
    for tree in (model.predict(X, store="memory", **OPTIONS), model.predict_on_batch(X)):
        for group in ("/", "posterior", "posterior_predictive"):
            assert not {"output_dir", "artifact_path"} & set(tree[group].attrs)


def test_stored_tree_equals_the_returned_one(model, tmp_path):
    tree = model.predict(X, output_dir=tmp_path, **OPTIONS)
    with xr.open_datatree(only_entry(tmp_path), engine="zarr") as stored:
        assert set(stored.children) == set(tree.children)
        for group in tree.children:
            one, other = stored[group].to_dataset(), tree[group].to_dataset()
            xr.testing.assert_equal(one, other)
            for name, array in other.variables.items():
                assert one[name].dims == array.dims
                assert one[name].dtype == array.dtype


# ---------------------------------------------------------------------------------------------- other processes


def test_unpickled_result_reads_the_same_files(model, tmp_path, expected):
    tree = model.predict(X, output_dir=tmp_path, **OPTIONS)
    copy = pickle.loads(pickle.dumps(tree))
    np.testing.assert_array_equal(draws_of(copy), expected)
    assert copy.attrs == tree.attrs
    shutil.rmtree(only_entry(tmp_path))
    with pytest.raises(StaleResultError):
        draws_of(copy)


def test_unpickled_result_raises_after_cleanup(model, tmp):
    pickled = pickle.dumps(model.predict(X, **OPTIONS))
    model.cleanup()
    with pytest.raises(StaleResultError):
        draws_of(pickle.loads(pickled))


def test_deleting_an_unpickled_result_keeps_the_directory(model, tmp, expected):
    tree = model.predict(X, **OPTIONS)
    copy = pickle.loads(pickle.dumps(tree))
    np.testing.assert_array_equal(draws_of(copy), expected)
    del copy
    gc.collect()
    np.testing.assert_array_equal(draws_of(tree), expected)


SCRIPT = """
import os, pickle, sys
import numpy as np, numpyro, numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC, NUTS
from aimz import ImpactModel


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X), obs=y)


X = np.linspace(0, 1, 3000, dtype=np.float32)


def predict():
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"b": np.ones(4, np.float32)})
    return model, model.predict(X, progress=False, batch_size=1024)

"""

ENDS = """
import gc
gc.disable()
model, tree = predict()  # referenced by the main module until the end
sys.modules["kept"] = tree["posterior_predictive"]["y"].mean("draw")  # a lazy array that is never read
loop = [predict()[1]]  # a tree without its model, in a reference cycle
loop.append(loop)
del loop
assert len(os.listdir(os.environ["TMPDIR"])) == 2
sys.exit(3)
"""

FORKED = """
model, tree = predict()
pid = os.fork()
if pid == 0:
    import atexit
    atexit._run_exitfuncs()  # as at the end of a process, but without joining threads, which a child does not have
    os._exit(0)
os.waitpid(pid, 0)
assert float(tree["posterior_predictive"]["y"].mean()) > 0
with open(sys.argv[1] + ".partial", "wb") as file:
    pickle.dump(tree["posterior_predictive"].to_dataset(), file)
os.replace(sys.argv[1] + ".partial", sys.argv[1])
sys.stdin.read()
"""


def start(code: str, tmp: Path, *args: str, warn: str = "error") -> subprocess.Popen[bytes]:
    tmp.mkdir()
    return subprocess.Popen(
        [sys.executable, "-W", warn, "-c", SCRIPT + code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp)},
    )


def test_process_end_removes_directories_silently(tmp_path):
    ending = start(ENDS, tmp_path / "one")
    # JAX warns about forks; this child does not use JAX.
    forking = start(FORKED, tmp_path / "other", str(tmp_path / "pickled"), warn="ignore")
    try:
        while not (tmp_path / "pickled").exists():
            assert forking.poll() is None, forking.stderr.read()
            time.sleep(0.01)
        # Another process can read the result while its own process runs, even after a child of it has ended.
        here = pickle.loads((tmp_path / "pickled").read_bytes())
        assert np.isfinite(here["y"].values).all()
    finally:
        ends = {process: process.communicate(timeout=120) for process in (ending, forking)}
    assert ends == {ending: (b"", b""), forking: (b"", b"")}
    assert (ending.returncode, forking.returncode) == (3, 0)
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "other").iterdir()) == []
    with pytest.raises(StaleResultError):
        here["y"].values  # noqa: B018 (the read raises)

"""Results live as long as someone holds them, and no longer than they should."""

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
    # Each model compiles its own, and these tests make many.
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X), obs=y)


def new_model() -> ImpactModel:
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False))
    return model.set_posterior_sample({"b": np.linspace(-1, 1, 6, dtype=np.float32)})


@pytest.fixture
def tmp(tmp_path, monkeypatch):
    """Where temporary directories go, and nothing else."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(params=["as a whole", "by Dask"])
def read(request, monkeypatch):
    """How arrays are read; the small ones of these tests would all be read as wholes."""
    if request.param == "by Dask":
        monkeypatch.setattr("aimz.output.lazy_datasets._SMALL_BYTES", 0)
    return request.param


@pytest.fixture(scope="module")
def compiled():
    return new_model()


@pytest.fixture
def model(compiled):
    """A model that need not go, and has no directory yet."""
    compiled.cleanup()
    yield compiled
    compiled.cleanup()


def draws_of(tree: xr.DataTree) -> np.ndarray:
    return tree["posterior_predictive"]["y"].values


@pytest.fixture(scope="module")
def expected(compiled):
    return draws_of(compiled.predict(X, store="memory", **OPTIONS))


def only(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


# ------------------------------------------------------------------------------------------------ who holds it


def test_a_result_outlives_its_model(tmp, expected):
    model = new_model()
    tree = model.predict(X, **OPTIONS)
    home = Path(model.temp_dir)
    assert home == only(tmp)
    del model
    gc.collect()
    assert home.is_dir()
    np.testing.assert_array_equal(draws_of(tree), expected)


@pytest.mark.usefixtures("read")
def test_the_last_to_go_turns_off_the_light(tmp):
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


def test_a_model_that_goes_before_it_predicts_leaves_nothing(tmp):
    model = new_model()
    assert model.temp_dir is None
    model.predict(X, store="memory", **OPTIONS)
    assert model.temp_dir is None
    del model
    gc.collect()
    assert list(tmp.iterdir()) == []


def test_a_model_without_results_takes_its_directory_with_it(tmp):
    model = new_model()
    model.predict(X, **OPTIONS)
    gc.collect()
    assert Path(model.temp_dir).is_dir()  # the model holds it, also where nobody holds a result
    del model
    gc.collect()
    assert list(tmp.iterdir()) == []


def test_a_difference_of_two_results_holds_both(tmp):
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


def test_models_have_directories_of_their_own(tmp):
    one, other = new_model(), new_model()
    trees = [model.predict(X, **OPTIONS) for model in (one, other)]
    assert one.temp_dir != other.temp_dir
    one.cleanup()
    assert np.isfinite(draws_of(trees[1])).all()
    with pytest.raises(StaleResultError):
        draws_of(trees[0])


# ---------------------------------------------------------------------------------------------------- cleanup


def test_after_cleanup_reading_raises(model, tmp, read):
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


def test_after_cleanup_the_model_goes_on(model, tmp, expected):
    stale = model.predict(X, **OPTIONS)
    model.cleanup()
    tree = model.predict(X, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)
    with pytest.raises(StaleResultError):  # also if there is a directory again
        draws_of(stale)


def test_what_was_loaded_or_kept_elsewhere_stays(tmp_path, tmp, expected):
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
    assert only(tmp_path).name == "kept"


def test_cleanup_models_is_for_all_of_them(tmp):
    models = [new_model()]
    models.append(pickle.loads(pickle.dumps(models[0])))
    trees = [model.predict(X, **OPTIONS) for model in models]
    assert len(list(tmp.iterdir())) == 2
    ImpactModel.cleanup_models()
    assert list(tmp.iterdir()) == []
    for tree in trees:
        with pytest.raises(StaleResultError):
            draws_of(tree)


def test_cleanup_models_is_not_for_results_of_models_that_are_gone(tmp, expected):
    """They are the holder's."""
    tree = new_model().predict(X, **OPTIONS)
    gc.collect()
    ImpactModel.cleanup_models()
    np.testing.assert_array_equal(draws_of(tree), expected)


def test_a_copy_of_a_model_does_not_share_its_directory(model, tmp):
    tree = model.predict(X, **OPTIONS)
    restored = pickle.loads(pickle.dumps(model))
    assert restored.temp_dir is None
    restored.cleanup()
    del restored
    gc.collect()
    assert draws_of(tree).shape[-1] == len(X)


# --------------------------------------------------------------------------------- files that go or are altered


@pytest.mark.parametrize("where", ["temporary", "output_dir"])
@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "zeros"])
def test_damaged_files_raise_and_never_read_as_zeros(model, tmp_path, where, damage):
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


def test_a_directory_that_somebody_removed_is_stale(model, tmp_path):
    tree = model.predict(X, output_dir=tmp_path, **OPTIONS)
    shutil.rmtree(only(tmp_path))
    with pytest.raises(StaleResultError, match="no longer exists"):
        draws_of(tree)


# ---------------------------------------------------------------------------------------------- names and labels


def test_names_of_directories(model, tmp_path):
    calls = {
        "predict": {},
        "sample_posterior_predictive": {},
        "sample_prior_predictive": {"num_samples": 4},
        "log_likelihood": {"y": X},
    }
    for method, more in calls.items():
        before = datetime.now(UTC)
        tree = getattr(model, method)(X, output_dir=tmp_path / method, **OPTIONS, **more)
        path = only(tmp_path / method)
        assert tree.attrs["artifact_path"] == str(path)
        stamp, _, name = path.name.partition("_")
        assert name == method
        made = datetime.strptime(stamp, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        assert before <= made <= datetime.now(UTC)
    tree = (lambda: model.predict(X, **OPTIONS))()  # whoever calls
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z_predict", Path(tree.attrs["artifact_path"]).name)
    assert Path(tree.attrs["artifact_path"]).parent == Path(model.temp_dir)


@pytest.mark.parametrize("given", [str, Path, lambda path: path.relative_to(Path.cwd())])
def test_where_a_result_lies_is_said_on_it(model, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "some" / "where"  # neither is there yet
    tree = model.predict(X, output_dir=given(top), **OPTIONS)
    path = str(only(top))
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


def test_where_a_temporary_result_lies_is_said_on_it(model):
    tree = model.predict(X, **OPTIONS)
    assert tree.attrs["output_dir"] == model.temp_dir
    assert Path(tree.attrs["artifact_path"]).parent == Path(model.temp_dir)
    assert tree["posterior_predictive"].attrs["output_dir"] == tree.attrs["artifact_path"]
    for tree in (model.predict(X, store="memory", **OPTIONS), model.predict_on_batch(X)):
        for group in ("/", "posterior", "posterior_predictive"):
            assert not {"output_dir", "artifact_path"} & set(tree[group].attrs)


def test_the_stored_tree_is_the_live_one(model, tmp_path):
    tree = model.predict(X, output_dir=tmp_path, **OPTIONS)
    with xr.open_datatree(only(tmp_path), engine="zarr") as stored:
        assert set(stored.children) == set(tree.children)
        for group in tree.children:
            one, other = stored[group].to_dataset(), tree[group].to_dataset()
            xr.testing.assert_equal(one, other)
            for name, array in other.variables.items():
                assert one[name].dims == array.dims
                assert one[name].dtype == array.dtype


# ---------------------------------------------------------------------------------------------- other processes


def test_a_pickled_result_is_read_where_it_lies(model, tmp_path, expected):
    tree = model.predict(X, output_dir=tmp_path, **OPTIONS)
    copy = pickle.loads(pickle.dumps(tree))
    np.testing.assert_array_equal(draws_of(copy), expected)
    assert copy.attrs == tree.attrs
    shutil.rmtree(only(tmp_path))
    with pytest.raises(StaleResultError):
        draws_of(copy)


def test_a_pickled_result_that_is_gone_is_stale(model, tmp):
    pickled = pickle.dumps(model.predict(X, **OPTIONS))
    model.cleanup()
    with pytest.raises(StaleResultError):
        draws_of(pickle.loads(pickled))


def test_a_pickled_result_does_not_take_the_directory_with_it(model, tmp, expected):
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
model, tree = predict()  # held by the main module to the end
sys.modules["kept"] = tree["posterior_predictive"]["y"].mean("draw")  # to be read some time
loop = [predict()[1]]  # a tree whose model went first, held by nothing but itself
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
    atexit._run_exitfuncs()  # what the end of a process does, short of ending the threads a child does not have
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


def test_the_end_of_a_process_leaves_nothing_and_says_nothing(tmp_path):
    ending = start(ENDS, tmp_path / "one")
    # JAX warns of forks, and rightly so; this child does nothing with it.
    forking = start(FORKED, tmp_path / "other", str(tmp_path / "pickled"), warn="ignore")
    try:
        while not (tmp_path / "pickled").exists():
            assert forking.poll() is None, forking.stderr.read()
            time.sleep(0.01)
        # A result is read in another process while its own is there, also if a child of that has ended.
        here = pickle.loads((tmp_path / "pickled").read_bytes())
        assert np.isfinite(here["y"].values).all()
    finally:
        ends = {process: process.communicate(timeout=120) for process in (ending, forking)}
    assert ends == {ending: (b"", b""), forking: (b"", b"")}
    assert (ending.returncode, forking.returncode) == (3, 0)
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "other").iterdir()) == []
    with pytest.raises(StaleResultError):
        here["y"].values  # noqa: B018 (reading is the point)

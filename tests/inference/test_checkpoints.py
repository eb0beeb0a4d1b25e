"""Checkpoints: a killed fit resumes with the same bits; checkpoints of other fits raise and name the difference."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import aimz
from aimz import ImpactModel
from aimz.errors import CheckpointError
from aimz.inference.svi_checkpoint import Checkpoint
from aimz.utils.data import ArrayDataset, ArrayLoader
from slow_cases import slow_except

N = 230
X = np.asarray(random.normal(random.key(0), (N, 2)))
Y = np.asarray(X @ np.array([1.0, -1.0]) + random.normal(random.key(1), (N,)))


def kernel(X, y=None, scale=1.0):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, scale), obs=y)


def other_kernel(X, y=None, scale=1.0):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, scale), obs=y)


def new_model(kernel=kernel, guide=AutoNormal, optimizer=None, loss=None, key=0):
    svi = SVI(kernel, guide(kernel), optimizer or optax.adam(0.05), loss or Trace_ELBO())
    return ImpactModel(kernel, random.key(key), svi)


def weighted(X, y=None, scale=1.0):
    """Kernel with the same densities and a constant scale."""
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]), numpyro.handlers.scale(scale=7.0):
        numpyro.sample("y", dist.Normal(X @ b, scale), obs=y)


OPTIONS = {"batch_size": 50, "epochs": 4, "num_samples": 6, "progress": False}


def bits(model):
    """Return losses, draws and key at the end of a fit."""
    words = random.key_data(model.vi_state.rng_key)
    return np.r_[model.vi_result.losses, np.asarray(model.posterior["b"]).ravel(), np.asarray(words, float)]


class Stop(Exception):
    """Exception that ends a fit in a callback."""


def stop_after(epoch):
    def stop(number, _):
        if number == epoch:
            raise Stop

    return stop


def nothing(*_):
    return None


def interrupted_fit(directory, epoch=1, **options):
    """Write the checkpoint of a fit that is interrupted after `epoch`."""
    with pytest.raises(Stop):
        new_model().fit(X, Y, checkpoint_dir=directory, on_epoch_end=stop_after(epoch), **OPTIONS | options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Directory with the checkpoint of a fit that is interrupted after the first epoch; tests copy it."""
    directory = tmp_path_factory.mktemp("interrupted") / "checkpoint"
    interrupted_fit(directory)
    return directory


@pytest.fixture
def interrupted(checkpoint, tmp_path):
    """Directory with a checkpoint of the test's own."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


@pytest.mark.parametrize("epoch", slow_except([1, 3], 1))
@pytest.mark.parametrize("source", ["arrays", "loader", "iterable"])
def test_resumed_fit_gives_same_bits(tmp_path, source, epoch):
    def data():
        if source == "arrays":
            return (X, Y)
        dataset = ArrayDataset(X=X, y=Y)
        if source == "loader":
            return (ArrayLoader(dataset, random.key(4), batch_size=50, shuffle=True),)
        return (Shuffling(),)

    expected = bits(new_model().fit(*data(), **OPTIONS))
    with pytest.raises(Stop):
        new_model().fit(*data(), checkpoint_dir=tmp_path, on_epoch_end=stop_after(epoch), **OPTIONS)
    resumed = new_model().fit(*data(), checkpoint_dir=tmp_path, on_epoch_end=nothing, **OPTIONS)
    np.testing.assert_array_equal(bits(resumed), expected)
    # After the last epoch, the same call only draws.
    again = new_model().fit(*data(), checkpoint_dir=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(bits(again), expected)


class Shuffling:
    """Stateful loader: the order of each epoch depends on the previous epochs."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.dataset = range(N)

    def __iter__(self):
        order = self.rng.permutation(N)
        for start in range(0, N, 50):
            rows = order[start : start + 50]
            yield {"X": X[rows], "y": Y[rows]}


SCRIPT = """
import os, signal
import numpy as np, numpyro, optax
from jax import random
import test_checkpoints as here

def stop(epoch, _):
    if epoch == {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)

here.new_model().fit(here.X, here.Y, checkpoint_dir={directory!r}, on_epoch_end=stop, **here.OPTIONS)
"""


def test_killed_process_resumes(tmp_path):
    import os

    expected = bits(new_model().fit(X, Y, **OPTIONS))
    text = textwrap.dedent(SCRIPT).format(epoch=2, directory=str(tmp_path))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    epochs = []
    resumed = new_model().fit(X, Y, checkpoint_dir=tmp_path, on_epoch_end=lambda e, _: epochs.append(e), **OPTIONS)
    assert epochs == [2, 3]  # the epoch in whose callback it was killed is repeated
    np.testing.assert_array_equal(bits(resumed), expected)


def test_stopped_fit_is_not_resumed(tmp_path):
    one = new_model().fit(X, Y, checkpoint_dir=tmp_path, on_epoch_end=lambda e, _: e == 1, **OPTIONS)
    other = new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    assert len(other.vi_result.losses) == 2 * 5
    np.testing.assert_array_equal(bits(other), bits(one))


def test_second_fit_in_the_directory_raises(tmp_path):
    """One fit at a time writes checkpoints; the lock ends with the fit."""
    others = []

    def start_another(*_):
        with pytest.raises(CheckpointError, match="no other fit uses") as caught:
            new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
        others.append(caught.value)

    model = new_model().fit(X, Y, checkpoint_dir=tmp_path, on_epoch_end=start_another, **OPTIONS)
    assert len(others) == OPTIONS["epochs"]
    again = new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(bits(again), bits(model))


def test_full_disk_names_the_directory(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("aimz.inference.svi_checkpoint.put_file", full)
    with pytest.raises(OSError, match=r"No space left on device\. Free some space and repeat the call") as caught:
        new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    assert caught.value.filename == str(tmp_path)


def test_more_epochs_continue(tmp_path):
    new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    longer = new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS | {"epochs": 6})
    np.testing.assert_array_equal(bits(longer), bits(new_model().fit(X, Y, **OPTIONS | {"epochs": 6})))


@pytest.mark.parametrize(
    ("make", "data", "options", "named"),
    [
        (lambda: new_model(other_kernel), (X, Y), {}, "kernel"),
        (lambda: new_model(), (X, Y), {"scale": 2.0}, "kernel"),
        (lambda: new_model(guide=AutoDiagonalNormal), (X, Y), {}, "guide"),
        (lambda: new_model(optimizer=optax.adam(0.01)), (X, Y), {}, "optimizer"),
        (lambda: new_model(optimizer=optax.sgd(0.05)), (X, Y), {}, "optimizer"),
        (lambda: new_model(loss=TraceMeanField_ELBO()), (X, Y), {}, "loss"),
        (lambda: new_model(key=1), (X, Y), {}, "rng_key"),
        (lambda: new_model(), (X[:-1], Y[:-1]), {}, "data size"),
        (lambda: new_model(), (X, Y), {"batch_size": 49}, "batch_size"),
        (lambda: new_model(), (X, Y), {"shuffle": False}, "order"),
        (lambda: new_model(), (X, -Y), {}, "data"),
        (lambda: new_model(weighted), (X, Y), {}, "kernel"),
    ],
)
def test_checkpoint_of_another_fit_raises(interrupted, make, data, options, named):
    before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    with pytest.raises(CheckpointError, match=rf"is of another fit: .*\b{named}\b.* differ") as raised:
        make().fit(*data, checkpoint_dir=interrupted, **OPTIONS | options)
    assert "Pass another `checkpoint_dir`" in str(raised.value)
    assert {path.name: path.read_bytes() for path in interrupted.iterdir()} == before


def test_error_names_only_what_differs(interrupted):
    with pytest.raises(CheckpointError) as raised:
        new_model(optimizer=optax.adam(0.01)).fit(X, Y, checkpoint_dir=interrupted, **OPTIONS)
    assert "another fit: optimizer differ(s)" in str(raised.value)


def test_fewer_epochs_than_completed_raise(tmp_path):
    new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    with pytest.raises(CheckpointError, match="has completed 4 epochs; got `epochs=2`"):
        new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS | {"epochs": 2})


def files_of(directory):
    (arrays,) = directory.glob("*.safetensors")
    return arrays, directory / "checkpoint.json"


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "index cut", "index of another time"])
def test_damaged_checkpoint_raises(interrupted, damage):
    arrays, index = files_of(interrupted)
    content = arrays.read_bytes()
    if damage == "cut":
        arrays.write_bytes(content[:-7])
    elif damage == "flipped":
        arrays.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
    elif damage == "gone":
        arrays.unlink()
    elif damage == "index cut":
        index.write_text(index.read_text()[:-20])
    else:
        found = json.loads(index.read_text())
        index.write_text(json.dumps({k: v for k, v in found.items() if k != "fingerprint"}))
    model = new_model()
    with pytest.raises(CheckpointError, match="is damaged: "):
        model.fit(X, Y, checkpoint_dir=interrupted, **OPTIONS)
    assert model.vi_state is None
    assert (random.key_data(model.rng_key) == random.key_data(random.key(0))).all()


EDITS = {
    "epochs": lambda index: index | {"epochs": 3},
    "epochs as text": lambda index: index | {"epochs": "1"},
    "ended": lambda index: index | {"ended": not index["ended"]},
    "file outside": lambda index: index | {"file": "../epoch-000001.safetensors"},
    "absolute file": lambda index: index | {"file": "/etc/passwd"},
    "fingerprint": lambda index: index | {"fingerprint": index["fingerprint"] | {"batch_size": "51"}},
    "no format": lambda index: {key: value for key, value in index.items() if key != "format"},
    "a list": lambda index: [index],
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_index_raises(interrupted, edit):
    arrays, index = files_of(interrupted)
    (interrupted.parent / arrays.name).write_bytes(arrays.read_bytes())
    index.write_text(json.dumps(EDITS[edit](json.loads(index.read_text()))))
    with pytest.raises(CheckpointError, match="is damaged: "):
        new_model().fit(X, Y, checkpoint_dir=interrupted, **OPTIONS)


FORMAT_1 = Path(__file__).parents[1] / "persistence" / "format_1" / "checkpoint"
"""Checkpoint of `interrupted_fit`, written once by a version without checksums of the index."""


def test_checkpoint_of_format_1_loads(tmp_path):
    svi = SVI(kernel, AutoNormal(kernel), optax.adam(0.05), Trace_ELBO())
    fingerprint = json.loads((FORMAT_1 / "checkpoint.json").read_text())["fingerprint"]
    template = svi.init(random.key(0), X[:50], Y[:50])
    found = Checkpoint(FORMAT_1, fingerprint).load(template)
    assert (found.epochs, found.ended, len(found.losses)) == (1, False, 5)
    params = svi.get_params(found.state)
    assert {name: value.shape for name, value in params.items()} == {"b_auto_loc": (2,), "b_auto_scale": (2,)}
    for edit in ("epochs", "epochs as text", "file outside", "absolute file", "a list"):
        copy = shutil.copytree(FORMAT_1, tmp_path / edit)
        content = EDITS[edit](json.loads((FORMAT_1 / "checkpoint.json").read_text()))
        (copy / "checkpoint.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="is damaged: "):
            Checkpoint(copy, fingerprint).load(template)


@pytest.mark.parametrize("operation", slow_except(range(6), 0, 5))
def test_failed_write_keeps_previous_epoch(tmp_path, monkeypatch, operation):
    """Fails between any two file operations of the third epoch."""
    import os

    expected = bits(new_model().fit(X, Y, **OPTIONS))
    interrupted_fit(tmp_path, 1)
    count = -1

    def failing(act):
        def run(*args, **kwargs):
            nonlocal count
            count += 1
            if count == operation:
                raise Stop
            return act(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync))
        patch.setattr(Path, "replace", failing(Path.replace))
        patch.setattr(Path, "unlink", failing(Path.unlink))
        with pytest.raises(Stop):
            new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    resumed = new_model().fit(X, Y, checkpoint_dir=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(bits(resumed), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "epoch-000004.safetensors"]


def test_checkpoint_error_is_value_error():
    assert issubclass(aimz.errors.CheckpointError, ValueError)

"""Law 9: the error itself, nothing that reads as complete, nothing lost that was complete before.

Processes are killed at moments tied to the chunks on disk, disks are full, keys are pressed; then the call is finished
and its files are compared with those of a call that nobody disturbed.
"""

import errno
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
import zarr
from jax import random
from numpyro.infer import MCMC, NUTS
from zarr.errors import GroupNotFoundError

from aimz import ImpactModel
from aimz.errors import IncompleteResultError
from aimz.store import JOURNAL, ZarrStore, check_result
from aimz.utils.data import ArrayDataset, ArrayLoader

BLOCK = 1024
N_OBS = 12 * BLOCK + 5
N_CHUNKS = 13
X = np.random.default_rng(1).normal(size=(N_OBS, 3)).astype(np.float32)
KEY = random.key(5)
OPTIONS = {"batch_size": BLOCK, "progress": False, "rng_key": KEY}


def posterior(n_draws: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    draws = {"a": rng.normal(size=n_draws), "b": rng.normal(size=(n_draws, 3)), "sigma": rng.gamma(2, size=n_draws)}
    return {name: values.astype(np.float32) for name, values in draws.items()}


def linear(X, y=None):
    # As in the catalogue, which the processes below have no time to import.
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", a + X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def new_model(
    kernel: Callable[..., Any] = linear, draws: dict[str, Any] | None = None, *, num_chains: int = 1
) -> ImpactModel:
    model = ImpactModel(kernel, random.key(1), MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False))
    return model.set_posterior_sample(posterior() if draws is None else draws, num_chains=num_chains)


class Watched:
    """An array that is read in parts, as one on disk is; ``before`` is told of each part that a step reads."""

    chunks = None

    def __init__(self, array: np.ndarray, before: Callable[[int], None]) -> None:
        self._array = array
        self._before = before
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = self._array[rows]
        if 0 < len(part) <= 2 * BLOCK:  # not the whole, which is read for its fingerprint
            self._before(rows.start)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._array, dtype)


class Trouble(Exception):
    pass


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def raising_from(row: int, error: BaseException, results: Path | None = None) -> Callable[[int], None]:
    """Raise when a row is read; if ``results`` are written, only once some are there, and a result is unfinished."""

    def some_are_there() -> bool:
        if results is None:
            return True
        path = next(path for path in results.iterdir() if b"aimz_unfinished" in (path / "zarr.json").read_bytes())
        return all(len(chunks_of(path, name)) >= 4 for name in ("mu", "y"))

    def before(start: int) -> None:
        if start >= row:
            until(some_are_there)
            raise error

    return before


def batches(
    array: np.ndarray = X, size: int = 1000, *, before: Callable[[int], None] = lambda _: None
) -> Iterator[dict[str, np.ndarray]]:
    """Rows in batches that fit no block; ``before`` is told of each."""
    for start in range(0, len(array), size):
        before(start)
        yield {"X": array[start : start + size]}


def only(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def chunk_files(directory: Path) -> dict[str, bytes]:
    """All files that hold numbers."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "c" in path.relative_to(directory).parts and path.suffix != ".partial"
    }


def chunks_of(directory: Path, name: str = "y") -> list[Path]:
    return [path for path in directory.glob(f"*/{name}/c/**/*") if path.is_file() and path.suffix != ".partial"]


def draws_of(tree: xr.DataTree, name: str = "y") -> np.ndarray:
    return tree["posterior_predictive"][name].values


def check_refused(path: Path) -> None:
    """Whoever opens the root is told that there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray says where else it looked
        for open_it in (
            lambda: zarr.open_group(path, mode="r"),
            lambda: zarr.open(path, mode="r"),
            lambda: xr.open_datatree(path, engine="zarr"),
            lambda: xr.open_zarr(path),
            lambda: xr.open_dataset(path, engine="zarr", group="posterior_predictive", consolidated=True),
        ):
            with pytest.raises((FileNotFoundError, GroupNotFoundError, KeyError, ValueError)):
                open_it()
    with pytest.raises(IncompleteResultError, match="did not finish"):
        check_result(path)


def threads() -> set[threading.Thread]:
    """Threads that are running, except those zarr keeps for its own use."""
    return {t for t in threading.enumerate() if not t.name.startswith(("asyncio", "zarr", "ThreadPool"))}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threads()
    yield
    assert threads() <= before


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    """The call that everything is compared with."""
    directory = tmp_path_factory.mktemp("undisturbed")
    tree = model.predict(X, output_dir=directory, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), draws_of(model.predict(X, store="memory", **OPTIONS)))
    return only(directory)


def check_finished(tree: xr.DataTree, path: Path, undisturbed: Path) -> None:
    """The same files, and whoever opens them reads the same numbers."""
    assert Path(tree.attrs["artifact_path"]) == path
    ours, theirs = chunk_files(path), chunk_files(undisturbed)
    assert [name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)] == []
    assert not (path / JOURNAL).exists()
    assert not list(path.rglob("*.partial"))
    check_result(path)
    with xr.open_datatree(path, engine="zarr") as mine, xr.open_datatree(undisturbed, engine="zarr") as other:
        for group in ("posterior", "posterior_predictive"):
            xr.testing.assert_equal(mine[group].to_dataset(), other[group].to_dataset())
        np.testing.assert_array_equal(draws_of(tree), draws_of(other))


def series_of_walks(X, y=None):
    with numpyro.plate("series", X.shape[0]):
        level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[1]))
        mu = numpyro.deterministic("mu", level + X)
        numpyro.sample("y", dist.Normal(mu, 0.5).to_event(1), obs=y)


def test_interrupted_forecast_is_finished(tmp_path):
    level = np.random.default_rng(0).normal(size=(4, N_OBS, 3)).astype(np.float32)
    model, zeros = new_model(series_of_walks, {"level": level}), np.zeros((N_OBS, 3), np.float32)
    later, options = X[:, :2], {**OPTIONS, "history": {"X": zeros, "y": zeros}}
    undisturbed = model.forecast(later, output_dir=tmp_path / "undisturbed", **options)
    results = tmp_path / "results"
    watched = Watched(later, raising_from(9 * BLOCK, Trouble(), results))
    with pytest.raises(Trouble):
        model.forecast(watched, output_dir=results, **options)
    path = only(results)
    check_refused(path)
    before = {file: file.stat().st_mtime_ns for file in chunks_of(path)}
    assert len(before) >= 4
    tree = model.forecast(later, resume=path, **options)
    assert chunk_files(path) == chunk_files(only(tmp_path / "undisturbed"))
    assert [file for file, time in before.items() if file.stat().st_mtime_ns != time] == []
    xr.testing.assert_equal(tree["predictions"].to_dataset(), undisturbed["predictions"].to_dataset())
    with pytest.raises(ValueError, match="resume"):
        model.forecast(later + 1, resume=path, **options)


# ---------------------------------------------------------------------------------------- processes of their own

SERVER = """
import json, os, sys

import aimz.output, aimz.store, aimz.stream, dask.array, zarr
import numpyro.infer, pytest


def work(order):
    # Nothing before this line has computed anything, so that the devices are not there yet, nor their threads.
    if order["devices"]:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={order['devices']}"
    sys.path.insert(0, sys.argv[1])
    import test_faults
    test_faults.work(**order)


print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        try:
            work(order)
        finally:
            os._exit(0)
    print(pid, flush=True)
"""


def work(report: str, *, delay: float, devices: int, linger: bool, key: int, options: dict[str, Any]) -> None:
    """Predict, in a process of its own, and report how that ended."""
    assert len(jax.devices()) == max(devices, 1)
    if linger:
        finish = ZarrStore.finish
        ZarrStore.finish = lambda sink, length: (time.sleep(60), finish(sink, length))[1]
    said: dict[str, Any] = {}
    try:
        rows = Watched(X, lambda _: time.sleep(delay))
        tree = new_model().predict(rows, **{**OPTIONS, "rng_key": random.key(key), **options})
        said["path"] = tree.attrs["artifact_path"]
    except BaseException as error:
        said |= {"error": type(error).__name__, "said": [str(error), *getattr(error, "__notes__", [])]}
    said["threads"] = [thread.name for thread in threads()]
    Path(report).write_text(json.dumps(said))


class Workers:
    """Starts processes that predict, quickly: they are forked from one that has imported all there is to import."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("w")
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(here.parent)])}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, str(here)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        self._running: set[int] = set()
        assert self._process.stdout.readline() == "ready\n", log.read_text()

    def _ask(self, **order: Any) -> int:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(
        self,
        report: Path,
        *,
        delay: float,
        output_dir: Path,
        devices: int = 0,
        linger: bool = False,
        key: int = 5,
        resume: Path | None = None,
    ) -> int:
        """Start a call whose steps take ``delay`` seconds; return the number of its process."""
        options = {"output_dir": str(output_dir), "resume": None if resume is None else str(resume)}
        pid = self._ask(report=str(report), delay=delay, devices=devices, linger=linger, key=key, options=options)
        self._running.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for the end of a process; return how it ended."""
        self._running.remove(pid)
        return self._ask(wait=pid)

    def close(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    made = Workers(tmp_path_factory.mktemp("workers") / "log")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("n_chunks", "order"),
    [
        (0, {"delay": 0.1}),
        (5, {"delay": 0.05, "devices": 3}),
        (N_CHUNKS, {"delay": 0, "linger": True}),
    ],
)
def test_killed_and_finished(workers, model, undisturbed, tmp_path, n_chunks, order):
    """SIGKILL when there are so many chunks; this process then finishes the call of another."""
    results = tmp_path / "results"
    pid = workers.start(tmp_path / "report", output_dir=results, **order)
    until(lambda: any(results.glob(f"*/{JOURNAL}")) and len(chunks_of(only(results))) >= n_chunks)
    os.kill(pid, signal.SIGKILL)
    assert workers.wait(pid) == -signal.SIGKILL
    assert not (tmp_path / "report").exists()

    path = only(results)
    found = chunks_of(path)
    assert len(found) >= n_chunks
    if n_chunks < N_CHUNKS:
        assert len(found) < N_CHUNKS
    check_refused(path)
    before = {file: file.stat().st_mtime_ns for name in ("y", "mu") for file in chunks_of(path, name)}
    read: list[int] = []
    tree = model.predict(Watched(X, read.append), resume=path, **OPTIONS)
    check_finished(tree, path, undisturbed)
    # Steps of which every file was there were neither written again nor, but for the first, looked at.
    done = {file.name for file in before if file.parts[-5] == "y"} & {f.name for f in before if f.parts[-5] == "mu"}
    assert [f for f, time in before.items() if f.name in done and f.stat().st_mtime_ns != time] == []
    assert {start // BLOCK for start in read} - {0} == {n for n in range(1, N_CHUNKS) if str(n) not in done}


def test_killed_twice_and_finished_by_a_process_of_its_own(workers, undisturbed, tmp_path):
    results, report = tmp_path / "results", tmp_path / "report"
    resume = None
    for n_chunks in (3, 6):
        pid = workers.start(report, delay=0.05, output_dir=results, resume=resume)
        until(lambda n=n_chunks: results.exists() and any(results.iterdir()) and len(chunks_of(only(results))) >= n)
        os.kill(pid, signal.SIGKILL)
        assert workers.wait(pid) == -signal.SIGKILL
        resume = only(results)
        check_refused(resume)
    assert workers.wait(workers.start(report, delay=0, output_dir=results, resume=resume)) == 0
    said = json.loads(report.read_text())
    assert said["path"] == str(resume)
    with xr.open_datatree(resume, engine="zarr") as tree:
        check_finished(tree, resume, undisturbed)


def test_ctrl_c(workers, model, undisturbed, tmp_path):
    results, report = tmp_path / "results", tmp_path / "report"
    pid = workers.start(report, delay=0.3, output_dir=results)
    until(lambda: any(results.glob("*/*/y/c/0/0/2")))
    os.kill(pid, signal.SIGINT)
    assert workers.wait(pid) == 0
    path = only(results)
    assert len(chunks_of(path)) < N_CHUNKS - 3  # it did not go on to the end
    said = json.loads(report.read_text())
    assert said["error"] == "KeyboardInterrupt"
    assert f"resume='{path}'" in "".join(said["said"])
    assert said["threads"] == ["MainThread"]
    check_refused(path)
    check_finished(model.predict(X, resume=path, **OPTIONS), path, undisturbed)


def test_two_processes_with_one_output_dir_do_not_disturb_each_other(workers, model, undisturbed, tmp_path):
    """Two that start together end as if alone, also if a third is killed beside them."""
    results = tmp_path / "results"
    reports = [tmp_path / str(i) for i in range(3)]
    pids = [
        workers.start(report, delay=delay, output_dir=results, key=key)
        for report, delay, key in zip(reports, (0.5, 0.05, 0.05), (5, 5, 6), strict=True)
    ]
    until(lambda: len(list(results.glob("*/*/y/c/0/0/0"))) == 3)
    os.kill(pids[0], signal.SIGKILL)
    assert [workers.wait(pid) for pid in pids] == [-signal.SIGKILL, 0, 0]
    same, other = (Path(json.loads(report.read_text())["path"]) for report in reports[1:])
    (killed,) = set(results.iterdir()) - {same, other}
    check_refused(killed)
    for path in (same, killed):
        tree = model.predict(X, resume=path, **OPTIONS)
        check_finished(tree, path, undisturbed)
    expected = model.predict(X, store="memory", **{**OPTIONS, "rng_key": random.key(6)})
    with xr.open_datatree(other, engine="zarr") as tree:
        np.testing.assert_array_equal(draws_of(tree), draws_of(expected))


# ---------------------------------------------------------------------------------- every moment, in this process


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it to tidy up."""


class Disk:
    """Counts what opens or renames files for writing, from whichever thread, and ends the process at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self.count, self.at = 0, 0
        open_file, open_descriptor, replace = io.open, os.open, os.replace

        def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if any(letter in mode for letter in "wax"):
                self._one()
            return open_file(file, mode, *args, **kwargs)

        def opening_descriptor(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_WRONLY:
                self._one()
            return open_descriptor(path, flags, *args, **kwargs)

        def replacing(*args: Any, **kwargs: Any) -> None:
            self._one()
            replace(*args, **kwargs)

        monkeypatch.setattr(io, "open", opening)
        monkeypatch.setattr(os, "open", opening_descriptor)
        monkeypatch.setattr(os, "replace", replacing)

    def _one(self) -> None:
        with self._lock:
            self.count += 1
            if self.at and self.count >= self.at:
                raise Killed


def test_whenever_it_is_killed_it_can_be_finished(model, undisturbed, tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    model.predict(X, output_dir=tmp_path / "counted", **OPTIONS)
    n_operations = disk.count
    assert n_operations > 4 * N_CHUNKS
    failures = {}
    for at in sorted({*range(1, 25, 2), *range(25, n_operations + 1, 11), n_operations - 1, n_operations}):
        results = tmp_path / str(at)
        disk.count, disk.at = 0, at
        with pytest.raises(Killed):
            model.predict(X, output_dir=results, **OPTIONS)
        disk.at = 0
        if at <= 2:  # the directory appears with its root and its journal
            assert list(results.iterdir()) == []
            continue
        check_refused(only(results))
        try:
            check_finished(model.predict(X, resume=only(results), **OPTIONS), only(results), undisturbed)
        except Exception as error:
            failures[at] = repr(error)[:300]
    assert failures == {}


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, at: int, name: str = "y") -> None:
    """Make the sink raise when it is to write a site's chunk number ``at``."""
    calls = iter(range(1 << 30))
    write = ZarrStore.write

    def failing_write(sink: ZarrStore, variable: str, array: np.ndarray, start: int) -> None:
        if variable == name and next(calls) == at:
            raise error
        write(sink, variable, array, start)

    monkeypatch.setattr(ZarrStore, "write", failing_write)


def batch_mean(X, y=None):
    """Rows see each other, so all are computed together."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + (X - X.mean(0)) @ b), obs=y)


def with_label(X, y=None):
    """A site without rows is returned beside those with rows."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    numpyro.deterministic("twice", 2 * b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b), obs=y)


@pytest.mark.filterwarnings("ignore:Kernel `batch_mean` cannot be split")
@pytest.mark.parametrize(
    ("kernel", "num_chains", "at", "options"),
    [
        (linear, 1, 0, {"shard_axis": "obs"}),
        (linear, 3, 2, {"shard_axis": "obs", "batch_size": 3000}),
        (linear, 3, 2, {"shard_axis": "draw", "batch_size": 4}),
        (linear, 1, 1, {"shard_axis": "draw", "batch_size": 5}),
        (with_label, 1, 2, {"batch_size": 2048}),
        (batch_mean, 3, 4, {"shard_axis": "draw", "batch_size": 4}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_however_it_is_cut(tmp_path, monkeypatch, kernel, options, num_chains, at):
    draws = posterior(30)
    if kernel is not linear:
        del draws["sigma"]
    model = new_model(kernel, draws, num_chains=num_chains)
    given = {**OPTIONS, **options}
    rows = X[:7000]
    whole = model.predict(rows, store="memory", **given)
    with monkeypatch.context() as patch:
        failing(patch, Trouble(), at=at)
        with pytest.raises(Trouble):
            model.predict(rows, output_dir=tmp_path / "results", **given)
    path = only(tmp_path / "results")
    assert len(chunks_of(path)) >= at
    check_refused(path)
    tree = model.predict(rows, resume=path, **given)
    for name in whole["posterior_predictive"].data_vars:
        np.testing.assert_array_equal(draws_of(tree, name), draws_of(whole, name), err_msg=name)
    model.predict(rows, output_dir=tmp_path / "undisturbed", **given)
    check_finished(tree, path, only(tmp_path / "undisturbed"))


@pytest.mark.parametrize("method", ["log_likelihood", "sample_posterior_predictive", "sample_prior_predictive"])
def test_every_method_can_be_finished(model, tmp_path, monkeypatch, method):
    given = {**OPTIONS, **({"y": X[:, 0] + 1} if method == "log_likelihood" else {})}
    given |= {"num_samples": 7} if method == "sample_prior_predictive" else {}
    call = getattr(model, method)
    with monkeypatch.context() as patch:
        failing(patch, Trouble(), at=4)
        with pytest.raises(Trouble):
            call(X, output_dir=tmp_path, **given)
    path = only(tmp_path)
    assert path.name.endswith(f"_{method}")
    check_refused(path)
    tree, whole = call(X, resume=path, **given), call(X, store="memory", **given)
    group = next(name for name in whole.children if name not in ("posterior", "observed_data"))
    np.testing.assert_array_equal(tree[group]["y"].values, whole[group]["y"].values)
    with pytest.raises(ValueError, match="method"):
        model.predict(X, resume=path, **OPTIONS)


# -------------------------------------------------------------------------------------------- what may resume


@pytest.fixture
def interrupted(model, tmp_path):
    """A call that was stopped in its seventh step."""
    with pytest.raises(Trouble):
        model.predict(
            Watched(X, raising_from(6 * BLOCK, Trouble(), tmp_path / "results")),
            output_dir=tmp_path / "results",
            **OPTIONS,
        )
    return only(tmp_path / "results")


def _other_kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", 2 * a + X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def _shifted(array: np.ndarray, row: int) -> np.ndarray:
    other = array.copy()
    other[row, 1] += 1
    return other


OTHERS: dict[str, tuple[str, Callable[[ImpactModel], ImpactModel], Any, dict[str, Any]]] = {
    "first row": ("data of `X`", lambda model: model, _shifted(X, 0), {}),
    "last row": ("data of `X`", lambda model: model, _shifted(X, -1), {}),
    "fewer rows": ("data of `X`.*number of rows", lambda model: model, X[:-1], {}),
    "kernel": ("kernel", lambda _: new_model(_other_kernel), X, {}),
    "posterior": ("posterior", lambda _: new_model(draws={**posterior(), "a": posterior()["a"] + 1}), X, {}),
    "chains": ("batching", lambda _: new_model(num_chains=2), X, {}),
    "draws": ("batching.*posterior", lambda _: new_model(draws=posterior(9)), X, {}),
    "key": ("rng_key", lambda model: model, X, {"rng_key": random.key(6)}),
    "batches": ("batching", lambda model: model, X, {"batch_size": 3 * BLOCK}),
    "axis": ("batching", lambda model: model, X, {"shard_axis": "draw"}),
    "sites": ("sites", lambda model: model, X, {"return_sites": "y"}),
    "intervention": ("", lambda model: model, X, {"intervention": {"a": 1.0}}),
    "intervention on the data": ("data of `X`", lambda model: model, X, {"intervention": {"X": lambda X: X + 1}}),
    "in sample": ("", lambda model: model, X, {"in_sample": False}),
}


@pytest.mark.parametrize(
    ("what", "complete"),
    [*((what, False) for what in OTHERS), *((what, True) for what in ("last row", "kernel", "key", "in sample"))],
)
def test_another_call_is_refused_by_name(request, model, undisturbed, tmp_path, what, complete):
    if complete:
        path = shutil.copytree(undisturbed, tmp_path / undisturbed.name)
    else:
        path = request.getfixturevalue("interrupted")
    named, make, rows, options = OTHERS[what]
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=rf"cannot be resumed by this one: .*{named}.* differ"):
        make(model).predict(rows, resume=path, **{**OPTIONS, **options})
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    check_finished(model.predict(X, resume=path, **OPTIONS), path, undisturbed)


def test_what_the_kernel_closes_over_is_part_of_it(tmp_path):
    """Also where it is out of sight, inside a compiled function."""

    def kernel_with(weights: Any) -> Callable[..., Any]:
        inner = jax.jit(lambda X: X @ weights)

        def kernel(X, y=None):
            a = numpyro.sample("a", dist.Normal())
            with numpyro.plate("obs", X.shape[0]):
                numpyro.sample("y", dist.Normal(a + inner(X)), obs=y)

        return kernel

    one, other = (
        new_model(kernel_with(np.arange(start, start + 3, dtype=np.float32)), {"a": np.ones(4, np.float32)})
        for start in (0, 1)
    )
    with pytest.raises(Trouble):
        one.predict(Watched(X, raising_from(6 * BLOCK, Trouble())), output_dir=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="kernel differ"):
        other.predict(X, resume=only(tmp_path), **OPTIONS)
    one.predict(X, resume=only(tmp_path), **OPTIONS)


def test_without_a_key_it_takes_that_of_the_interrupted_call(model, tmp_path):
    given = {"batch_size": BLOCK, "progress": False}
    key = random.split(model.rng_key)[1]  # the one that comes next
    with pytest.raises(Trouble):
        model.predict(Watched(X, raising_from(6 * BLOCK, Trouble(), tmp_path)), output_dir=tmp_path, **given)
    path = only(tmp_path)
    before = random.key_data(model.rng_key)
    tree = model.predict(X, resume=path, **given)
    np.testing.assert_array_equal(random.key_data(model.rng_key), before)  # its own key was not used again
    expected = model.predict(X, store="memory", rng_key=key, **given)
    np.testing.assert_array_equal(draws_of(tree), draws_of(expected))
    assert tree["posterior_predictive"].attrs["rng_key"] == expected["posterior_predictive"].attrs["rng_key"]
    check_result(path)


def test_a_call_that_did_finish_is_returned(model, undisturbed):
    before = {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*")}
    read: list[int] = []
    with xr.open_datatree(undisturbed, engine="zarr") as stored:
        for key in (KEY, None):
            tree = model.predict(Watched(X, read.append), resume=undisturbed, **{**OPTIONS, "rng_key": key})
            np.testing.assert_array_equal(draws_of(tree), draws_of(stored))
            for group in ("/", "posterior", "posterior_predictive"):
                attrs = {name: value for name, value in stored[group].attrs.items() if name != "aimz_store"}
                assert dict(tree[group].attrs) == attrs, group
    assert {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*")} == before
    assert set(read) <= {0}


def test_nothing_to_resume(model, tmp_path):
    for path, error in ((tmp_path / "nothing", FileNotFoundError), (tmp_path, ValueError)):
        with pytest.raises(error, match="must be the directory of an interrupted call"):
            model.predict(X, resume=path, **OPTIONS)
    with pytest.raises(ValueError, match="store='memory'"):
        model.predict(X, resume=tmp_path, store="memory", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_repaired_too(model, interrupted, undisturbed):
    chunks = sorted(chunks_of(interrupted))
    assert len(chunks) >= 4
    chunks[0].write_bytes(bytes(chunks[0].stat().st_size))
    chunks[1].write_bytes(chunks[1].read_bytes()[:100])
    chunks[2].unlink()
    sorted(chunks_of(interrupted, "mu"))[3].write_bytes(b"")
    check_finished(model.predict(X, resume=interrupted, **OPTIONS), interrupted, undisturbed)


def test_a_result_that_was_complete_before_is_not_touched(model, tmp_path):
    tree = model.predict(X[:3000], output_dir=tmp_path, **OPTIONS)
    before = draws_of(tree).copy()
    done = only(tmp_path)
    with pytest.raises(Trouble):
        model.predict(Watched(X, raising_from(6 * BLOCK, Trouble())), output_dir=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), before)
    check_result(done)


# ------------------------------------------------------------------------------------------------- iterables


@pytest.fixture(scope="module")
def from_batches(model, tmp_path_factory):
    """What a call on batches leaves, undisturbed."""
    directory = tmp_path_factory.mktemp("batches")
    model.predict(batches(), output_dir=directory, **OPTIONS)
    return only(directory)


@pytest.fixture
def interrupted_batches(model, tmp_path):
    rows = batches(before=raising_from(7000, Trouble(), tmp_path / "results"))
    with pytest.raises(Trouble):
        model.predict(rows, output_dir=tmp_path / "results", **OPTIONS)
    return only(tmp_path / "results")


def test_the_numbers_are_those_of_the_array(from_batches, undisturbed):
    with xr.open_datatree(from_batches, engine="zarr") as tree, xr.open_datatree(undisturbed, engine="zarr") as other:
        np.testing.assert_array_equal(draws_of(tree), draws_of(other))
        np.testing.assert_array_equal(draws_of(tree, "mu"), draws_of(other, "mu"))


@pytest.mark.parametrize("size", [1000, 333, 5000])
def test_batches_interrupted_and_finished(model, interrupted_batches, from_batches, size):
    """However the rows are cut into batches the second time."""
    assert 3 <= len(chunks_of(interrupted_batches)) < N_CHUNKS
    check_refused(interrupted_batches)
    before = {file: file.stat().st_mtime_ns for file in chunks_of(interrupted_batches)}
    tree = model.predict(batches(size=size), resume=interrupted_batches, **OPTIONS)
    check_finished(tree, interrupted_batches, from_batches)
    assert [file for file, time in before.items() if file.stat().st_mtime_ns != time] == []


def test_batches_interrupted_twice(model, interrupted_batches, from_batches):
    rows = batches(before=raising_from(9000, Trouble()))
    with pytest.raises(Trouble):
        model.predict(rows, resume=interrupted_batches, **OPTIONS)
    tree = model.predict(batches(), resume=interrupted_batches, **OPTIONS)
    check_finished(tree, interrupted_batches, from_batches)


@pytest.mark.parametrize("name", ["y", "mu"])
@pytest.mark.parametrize("at", [0, 3, N_CHUNKS - 1])
def test_batches_interrupted_between_two_sites(model, from_batches, tmp_path, monkeypatch, name, at):
    """One site is then longer than the other."""
    with monkeypatch.context() as patch:
        failing(patch, Trouble(), at=at, name=name)
        with pytest.raises(Trouble):
            model.predict(batches(), output_dir=tmp_path, **OPTIONS)
    check_finished(model.predict(batches(), resume=only(tmp_path), **OPTIONS), only(tmp_path), from_batches)


def test_batches_killed_at_the_very_end(model, from_batches, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ZarrStore, "finish", lambda *_: (_ for _ in ()).throw(Trouble()))
        with pytest.raises(Trouble):
            model.predict(batches(), output_dir=tmp_path, **OPTIONS)
    check_finished(model.predict(batches(), resume=only(tmp_path), **OPTIONS), only(tmp_path), from_batches)


def test_other_batches_are_refused(model, interrupted_batches, from_batches):
    for other in (_shifted(X, 0), _shifted(X, 2 * BLOCK), _shifted(X, 3 * BLOCK - 1)):
        with pytest.raises(ValueError, match=r"data from row .* differ from the data of the interrupted run"):
            model.predict(batches(other), resume=interrupted_batches, **OPTIONS)
    tree = model.predict(batches(), resume=interrupted_batches, **OPTIONS)
    check_finished(tree, interrupted_batches, from_batches)


@pytest.mark.parametrize("n_rows", [BLOCK, 2 * BLOCK, 2 * BLOCK + 1, 3000])
def test_fewer_rows_than_the_interrupted_run_had_seen_are_refused(model, interrupted_batches, n_rows):
    with pytest.raises(ValueError, match="cannot be resumed by this one"):
        model.predict(batches(X[:n_rows]), resume=interrupted_batches, **OPTIONS)
    assert b"aimz_unfinished" in (interrupted_batches / "zarr.json").read_bytes()


def test_another_intervention_on_batches_is_refused(model, tmp_path):
    """The data are the same, what is made of them is not."""
    rows = batches(before=raising_from(7000, Trouble(), tmp_path))
    with pytest.raises(Trouble):
        model.predict(rows, output_dir=tmp_path, intervention={"X": lambda X: X + 1}, **OPTIONS)
    with pytest.raises(ValueError, match="cannot be resumed by this one"):
        model.predict(batches(), resume=only(tmp_path), intervention={"X": lambda X: X + 2}, **OPTIONS)
    tree = model.predict(batches(), resume=only(tmp_path), intervention={"X": lambda X: X + 1}, **OPTIONS)
    expected = model.predict(X + 1, store="memory", **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree, "mu"), draws_of(expected, "mu"))


def test_other_batches_are_refused_for_a_call_that_did_finish(model, from_batches, tmp_path):
    path = shutil.copytree(from_batches, tmp_path / from_batches.name)
    for other in (_shifted(X, 3), X[: 5 * BLOCK], np.concatenate([X, X[:5]])):
        with pytest.raises(ValueError):
            model.predict(batches(other), resume=path, **OPTIONS)


@pytest.mark.filterwarnings("ignore:The loader shuffles")
@pytest.mark.parametrize("store", ["memory", "persistent"])
def test_a_loader_that_ends_too_early_is_no_result(model, store):
    """It says how many rows there are, and then yields fewer; the rest would be whatever was in memory."""

    class Short(ArrayLoader):
        def __iter__(self) -> Iterator[Any]:
            for i, batch in enumerate(super().__iter__()):
                if i == 3:
                    return
                yield batch

    loader = Short(ArrayDataset(X=X), random.key(0), batch_size=BLOCK, shuffle=True)
    with pytest.raises((ValueError, OSError)):
        model.predict(loader, store=store, **OPTIONS)


def test_an_array_beside_the_batches_must_be_as_long(tmp_path):
    def kernel(X, exposure, y=None):
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(exposure * jnp.exp(X @ b)), obs=y)

    model = new_model(kernel, {"b": np.zeros((4, 3), np.float32)})
    for n_rows in (2500, 2 * BLOCK, N_OBS + 100):
        exposure = np.ones(n_rows, np.float32)
        with pytest.raises(ValueError, match="rows"):
            model.predict(batches(), exposure=exposure, output_dir=tmp_path / str(n_rows), **OPTIONS)


# ---------------------------------------------------------------------------------------------- the very error


@pytest.mark.parametrize(
    "error",
    [
        Trouble("in batch 6"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "part-6.csv"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        OSError("no number"),
        StopIteration("early"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("source", ["array", "iterable"])
def test_what_a_loader_raises_comes_out_as_itself(model, undisturbed, from_batches, tmp_path, error, source):
    results = tmp_path / "results"
    if source == "array":
        rows, again, expected = Watched(X, raising_from(6 * BLOCK, error, results)), X, undisturbed
    elif isinstance(error, StopIteration):
        pytest.skip("a generator cannot raise it")
    else:
        rows, again, expected = batches(before=raising_from(7000, error, results)), batches(), from_batches
    with pytest.raises(type(error)) as caught:
        model.predict(rows, output_dir=tmp_path / "results", **OPTIONS)
    assert caught.value is error
    path = only(tmp_path / "results")
    assert f"resume='{path}'" in "".join(error.__notes__)
    check_refused(path)
    check_finished(model.predict(again, resume=path, **OPTIONS), path, expected)


def test_what_a_kernel_raises(tmp_path):
    def check(a: np.ndarray) -> np.ndarray:
        if (a > 100).any():
            msg = "a draw like this cannot be"
            raise ValueError(msg)
        return np.zeros(a.shape, np.float32)

    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        zero = jax.pure_callback(check, jax.ShapeDtypeStruct((), jnp.float32), a, vmap_method="expand_dims")
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + zero), obs=y)

    bad = np.zeros(64, np.float32)
    bad[50] = 1000
    model = new_model(kernel, {"a": bad})
    options = {**OPTIONS, "shard_axis": "draw", "batch_size": 8}
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="a draw like this cannot be") as caught:
        model.predict(X[:100], output_dir=tmp_path / "results", **options)
    path = only(tmp_path / "results")
    assert f"resume='{path}'" in "".join(caught.value.__notes__)
    # Of 8 draws each, and all before that one; how many are written by then depends on the moment.
    assert len(chunks_of(path)) <= 6
    check_refused(path)
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="a draw like this cannot be"):
        model.predict(X[:100], **options)
    assert list(Path(model.temp_dir).iterdir()) == []


@pytest.mark.parametrize("error", [Trouble(), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_in_the_temporary_directory_nothing_is_left(error):
    model = new_model()
    tree = model.predict(X[:3000], **OPTIONS)
    before = draws_of(tree)
    (kept,) = Path(model.temp_dir).iterdir()
    with pytest.raises(type(error)):
        model.predict(Watched(X, raising_from(6 * BLOCK, error)), **OPTIONS)
    assert list(Path(model.temp_dir).iterdir()) == [kept]
    np.testing.assert_array_equal(draws_of(tree), before)


def test_no_thread_is_left_also_if_there_was_none_before(model, tmp_path):
    """Not even one that has ended later: they are waited for."""
    gc.collect()
    before = threads()
    for progress in (False, True):
        with pytest.raises(Trouble):
            model.predict(
                Watched(X, raising_from(6 * BLOCK, Trouble())),
                output_dir=tmp_path / str(progress),
                **{**OPTIONS, "progress": progress},
            )
        assert {t.name for t in threads() - before} <= {"tqdm_monitor"}


# ------------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk of a size, or changes it."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = False

    def resize(size: str) -> Path:
        nonlocal mounted
        options = f"remount,size={size}" if mounted else f"size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this process may not mount a file system: {done.stderr.strip()}")
        mounted = True
        return path

    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` to make a small disk with")
    yield resize
    if mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("size", ["48k", "160k", "400k", "700k"])
@pytest.mark.parametrize("source", ["array", "iterable"])
def test_a_full_disk(model, undisturbed, from_batches, small_disk, size, source):
    """Whatever it is full at: the groups beside, the first chunk, or any other."""
    disk = small_disk(size)
    rows, expected = ((lambda: X), undisturbed) if source == "array" else (batches, from_batches)
    with pytest.raises(OSError, match="No space left") as caught:
        model.predict(rows(), output_dir=disk, **OPTIONS)
    path = only(disk)
    assert caught.value.errno == errno.ENOSPC
    said = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert str(path) in said
    assert f"resume='{path}'" in said
    assert len(chunks_of(path)) < N_CHUNKS
    check_refused(path)
    with pytest.raises(OSError, match="No space left"):  # still full
        model.predict(rows(), resume=path, **OPTIONS)
    check_refused(path)
    small_disk("16m")
    check_finished(model.predict(rows(), resume=path, **OPTIONS), path, expected)


@pytest.mark.parametrize("left", [0, 1])
def test_a_disk_that_is_full_from_the_beginning(model, small_disk, left):
    """Not even the journal fits, or nothing besides."""
    disk = small_disk("8k")
    (disk / "others").write_bytes(bytes(4096 * (2 - left)))
    with pytest.raises(OSError, match="No space left") as caught:
        model.predict(X, output_dir=disk / "results", **OPTIONS)
    assert caught.value.errno == errno.ENOSPC
    said = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert str(disk) in said
    paths = list((disk / "results").iterdir())
    for path in paths:
        check_refused(path)
    small_disk("16m")
    if "resume=" in said:  # it must then be possible
        (path,) = paths
        model.predict(X, resume=path, **OPTIONS)
    model.predict(X, output_dir=disk / "results", **OPTIONS)

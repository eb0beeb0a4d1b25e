"""Law 9 on a Dask cluster: what dies costs its own rows only, and what is wrong is said, as itself and once."""

import importlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask.array as da
import jax
import numpy as np
import pytest
import xarray as xr
from cloudpickle import dumps
from distributed import Client, KilledWorker, LocalCluster

from aimz.distributed import dask_client
from aimz.distributed import dask_worker as job
from aimz.distributed.settings import use_jax_settings
from aimz.errors import ClusterError, IncompleteResultError
from dask_clusters import BLOCK, OPTIONS, Cluster, assert_same_files, line, line_model, new_cluster, until

N_OBS = 40 * BLOCK + 5  # Ranges of 11, 8, 6, 4, 3, 3, 2, 1, 1, 1 and 1 blocks; four are handed out at once.
N_CHUNKS = 41
SLOW = 0.06
"""Seconds that a chunk then takes."""
X = np.random.default_rng(1).normal(size=(N_OBS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with new_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(autouse=True)
def from_now_on(cluster):
    """Two workers, at nothing; and what they did before is forgotten."""
    until(lambda: len(cluster.client.nthreads()) == 2)
    cluster.watch.forget()


@pytest.fixture
def client(cluster):
    return cluster.client


@pytest.fixture(scope="module")
def model():
    return line_model()


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    """The call that everything is compared with."""
    return Path(model.predict(X, output_dir=tmp_path_factory.mktemp("here"), **OPTIONS).attrs["artifact_path"])


def only(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def chunks_of(path: Path) -> dict[int, Path]:
    """Return the files of chunks, by their numbers."""
    found = path.glob("posterior_predictive/y/c/0/0/*")
    return {int(file.name): file for file in found if file.suffix != ".partial"}


def written_at(path: Path) -> dict[int, int]:
    return {number: file.stat().st_mtime_ns for number, file in chunks_of(path).items()}


def check_finished(tree: xr.DataTree, undisturbed: Path) -> None:
    assert_same_files(tree.attrs["artifact_path"], undisturbed)
    with xr.open_datatree(undisturbed, engine="zarr") as theirs:
        np.testing.assert_array_equal(tree["posterior_predictive"]["y"], theirs["posterior_predictive"]["y"])


@contextmanager
def as_soon_as(condition: Callable[[], bool], act: Callable[[], Any]) -> Iterator[None]:
    """Do something beside what is in the block, once there is reason to."""
    caught: list[BaseException] = []

    def wait_and_act() -> None:
        try:
            until(condition)
            act()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        assert caught == []


def quiet(cluster: Cluster) -> None:
    """Wait until no worker is at a range, nor is any left to be done."""

    def tasks(dask_scheduler: Any) -> int:
        return sum(task.state not in ("memory", "erred", "released") for task in dask_scheduler.tasks.values())

    living = set(cluster.pids().values())
    until(lambda: cluster.watch.at_work(living) == 0 and cluster.client.run_on_scheduler(tasks) == 0)


def sane(cluster: Cluster, model: Any, undisturbed: Path, path: Path, rows: Any = X) -> None:
    """After a failure nothing goes on, and then the call can be finished; what is there is not computed again."""
    quiet(cluster)
    before = written_at(path)
    assert len(before) < N_CHUNKS
    assert b"aimz_unfinished" in (path / "zarr.json").read_bytes()
    cluster.watch.forget()
    tree = model.predict(rows, resume=path, client=cluster.client, **OPTIONS)
    check_finished(tree, undisturbed)
    assert Path(tree.attrs["artifact_path"]) == path
    again = {one.start // BLOCK for one in cluster.watch.events("chunk")}
    missing = set(range(N_CHUNKS)) - before.keys()
    # Rows of Dask arrays are known by what was noted of them, and of a range that is when it has ended.
    assert again == missing if isinstance(rows, np.ndarray) else missing <= again < set(range(N_CHUNKS))
    assert {number: written_at(path)[number] for number in before.keys() - again} == {
        number: before[number] for number in before.keys() - again
    }


# ---------------------------------------------------------------------------------------- workers that are killed


def test_a_worker_that_is_killed_costs_its_last_ranges_only(cluster, client, model, undisturbed, tmp_path):
    watch = cluster.watch
    known: dict[str, Any] = {}

    def in_its_third() -> bool:
        """Whether some worker is in the middle of its third range."""
        for pid in {one.pid for one in watch.events("range")}:
            begun = [one for one in watch.events("range") if one.pid == pid]
            done = {one.start for one in watch.events("chunk") if one.pid == pid}
            if len(begun) == 3 and begun[-1].start in done and begun[-1].stop - BLOCK not in done:
                known["victim"] = pid
        return "victim" in known

    def kill() -> None:
        os.kill(known["victim"], signal.SIGKILL)
        known["before"] = written_at(only(tmp_path))

    with watch.delayed(SLOW), as_soon_as(in_its_third, kill):
        tree = model.predict(X, output_dir=tmp_path, client=client, **OPTIONS)
    check_finished(tree, undisturbed)

    victim, written = known["victim"], watch.events("chunk")
    number_of = [one.start // BLOCK for one in written]
    assert set(number_of) == set(range(N_CHUNKS))
    twice = {number for number, times in Counter(number_of).items() if times > 1}
    assert {one.pid for one in written if one.start // BLOCK not in twice} >= {victim}
    # What was done again is of the ranges the killed one had and of which the client did not know that they were done.
    last = [one for one in watch.events("range") if one.pid == victim][-2:]
    assert twice <= {at // BLOCK for one in last for at in range(one.start, one.stop, BLOCK)}
    assert {one.pid for one in written if one.start // BLOCK in twice} > {victim}
    # The files of the other are those it wrote before.
    now, others = written_at(only(tmp_path)), {one.start // BLOCK for one in written if one.pid != victim}
    kept = (known["before"].keys() & others) - twice
    assert kept
    assert {number: now[number] for number in kept} == {number: known["before"][number] for number in kept}


def test_all_workers_are_killed(cluster, client, model, undisturbed, tmp_path):
    """Others take their place, and get the job."""
    watch, old = cluster.watch, set(cluster.pids().values())

    def kill() -> None:
        for pid in old:
            os.kill(pid, signal.SIGKILL)

    with watch.delayed(SLOW), as_soon_as(lambda: len(watch.events("chunk")) >= 6, kill):
        tree = model.predict(X, output_dir=tmp_path, client=client, **OPTIONS)
    check_finished(tree, undisturbed)
    new = {one.pid for one in watch.events("job")} - old
    assert new
    assert {one.pid for one in watch.events("chunk")} - old <= new


def test_sums_of_a_worker_that_is_killed_are_added_once(cluster, client, model):
    asked = {"scenarios": {"as is": {}, "more": {"intervention": {"X": lambda X: X + 1}}}, "baseline": "as is"}
    here = model.compare_scenarios(**asked, X=X, by=np.arange(N_OBS) % 3, **OPTIONS)
    watch = cluster.watch

    def slow(rows: np.ndarray) -> np.ndarray:
        time.sleep(SLOW)
        return rows

    def kill() -> None:
        os.kill(watch.events("ended")[-1].pid, signal.SIGKILL)

    lazy = da.map_blocks(slow, da.from_array(X, chunks=(BLOCK, 3)), dtype=X.dtype, meta=X[:0])
    with as_soon_as(lambda: len(watch.events("ended")) >= 3, kill):
        there = model.compare_scenarios(**asked, X=lazy, by=np.arange(N_OBS) % 3, client=client, **OPTIONS)
    for group in ("scenarios", "effect", "scenarios_overall", "effect_overall"):
        np.testing.assert_allclose(there[group]["y"], here[group]["y"], rtol=1e-12, atol=1e-12)


def test_rows_that_kill_every_worker(cluster, client, model, undisturbed, tmp_path):
    """As a step does that needs more memory than there is."""

    def deadly(rows: np.ndarray, block_info: Any) -> np.ndarray:
        if block_info[0]["array-location"][0][0] == 31 * BLOCK:
            os._exit(1)
        return rows

    def allow(n_deaths: int, dask_scheduler: Any) -> int:
        before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, n_deaths
        return before

    lazy = da.map_blocks(deadly, da.from_array(X, chunks=(BLOCK, 3)), dtype=X.dtype, meta=X[:0])
    before = client.run_on_scheduler(allow, 0)
    try:
        with pytest.raises(KilledWorker) as caught:
            model.predict(lazy, output_dir=tmp_path, client=client, **OPTIONS)
    finally:
        client.run_on_scheduler(allow, before)
    said = "\n".join(caught.value.__notes__)
    assert "Each worker that computed rows" in said
    assert said.count(f"resume='{only(tmp_path)}'") == 1
    until(lambda: len(client.nthreads()) == 2)
    quiet(cluster)
    tree = model.predict(da.from_array(X, chunks=(BLOCK, 3)), resume=only(tmp_path), client=client, **OPTIONS)
    check_finished(tree, undisturbed)


# ------------------------------------------------------------------------------------------ a client that is lost

LOST = """
import sys
from distributed import Client
import test_dask_faults as here
with Client(sys.argv[1], set_as_default=False) as client:
    here.line_model().predict(here.X, output_dir=sys.argv[2], client=client, **here.OPTIONS)
"""


def test_a_client_that_is_lost(cluster, client, model, undisturbed, tmp_path):
    """Whoever comes next finishes its call: with the cluster, or alone."""
    results, watch = tmp_path / "results", cluster.watch
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", LOST, client.scheduler.address, str(results)]
    with watch.delayed(0.3), subprocess.Popen(command, env=environment) as lost:
        until(lambda: len(watch.events("chunk")) >= 6 or lost.poll() is not None)
        lost.kill()
    assert lost.returncode == -signal.SIGKILL
    quiet(cluster)
    path = only(results)
    alone, other = (shutil.copytree(path, tmp_path / name / path.name) for name in ("alone", "other"))
    with pytest.raises(ValueError, match="data of `X` differ"):
        model.predict(X + 1, resume=other, client=client, **OPTIONS)
    assert written_at(other).keys() == written_at(path).keys()

    before = written_at(alone)
    check_finished(model.predict(X, resume=alone, **OPTIONS), undisturbed)
    assert {number: written_at(alone)[number] for number in before} == before
    sane(cluster, model, undisturbed, path)


def test_a_client_that_is_closed(cluster, client, model, undisturbed, tmp_path):
    watch = cluster.watch
    with (
        watch.delayed(SLOW),
        Client(client.scheduler.address, set_as_default=False) as other,
        as_soon_as(lambda: len(watch.events("chunk")) >= 6, other.close),
        pytest.raises(ConnectionError, match="The connection to the cluster is lost") as caught,
    ):
        model.predict(X, output_dir=tmp_path, client=other, **OPTIONS)
    assert f"resume='{only(tmp_path)}'" in "".join(caught.value.__notes__)
    sane(cluster, model, undisturbed, only(tmp_path))


# ------------------------------------------------------------------------------------------------ the very error


def test_what_a_block_raises_comes_out_as_itself_and_ends_the_call(cluster, client, model, undisturbed, tmp_path):
    def fail(rows: np.ndarray, block_info: Any) -> np.ndarray:
        if block_info[0]["array-location"][0][0] == 31 * BLOCK:  # which is in a range that waits for another's end
            msg = "of all rows these"
            raise ZeroDivisionError(msg)
        return rows

    good = da.from_array(X, chunks=(BLOCK, 3))
    bad = da.map_blocks(fail, good, dtype=X.dtype, meta=X[:0])
    with cluster.watch.delayed(SLOW), pytest.raises(ZeroDivisionError, match="of all rows these") as caught:
        model.predict(bad, output_dir=tmp_path, client=client, **OPTIONS)
    path = only(tmp_path)
    assert "".join(caught.value.__notes__).count(f"resume='{path}'") == 1
    quiet(cluster)
    # What has been noted of the rows is compared when they come again.
    other = shutil.copytree(path, tmp_path / "other" / path.name)
    with pytest.raises(ValueError, match=r"row \d+ on differ from the data of the interrupted run"):
        model.predict(good + np.float32(1), resume=other, client=client, **OPTIONS)
    # And nothing of the other rows has come in.
    check_finished(model.predict(good, resume=other, client=client, **OPTIONS), undisturbed)
    shutil.rmtree(other.parent)
    sane(cluster, model, undisturbed, path, good)


def test_ctrl_c(cluster, client, model, undisturbed, tmp_path):
    watch = cluster.watch
    with watch.delayed(SLOW):
        with (
            pytest.raises(KeyboardInterrupt) as caught,
            as_soon_as(lambda: len(watch.events("chunk")) >= 5, lambda: os.kill(os.getpid(), signal.SIGINT)),
        ):
            model.predict(X, output_dir=tmp_path, client=client, **OPTIONS)
        before = written_at(only(tmp_path))
        quiet(cluster)
        assert written_at(only(tmp_path)) == before  # a range that was at work has ended with its step
    assert f"resume='{only(tmp_path)}'" in "".join(caught.value.__notes__)
    sane(cluster, model, undisturbed, only(tmp_path))


def test_in_the_temporary_directory_nothing_is_left(cluster, client):
    model = line_model()

    def fail(rows: np.ndarray, block_info: Any) -> np.ndarray:
        if block_info[0]["array-location"][0][0] == 31 * BLOCK:
            raise ZeroDivisionError
        return rows

    bad = da.map_blocks(fail, da.from_array(X, chunks=(BLOCK, 3)), dtype=X.dtype, meta=X[:0])
    with cluster.watch.delayed(SLOW), pytest.raises(ZeroDivisionError):
        model.predict(bad, client=client, **OPTIONS)
    quiet(cluster)
    assert list(Path(model.temp_dir).iterdir()) == []


def test_two_calls_at_once(cluster, client, model, undisturbed, tmp_path):
    """Of two models even; and each forgets its own job only."""
    other, trees = line_model(n_draws=6), {}

    def predict_other() -> None:
        trees["other"] = other.predict(X[: 9 * BLOCK], store="memory", client=client, **OPTIONS)

    with cluster.watch.delayed(SLOW), as_soon_as(lambda: len(cluster.watch.events("chunk")) >= 3, predict_other):
        tree = model.predict(X, output_dir=tmp_path, client=client, **OPTIONS)
    check_finished(tree, undisturbed)
    here = other.predict(X[: 9 * BLOCK], store="memory", **OPTIONS)
    np.testing.assert_array_equal(trees["other"]["posterior_predictive"]["y"], here["posterior_predictive"]["y"])


# ------------------------------------------------------------------------------------------- who cannot take part


def test_a_worker_with_another_version_is_refused(cluster, client, model, tmp_path):
    def older(say: bool) -> None:
        import importlib.metadata as metadata

        found = getattr(metadata, "_found", metadata.version)
        metadata._found, metadata.version = found, (lambda name: "0.9.1" if name == "numpyro" else found(name))
        if not say:
            metadata.version = found

    one = next(iter(cluster.pids()))
    client.run(older, True, workers=[one])
    try:
        with pytest.raises(
            ClusterError, match=rf"Worker {one} has .*numpyro 0\.9\.1, and the client .*Install the same"
        ):
            model.predict(X, output_dir=tmp_path / "results", client=client, **OPTIONS)
    finally:
        client.run(older, False, workers=[one])
    assert not (tmp_path / "results").exists()
    assert cluster.watch.events("job") == []


def test_a_kernel_that_workers_cannot_import_is_refused(cluster, client, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "import numpyro, numpyro.distributions as dist\n\n\n"
        "def kernel(X, y=None):\n"
        "    a = numpyro.sample('a', dist.Normal())\n"
        "    b = numpyro.sample('b', dist.Normal().expand([3]).to_event(1))\n"
        "    with numpyro.plate('obs', X.shape[0]):\n"
        "        numpyro.sample('y', dist.Normal(a + X @ b), obs=y)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(ClusterError, match=r"A worker cannot import the kernel \(No module named 'only_here'\)\. Inst"):
        line_model(only_here.kernel).predict(X, output_dir=tmp_path / "results", client=client, **OPTIONS)
    assert not (tmp_path / "results").exists()
    monkeypatch.delitem(sys.modules, "only_here")
    assert cluster.watch.events("job") == []


def test_a_kernel_of_the_script_itself_goes_along(client):
    def kernel(X, y=None):
        line(X + 1, y)

    model = line_model(kernel)
    here, there = (model.predict(X[:3000], store="memory", client=one, **OPTIONS) for one in (None, client))
    np.testing.assert_array_equal(there["posterior_predictive"]["y"], here["posterior_predictive"]["y"])


def test_a_worker_that_does_not_see_the_directory_is_refused(cluster, client, model, undisturbed, tmp_path):
    """One that has another disk under that name."""

    def blind(blinded: bool) -> None:
        from aimz.store import Directory

        own = Directory.__dict__.get("_own") or (Directory.get, Directory.exists)
        Directory._own = own
        Directory.get, Directory.exists = ((lambda *_: None), (lambda _: False)) if blinded else own

    one = next(iter(cluster.pids()))
    client.run(blind, True, workers=[one])
    try:
        with pytest.raises(
            IncompleteResultError, match=r"does not exist for this process\. All processes must"
        ) as caught:
            model.predict(X, output_dir=tmp_path, client=client, **OPTIONS)
    finally:
        client.run(blind, False, workers=[one])
    assert str(only(tmp_path)) in str(caught.value)
    sane(cluster, model, undisturbed, only(tmp_path))


def test_a_cluster_without_workers_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_client, "_START_SECONDS", 0.5)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=60) as empty,
        Client(empty, set_as_default=False) as client,
        pytest.raises(ClusterError, match=r"The cluster of `client` has no workers. Start some"),
    ):
        model.predict(X, output_dir=tmp_path / "results", client=client, **OPTIONS)
    assert not (tmp_path / "results").exists()


def test_a_forked_worker_is_refused(monkeypatch):
    assert job.check_worker(dumps(line), {}) == "cpu"
    monkeypatch.setattr(job, "_PROCESS", os.getpid() + 1)
    with pytest.raises(ClusterError, match="A worker was forked from a process that had imported JAX"):
        job.check_worker(dumps(line), {})


# --------------------------------------------------------------------------------- what a worker finds of a kernel


def test_a_worker_with_another_kernel_is_refused(cluster, client, model, tmp_path):
    def other() -> None:
        from aimz.distributed import dask_worker as job

        job.known_digest, job.digest_program = job.digest_program, lambda *_: "another"

    def back() -> None:
        from aimz.distributed import dask_worker as job

        job.digest_program = job.known_digest

    client.run(other)
    try:
        with pytest.raises(ClusterError, match="another kernel under the name of the client's"):
            model.predict(X, client=client, store="memory", **OPTIONS)
    finally:
        client.run(back)


def test_a_worker_that_has_imported_an_older_kernel_is_refused(client, tmp_path, monkeypatch):
    path = tmp_path / "edited_kernel.py"
    text = Path(inspect.getfile(line)).read_text()
    start = text.index("def line(")
    body = text[start:].split("\n\n\n")[0].replace("def line(", "def edited(")
    path.write_text(f"import numpyro\nimport numpyro.distributions as dist\n\n\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    client.upload_file(str(path))
    module = importlib.import_module("edited_kernel")
    asked = {**OPTIONS, "store": "memory", "client": client}
    line_model(module.edited).predict(X, **asked)
    # Python recognizes a compiled module as old by its second and the size of its source.
    path.write_text(path.read_text().replace("a + X @ b", "a + 2 * X @ b"))
    importlib.invalidate_caches()
    module = importlib.reload(module)
    with pytest.raises(ClusterError, match="another kernel under the name of the client's"):
        line_model(module.edited).predict(X, **asked)


def test_settings_of_jax_are_left_as_they_were():
    before = jax.config.jax_enable_x64
    with suppress(ZeroDivisionError), use_jax_settings({"jax_enable_x64": not before}):
        assert jax.config.jax_enable_x64 is not before
        raise ZeroDivisionError
    assert jax.config.jax_enable_x64 is before


def test_an_exception_that_cannot_be_pickled_is_told():
    sent = job._picklable(ValueError(threading.Lock()))
    assert isinstance(sent, RuntimeError)
    assert "ValueError" in str(sent)
    plain = ValueError("plain")
    assert job._picklable(plain) is plain

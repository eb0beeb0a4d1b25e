"""A Dask cluster for the laws, what watches its workers, and a kernel that they import quickly."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import numpyro
import numpyro.distributions as dist
from distributed import Client, LocalCluster, WorkerPlugin
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel

BLOCK = 1024
OPTIONS = {"batch_size": BLOCK, "progress": False, "rng_key": random.key(5)}


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


class Event(NamedTuple):
    """What a worker did."""

    kind: str
    """``job``, ``range`` (begun), ``ended`` (a range) or ``chunk`` (written)."""
    pid: int
    what: str
    start: int
    stop: int


class Watch:
    """A directory in which workers write down what they do, and are told to take their time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = 0

    def note(self, kind: str, what: str = "", start: int = 0, stop: int = 0) -> None:
        """On a worker: write down a line, whole or not at all."""
        with (self._directory / "log").open("a") as file:
            file.write(f"{kind}\t{os.getpid()}\t{what}\t{start}\t{stop}\n")

    def pause(self) -> None:
        """On a worker: wait for as long as was said."""
        try:
            time.sleep(float((self._directory / "delay").read_text() or 0))
        except FileNotFoundError:
            return

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Let each chunk that a worker writes take so much longer."""
        (self._directory / "delay").write_text(str(seconds))
        try:
            yield
        finally:
            (self._directory / "delay").unlink()

    def forget(self) -> None:
        """Return from now on what happens from now on."""
        self._seen = len(self._lines())

    def events(self, kind: str) -> list[Event]:
        """Return what workers did, in order."""
        found = [line.split("\t") for line in self._lines()[self._seen :]]
        return [Event(k, int(pid), what, int(a), int(b)) for k, pid, what, a, b in found if k == kind]

    def at_work(self, pids: set[int]) -> int:
        """Return how many ranges those processes are at."""
        begun, ended = ([e for e in self.events(kind) if e.pid in pids] for kind in ("range", "ended"))
        return len(begun) - len(ended)

    def _lines(self) -> list[str]:
        log = self._directory / "log"
        return log.read_text().splitlines() if log.exists() else []


class Watched(WorkerPlugin):
    """Has a worker, also one that comes later, write down what it does."""

    name = "watched"

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def setup(self, worker: Any) -> None:
        import aimz.distributed.dask_client as plugin
        import aimz.distributed.dask_worker as job
        from aimz.store import ChunkWriter

        watch, write, work, hold = self._watch, ChunkWriter.write, job.compute_rows, plugin.hold_job

        def slow_write(writer: ChunkWriter, name: str, array: np.ndarray, start: int) -> None:
            watch.pause()
            write(writer, name, array, start)
            watch.note("chunk", name, start, start + array.shape[-1])

        def noted_work(token: str, part: job.RowRange) -> Any:
            watch.note("range", token, part.start, part.stop)
            try:
                return work(token, part)
            finally:
                watch.note("ended", token, part.start, part.stop)

        def noted_hold(packed: job.SerializedJob) -> None:
            watch.note("job", packed.token, 0, len(packed.job))
            hold(packed)

        ChunkWriter.write, job.compute_rows, plugin.hold_job = slow_write, noted_work, noted_hold


class Cluster(NamedTuple):
    client: Client
    """Which is not the active one."""
    watch: Watch

    def pids(self) -> dict[str, int]:
        """Return the process of each worker."""
        return self.client.run(os.getpid)


@contextmanager
def new_cluster(directory: Path) -> Iterator[Cluster]:
    """Two processes with one thread each; nothing is left of them in the end."""
    before = set(threading.enumerate())
    with (
        # A quarter of a minute after a worker has died Dask looks whether another has taken its place, and if that one
        # was killed as well, there will be none.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=60, local_directory=str(directory)
        ) as cluster,
    ):
        with Client(cluster, set_as_default=False) as client:
            watch = Watch(directory)
            client.register_plugin(Watched(watch))
            yield Cluster(client, watch)
        workers = [nanny.process for nanny in cluster.workers.values()]
    assert [worker for worker in workers if worker is not None and worker.is_alive()] == []
    # But for those that Dask and zarr keep for as long as the process lives.
    kept = ("Profile", "Dask-Offload", "ThreadPool", "asyncio", "zarr")
    until(lambda: all(thread.name.startswith(kept) for thread in set(threading.enumerate()) - before))


def line(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b, 1.0), obs=y)


def groups(X, group, n_groups, y=None):
    """Much to be known of the posterior, little of a row."""
    with numpyro.plate("groups", n_groups):
        alpha = numpyro.sample("alpha", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(alpha[group] + X.sum(1)), obs=y)


def line_model(kernel: Callable[..., Any] = line, n_columns: int = 3, n_draws: int = 8) -> ImpactModel:
    rng = np.random.default_rng(0)
    draws = {"a": rng.normal(size=n_draws), "b": rng.normal(size=(n_draws, n_columns))}
    model = ImpactModel(kernel, random.key(1), MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False))
    return model.set_posterior_sample({name: values.astype(np.float32) for name, values in draws.items()})


def chunk_files(directory: Path | str) -> dict[str, bytes]:
    """All files that hold numbers."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file() and "c" in path.relative_to(directory).parts and path.suffix != ".partial"
    }


def assert_same_files(ours: Path | str, theirs: Path | str) -> None:
    mine, other = chunk_files(ours), chunk_files(theirs)
    assert other
    assert [name for name in {*mine, *other} if mine.get(name) != other.get(name)] == []
    assert not list(Path(ours).rglob("*.partial"))
    assert not list(Path(ours).rglob(".aimz-owner"))

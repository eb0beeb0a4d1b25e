"""Compare a local Dask cluster with the local engine: overhead, traffic of the client, load on the scheduler.

Scheduler and workers run in separate processes, so the traffic of this process is that of a client.  The rows are a
Dask array created on the workers, and statistics are stored, so neither data nor results pass through the client.  All
ratios are measured in one run, alternating between the contenders.

    python benchmarks/cluster.py [--rows 1000000] [--draws 1000] [--turns 3] [--growth 1,4,16]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import numpy as np
import numpyro
import numpyro.distributions as dist
import psutil
from distributed import Client
from distributed.comm import tcp
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel

TRAFFIC = {"sent": 0, "received": 0, "messages": 0}
CHUNK = 65_536


def kernel(X, y=None):
    slopes = numpyro.sample("slopes", dist.Normal().expand([X.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ slopes, noise), obs=y)


def new_model(n_draws: int) -> ImpactModel:
    rng = np.random.default_rng(0)
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    draws = {"slopes": rng.normal(size=(n_draws, 3)), "noise": 1 + 0.1 * rng.random(n_draws)}
    return model.set_posterior_sample({name: value.astype(np.float32) for name, value in draws.items()})


def count_traffic() -> None:
    """Count the bytes this process sends and receives over TCP."""
    write, read = tcp.TCP.write, tcp.from_frames

    async def counted_write(self, *args, **kwargs):
        sent = await write(self, *args, **kwargs)
        TRAFFIC["sent"] += sent
        TRAFFIC["messages"] += 1
        return sent

    async def counted_read(frames, *args, **kwargs):
        TRAFFIC["received"] += sum(memoryview(frame).nbytes for frame in frames)
        TRAFFIC["messages"] += 1
        return await read(frames, *args, **kwargs)

    tcp.TCP.write, tcp.from_frames = counted_write, counted_read


@contextmanager
def cluster(n_workers: int, directory: Path) -> Iterator[Client]:
    """Start a scheduler and workers from the command line; kill them at the end."""
    file = directory / f"scheduler-{n_workers}.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": directory}
    dask = [sys.executable, "-m", "dask"]
    command = [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [subprocess.Popen(command, **quiet)]
    command = [*dask, "worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(file)]
    started += [subprocess.Popen(command, **quiet) for _ in range(n_workers)]
    try:
        with Client(scheduler_file=str(file), timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=60)
            yield client
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait(20)


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children so far."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def measured(act: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock seconds and CPU seconds."""
    start, cpu = time.perf_counter(), cpu_seconds()
    act()
    return time.perf_counter() - start, cpu_seconds() - cpu


def main(n_rows: int, n_draws: int, turns: int, growth: list[int]) -> None:
    count_traffic()
    model = new_model(n_draws)

    def rows(n: int) -> da.Array:
        return da.random.default_rng(1).normal(size=(n, 3), chunks=(CHUNK, 3)).astype(np.float32)

    def predict(n: int, client: Client | None) -> Callable[[], object]:
        options = {"in_sample": False, "statistics": ("mean", "sd", 0.05, 0.95), "progress": False}
        X = rows(n) if client is not None else rows(n).compute(scheduler="threads")

        def act() -> object:
            return model.predict(X, client=client, rng_key=random.key(2), **options)

        return act

    with tempfile.TemporaryDirectory() as temporary, cluster(1, Path(temporary)) as one, cluster(
        2, Path(temporary)
    ) as two:  # fmt: skip
        clients = {"local": None, "1 worker": one, "2 workers": two}
        for client in clients.values():
            predict(4 * CHUNK, client)()  # compile
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for _ in range(turns):
            for name, client in clients.items():
                seconds[name].append(measured(predict(n_rows, client)))
        print(f"{n_rows:,} rows x {n_draws:,} draws, statistics stored; medians of {turns} turns")
        base = statistics.median(clock for clock, _ in seconds["local"])
        for name, times in seconds.items():
            clock, cpu = (statistics.median(values) for values in zip(*times, strict=True))
            ratios = sorted(c / h for (c, _), (h, _) in zip(times, seconds["local"], strict=True))
            print(
                f"  {name:>10}: {clock:6.2f} s, {cpu:6.1f} s of CPU; {clock / base:.2f} of the local time "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f} across turns)"
            )
        print("2 workers, growing data:")
        for millions in growth:
            n = millions * 1_000_000
            act = predict(n, two)
            work = two.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
            before = dict(TRAFFIC)
            clock, _ = measured(act)
            work = two.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter) - work
            traffic = {name: TRAFFIC[name] - before[name] for name in TRAFFIC}
            print(
                f"  {n:>12,} rows: {clock:7.2f} s, {clock / millions:5.2f} s per million; through the client "
                f"{traffic['sent'] / 1e6:.2f} MB sent and {traffic['received'] / 1e6:.2f} MB received, "
                f"{traffic['messages'] / millions:.0f} messages and {work / millions:.0f} transitions per million"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--growth", default="1,4,16")
    given = parser.parse_args()
    main(given.rows, given.draws, given.turns, [int(n) for n in given.growth.split(",") if n])

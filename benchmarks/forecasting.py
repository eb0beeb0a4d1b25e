"""Compare a forecast of many series with NumPyro's `Predictive` in pieces: time, and memory as series are added.

Each row is a series, a random walk in a `scan` with its own last state. `forecast` returns the mean and the standard
deviation of each later step; the other contender runs `Predictive` over pieces of the rows, with the posterior of each
piece, and reduces the draws with NumPy. Both run in processes of their own. The largest memory that is not part of the
file with the posterior is compared for half the series and for all of them.

    python benchmarks/forecasting.py [--series 100000] [--steps 100] [--draws 500] [--ahead 20] [--dir DIRECTORY]

At full size the posterior takes 20 GB, 4 bytes for each draw of each state. It is read from a file in the directory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

_PIECE = 500
"""Number of rows of a piece."""
_MODELS: dict[str, Any] = {}
"""Model and compiled function, so that the measured calls do not compile."""


def many_series(X, y=None):
    """Return nothing; a random walk for each row, observed with noise."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    n_series = X.shape[0]

    def step(level, given):
        x, seen = given if y is not None else (given, None)
        with numpyro.plate("series", n_series):
            level = numpyro.sample("level", dist.Normal(level, 1.0))
            numpyro.sample("y", dist.Normal(level + x, 0.5), obs=seen)
        return level, None

    scan(step, jnp.zeros(n_series), X.T if y is None else (X.T, y.T))


def posterior(path: Path, n_series: int, n_steps: int, n_draws: int) -> np.ndarray:
    """Return draws of all states of shape ``(n_draws, n_steps, n_series)``, memory-mapped."""
    if not path.exists():
        draws = np.lib.format.open_memmap(path, "w+", np.float32, (n_draws, n_steps, n_series))
        for start in range(0, n_draws, 10):
            draws[start : start + 10] = np.random.default_rng(start).normal(size=draws[start : start + 10].shape)
        draws.flush()
    return np.load(path, mmap_mode="r")


def by_forecast(draws: np.ndarray, n_series: int, n_ahead: int) -> np.ndarray:
    """Return means and standard deviations by `forecast`."""
    from jax import random

    from aimz import ImpactModel

    n_steps = draws.shape[1]
    model = _MODELS.setdefault("forecast", ImpactModel(many_series, 0))
    model.set_posterior_sample({"level": draws[:, :, :n_series]})
    zeros = np.broadcast_to(np.float32(0), (n_series, n_steps))
    found = model.forecast(
        np.zeros((n_series, n_ahead), np.float32),
        history={"X": zeros, "y": zeros},
        statistics=("mean", "sd"),
        rng_key=random.key(1),
        store="memory",
        progress=False,
    )
    return found["predictions"]["y"].values


def by_pieces(draws: np.ndarray, n_series: int, n_ahead: int) -> np.ndarray:
    """Return means and standard deviations by `Predictive` over pieces of the rows."""
    import jax
    from jax import random
    from numpyro import handlers
    from numpyro.infer import Predictive

    n_steps = draws.shape[1]

    def run(key, level):
        def kernel(X):
            with handlers.condition(data={"y": jax.numpy.zeros((n_steps, X.shape[0]))}):
                many_series(X)

        X = jax.numpy.zeros((level.shape[2], n_steps + n_ahead))
        return Predictive(kernel, {"level": level}, return_sites=["y"])(key, X)["y"][:, n_steps:]

    piece = _MODELS.setdefault("predictive", jax.jit(run))
    found = np.empty((2, n_ahead, n_series))
    for number, start in enumerate(range(0, n_series, _PIECE)):
        stop = min(start + _PIECE, n_series)
        drawn = np.asarray(piece(random.key(number), np.ascontiguousarray(draws[:, :, start:stop])), float)
        found[:, :, start:stop] = drawn.mean(0), drawn.std(0)
    return found


CONTENDERS = {"forecast": by_forecast, "predictive": by_pieces}


def measure(name: str, path: Path, n_series: int, options: argparse.Namespace) -> dict[str, float]:
    """Return seconds and the largest resident memory in MB of a process of its own."""
    command = [sys.executable, __file__, "--worker", name, f"--series={n_series}", f"--dir={path.parent}"]
    command += [f"--{key}={getattr(options, key)}" for key in ("steps", "draws", "ahead")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run both contenders with half the series and with all of them, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key, default in (("series", 100_000), ("steps", 100), ("draws", 500), ("ahead", 20)):
        parser.add_argument(f"--{key}", type=int, default=default)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--worker", choices=CONTENDERS, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        path = Path(options.dir if options.worker else directory) / "level.npy"
        if options.worker:
            draws = np.load(path, mmap_mode="r")
            contender = CONTENDERS[options.worker]
            contender(draws, min(2500, options.series), options.ahead)  # compiles
            start, cpu = time.perf_counter(), time.process_time()
            found = contender(draws, options.series, options.ahead)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            exact = np.sqrt(1.25 + 1 + np.arange(options.ahead))  # states have variance 1
            sd = found[1].mean(axis=1)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(json.dumps({"seconds": seconds, "cpu": cpu, "MB": memory, "sd": float(np.abs(sd / exact - 1).max())}))
            return
        posterior(path, options.series, options.steps, options.draws)
        found = {
            (name, size): measure(name, path, size, options)
            for size in (options.series // 2, options.series)
            for name in CONTENDERS
        }
        for (name, size), one in found.items():
            print(
                f"{name:12} {size:8,} series: {one['seconds']:7.1f} s, {one['MB']:7.0f} MB, sd off by {one['sd']:.1%}"
            )
        ours, theirs = found["forecast", options.series], found["predictive", options.series]
        half = found["forecast", options.series // 2]
        print(f"time of Predictive in pieces / time of forecast: {theirs['seconds'] / ours['seconds']:.2f}")
        print(f"the same, of CPU time:                           {theirs['cpu'] / ours['cpu']:.2f}")
        print(f"memory of all series / memory of half of them:   {ours['MB'] / half['MB']:.2f}")


if __name__ == "__main__":
    main()

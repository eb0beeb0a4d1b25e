"""Measure the share of a prediction that index checks and the lock of traces take; the goal is less than 2 per cent.

    python benchmarks/index_checks.py

The check reads one column of codes. The prediction is the least that looks it up: one table, one product and one draw.
The lock is held while a kernel is traced, and not by warm calls; its cost is the time to acquire and release it.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from aimz.kernel import IndexChecks, handler_stack

N_ROWS, N_GROUPS, N_DRAWS = 1_000_000, 50, 100
GOAL = 0.02


def kernel(X, y=None):
    """A regression with a level for each group."""
    with numpyro.plate("groups", N_GROUPS):
        level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[X[:, 0].astype(int)] + slope * X[:, 1], 1.0), obs=y)


class TimedLock:
    """The lock of traces, with the number of times it was acquired, and the time that took."""

    def __init__(self) -> None:
        self._lock = handler_stack._LOCK
        self.acquired, self.seconds = 0, 0.0

    def __enter__(self) -> None:
        started = time.perf_counter()
        self._lock.acquire()
        self.acquired, self.seconds = self.acquired + 1, self.seconds + time.perf_counter() - started

    def __exit__(self, *_: object) -> None:
        started = time.perf_counter()
        self._lock.release()
        self.seconds += time.perf_counter() - started


def lock_share(model: ImpactModel, X: np.ndarray) -> float:
    """Print the cost of the lock in predictions of known and new shapes; return the largest share."""
    shares = []
    for name, n_new in {"known shape": 0, "new shape": 1}.items():
        calls = {
            "predict_on_batch, 1,000 rows": lambda n=1000 + n_new: model.predict_on_batch(X[:n], in_sample=False),
            f"predict, {N_ROWS:,} rows": lambda n=N_ROWS - n_new: model.predict(X[:n], in_sample=False, progress=False),
        }
        for called, call in calls.items():
            if not n_new:
                call()
            lock = handler_stack._LOCK = TimedLock()
            started = time.perf_counter()
            call()
            shares.append(lock.seconds / (time.perf_counter() - started))
            handler_stack._LOCK = lock._lock
            print(f"lock, {called}, {name}: acquired {lock.acquired} times, {shares[-1]:.4%}")
    return max(shares)


def main() -> int:
    """Print the share for rows in memory and in a file; return 1 if it exceeds the goal."""
    spent = [0.0]
    check = IndexChecks.faults

    def timed(self: IndexChecks, *args: Any, **kwargs: Any) -> Any:
        started = time.thread_time()  # other threads compute meanwhile
        try:
            return check(self, *args, **kwargs)
        finally:
            spent[0] += time.thread_time() - started

    IndexChecks.faults = timed
    model = ImpactModel(kernel, jax.random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"level": np.zeros((N_DRAWS, N_GROUPS)), "slope": np.zeros(N_DRAWS)})
    codes = np.random.default_rng(0).integers(0, N_GROUPS, N_ROWS)
    X = np.stack([codes, np.ones(N_ROWS)], axis=1).astype(np.float32)
    worst = 0.0
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings(action="ignore"):
        path = Path(directory) / "X.npy"
        np.save(path, X)
        for name, rows in {"in memory": X, "in a file": np.load(path, mmap_mode="r")}.items():
            for statistics in (None, ("mean", "sd")):
                options: dict[str, Any] = {"in_sample": False, "progress": False, "statistics": statistics}
                model.predict(rows[:5000], **options)
                spent[0], started = 0.0, time.perf_counter()
                model.predict(rows, **options)
                share = spent[0] / (time.perf_counter() - started)
                print(f"{N_ROWS:,} rows {name}, {statistics or 'all draws'}: {share:.2%}")
                worst = max(worst, share)
        worst = max(worst, lock_share(model, X))
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())

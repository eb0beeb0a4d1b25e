"""Measure the share of a streamed prediction that checking the indices of rows takes; the goal is less than 2 per cent.

    python benchmarks/index_checks.py

The check reads one column of codes. The prediction is the least that looks it up: one table, one product and one draw.
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
from aimz.kernel import IndexChecks

N_ROWS, N_GROUPS, N_DRAWS = 1_000_000, 50, 100
GOAL = 0.02


def kernel(X, y=None):
    """A regression with a level for each group."""
    with numpyro.plate("groups", N_GROUPS):
        level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[X[:, 0].astype(int)] + slope * X[:, 1], 1.0), obs=y)


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
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())

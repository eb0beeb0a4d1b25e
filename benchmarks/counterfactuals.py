"""Compare the time of counterfactuals with predictions, both with statistics, and their memory at two numbers of rows.

Ratios are of medians within one run, in which calls alternate.

    python benchmarks/counterfactuals.py [--quick] [--rows 100000] [--draws 1000]
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC, NUTS

import aimz


def kernel(X: Any, campaign: Any, y: Any = None) -> None:
    """Regress an outcome on a campaign and ten covariates."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    lift = numpyro.sample("lift", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b + lift * campaign, 1.0), obs=y)


def seconds(call: Callable[[], Any]) -> float:
    """Return the time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print ratios of times, and the growth of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    n_rows, n_draws, repeats = (20_000, 50, 2) if options.quick else (options.rows, options.draws, 3)
    rng = np.random.default_rng(0)
    model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    draws = {"a": (), "b": (10,), "lift": ()}
    model.set_posterior_sample({name: rng.normal(size=(n_draws, *shape)) for name, shape in draws.items()})
    shared: dict[str, Any] = {"statistics": ("mean", 0.05, 0.95), "progress": False}
    for n_obs in (n_rows // 4, n_rows):
        rows = {
            "X": rng.normal(size=(n_obs, 10)).astype(np.float32),
            "campaign": rng.integers(0, 2, n_obs).astype(np.float32),
        }
        y = rng.normal(size=n_obs).astype(np.float32)
        given = {"intervention": {"campaign": 0.0}, **rows, **shared}
        calls: dict[str, Callable[[], Any]] = {
            "predict": lambda: model.predict(**given),  # noqa: B023
            "counterfactual": lambda: model.counterfactual(y=y, **given),  # noqa: B023
        }
        for call in calls.values():
            call()  # compiles
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                times[name].append(seconds(call))
        medians = {name: statistics.median(found) for name, found in times.items()}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ratio = medians["counterfactual"] / medians["predict"]
        print(f"{n_obs:>10,} rows x {n_draws} draws: counterfactual {ratio:.2f} (predict: {medians['predict']:.2f} s)")
        print(f"{'':>10} largest memory of the process: {memory:,.0f} MiB")


if __name__ == "__main__":
    main()

"""Compare the time of slopes and support with comparisons of two scenarios, and their memory at two numbers of rows.

All results are ratios within one run: calls alternate, and medians are compared.

    python benchmarks/slopes.py [--quick] [--rows 1000000] [--draws 1000]
"""

import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz


def kernel(X: Any, y: Any = None) -> None:
    """Model a count with a price and three covariates."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([4]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.BernoulliLogits(a + X @ b), obs=y)


def seconds(call: Callable[[], Any]) -> float:
    """Return the time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print ratios of times, and the growth of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    n_rows, n_draws, repeats = (20_000, 50, 2) if options.quick else (options.rows, options.draws, 3)
    rng = np.random.default_rng(0)
    for n_obs in (n_rows // 4, n_rows):
        names = ["price", "age", "size", "rain"]
        frame = pd.DataFrame(rng.normal(3.0, 1.0, (n_obs, 4)).astype(np.float32), columns=names)
        svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
        model = aimz.ImpactModel(kernel, random.key(0), svi)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", aimz.FitWarning)  # few steps, since the fit is not measured
            outcome = (frame["price"] > 3).astype(int).to_numpy()
            model.fit_on_batch(frame, outcome, num_steps=2, num_samples=n_draws, progress=False)
        given: dict[str, Any] = {"X": frame, "progress": False}
        scenarios = {"low": {"intervention": {"price": 1.0}}, "high": {"intervention": {"price": 2.0}}}
        calls: dict[str, Callable[[], Any]] = {
            "two scenarios": lambda: model.compare_scenarios(scenarios, baseline="low", **given),  # noqa: B023
            "slopes": lambda: model.slopes("price", **given),  # noqa: B023
            "support": lambda: model.support(intervention={"price": 2.0}, X=frame),  # noqa: B023
        }
        for call in calls.values():
            call()  # compiles
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                times[name].append(seconds(call))
        medians = {name: statistics.median(found) for name, found in times.items()}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ratios = ", ".join(f"{name} {time / medians['two scenarios']:.2f}" for name, time in medians.items())
        print(f"{n_obs:>10,} rows x {n_draws} draws: {ratios} (two scenarios: {medians['two scenarios']:.2f} s)")
        print(f"{'':>10} largest memory of the process: {memory:,.0f} MiB")


if __name__ == "__main__":
    main()

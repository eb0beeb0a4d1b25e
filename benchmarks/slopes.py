"""Compare the time of slopes and support with other calls, and their memory at two numbers of rows.

Times are relative to a comparison of two scenarios. The time of slopes is also given relative to one scenario, which is
the average of the expected output alone (the goal is at most 3), and to this average written in JAX for this kernel.

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

import jax
import jax.numpy as jnp
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


@jax.jit
def mean_of_block(a: jax.Array, b: jax.Array, X: jax.Array) -> jax.Array:
    """Return the sum of the expected output over the rows of a block, for each draw."""
    return jax.vmap(lambda a, b: jax.nn.sigmoid(a + X @ b).sum())(a, b)


def mean_alone(draws: Any, X: np.ndarray, block: int = 4096) -> np.ndarray:
    """Return the average of the expected output over rows, for each draw, some blocks of rows at a time."""
    a, b = (jnp.asarray(draws[name]) for name in ("a", "b"))
    sums = [mean_of_block(a, b, X[i : i + block]) for i in range(0, len(X) - len(X) % block, block)]
    return np.sum([np.asarray(one, float) for one in sums], axis=0) / len(X)


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
        rows = frame.to_numpy()
        calls: dict[str, Callable[[], Any]] = {
            "two scenarios": lambda: model.compare_scenarios(scenarios, baseline="low", **given),  # noqa: B023
            "plain JAX": lambda: mean_alone(model.posterior, rows),  # noqa: B023
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
        mean, plain = (medians["slopes"] / medians[name] for name in ("two scenarios", "plain JAX"))
        print(f"{'':>10} slopes against one scenario: {2 * mean:.2f}; against its mean in plain JAX: {plain:.2f}")
        print(f"{'':>10} largest memory of the process: {memory:,.0f} MiB")


if __name__ == "__main__":
    main()

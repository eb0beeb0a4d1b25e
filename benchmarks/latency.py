"""Compare the second-call latency of `predict_on_batch` with NumPyro's `Predictive`, and time `import aimz`.

All results are ratios within one run: the functions are timed alternately, and medians are compared.

    python benchmarks/latency.py [--rows 100] [--draws 1000] [--repeats 20]
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel


def kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", a + X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def medians(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time the functions alternately, so that drift affects all of them, and return median seconds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def predictions(n_obs: int, n_draws: int, repeats: int) -> dict[str, float]:
    X = random.normal(random.key(0), (n_obs, 10))
    y = X @ jnp.arange(10.0) + random.normal(random.key(1), (n_obs,))
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(2), svi)
    model.fit_on_batch(X, y, num_steps=200, num_samples=n_draws, progress=False)
    posterior = model.posterior
    compiled = jax.jit(lambda key, X: Predictive(kernel, posterior, return_sites=["y", "mu"])(key, X))

    functions = {
        "predict_on_batch": lambda: model.predict_on_batch(X),
        "predict_on_batch, dictionary": lambda: jax.block_until_ready(model.predict_on_batch(X, return_datatree=False)),
        "Predictive": lambda: jax.block_until_ready(
            Predictive(kernel, posterior, return_sites=["y", "mu"])(random.key(3), X)
        ),
        "Predictive, jitted by hand": lambda: jax.block_until_ready(compiled(random.key(3), X)),
    }
    for function in functions.values():
        function()
    return medians(functions, repeats)


def imports(repeats: int) -> dict[str, float]:
    def run(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    return medians({"import aimz": run("import aimz"), "import jax, numpyro": run("import jax, numpyro")}, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    print(f"{args.rows} rows x {args.draws} draws, second and later calls, on {jax.devices()[0].platform}")
    times = predictions(args.rows, args.draws, args.repeats)
    for name, seconds in times.items():
        print(f"  {name:30s} {1e3 * seconds:9.2f} ms   {seconds / times['Predictive']:6.3f} of Predictive")
    times = imports(max(3, args.repeats // 4))
    for name, seconds in times.items():
        print(f"  {name:30s} {seconds:9.2f} s    {seconds / times['import jax, numpyro']:6.3f} of JAX and NumPyro")


if __name__ == "__main__":
    main()

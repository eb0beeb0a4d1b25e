"""How long until the first prediction of a new process: a saved model, kept programs, and `jax.export`.

Each way runs in processes of its own, in turn, and medians are compared.  "exported" is NumPyro's own predictive
function, written by `jax.export` for any number of rows: it needs neither the kernel nor NumPyro, but is compiled anew.
"kept programs" is JAX's persistent compilation cache.

    pip install flatbuffers
    python benchmarks/ahead_of_time.py [--repeats 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS, COLUMNS, DRAWS = 100, 10, 1000
ENVIRONMENT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
X = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype("float32")


def kernels() -> dict[str, Callable[..., Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def linear(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + X @ b, 1.0), obs=y)

    def counts(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 0.3).expand([X.shape[1]]).to_event(1))
        c = numpyro.sample("c", dist.Gamma(10, 2))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(X @ b), c), obs=y)

    return {"linear": linear, "counts": counts}


def prepare(name: str, at: Path) -> None:
    """Save a model, and the exported program beside it."""
    import jax
    from jax import export, random
    from numpyro import handlers
    from numpyro.infer import MCMC, NUTS, Predictive

    from aimz import ImpactModel

    kernel = kernels()[name]
    drawn = Predictive(kernel, num_samples=DRAWS)(random.key(0), X)
    draws = {site: value for site, value in drawn.items() if site != "y"}
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample(draws)
    model.predict_on_batch(X)
    model.save(at / "model")
    np.savez(at / "draws.npz", **draws)

    def predict(words, draws, X):
        def one(key, draw):
            return handlers.trace(handlers.substitute(handlers.seed(kernel, key), draw)).get_trace(X)["y"]["value"]

        return jax.vmap(one)(random.split(random.wrap_key_data(words), DRAWS), draws)

    words = random.key_data(random.key(1))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (words, draws))
    rows = jax.ShapeDtypeStruct(export.symbolic_shape(f"n, {COLUMNS}"), "float32")
    program = export.export(jax.jit(predict))(*shapes, rows).serialize()
    (at / "program.bin").write_bytes(bytes(program))
    print(f"{name}: the exported program has {len(program):,} bytes")


def ordinary(name: str, at: Path) -> None:
    from aimz import ImpactModel

    model = ImpactModel.load(at / "model", kernels()[name])
    np.asarray(model.predict_on_batch(X, in_sample=False, return_datatree=False)["y"])


def exported(at: Path) -> None:
    import jax
    from jax import export, random

    program = export.deserialize(bytearray((at / "program.bin").read_bytes()))
    np.asarray(jax.jit(program.call)(random.key_data(random.key(1)), dict(np.load(at / "draws.npz")), X))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, help="internal: way, kernel, directory")
    options = parser.parse_args()
    if options.one:
        way, name, at = options.one
        exported(Path(at)) if way == "exported" else ordinary(name, Path(at))
        return
    for name in kernels():
        with tempfile.TemporaryDirectory() as directory:
            at = Path(directory)
            prepare(name, at)
            kept = {**os.environ, **ENVIRONMENT, "JAX_COMPILATION_CACHE_DIR": str(at / "programs")}
            ways = {"saved model": os.environ, "exported": os.environ, "saved model, kept programs": kept}
            times: dict[str, list[float]] = {way: [] for way in ways}
            command = [sys.executable, __file__, "--one"]
            subprocess.run([*command, "ordinary", name, directory], env=kept, check=True)  # fills the cache
            for _ in range(options.repeats):
                for way, environment in ways.items():
                    start = time.perf_counter()
                    subprocess.run([*command, way.split()[0], name, directory], env=environment, check=True)
                    times[way].append(time.perf_counter() - start)
            base = statistics.median(times["saved model"])
            for way, seconds in times.items():
                median = statistics.median(seconds)
                print(f"{name}: {way}: {median:.1f} s to the first prediction, {median / base:.2f} of a saved model")


if __name__ == "__main__":
    main()

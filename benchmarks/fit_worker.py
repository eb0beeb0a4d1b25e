"""Time one minibatch fit in a separate process; started by `fitting.py` in either environment.

Prints one line of JSON: seconds of the first call and of the `--repeat` calls after it, the wall-clock time at the end
of the first, and the peak resident memory of all calls relative to the start of the first.

    python benchmarks/fit_worker.py --work small --repeat 5
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
from jax import lax, random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from worker import Seconds, clock, linear, measure, network, scratch

# Rows, columns, rows of a batch, epochs.
SIZES = {
    "small": (10_000, 3, 100, 100),
    "first": (10_000, 3, 100, 1),
    "large": (1_000_000, 20, 1_000, 2),
    "network": (25_600, 100, 256, 2),
    "file": (10_737_418, 100, 4_096, 1),
}


def data(work: str, where: Path, *, in_file: bool) -> tuple[np.ndarray, np.ndarray]:
    n_obs, n_columns, _, _ = SIZES[work]
    rng = np.random.default_rng(0)
    if not in_file:
        X = np.empty((n_obs, n_columns), np.float32)
        for start in range(0, n_obs, 2**17):
            X[start : start + 2**17] = rng.standard_normal(X[start : start + 2**17].shape, dtype=np.float32)
        return X, X[:, 0] + rng.standard_normal(n_obs, dtype=np.float32)
    X = np.memmap(where / "X", np.float32, "w+", shape=(n_obs, n_columns))
    y = np.empty(n_obs, np.float32)
    for start in range(0, n_obs, 2**17):
        block = rng.standard_normal(X[start : start + 2**17].shape, dtype=np.float32)
        X[start : start + 2**17] = block
        y[start : start + 2**17] = block[:, 0] + rng.standard_normal(len(block), dtype=np.float32)
    X.flush()
    del X
    return np.memmap(where / "X", np.float32, "r", shape=(n_obs, n_columns)), y


def by_aimz(kernel: Callable[..., None], svi: SVI, X: Any, y: Any, batch_size: int, epochs: int) -> Callable[[], Any]:
    """Return a function that calls `fit` of the installed package, continuing from the current state."""
    from aimz import ImpactModel

    model = ImpactModel(kernel, rng_key=random.key(0), inference=svi)
    return lambda: model.fit(X, y, num_samples=10, batch_size=batch_size, epochs=epochs, progress=False)


def by_hand(svi: SVI, X: Any, y: Any, batch_size: int, epochs: int) -> Callable[[], Any]:
    """Return a function that scans over prepared batches: no shuffling, no scaling, no posterior draws."""
    batches = X.reshape(-1, batch_size, X.shape[1]), y.reshape(-1, batch_size)
    state = svi.init(random.key(0), batches[0][0], batches[1][0])
    epoch = jax.jit(lambda state, batches: lax.scan(lambda s, batch: svi.update(s, *batch), state, batches))
    placed = jax.device_put(batches)

    def run() -> None:
        nonlocal state
        for _ in range(epochs):
            state, losses = epoch(state, placed)
        losses.block_until_ready()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=SIZES, required=True)
    parser.add_argument("--by", choices=["aimz", "hand"], default="aimz")
    parser.add_argument("--in-file", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", default=None, help="parent of temporary directories")
    args = parser.parse_args()
    _, _, batch_size, epochs = SIZES[args.work]
    kernel = network if args.work == "network" else linear
    with scratch(args.dir) as where:
        X, y = data(args.work, where, in_file=bool(args.in_file))
        svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(1e-3), Trace_ELBO())
        made = (X, y, batch_size, epochs)
        run = by_hand(svi, *made) if args.by == "hand" else by_aimz(kernel, svi, *made)

        def once() -> Seconds:
            return {"call": clock(run)}

        result = measure(once, args.repeat)
    print(json.dumps(vars(args) | result))


if __name__ == "__main__":
    main()

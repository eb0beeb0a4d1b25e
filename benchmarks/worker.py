"""Time one task in a separate process; started by `streaming.py` in either environment.

Prints one line of JSON: seconds of the first call and of the `--repeat` calls after it, by part; the wall-clock time at
the end of the first call; `peak_mib`, the peak resident memory of all calls relative to the start of the first, when
inputs and posterior already exist; the size on disk.  `--repeat 0` stops after the first call.

    python benchmarks/worker.py --work linear --rows 100000 --draws 1000 --repeat 5
"""

import argparse
import functools
import importlib
import importlib.metadata
import json
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.scipy.special import expit
from jax.scipy.stats import norm
from numpyro.infer import SVI, Predictive, Trace_ELBO, log_likelihood
from numpyro.infer.autoguide import AutoNormal

WIDTHS = (100, 128, 128, 128, 1)
N_GROUPS = 1000
N_OUTPUTS = 10
N_COLUMNS = {"wide": 1000, "network": WIDTHS[0]}
"""Columns of `X`; 10 for other tasks."""
BLOCK_ROWS = 1024
BATCH_BLOCKS = 8
FILE_BYTES = 8 * 2**20
CHECKS = {
    "values": (
        "aimz.data.nan_counts/NanCounts/add",
        "aimz.data.kernel_arguments/warn_if_rounded",
        "aimz.data.kernel_arguments/check_outcome_not_in_input",
        "aimz.data.lazy_arrays/check_written",
        "aimz.store.chunk_writer/has_missing",
    ),
    "checksums": ("aimz.store.checksums/ChunkStore/_send", "aimz.store.stored_result/StoredResult/encode"),
}
"""Kind of checks to their functions: module, class if any, and function."""
FAMILIES: dict[str, Callable[[jax.Array], dist.Distribution]] = {
    "Gaussian": lambda eta: dist.Normal(eta, 1.0),
    "Poisson": lambda eta: dist.Poisson(jnp.exp(0.3 * eta)),
    "negative-binomial": lambda eta: dist.NegativeBinomial2(jnp.exp(0.3 * eta), 3.0),
    "Student-t": lambda eta: dist.StudentT(4.0, eta, 1.0),
    "gamma": lambda eta: dist.Gamma(2.5, jnp.exp(-0.3 * eta)),
    "beta": lambda eta: dist.BetaProportion(expit(eta), 5.0),
    "binomial": lambda eta: dist.Binomial(10, logits=eta),
    "categorical": lambda eta: dist.Categorical(logits=jnp.stack([0 * eta, eta, -eta], -1)),
}
"""Distribution of the outcome of a regression, from the linear predictor."""
WORKS = ("linear", "logistic", "loglik", "network", "small", "reading", "hierarchical", "outputs", "wide", *FAMILIES)
Draw = dict[str, jax.Array]
Seconds = dict[str, float]

# ---------------------------------------------------------------------------------------------- kernels and their data


def regression(X) -> tuple[jax.Array, jax.Array]:
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    return a + X @ b


def linear(X, y=None):
    mu = regression(X)
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def logistic(X, y=None):
    logits = regression(X)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def hierarchical(X, y=None):
    """Column 0 of `X` has the group of each row."""
    with numpyro.plate("groups", N_GROUPS):
        a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[X[:, 0].astype(int)] + X @ b, sigma), obs=y)


def outputs(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1], N_OUTPUTS]).to_event(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, sigma).to_event(1), obs=y)


def forward(X, weight: Callable[[int], jax.Array], bias: Callable[[int], jax.Array]) -> jax.Array:
    for i in range(len(WIDTHS) - 1):
        X = (jax.nn.relu(X) if i else X) @ weight(i) + bias(i)
    return X[..., 0]


def network(X, y=None):
    def weight(i):
        return numpyro.sample(f"w{i}", dist.Normal().expand(WIDTHS[i : i + 2]).to_event(2))

    def bias(i):
        return numpyro.sample(f"b{i}", dist.Normal().expand(WIDTHS[i + 1 : i + 2]).to_event(1))

    mu = forward(X, weight, bias)
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def family(name: str) -> Callable[..., None]:
    """Return a regression whose outcome has a distribution of `FAMILIES`."""

    def kernel(X, y=None):
        eta = regression(X)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", FAMILIES[name](eta), obs=y)

    return kernel


@dataclass
class Task:
    """A kernel with data and draws, and a hand-written version for one draw and one block of rows."""

    kernel: Callable[..., None]
    X: np.ndarray
    y: np.ndarray
    posterior: Draw
    by_hand: Callable[[jax.Array, jax.Array, jax.Array, Draw], jax.Array]
    group: int
    """Number of draws that are vectorized; one if a single draw is expensive."""


def normal_by_hand(key, X, y, d):
    del y
    return d["a"] + X @ d["b"] + d["sigma"] * random.normal(key, X.shape[:1])


def bernoulli_by_hand(key, X, y, d):
    del y
    return random.bernoulli(key, expit(d["a"] + X @ d["b"])).astype(jnp.int32)


def score_by_hand(key, X, y, d):
    del key
    return norm.logpdf(y, d["a"] + X @ d["b"], d["sigma"])


def hierarchical_by_hand(key, X, y, d):
    del y
    return d["a"][X[:, 0].astype(int)] + X @ d["b"] + d["sigma"] * random.normal(key, X.shape[:1])


def outputs_by_hand(key, X, y, d):
    del y
    return X @ d["b"] + d["sigma"] * random.normal(key, (X.shape[0], N_OUTPUTS))


def network_by_hand(key, X, y, d):
    del y
    mu = forward(X, lambda i: d[f"w{i}"], lambda i: d[f"b{i}"])
    return mu + d["sigma"] * random.normal(key, X.shape[:1])


def make_task(work: str, n_obs: int, n_draws: int) -> Task:
    rng = np.random.default_rng(0)

    def drawn(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * rng.standard_normal((n_draws, *shape), dtype=np.float32))

    sigma = 1 + jnp.abs(drawn())
    n_columns = N_COLUMNS.get(work, 10)
    if work == "hierarchical":
        posterior = {"a": drawn(N_GROUPS), "b": drawn(n_columns), "sigma": sigma}
    elif work == "outputs":
        posterior = {"b": drawn(n_columns, N_OUTPUTS), "sigma": sigma}
    elif work == "network":
        posterior = {"sigma": sigma}
        for i, (n_in, n_out) in enumerate(pairwise(WIDTHS)):
            posterior |= {f"w{i}": drawn(n_in, n_out, scale=n_in**-0.5), f"b{i}": drawn(n_out, scale=0.1)}
    else:
        posterior = {"a": drawn(), "b": drawn(n_columns)}
        if work != "logistic" and work not in FAMILIES:
            posterior |= {"sigma": sigma}
    X = rng.standard_normal((n_obs, n_columns), dtype=np.float32)
    if work == "hierarchical":
        X[:, 0] = rng.integers(N_GROUPS, size=n_obs)
    y = rng.standard_normal((n_obs, N_OUTPUTS) if work == "outputs" else n_obs, dtype=np.float32)
    jax.block_until_ready(posterior)
    match work:
        case "logistic":
            return Task(logistic, X, (y > 0).astype(np.int32), posterior, bernoulli_by_hand, 8)
        case "network":
            return Task(network, X, y, posterior, network_by_hand, 1)
        case "loglik":
            return Task(linear, X, y, posterior, score_by_hand, 8)
        case "hierarchical":
            return Task(hierarchical, X, y, posterior, hierarchical_by_hand, 8)
        case "outputs":
            return Task(outputs, X, y, posterior, outputs_by_hand, 8)
        case _ if work in FAMILIES:
            scaled = {name: 0.3 * draws for name, draws in posterior.items()}
            return Task(family(work), X, y, scaled, normal_by_hand, 8)
        case _:
            return Task(linear, X, y, posterior, normal_by_hand, 8)


# ------------------------------------------------------------------------------------------------- contenders


def by_aimz(task: Task, args: argparse.Namespace, disk: dict[str, float]) -> Callable[[], Seconds]:
    """Return a function that times `predict` or `log_likelihood` of the installed package, without cleanup."""
    from aimz import ImpactModel

    svi = SVI(task.kernel, AutoNormal(task.kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(task.kernel, rng_key=random.key(0), inference=svi)
    model.set_posterior_sample(task.posterior)
    options: dict[str, Any] = {"store": args.store, "progress": False}

    def call(where: Path):
        if args.on_batch:
            return model.predict_on_batch(task.X, return_sites="y")["posterior_predictive"]["y"]
        place = {"output_dir": where} if args.store == "persistent" else {}
        if args.work == "loglik":
            return model.log_likelihood(task.X, task.y, **options, **place)["log_likelihood"]["y"]
        return model.predict(task.X, **options, **place)["posterior_predictive"]["y"]

    checks = clock_checks(args.clock_checks) if args.clock_checks else {}

    def once() -> Seconds:
        with scratch(args.dir) as where:
            checks.clear()
            start = time.perf_counter()
            result = call(where)
            if args.store == "memory":  # touch some rows of every batch, so that nothing remains lazy
                result.isel({result.dims[-1]: slice(None, None, 500)}).sum().compute()
            seconds = time.perf_counter() - start
            disk["mib"] = sum(p.stat().st_size for p in where.rglob("*") if p.is_file()) / 2**20
        return {"call": seconds, "checks": sum(checks.values())}

    if args.work != "reading":
        return once
    drawn = call(Path(args.dir))
    return lambda: read(drawn)


def clock_checks(kind: str) -> dict[str, float]:
    """Return the seconds spent in each check of a kind, updated by later calls."""
    seconds: dict[str, float] = {}
    for path in CHECKS[kind]:
        module, *parents, name = path.split("/")
        owner: Any = importlib.import_module(module)
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, clocked(getattr(owner, name), path, seconds))
    return seconds


def clocked(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()  # a thread that waits for another costs nothing
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.thread_time() - start

    return run


def read(drawn: Any) -> Seconds:
    """Time typical queries of a stored result through xarray."""
    sampling = ["chain", "draw"]
    queries: dict[str, Callable[[], object]] = {
        "mean over draws": lambda: drawn.mean(sampling).compute(),
        "mean over rows": lambda: drawn.mean(drawn.dims[-1]).compute(),
        "5 % quantile over draws": lambda: drawn.quantile(0.05, sampling).compute(),
        "the same, skipna=False": lambda: drawn.quantile(0.05, sampling, skipna=False).compute(),
    }
    return {name: clock(query) for name, query in queries.items()}


def by_predictive(task: Task, args: argparse.Namespace) -> Callable[[], Seconds]:
    """Return a function that times NumPyro, compiled and in memory; draws are parallel if they fit in 1 GiB."""
    if args.work == "loglik":
        scored = jax.jit(lambda p, X, y: log_likelihood(task.kernel, p, X, y)["y"])
        return lambda: {"call": clock(lambda: scored(task.posterior, task.X, task.y).block_until_ready())}
    width = max(WIDTHS) if args.work == "network" else 1
    parallel = 4 * width * task.X.shape[0] * args.draws < 2**30

    @jax.jit
    def drawn(key, posterior, X):
        return Predictive(task.kernel, posterior, return_sites=["y"], parallel=parallel)(key, X)["y"]

    return lambda: {"call": clock(lambda: drawn(random.key(0), task.posterior, task.X).block_until_ready())}


def by_numpy(task: Task, args: argparse.Namespace) -> Callable[[], Seconds]:
    """Return a function that times NumPy's product of `X` and the coefficients, in memory and without noise."""
    del args
    coefficients = np.asarray(task.posterior["b"]).T
    return lambda: {"call": clock(lambda: task.X @ coefficients)}


def by_hand(task: Task, args: argparse.Namespace) -> Callable[[], Seconds]:
    """Return a function that times the floor: the same draws in blocks, discarded, and plain writes of their size."""
    n_obs, n_blocks = task.X.shape[0], math.ceil(task.X.shape[0] / BLOCK_ROWS)
    block = BLOCK_ROWS if n_blocks > 1 else n_obs
    rows = np.minimum(np.arange(n_blocks * block), n_obs - 1)
    X, y = (a[rows].reshape(n_blocks, block, *a.shape[1:]) for a in (task.X, task.y))

    @jax.jit
    def program(key, posterior, numbers, X, y):
        def one(pair):
            index, draw = pair
            keys = jax.vmap(random.fold_in, (None, 0))(random.fold_in(key, index), numbers)
            return jax.vmap(task.by_hand, (0, 0, 0, None))(keys, X, y, draw).reshape(-1)

        return jax.lax.map(one, (jnp.arange(args.draws), posterior), batch_size=task.group)

    def compute() -> None:
        ahead = None
        for i in range(0, n_blocks, BATCH_BLOCKS):
            batch = slice(i, i + BATCH_BLOCKS)
            drawn = program(random.key(0), task.posterior, np.arange(n_blocks)[batch], X[batch], y[batch])
            if ahead is not None:
                ahead.block_until_ready()
            ahead = drawn
        ahead.block_until_ready()

    content = np.random.default_rng(0).bytes(FILE_BYTES)

    def once() -> Seconds:
        left = 4 * n_obs * args.draws
        sizes = [FILE_BYTES] * (left // FILE_BYTES) + [left % FILE_BYTES]
        with scratch(args.dir) as where:
            files = [(where / str(i), content[:size]) for i, size in enumerate(sizes)]
            return {"program": clock(compute), "write": clock(lambda: [path.write_bytes(b) for path, b in files])}

    return once


# ----------------------------------------------------------------------------------------------------------- measuring


def clock(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class scratch:  # noqa: N801 - used like a function
    """A temporary directory."""

    def __init__(self, parent: str) -> None:
        self.path = Path(tempfile.mkdtemp(dir=parent))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)


def resident(field: str) -> float:
    """Return `VmRSS` or `VmHWM` of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


class HighWater:
    """Peak resident memory in MiB, relative to entry.

    Uses the operating system's high-water mark if it can be reset, and sampling otherwise.
    """

    def __enter__(self) -> "HighWater":
        self.before = self.peak = resident("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.how = "VmHWM" if resident("VmHWM") < self.before + 8 else "sampled"
        except OSError:
            self.how = "sampled"
        self.stop = threading.Event()
        if self.how == "sampled":
            threading.Thread(target=self._sample, daemon=True).start()
        return self

    def _sample(self) -> None:
        while not self.stop.wait(0.01):
            self.peak = max(self.peak, resident("VmRSS"))

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.peak = max(self.peak, resident("VmHWM" if self.how == "VmHWM" else "VmRSS"))

    @property
    def mib(self) -> float:
        return self.peak - self.before


def measure(once: Callable[[], Seconds], repeat: int) -> dict[str, Any]:
    with HighWater() as memory:
        first = once()
        done = time.time()
        later = [once() for _ in range(repeat)]
    seconds = {part: [s[part] for s in later] for part in first}
    return {"first": first, "done": done, "seconds": seconds, "peak_mib": memory.mib, "peak_how": memory.how}


def versions() -> Iterator[tuple[str, str]]:
    yield "aimz", importlib.import_module("aimz").__version__  # the distribution has another name
    for name in ("jax", "numpyro", "xarray", "zarr"):
        yield name, importlib.metadata.version(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--by", choices=["aimz", "predictive", "numpy", "floor"], default="aimz")
    parser.add_argument("--store", choices=["persistent", "memory"], default="persistent")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--on-batch", type=int, default=0, help="whether to call `predict_on_batch`")
    parser.add_argument("--clock-checks", choices=CHECKS, help="kind of checks whose time is added up")
    parser.add_argument("--dir", default=None, help="parent of temporary directories")
    args = parser.parse_args()
    if args.work == "small":
        args.rows = min(args.rows, 100)
    disk: dict[str, float] = {}
    with scratch(args.dir) as where:
        args.dir = str(where)
        task = make_task(args.work, args.rows, args.draws)
        match args.by:
            case "aimz":
                once = by_aimz(task, args, disk)
            case "predictive":
                once = by_predictive(task, args)
            case "numpy":
                once = by_numpy(task, args)
            case _:
                once = by_hand(task, args)
        result = measure(once, args.repeat)
    result |= {"disk_mib": disk.get("mib", 0.0), "devices": jax.device_count(), "versions": dict(versions())}
    print(json.dumps(vars(args) | result))


if __name__ == "__main__":
    main()

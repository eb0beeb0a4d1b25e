"""Calls that several processes make together; this file is also the script that each of them runs.

``python multihost_calls.py PART PORT COUNT INDEX DIRECTORY`` is one process; what it finds lies in the directory.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import ImpactModel
from aimz.store import ChunkWriter
from aimz.utils.data import ArrayDataset, ArrayLoader

BLOCK = 1024
N_OBS = 12 * BLOCK + 5
N_DRAWS = 40


def in_memory(**options: Any) -> dict[str, Any]:
    # Keys are made when they are asked for: the processes must find each other before JAX computes anything.
    return {"store": "memory", "batch_size": BLOCK, "progress": False, "rng_key": random.key(5), **options}


def on_disk(directory: Path | None, **options: Any) -> dict[str, Any]:
    return {"output_dir": directory, "batch_size": BLOCK, "progress": False, "rng_key": random.key(5), **options}


def linear(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", a + X @ b)
    numpyro.deterministic("double", 2 * a)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def running(X, y=None):
    """Rows that see those before them."""
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.cumsum(X @ b), 1.0).to_event(1), obs=y)


def rows(n_obs: int = N_OBS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_obs, 3)).astype(np.float32)


def outputs(X: np.ndarray) -> np.ndarray:
    return (X @ np.array([1.0, -1.0, 0.5], np.float32)).astype(np.float32)


def posterior(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    draws = {"a": rng.normal(size=N_DRAWS), "b": rng.normal(size=(N_DRAWS, 3)), "sigma": rng.gamma(2, size=N_DRAWS)}
    return {name: values.astype(np.float32) for name, values in draws.items()}


def new_model(kernel: Callable[..., Any] = linear) -> ImpactModel:
    taken = {name: draws for name, draws in posterior().items() if name == "b" or kernel is linear}
    model = ImpactModel(kernel, random.key(1), MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False))
    return model.set_posterior_sample(taken)


@cache
def mixing() -> ImpactModel:
    return new_model(running)


def numbers(tree: Any, group: str) -> dict[str, np.ndarray]:
    return {f"{group}/{name}": np.asarray(array) for name, array in tree[group].items()}


def table(X: np.ndarray) -> Any:
    """The same rows as a data set that can be read from any row."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    return ds.dataset(pa.table({f"x{i}": X[:, i] for i in range(3)}))


def draws(model: ImpactModel, X: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Calls whose numbers must have the same bits."""
    yield "draws", numbers(model.predict(X, **in_memory()), "posterior_predictive")
    kept = model.predict(X, statistics=("mean", 0.9), **in_memory())
    yield "statistics", numbers(kept, "posterior_predictive")
    yield "scores", numbers(model.log_likelihood(X, y, **in_memory()), "log_likelihood")
    prior = model.sample_prior_predictive(X, num_samples=5, **in_memory())
    yield "prior", numbers(prior, "prior_predictive")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws
        found = model.loo(X, y, progress=False)
    yield "loo", {"elpd_i": np.asarray(found.elpd_i), "pareto_k": np.asarray(found.pareto_k)}
    before, after = {"X": X, **in_memory()}, {"X": X, "intervention": {"a": 1.0}, **in_memory()}
    effect = model.estimate_effect(args_baseline=before, args_intervention=after, statistics=("mean", "sd"))
    yield "effect", numbers(effect, "posterior_predictive")
    loader = ArrayLoader(ArrayDataset(X=X), random.key(3), batch_size=700, shuffle=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The loader shuffles")
        yield "loader", numbers(model.predict(loader, **in_memory(batch_size=None)), "posterior_predictive")
    yield "table", numbers(model.predict(table(X), **in_memory()), "posterior_predictive")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Kernel .* cannot be split|All rows are computed together")
        yield "mixing", numbers(mixing().predict(X[:300], **in_memory()), "posterior_predictive")


def averages(model: ImpactModel, X: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Calls that add up over rows."""
    rng = np.random.default_rng(8)
    scenarios = {"as it is": {}, "more": {"intervention": {"a": 1.0}}}
    for n_groups in (4, 1500):  # more than rows in a block
        by = rng.permutation(np.arange(len(X)) % n_groups)
        found = model.compare_scenarios(
            scenarios,
            baseline="as it is",
            X=X,
            by=by,
            weights=rng.random(len(X)),
            rng_key=random.key(5),
            progress=False,
        )
        yield f"averages of {n_groups}", numbers(found, "scenarios") | numbers(found, "effect")


def visits(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        seen = numpyro.sample("seen", dist.Normal(X[:, 0] * b[0], 1.0))
        numpyro.sample("y", dist.Normal(seen * b[1] - X[:, 1] ** 2, 1.0), obs=y)


def questions(X: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Questions that need the description of the data of a fit, derivatives, noise of rows, or mediators."""
    import pandas as pd

    svi = SVI(linear, AutoNormal(linear), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(linear, random.key(2), svi)
    names = ["price", "advert", "age"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aimz.FitWarning)
        model.fit(X[:2000], y[:2000], batch_size=500, epochs=1, num_samples=6, progress=False)
    frame = pd.DataFrame(X[:5000], columns=names)
    assert model._posterior is not None
    known = model._posterior.support
    assert known is not None
    yield "description", known.to_arrays()
    given: dict[str, Any] = {"rng_key": random.key(5), "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = lambda y, advert: y - advert**2  # noqa: E731
        best = model.optimize({"advert": [0.1, 0.2]}, value=value, X=frame, rng_key=random.key(5))
        yield "averages: choice", {"action": best.action["advert"].to_numpy(), "value": best.value}
        tree = model.slopes("advert", X=frame, **given)
        yield "averages: slopes", numbers(tree, "effect")
        paths = ImpactModel(visits, random.key(2), MCMC(NUTS(visits), num_warmup=1, num_samples=1))
        paths.set_posterior_sample({"b": posterior()["b"][:6, :2]})
        tree = paths.decompose({"price": (0.0, 1.0)}, "seen", X=frame, **given)
        yield "averages: decomposition", numbers(tree, "effect")
        more = {"X": lambda rows: rows + 2}
        tree = model.counterfactual(X[:5000], y[:5000], intervention=more, **in_memory())
        yield "counterfactual", numbers(tree, "effect")
        tree = model.predict(table(X + 2), **in_memory(in_sample=False))
        text = tree["predictions"].attrs["support"]
        assert text.startswith("extrapolates: "), text
        yield "support", {"text": np.array(text)}


def stored(directory: Path, model: ImpactModel, X: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Calls that write; each into a directory of its own."""
    yield "stored draws", numbers(model.predict(X, **on_disk(directory / "draws")), "posterior_predictive")
    tree = model.predict(table(X), statistics=("mean", "sd"), **on_disk(directory / "statistics"))
    yield "stored statistics", numbers(tree, "posterior_predictive")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Kernel .* cannot be split|All rows are computed together")
        options = on_disk(directory / "mixing", batch_size=None, statistics=("mean", "sd"))
        tree = mixing().predict(X[:300], **options)
        yield "stored mixing", numbers(tree, "posterior_predictive")


def few(model: ImpactModel) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """A few calls: with rows for all processes, and with fewer than they could have blocks."""
    X = rows()
    yield "draws", numbers(model.predict(X, **in_memory()), "posterior_predictive")
    loader = ArrayLoader(ArrayDataset(X=X[: 2 * BLOCK - 7]), random.key(3), batch_size=700, shuffle=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The loader shuffles")
        yield "loader", numbers(model.predict(loader, **in_memory(batch_size=None)), "posterior_predictive")


def everything(directory: Path, model: ImpactModel) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    X = rows()
    yield from draws(model, X, outputs(X))
    yield from averages(model, X)
    yield from questions(X, outputs(X))
    yield from stored(directory, model, X)


def keep(found: Iterator[tuple[str, dict[str, np.ndarray]]], path: Path) -> None:
    """Write the numbers of all calls to a file."""
    np.savez(path, **{f"{call}: {name}": array for call, arrays in found for name, array in arrays.items()})


# ------------------------------------------------------------------------------- what goes wrong, and where


@contextmanager
def broken_disk(index: int, *, after: int, then: Callable[[], None]) -> Iterator[None]:
    """In process ``index``, do something in place of writing a chunk."""
    numbers, write = count(), ChunkWriter.write

    def broken(self: ChunkWriter, name: str, array: np.ndarray, start: int) -> None:
        if jax.process_index() == index and next(numbers) >= after:
            then()
        write(self, name, array, start)

    with mock.patch.object(ChunkWriter, "write", broken):
        yield


def full() -> None:
    raise OSError(28, "No space left on device")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def text_of(call: Callable[[], Any]) -> str:
    """Return what a call raises, as one line."""
    try:
        call()
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        return f"{type(error).__name__}: {error} {notes}".replace("\n", " ")
    return "nothing was raised"


def refusals(directory: Path, index: int, model: ImpactModel) -> Iterator[tuple[str, str]]:
    """What is refused, and what each process says; between them processes still understand each other."""
    X = rows()
    client = SimpleNamespace(register_plugin=0, submit=0, scheduler=0, asynchronous=False)
    missing = X.copy()
    missing[[5, len(X) - 1], 1] = np.nan
    unknown = ({"X": X[i : i + 500]} for i in range(0, len(X), 500))
    calls: dict[str, Callable[[], Any]] = {
        "posterior": lambda: model.set_posterior_sample(posterior(seed=index)).predict(X, **in_memory()),
        "data": lambda: model.predict(rows(seed=1 + index), **in_memory()),
        "data of a comparison": lambda: model.compare_scenarios(
            {"a": {}, "b": {}}, baseline="a", X=rows(seed=1 + index), rng_key=random.key(5), progress=False
        ),
        "rows": lambda: model.predict(X[: len(X) - index], **in_memory()),
        "key": lambda: model.predict(X, **in_memory(rng_key=random.key(index))),
        "batches": lambda: model.predict(
            ArrayLoader(ArrayDataset(X=X), random.key(index), shuffle=True), statistics="mean", **in_memory()
        ),
        "versions": lambda: with_versions(f"aimz 0.0.{index}", lambda: model.predict(X, **in_memory())),
        "argument of one": lambda: model.predict(X, statistics="bogus" if index else "mean", **in_memory()),
        "other call": lambda: (model.log_likelihood if index else model.predict)(
            X, **({"y": outputs(X)} if index else {}), **in_memory()
        ),
        "temporary": lambda: model.predict(X, **on_disk(None)),
        "client": lambda: model.predict(X, client=client, **in_memory()),
        "unknown length": lambda: model.predict(unknown, **in_memory()),
        "missing": lambda: model.predict(table(missing), **in_memory()),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The loader shuffles")
        for name, call in calls.items():
            yield name, text_of(call)
            if name == "posterior":
                model.set_posterior_sample(posterior())
    place = directory / "interrupted"
    with broken_disk(1, after=3, then=full):
        yield "disk full", text_of(lambda: model.predict(X, **on_disk(place)))
    (path,) = place.iterdir()
    yield "incomplete", text_of(lambda: aimz.open_result(path))
    again = on_disk(place, resume=path)
    yield "other data resumed", text_of(lambda: model.predict(rows(seed=9), **again))
    found = numbers(model.predict(X, **again), "posterior_predictive")
    keep(iter([("stored draws", found)]), directory / f"resumed-{index}.npz")

    # Rows of a table are known by what was noted as they were read, each by one process.
    tree = model.predict(table(X), **on_disk(directory / "noted"))
    again = on_disk(directory / "noted", resume=tree.attrs["artifact_path"])
    later = X.copy()
    later[-1] += 1
    yield "other data of a complete result", text_of(lambda: model.predict(table(later), **again))
    yield "complete", text_of(lambda: model.predict(table(X), **again))


def with_versions(text: str, call: Callable[[], Any]) -> Any:
    with mock.patch("aimz.engine.fingerprint.versions", return_value=text):
        return call()


def main() -> None:
    part, port, n_processes, number = sys.argv[1], *map(int, sys.argv[2:5])
    directory = Path(sys.argv[5])
    jax.distributed.initialize(f"127.0.0.1:{port}", n_processes, number, heartbeat_timeout_seconds=20)
    warnings.simplefilter("error")
    if part == "two":
        model = new_model()
        said = "\n".join(f"{name}\t{text}" for name, text in refusals(directory, number, model))
        keep(everything(directory, model), directory / f"found-{number}.npz")
        (directory / f"said-{number}").write_text(said)
        return
    model = new_model()
    keep(few(model), directory / f"found-{number}.npz")
    with broken_disk(1, after=3, then=killed):
        said = text_of(lambda: model.predict(rows(), **on_disk(directory / "killed")))
    draft = directory / f"draft-{number}"
    draft.write_text(said)
    draft.rename(directory / f"said-{number}")
    # JAX would end these processes too, when the other has been silent for long; or at once when the first has ended.
    end = time.monotonic() + 30
    while number == 0 and len(list(directory.glob("said-*"))) < n_processes - 1 and time.monotonic() < end:
        time.sleep(0.05)
    os._exit(7)


if __name__ == "__main__":
    main()

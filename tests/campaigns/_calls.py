"""Calls that write files, for the campaigns of kills and corruption: what each writes, and how it is compared."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import ImpactModel

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "mlflow")]  # for the imports of the programs after this one

BLOCK = 1024
N_OBS = 8 * BLOCK + 5
X = np.random.default_rng(1).normal(size=(N_OBS, 2)).astype(np.float32)
X[3 * BLOCK + 7] = np.nan  # draws of this row are missing, in arrays of integers
Y = np.arange(N_OBS) % 5
FIT = slice(0, 200)
DRAWS = {"b": np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)}
OPTIONS = {"batch_size": BLOCK, "progress": False}


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 0.3).expand([X.shape[1]]).to_event(1))
    rate = numpyro.deterministic("rate", (X @ b) ** 2)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(rate + 0.1), obs=y)


def new_model() -> ImpactModel:
    """Return an unfitted model."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi)


def posed_model() -> ImpactModel:
    """Return a model with given draws."""
    return new_model().set_posterior_sample(DRAWS)


class Rows:
    """Rows that are read in parts, as from a disk, with a pause before each part."""

    chunks = None

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self.shape, self.dtype, self.ndim = X.shape, X.dtype, X.ndim

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = X[rows]
        if len(part) <= 2 * BLOCK:
            time.sleep(self._pause)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(X, dtype)


def batches(pause: float) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches that do not match the chunks."""
    for start in range(0, N_OBS, 1000):
        time.sleep(pause)
        yield {"X": X[start : start + 1000]}


def effect(model: ImpactModel, pause: float, key: int, **options: Any) -> Any:
    """Store statistics of an effect."""
    common = {"rng_key": random.key(key)}
    return model.estimate_effect(
        args_baseline={"X": Rows(pause), **common},
        args_intervention={"X": Rows(pause), "intervention": {"b": 0.1}, **common, **OPTIONS, **options},
        statistics=("mean", "sd"),
    )


def call(method: str, rows: Callable[[float], Any], *more: Any, **given: Any) -> Callable[..., Any]:
    """Return a function that calls a method with a pause, a key, and the options of a stored call."""

    def run(model: ImpactModel, pause: float, key: int, **options: Any) -> Any:
        keyed = {} if method == "log_likelihood" else {"rng_key": random.key(key)}
        return getattr(model, method)(rows(pause), *more, **{**OPTIONS, **given, **keyed, **options})

    return run


STORED: dict[str, Callable[..., Any]] = {
    "predict": call("predict", Rows),
    "predict from batches": call("predict", batches),
    "statistics": call("predict", Rows, statistics=("mean", 0.5)),
    "split draws": call("predict", Rows, shard_axis="draw", batch_size=2),
    "posterior predictive": call("sample_posterior_predictive", Rows),
    "prior predictive": call("sample_prior_predictive", Rows, num_samples=8),
    "log likelihood": call("log_likelihood", Rows, Y),
    "effect": effect,
}
"""Methods that write results, called with a model, a pause between reads, a key and options."""


def fit(directory: Path, pause: float, key: int, on_epoch_end: Any = None) -> dict[str, np.ndarray]:
    """Fit with checkpoints and return the parameters and the draws."""

    def wait(epoch: int, loss: Any) -> Any:
        time.sleep(pause)
        return None if on_epoch_end is None else on_epoch_end(epoch, loss)

    model = new_model()
    clean = np.nan_to_num(X[FIT])
    options = {"batch_size": 50, "epochs": 8, "num_samples": 4, "progress": False, "rng_key": random.key(key)}
    model.fit(clean, Y[FIT], checkpoint_dir=directory, on_epoch_end=wait, **options)
    return {name: np.asarray(value) for name, value in {**model.vi_result.params, **model.posterior}.items()}


def load(path: Path) -> dict[str, np.ndarray]:
    """Load a model and return its posterior and a prediction."""
    model = ImpactModel.load(path, kernel)
    tree = model.predict_on_batch(X[:20], rng_key=random.key(5))
    return {**{n: np.asarray(v) for n, v in model.posterior.items()}, "y": tree["posterior_predictive"]["y"].values}


VOLATILE = ("created_at", "output_dir", "artifact_path", "artifact_path_intervention", "artifact_path_baseline")
"""Attributes that differ between equal calls."""


def read(path: Path) -> dict[str, Any]:
    """Return all values, labels and attributes of a result."""
    found: dict[str, Any] = {}
    for node in aimz.open_result(path).subtree:
        found |= {f"{node.path}/{name}": np.asarray(array) for name, array in node.variables.items()}
        attrs = {name: value for name, value in node.attrs.items() if name not in VOLATILE}
        found[f"{node.path} attrs"] = json.dumps(attrs, sort_keys=True, default=str)
    return found


def chunks(path: Path) -> dict[str, bytes]:
    """Return all chunks of a result by name."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.glob("*/*/c/**/*") if f.is_file()}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of values that are not equal bit for bit."""

    def equal(name: str) -> bool:
        if name not in found or name not in expected:
            return False
        left, right = (np.asarray(given[name]) for given in (found, expected))
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        if left.dtype.kind in "fc":
            return left.tobytes() == right.tobytes()
        return bool((left == right).all())

    return [name for name in sorted({*found, *expected}) if not equal(name)]


@dataclass
class Tally:
    """Counts of a campaign."""

    tried: int = 0
    detected: int = 0
    lost: list[str] = field(default_factory=list)

    def lose(self, text: str) -> None:
        """Report a loss."""
        self.lost.append(text)
        print("lost:", text, file=sys.stderr, flush=True)

    def end(self) -> int:
        """Print the counts and return the exit status."""
        print(f"tried {self.tried}, detected {self.detected}, lost {len(self.lost)}")
        return int(bool(self.lost))


def options(doc: str | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()

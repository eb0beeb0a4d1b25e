"""Arguments drawn at random for every public method: each call returns a result or raises an error of aimz.

An error counts as detected if aimz raised it, or if a function of the user raised it and aimz added a note. An error
from inside JAX, NumPy, xarray or NumPyro is lost, and so is a result of an argument that no method can use.

Run as ``python tests/campaigns/arguments.py --minutes 15 --seed 0``.
"""

import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import xarray as xr
from _calls import Tally, options
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import ImpactModel

N_OBS = 4
X = np.linspace(-1, 1, 2 * N_OBS, dtype=np.float32).reshape(N_OBS, 2)
Y = X[:, 0]
C = np.arange(N_OBS, dtype=np.float32)
SOURCE = str(Path(aimz.__file__).parent)


def kernel(X, c, scale=1.0, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    mu = numpyro.deterministic("mu", X @ b + c)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


class Opaque:
    """An object that is no argument of any method."""

    def __repr__(self) -> str:
        return "Opaque()"


NONSENSE: dict[str, Any] = {
    "text": "abc",
    "bytes": b"abc",
    "dict": {"a": 1},
    "object": Opaque(),
    "complex": 1j,
    "class": int,
    "nan": float("nan"),
    "objects": np.array([None, "a", 1.0, {}], dtype=object),
    "complex array": np.ones((N_OBS, 2), complex),
    "structured": np.zeros(N_OBS, [("a", "f4"), ("b", "f4")]),
    "texts": np.array(["a"] * N_OBS),
    "dates": np.zeros(N_OBS, "datetime64[D]"),
    "keys": random.split(random.key(0), N_OBS),
    "ragged": [[1.0], [1.0, 2.0], [], [3.0]],
    "list of texts": ["a", "b", "c", "d"],
}
"""Values that are nonsense as rows, options, keys and names."""
ROWS: dict[str, Any] = {
    "rows": X,
    "list": X.tolist(),
    "big-endian": X.astype(">f8"),
    "one column": X[:, :1],
    "three columns": np.ones((N_OBS, 3), np.float32),
    "vector": X[:, 0],
    "three axes": X[:, :, None],
    "no rows": X[:0],
    "no columns": X[:, :0],
    "0-d": np.float32(1),
    "number": 3,
    "more rows": np.ones((N_OBS + 3, 2)),
    "NaN": np.full((N_OBS, 2), np.nan),
    "infinite": np.full((N_OBS, 2), -np.inf),
    "huge": np.full((N_OBS, 2), 1e300),
    "large integers": np.full((N_OBS, 2), 2**40),
    "Booleans": X > 0,
    "bytes of 8 bits": np.ones((N_OBS, 2), np.int8),
    "half": X.astype(np.float16),
    "JAX": jnp.asarray(X),
    "masked": np.ma.masked_less(X, 0),
    "frame": pd.DataFrame(X, columns=["p", "q"]),
    "frame of texts": pd.DataFrame({"p": ["a"] * N_OBS, "q": 1.0}),
    "empty frame": pd.DataFrame(),
    "labelled": xr.DataArray(X, dims=("obs", "column")),
    "series": pd.Series(Y),
    "batches": [{"X": X[:2], "c": C[:2]}, {"X": X[2:], "c": C[2:]}],
    "generator": None,
    "None": None,
    **NONSENSE,
}
COLUMN: dict[str, Any] = {
    "column": C,
    "list": C.tolist(),
    "tuple": tuple(C),
    "short": C[:2],
    "short list": [1.0, 2.0],
    "number": 2.0,
    "matrix": X,
    "big-endian": C.astype(">i4"),
    "None": None,
    "series": pd.Series(C),
    **NONSENSE,
}
COUNT: dict[str, Any] = dict(enumerate([1, 2, 3, 0, -1, 2.5, True, "2", 2**31, 2**63, 10**30, np.int64(2), [2], None]))
FLAG: dict[str, Any] = dict(enumerate([True, False, "False", "", 0, 1, None, np.bool_(True), [], {}]))
NAMES: dict[str, Any] = dict(
    enumerate(["y", "mu", "b", ["y", "mu"], [], "", "other", 3, [3], {"y": 1}, ("y", "y"), None])
)
KEY: dict[str, Any] = {
    "key": random.key(1),
    "legacy": random.PRNGKey(1),
    "two": random.split(random.key(0)),
    "integer": 3,
    "none": None,
    **NONSENSE,
}
SITES: dict[str, Any] = {
    "value": {"b": np.zeros(2, np.float32)},
    "number": {"b": 0.5},
    "deterministic": {"mu": 0.0},
    "argument": {"c": 1.0},
    "function": {"c": lambda c: c + 1},
    "wrong function": {"c": lambda c: c[:2]},
    "raising function": {"X": lambda x: 1 / 0},
    "function without argument": {"c": lambda: 1.0},
    "wrong shape": {"b": np.zeros((3, 5))},
    "unknown": {"other": 1.0},
    "output": {"y": 0.0},
    "no site": {},
    "name that is no text": {3: 1.0},
    "none": {"b": None},
    "list": [("b", 1.0)],
    **{f"{name} for a site": {"b": value} for name, value in NONSENSE.items()},
    **NONSENSE,
}
STATISTICS: dict[str, Any] = dict(
    enumerate(
        ["mean", ("mean", 0.5), [], "other", 0.5, 1.5, -1, float("nan"), [None], {"mean": 1}, ("mean", "mean"), 3j]
    )
)
DRAWS: dict[str, Any] = {
    "draws": {"b": np.zeros((3, 2), np.float32)},
    "wrong shape": {"b": np.zeros((3, 5))},
    "no draws": {"b": np.zeros((0, 2))},
    "scalar": {"b": 1.0},
    "other site": {"other": np.zeros(3)},
    "different": {"b": np.zeros((3, 2)), "c": np.zeros(4)},
    "complex": {"b": np.zeros((3, 2), complex)},
    "texts": {"b": np.array([["a", "b"]])},
    "empty": {},
    "name": {3: np.zeros(3)},
    **NONSENSE,
}
BATCH: dict[str, dict[str, Any]] = {"X": ROWS, "c": COLUMN, "rng_key": KEY, "return_sites": NAMES}
FURTHER: dict[str, dict[str, Any]] = {
    "intervention": SITES,
    "condition": SITES,
    "scale": {"number": 2.0, "column": C, "negative": -1.0, "list": [1.0] * N_OBS, **NONSENSE},
    "unknown": {"number": 1, "text": "a"},
}
STREAM: dict[str, dict[str, Any]] = {
    "batch_size": COUNT,
    "store": dict(enumerate(["memory", "other", None, 3, ["memory"], {}])),
    "shard_axis": dict(enumerate(["obs", "draw", "rows", None, 0, ["obs"]])),
    "progress": FLAG,
    "statistics": STATISTICS,
    "output_dir": dict(enumerate([3, "", "a\0b", b"x", "nowhere://x", None, ["x"], Opaque()])),
    "resume": dict(enumerate([3, "", "a\0b", b"x", "nowhere://x", "missing", None, ["x"], Opaque()])),
    "client": dict(enumerate([None, False, True, 3, "tcp://nowhere", Opaque()])),
}
SCORED = {"X": ROWS, "y": {**ROWS, **COLUMN, "y": Y}, "c": COLUMN}
METHODS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "predict_on_batch": ({}, {**BATCH, **FURTHER, "in_sample": FLAG, "return_datatree": FLAG}),
    "predict": ({"store": "memory", "progress": False}, {**BATCH, **FURTHER, **STREAM, "in_sample": FLAG}),
    "sample_posterior_predictive_on_batch": ({}, {**BATCH, **FURTHER, "return_datatree": FLAG}),
    "sample_posterior_predictive": ({"store": "memory", "progress": False}, {**BATCH, **FURTHER, **STREAM}),
    "sample_prior_predictive_on_batch": (
        {"num_samples": 3},
        {**BATCH, **FURTHER, "num_samples": COUNT, "return_datatree": FLAG},
    ),
    "sample_prior_predictive": (
        {"num_samples": 3, "store": "memory", "progress": False},
        {**BATCH, **FURTHER, **STREAM, "num_samples": COUNT},
    ),
    "log_likelihood": ({"y": Y, "store": "memory", "progress": False}, {**SCORED, **STREAM, "rng_key": KEY}),
    "loo": ({"y": Y, "progress": False}, {**SCORED, "batch_size": COUNT, "progress": FLAG}),
    "describe": ({}, {**SCORED, "as_dict": FLAG}),
    "set_posterior_sample": ({}, {"samples": DRAWS, "num_chains": COUNT}),
    "thin_posterior": ({"num_draws": 2}, {"num_draws": COUNT}),
    "estimate_effect": ({}, {**BATCH, **FURTHER, **STREAM, "in_sample": FLAG, "on_batch": FLAG, "kind": NAMES}),
    "compare_scenarios": ({}, {**BATCH, **FURTHER, "batch_size": COUNT, "kind": NAMES, "scenarios": SITES}),
    "sample": ({}, {"num_samples": COUNT, "return_sites": NAMES, "rng_key": KEY}),
    "fit_on_batch": (
        {"y": Y, "progress": False, "num_steps": 2, "num_samples": 2},
        {"num_steps": NONSENSE, "num_samples": NONSENSE, "progress": FLAG},
    ),
    "save": ({}, {"path": dict(enumerate([3, None, "a\0b", b"x", "s3://x", Opaque()])), "overwrite": FLAG}),
}
"""Method to its arguments, and to the values of each argument to draw from."""
FIXED = ("set_posterior_sample", "thin_posterior", "sample", "save")
"""Methods without rows."""
UNUSABLE = {
    **{name: tuple(NONSENSE) for name in ("X", "y", "rng_key", "intervention", "condition", "samples", "scenarios")},
    "c": tuple(name for name in NONSENSE if name != "nan"),
}
"""Argument to values that no method may accept."""


def new_model() -> ImpactModel:
    """Return a model with given draws."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    draws = {"b": np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)}
    return ImpactModel(kernel, random.key(0), svi).set_posterior_sample(draws)


def run(model: ImpactModel, method: str, given: dict[str, Any]) -> Any:
    """Call a method."""
    if method == "estimate_effect":
        own = {name: given.pop(name) for name in ("on_batch", "kind", "statistics") if name in given}
        return model.estimate_effect(args_baseline={**given, "intervention": None}, args_intervention=given, **own)
    if method == "compare_scenarios":
        scenarios = given.pop("scenarios", {"one": {}, "two": {"intervention": {"b": np.ones(2)}}})
        return model.compare_scenarios(scenarios, baseline="one", **given)
    return getattr(model, method)(**given)


def is_ours(error: BaseException) -> bool:
    """Return whether a statement of aimz raised an error, or aimz named the user's function that raised it."""
    if any(note.startswith("This was raised by") for note in getattr(error, "__notes__", ())):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(SOURCE) and (last.line or "").startswith("raise") and " " in str(error)


def draw(rng: Random, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of a call, and the names of the values drawn."""
    common, values = METHODS[method]
    given = ({} if method in FIXED else {"X": X, "c": C}) | common
    if method == "set_posterior_sample":
        given["samples"] = DRAWS["draws"]
    drawn = {
        name: rng.choice(list(values[name]))
        for name in rng.sample(list(values), min(len(values), rng.choice([1, 1, 1, 2, 3])))
    }
    return given | {name: values[name][label] for name, label in drawn.items()}, drawn


def is_nonsense(method: str, given: Mapping[str, Any], drawn: Mapping[str, Any]) -> bool:
    """Return whether no method can use an argument that was drawn."""
    return any(
        not isinstance(given[name], bool | np.bool_) if values is FLAG else label in UNUSABLE.get(name, ())
        for name, label in drawn.items()
        if (values := METHODS[method][1][name])
    )


def attempt(tally: Tally, foreign: Counter[str], model: ImpactModel, method: str, given: Any, drawn: Any) -> None:
    """Make a call and count its outcome."""
    tally.tried += 1
    nonsense = is_nonsense(method, given, drawn)
    try:
        run(model, method, dict(given))
    except Exception as error:
        if is_ours(error):
            tally.detected += 1
            return
        last = traceback.extract_tb(error.__traceback__)
        own = [f for f in last if f.filename.startswith(SOURCE)][-1:]
        where = f"{Path(own[0].filename).name}:{own[0].lineno}" if own else "?"
        foreign[f"{type(error).__name__} from {where}: {str(error)[:80]}"] += 1
        tally.lose(f"{method}({drawn}): {type(error).__name__} {str(error)[:120]!r} from {where}")
    else:
        if nonsense:
            tally.lose(f"{method}({drawn}) was accepted")


def main() -> int:
    """Call methods until the time is over."""
    given = options(__doc__)
    rng, end, tally = Random(given.seed), time.monotonic() + 60 * given.minutes, Tally()
    foreign: Counter[str] = Counter()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        METHODS["save"][0]["path"] = Path(directory) / "model"
        model = new_model()
        while not tally.tried or time.monotonic() < end:
            method = rng.choice(list(METHODS))
            if method in ("set_posterior_sample", "fit_on_batch", "save") or tally.tried % 200 == 0:
                model = new_model()
            attempt(tally, foreign, model, method, *draw(rng, method))
    for text, count in foreign.most_common(20):
        print(f"{count} times {text}")
    print(f"foreign errors: {100 * foreign.total() / tally.tried:.2f} % of the calls")
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())

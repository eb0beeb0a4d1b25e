"""Calls of all methods by many threads at once, which must give the bits of one thread.

Run as ``python tests/campaigns/threads.py --minutes 60``.
"""

import argparse
import random as python_random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.primitives import _PYRO_STACK

from aimz import ImpactModel
from aimz.primitives import validate_model

N_THREADS = 8
QUIET = {"progress": False}
KEY = jax.random.key(7)
ROWS = {"store": "memory", "progress": False}
DRAWS = {name: np.linspace(0.1, 1.0, 6, dtype=np.float32) for name in ("a", "b")}


def new_kernel() -> Callable[..., None]:
    """Return a kernel that no call has traced before."""

    def kernel(X, y=None):
        a, b = (numpyro.sample(name, dist.Normal(0.0, 2.0)) for name in ("a", "b"))
        with numpyro.plate("obs", X.shape[0]):
            mu = numpyro.deterministic("mu", a + b * X)
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return kernel


def faulty(X, y=None):
    """Enter a handler and raise before it is removed."""
    numpyro.handlers.seed(rng_seed=0).__enter__()
    numpyro.sample("a", dist.Normal())
    raise ArithmeticError("by the kernel")


def by_svi(kernel: Callable[..., None]) -> ImpactModel:
    """Return an unfitted model."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
    return ImpactModel(kernel, jax.random.key(0), svi)


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the input and the output of `n` rows."""
    X = np.linspace(-1, 1, n, dtype=np.float32)
    return X, (0.5 + X + np.sin(9 * X)).astype(np.float32)


def of_tree(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a result by path."""
    return {f"{node.path}/{name}": np.asarray(array) for node in tree.subtree for name, array in node.data_vars.items()}


def fitted(model: ImpactModel) -> dict[str, Any]:
    """Return the parameters and the draws of a fit."""
    params = {} if model.vi_result is None else model.vi_result.params
    return {**params, **(model.posterior or {})}


def fit_by_steps(model: ImpactModel, n: int) -> dict[str, Any]:
    """Run a training loop."""
    for _ in range(2):
        model.train_on_batch(*data(n))
    return {**model.vi_result.params, **model.sample(num_samples=4, rng_key=jax.random.key(3), return_datatree=False)}


def fit_by_mcmc(model: ImpactModel, n: int) -> dict[str, Any]:
    """Fit another model of the same kernel by NUTS."""
    mcmc = MCMC(NUTS(model.kernel), num_warmup=3, num_samples=4, progress_bar=False)
    return fitted(ImpactModel(model.kernel, jax.random.key(0), mcmc).fit_on_batch(*data(n), **QUIET))


def raise_in_kernel(model: ImpactModel, n: int) -> dict[str, Any]:
    """Return whether a kernel's own error is raised."""
    try:
        by_svi(faulty).set_posterior_sample(DRAWS).predict_on_batch(data(n)[0])
    except ArithmeticError:
        return {"raised": np.array(True)}
    return {"raised": np.array(False)}


def effect(model: ImpactModel, n: int) -> dict[str, Any]:
    """Return the effect of a change of the input."""
    X, _ = data(n)
    return of_tree(
        model.estimate_effect(args_baseline={"X": X, "rng_key": KEY}, args_intervention={"X": X + 1, "rng_key": KEY})
    )


READING: dict[str, Callable[[ImpactModel, int], dict[str, Any]]] = {
    "predict_on_batch": lambda m, n: m.predict_on_batch(data(n)[0], rng_key=KEY, return_datatree=False),
    "predict": lambda m, n: of_tree(m.predict(data(n)[0], rng_key=KEY, **ROWS)),
    "statistics": lambda m, n: of_tree(m.predict(data(n)[0], rng_key=KEY, statistics=("mean",), **ROWS)),
    "prior": lambda m, n: of_tree(m.sample_prior_predictive_on_batch(data(n)[0], num_samples=3, rng_key=KEY)),
    "log_likelihood": lambda m, n: of_tree(m.log_likelihood(*data(n), **ROWS)),
    "estimate_effect": effect,
    "compare_scenarios": lambda m, n: of_tree(
        m.compare_scenarios({"0": {}, "1": {"X": data(n)[0] + 1}}, baseline="0", X=data(n)[0], rng_key=KEY, **QUIET)
    ),
    "validate_model": lambda m, n: {"ok": np.array(validate_model(m.kernel, *data(n)).is_valid)},
    "faulty kernel": raise_in_kernel,
}
"""Methods that do not change the model."""
FITTING: dict[str, Callable[[ImpactModel, int], dict[str, Any]]] = {
    "fit_on_batch": lambda m, n: fitted(by_svi(m.kernel).fit_on_batch(*data(n), num_steps=4, num_samples=3, **QUIET)),
    "fit": lambda m, n: fitted(by_svi(m.kernel).fit(*data(n), epochs=1, batch_size=4, num_samples=3, **QUIET)),
    "train_on_batch": lambda m, n: fit_by_steps(by_svi(m.kernel), n),
}
"""Methods that change a model; each call has its own."""
SLOW = {"MCMC": fit_by_mcmc}
METHODS = {**READING, **FITTING, **SLOW}


class Call(NamedTuple):
    """One call of a thread."""

    method: str
    n_rows: int
    shares_model: bool
    """Whether the model is that of all threads."""


class Outcome(NamedTuple):
    """Numbers of calls, of errors that were expected, and of wrong results."""

    tried: int
    detected: int
    lost: tuple[str, ...]
    """Description of each wrong result."""


def run_round(calls: Sequence[Sequence[Call]]) -> Outcome:
    """Make the calls of each thread at the same time, and compare the results with those of one thread."""

    def new_model() -> ImpactModel:
        return by_svi(new_kernel()).set_posterior_sample(DRAWS)

    kinds = {call[:2] for each in calls for call in each}
    expected = {(method, n_rows): METHODS[method](new_model(), n_rows) for method, n_rows in kinds}
    shared, lost = new_model(), []

    def work(each: Sequence[Call]) -> None:
        own = new_model()
        for call in each:
            try:
                found = METHODS[call.method](shared if call.shares_model else own, call.n_rows)
                for name, array in expected[call[:2]].items():
                    np.testing.assert_array_equal(found[name], array, err_msg=name)
            except BaseException as error:
                lost.append(f"{call}: {type(error).__name__}: {error}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(each,)) for each in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if _PYRO_STACK:
        lost.append(f"{len(_PYRO_STACK)} handler(s) are left on the stack")
    every = [call for each in calls for call in each]
    detected = sum(call.method == "faulty kernel" for call in every)
    return Outcome(len(every), detected, tuple(lost))


def main() -> int:
    """Run rounds until the time is over; print tried, detected and lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, end = python_random.Random(options.seed), time.monotonic() + 60 * options.minutes
    tried, detected, lost = 0, 0, 0
    while not tried or time.monotonic() < end:
        calls = [
            [Call(rng.choice(list(METHODS)), rng.randint(4, 40), rng.random() < 0.5) for _ in range(3)]
            for _ in range(N_THREADS)
        ]
        outcome = run_round(calls)
        for text in outcome.lost:
            print("lost:", text, file=sys.stderr)
        tried, detected, lost = tried + outcome.tried, detected + outcome.detected, lost + len(outcome.lost)
    print(f"tried {tried}, detected {detected}, lost {lost}")
    return int(lost > 0)


if __name__ == "__main__":
    raise SystemExit(main())

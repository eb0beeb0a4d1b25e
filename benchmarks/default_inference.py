"""Compare the chosen inference with long runs of NUTS: for each kernel, the worst ratio of sds and shift of a mean.

    PYTHONPATH=tests python benchmarks/default_inference.py [--only linear,wells]

The reference is NUTS with 4 chains of 5,000 draws from NumPyro's own start and adaptation. For badly scaled
covariates, where these fail, it is the closed form, and for a subsampled plate NUTS of the kernel with all
rows. A shift is in standard deviations of the reference. Kernels with parameters to optimize have no posterior
to compare with. The goal is a ratio of at most 1.15 and a shift of at most 0.15, or the report that the fit has
not settled.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from jax import random
from numpyro.infer import MCMC, NUTS

import reference_kernels
from aimz import ImpactModel
from kernels import CASES
from oracles import DATA

RATIO, SHIFT = 1.15, 0.15


class Problem(NamedTuple):
    """Kernel and data, with moments of the posterior if they are known."""

    name: str
    kernel: Callable[..., Any]
    X: Any
    y: Any
    arguments: Mapping[str, Any]
    moments: Mapping[str, tuple[Any, Any]] | None = None
    exact: Callable[..., Any] | None = None
    """Kernel with the same posterior that uses all rows, for one that subsamples them."""
    has_posterior: bool = True


def scaled(X: Any, y: Any = None) -> None:
    """Regress on an uncentered column and on a tiny one."""
    a = numpyro.sample("a", dist.Normal(0.0, 1e4))
    b = numpyro.sample("b", dist.Normal(0.0, jnp.array([1e2, 1e4])).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b, 1.0), obs=y)


def problems() -> Iterator[Problem]:
    for case in CASES:
        exact = case.reference if case.name == "subsampled" else None
        yield Problem(case.name, case.kernel, case.X, case.y, case.extra, exact=exact, has_posterior=not case.params)
    rng = np.random.default_rng(0)
    for n_obs in (200, 5_000):
        X = np.stack([2000 + 500 * rng.normal(size=n_obs), 1e-3 * rng.normal(size=n_obs)], 1).astype(np.float32)
        y = (X @ np.array([0.002, 1000.0]) - 4 + rng.normal(size=n_obs)).astype(np.float32)
        design = np.column_stack([np.ones(n_obs), X]).astype(np.float64)
        covariance = np.linalg.inv(design.T @ design + np.diag([1e-8, 1e-4, 1e-8]))
        mean, sd = covariance @ (design.T @ y.astype(np.float64)), np.sqrt(np.diag(covariance))
        moments = {"a": (mean[0], sd[0]), "b": (mean[1:], sd[1:])}
        yield Problem(f"badly scaled ({n_obs} rows)", scaled, X, y, {}, moments)
    if DATA.is_dir():
        yield from posteriordb()


def posteriordb() -> Iterator[Problem]:
    wells, radon, schools = (
        pd.read_csv(DATA / "posteriordb" / f"{name}.csv.gz") for name in ("wells", "radon_mn", "eight_schools")
    )
    X = wells[["dist", "arsenic", "educ"]].to_numpy()
    yield Problem("wells", reference_kernels.wells, X, wells["switched"].to_numpy(), {})
    X, county = radon[["log_uppm", "floor_measure"]].to_numpy(), radon["county_idx"].to_numpy() - 1
    arguments = {"county": county, "n_counties": 85}
    yield Problem("radon", reference_kernels.radon, X, radon["log_radon"].to_numpy(), arguments)
    sigma, y = schools["sigma"].to_numpy(float), schools["y"].to_numpy(float)
    yield Problem("eight schools", reference_kernels.schools, sigma, y, {})


def reference(problem: Problem) -> Mapping[str, tuple[Any, Any]]:
    """Return mean and standard deviation of each site."""
    if problem.moments is not None:
        return problem.moments
    kernel = problem.exact or problem.kernel
    sampler = NUTS(kernel, target_accept_prob=0.95)
    mcmc = MCMC(sampler, num_warmup=1000, num_samples=5000, num_chains=4, chain_method="vectorized", progress_bar=False)
    model = ImpactModel(kernel, random.key(7), mcmc)
    model.fit_on_batch(problem.X, problem.y, progress=False, **problem.arguments)
    found = {name: (np.mean(draws, 0), np.std(draws, 0)) for name, draws in (model.posterior or {}).items()}
    if "seen" in problem.arguments:  # a masked value has no prior, so that it has no posterior
        mean, sd = found["y_unobserved"]
        found["y_unobserved"] = mean, np.where(problem.arguments["seen"], 0.0, sd)
    return found


def compare(problem: Problem, inference: Any, truth: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the cells of one inference."""
    started = time.perf_counter()
    model = ImpactModel(problem.kernel, 0, inference)
    model.fit(problem.X, problem.y, progress=False, **problem.arguments)
    choice, outcome = model.describe(as_dict=True), model.describe(as_dict=True)["settled"]
    ratio, shift = 1.0, 0.0
    for name, (mean, sd) in truth.items():
        draws = np.asarray((model.posterior or {})[name], np.float64)
        varies = np.asarray(sd) > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(varies, draws.std(0) / sd, 1.0).ravel()
            shifts = np.where(varies, np.abs(draws.mean(0) - mean) / sd, 0.0).ravel()
        worst = ratios[np.abs(np.log(ratios)).argmax()]
        ratio = worst if abs(np.log(worst)) > abs(np.log(ratio)) else ratio
        shift = max(shift, float(shifts.max()))
    good = 1 / RATIO <= ratio <= RATIO and shift <= SHIFT
    verdict = "good" if good else "reported" if not outcome else "SILENT"
    seconds = time.perf_counter() - started
    method = str(choice["inference"]).partition(" ")[0].strip(",")
    settled = "yes" if outcome else "no"
    return f"{method:4} | {ratio:5.2f} | {shift:5.2f} | {settled:3} | {verdict:8} | {seconds:5.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of kernels, separated by commas")
    only = parser.parse_args().only.split(",")
    print("kernel                  | inference | sd ratio | shift | settled | verdict | time")
    warnings.simplefilter("ignore")
    for problem in problems():
        if only != [""] and problem.name not in only:
            continue
        truth = reference(problem) if problem.has_posterior else {}
        for inference in ("svi", None):
            print(f"{problem.name:23} | {compare(problem, inference, truth)}", flush=True)


if __name__ == "__main__":
    main()

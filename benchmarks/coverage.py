"""Measure the coverage of 90 % intervals of average effects on simulated data.

The data are repeatedly simulated from a regression whose treatment effect differs between three groups and depends on a
covariate.  Each data set is fitted by variational inference, and the effect of treating everybody is estimated.  The
true value is the average effect on the simulated rows, given the true coefficients.  One model is refitted for every
data set, so that everything is compiled once; each fit starts from the result of the last.

    python benchmarks/coverage.py [--replications 200] [--quick]

The output includes the deviation of the fits from least squares, which they should reproduce here, to separate errors
of the fit from errors of the comparison.
"""

import argparse
import sys
import time

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_base import rc_context
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

import aimz
from aimz import ImpactModel

N_OBS, LEVEL = 400, 0.9
GROUPS = ("a", "b", "c")
SHARES = (0.5, 0.3, 0.2)
ALL = "all"
# True parameters: levels and effects by group; slopes of the outcome and of the effect; noise.
LEVELS, EFFECTS, SLOPES, NOISE = (0.5, 1.0, -0.5), (1.0, 0.0, -0.8), (0.7, 0.4), 1.2
STEPS, DRAWS = 2000, 2000
# At 200 replications, a share of 90 % has a standard error of 2.1 points.  The first tolerance is for one number, with
# a false alarm rate of 1 in 17; the second is for three numbers, all of which are within it 98.6 % of the time.
WITHIN, WITHIN_BY_GROUP = 4.0, 6.0


def kernel(X, treat, group, y=None):
    level = numpyro.sample("level", dist.Normal(0, 10).expand([3]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0, 10).expand([3]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0, 10).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    with numpyro.plate("obs", X.shape[0]):
        mean = level[group] + slope[0] * X + (effect[group] + slope[1] * X) * treat
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def simulate(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
    """Return arguments, outcome, and the true average effect by group and over all rows."""
    X = rng.normal(size=N_OBS).astype(np.float32)
    group = rng.choice(3, N_OBS, p=SHARES)
    treat = rng.integers(0, 2, N_OBS).astype(np.float32)
    effect = np.asarray(EFFECTS)[group] + SLOPES[1] * X
    y = np.asarray(LEVELS)[group] + SLOPES[0] * X + effect * treat + NOISE * rng.normal(size=N_OBS)
    truth = {name: effect[group == i].mean() for i, name in enumerate(GROUPS)} | {ALL: effect.mean()}
    return {"X": X, "treat": treat, "group": group}, y.astype(np.float32), truth


def least_squares(X, treat, group, y) -> dict[str, tuple[float, float]]:
    """Return estimate and standard error of the same effects by ordinary least squares."""
    member = np.eye(3)[group]
    design = np.column_stack([member, member * treat[:, None], X, X * treat])
    inverse = np.linalg.inv(design.T @ design)
    estimate = inverse @ design.T @ y
    variance = ((y - design @ estimate) ** 2).sum() / (N_OBS - design.shape[1])
    gains = np.column_stack([np.zeros_like(member), member, np.zeros_like(X), X])
    averages = {name: gains[group == i].mean(0) for i, name in enumerate(GROUPS)} | {ALL: gains.mean(0)}
    return {name: (g @ estimate, float(np.sqrt(variance * g @ inverse @ g))) for name, g in averages.items()}


def make_model() -> ImpactModel:
    # The step size decays a hundredfold within each fit, so that its noise does not remain in the posterior.
    optimizer = numpyro.optim.Adam(lambda step: 0.03 * 0.01 ** (jnp.mod(step, STEPS) / STEPS))
    svi = SVI(kernel, AutoMultivariateNormal(kernel, init_scale=0.1), optimizer, Trace_ELBO(num_particles=4))
    return ImpactModel(kernel, random.key(0), svi)


def replicate(model: ImpactModel, rng: np.random.Generator) -> dict[str, tuple[bool, float, float]]:
    """Return whether each interval covers the truth, and the deviation from least squares in mean and sd."""
    given, y, truth = simulate(rng)
    model.fit_on_batch(y=y, **given, num_steps=STEPS, num_samples=DRAWS, progress=False)
    comparison = model.compare_scenarios(
        {"nobody": {"intervention": {"treat": 0.0}}, "everybody": {"intervention": {"treat": 1.0}}},
        baseline="nobody",
        by={"segment": np.array(GROUPS)[given["group"]]},
        progress=False,
        **given,
    )
    table = aimz.summary(comparison).set_index("segment")
    reference = least_squares(**given, y=y)
    result = {}
    for name, line in table.iterrows():
        estimate, error = reference[name]
        low, high = line[f"eti{100 * LEVEL:g}_lb"], line[f"eti{100 * LEVEL:g}_ub"]
        result[name] = (low <= truth[name] <= high, (line["mean"] - estimate) / error, line["sd"] / error)
    return result


def report(results: list[dict[str, tuple[bool, float, float]]], *, judged: bool) -> bool:
    """Print the coverage and return whether it is within tolerance."""
    n, good = len(results), True
    print(f"{'average effect on':20s} {'covered':>9s} {'share':>8s}  {'goal':12s}    fit: error (rms), sd ratio")
    for name in (ALL, *GROUPS):
        covered = sum(result[name][0] for result in results)
        within = (WITHIN if name == ALL else WITHIN_BY_GROUP) * (200 / n) ** 0.5
        met = abs(100 * covered / n - 100 * LEVEL) <= within
        good &= met
        error = np.sqrt(np.mean([result[name][1] ** 2 for result in results]))
        spread = np.mean([result[name][2] for result in results])
        goal, verdict = f"90 +- {within:.1f} %", ("met" if met else "NOT MET") if judged else ""
        where = "all rows" if name == ALL else f"group {name}"
        print(
            f"{where:20s} {covered:5d}/{n:3d} {100 * covered / n:6.1f} %  {goal:12s} {verdict:7s} "
            f"{error:.2f} se, {spread:.3f}"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="run three replications only, as a smoke test")
    args = parser.parse_args()
    start, rng, model = time.perf_counter(), np.random.default_rng(args.seed), make_model()
    with rc_context({"stats.ci_prob": LEVEL, "stats.ci_kind": "eti"}):
        results = [replicate(model, rng) for _ in range(3 if args.quick else args.replications)]
    good = report(results, judged=not args.quick)
    seconds = time.perf_counter() - start
    verdict = "too few to judge" if args.quick else "coverage is as stated" if good else "NOT MET"
    print(f"{len(results)} replications in {seconds:.0f} s: {verdict}")
    return int(not good and not args.quick)


if __name__ == "__main__":
    sys.exit(main())

"""Compare the numbers of one script under this package and under the published package of the same name.

Both run the same calls on the same posterior draws, each in its own interpreter.  Log likelihoods must agree to float32
precision; means of drawn outcomes within five standard errors of their difference.

    python benchmarks/agreement.py --rival ENVIRONMENT/bin/python

Create the rival's environment as described in `streaming.py`.  The exit status is 1 if a number differs.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

N_ROWS, N_DRAWS = 500, 2000
FAMILIES = ("normal", "bernoulli", "poisson")
STANDARD_ERRORS = 5.0
RELATIVE = 2e-5


def make_kernel(family: str, *, mediated: bool) -> Callable[..., None]:
    """Return a regression with an outcome of the given family, on a dose or on spending that depends on the dose."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def kernel(X: jax.Array, dose: jax.Array, y: jax.Array | None = None) -> None:
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
        gain = numpyro.sample("gain", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            lever = numpyro.sample("spend", dist.Normal(dose, 0.5)) if mediated else dose
            mu = numpyro.deterministic("mu", a + X @ b + gain * lever)
            outcomes = {
                "normal": lambda: dist.Normal(mu, 1.0),
                "bernoulli": lambda: dist.Bernoulli(logits=mu),
                "poisson": lambda: dist.Poisson(jnp.exp(0.3 * mu)),
            }
            numpyro.sample("y", outcomes[family](), obs=y)

    return kernel


def make_model(family: str, posterior: dict[str, np.ndarray], *, mediated: bool) -> Any:
    """Return a model of the installed package with the given posterior draws."""
    import numpyro
    from jax import random
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    from aimz import ImpactModel

    kernel = make_kernel(family, mediated=mediated)
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    return ImpactModel(kernel, rng_key=random.key(0), inference=svi).set_posterior_sample(posterior)


def moments(tree: Any, group: str = "posterior_predictive") -> list[float]:
    """Return the mean over draws and rows, and its standard error; rows of one draw share its parameters."""
    drawn = tree[group]["y"].to_numpy().astype(np.float64)
    means = drawn.reshape(-1, N_ROWS).mean(1)
    return [float(means.mean()), float(means.std() / len(means) ** 0.5)]


def measure(family: str) -> dict[str, list[float]]:
    """Return a number and its standard error for each method of the installed package; 0 for numbers without noise."""
    from jax import random

    rng = np.random.default_rng(0)
    X, dose = rng.normal(size=(N_ROWS, 3)).astype(np.float32), rng.normal(size=N_ROWS).astype(np.float32)
    y = (rng.uniform(size=N_ROWS) < 0.5).astype(np.float32 if family == "normal" else np.int32)
    posterior = {
        name: (0.5 + 0.1 * rng.normal(size=(N_DRAWS, *shape))).astype(np.float32)
        for name, shape in {"a": (), "b": (3,), "gain": ()}.items()
    }
    found: dict[str, list[float]] = {}
    model, options = make_model(family, posterior, mediated=True), {"dose": dose, "rng_key": random.key(1)}
    for method in ("predict", "predict_on_batch"):
        spends: tuple[float | None, ...] = (None, 0.0, 1.0)
        trees = {
            spend: getattr(model, method)(X, intervention=None if spend is None else {"spend": spend}, **options)
            for spend in spends
        }
        found |= {f"{method}, spend {spend}": moments(tree) for spend, tree in trees.items()}
        found[f"{method}, effect of spend"] = moments(model.estimate_effect(trees[0.0], trees[1.0]))
    model = make_model(family, posterior, mediated=False)
    score = model.log_likelihood(X, y, dose=dose)["log_likelihood"]["y"].to_numpy().astype(np.float64)
    found |= {"log likelihood, sum": [float(score.sum()), 0.0], "log likelihood, sd": [float(score.std()), 0.0]}
    prior = model.sample_prior_predictive(X, num_samples=N_DRAWS, **options)
    return found | {"prior predictive": moments(prior, "prior_predictive")}


def numbers_of(python: str, family: str) -> dict[str, list[float]]:
    """Return the numbers that another interpreter finds."""
    environment = dict(os.environ)
    if python != sys.executable:  # PYTHONPATH would select this package instead of the installed one
        environment.pop("PYTHONPATH", None)
    command = [python, __file__, "--measure", family]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Print one line per number and return 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", help="Python interpreter with the published package")
    parser.add_argument("--measure", choices=FAMILIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.measure)))
        return 0
    if args.rival is None:
        parser.error("pass --rival; `streaming.py` describes its environment")
    differing = 0
    print(f"{'':42s} {'ours':>13s} {'other':>13s} {'difference':>20s}")
    for family in FAMILIES:
        ours, other = numbers_of(sys.executable, family), numbers_of(args.rival, family)
        for name, (number, error) in ours.items():
            expected, other_error = other[name]
            scale = float(np.hypot(error, other_error))
            if scale:
                ratio, unit, limit = (number - expected) / scale, "standard errors", STANDARD_ERRORS
            else:
                ratio, unit, limit = (number - expected) / abs(expected), "relative", RELATIVE
            differing += abs(ratio) > limit
            print(f"{family + ', ' + name:42s} {number:13.5f} {expected:13.5f} {ratio:20.2g} {unit}")
    print(f"{differing} numbers differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())

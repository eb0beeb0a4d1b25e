"""Time one task about effects in a separate process; started by `effects.py` in either environment.

Each task follows the documentation of the installed package: one call for ours; sampling and storing draws, which are
then summed or sorted, for the published one.  Prints one line of JSON, like `worker.py`.

    python benchmarks/effects_worker.py --work average --rows 100000 --draws 1000 --repeat 2
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from worker import Seconds, clock, measure, regression, scratch, versions

WORKS = ("average", "statistics", "loo", "mean")
QUANTILES = (0.05, 0.5, 0.95)
SAMPLE = ("chain", "draw")
OURS = hasattr(ImpactModel, "compare_scenarios")


def treated(X, treat, y=None):
    mean = regression(X) + numpyro.sample("gain", dist.Normal()) * treat
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def counts(X, treat, y=None):
    eta = regression(X) + numpyro.sample("gain", dist.Normal()) * treat
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.NegativeBinomial2(jax.numpy.exp(0.3 * eta), sigma), obs=y)


KERNELS = {"treated": treated, "counts": counts}


class Task:
    """A model with a posterior and matching data."""

    def __init__(self, args: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        self.args = args
        self.X = rng.standard_normal((args.rows, 10), dtype=np.float32)
        self.treat = (self.X[:, 0] > 0).astype(np.float32)
        self.y = 1 + self.X.sum(1) + self.treat + rng.standard_normal(args.rows, dtype=np.float32)
        kernel = KERNELS[args.kernel]
        svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
        self.model = ImpactModel(kernel, rng_key=random.key(0), inference=svi)
        shapes = {"a": (), "b": (10,), "gain": (), "sigma": ()}
        posterior = {
            name: 1 + 0.01 * rng.standard_normal((args.draws, *shape), dtype=np.float32)
            for name, shape in shapes.items()
        }
        self.model.set_posterior_sample(jax.device_put(posterior))

    def run(self, where: Path) -> object:
        """Run the task and compute its result."""
        return getattr(self, f"{'our' if OURS else 'their'}_{self.args.work}")(where)

    def store_options(self, where: Path) -> dict[str, Any]:
        """Return the options that choose the store."""
        store = self.args.store
        return {"store": store, "progress": False} | ({"output_dir": where} if store == "persistent" else {})

    def our_average(self, where: Path) -> object:
        del where  # nothing is stored
        doses = np.linspace(0, 1, self.args.levels).tolist()
        return self.model.compare_scenarios(
            {dose: {"intervention": {"treat": dose}} for dose in doses},
            baseline=doses[0],
            X=self.X,
            treat=self.treat,
            progress=False,
        )

    def their_average(self, where: Path) -> object:
        """Average the difference of two predictions with common noise over rows."""
        options = {"rng_key": random.key(1), **self.store_options(where)}
        trees = [self.model.predict(self.X, treat=np.full(len(self.X), dose, np.float32), **options) for dose in (0, 1)]
        effect = self.model.estimate_effect(*trees)["posterior_predictive"]["y"]
        return effect.mean(effect.dims[-1]).compute()

    def our_statistics(self, where: Path) -> object:
        statistics = ("mean", "sd", *QUANTILES)
        tree = self.model.predict(self.X, treat=self.treat, statistics=statistics, **self.store_options(where))
        return tree["posterior_predictive"]["y"].compute()

    def their_statistics(self, where: Path) -> object:
        """Compute all statistics of one stored prediction together, with or without xarray's NaN check."""
        y = self.model.predict(self.X, treat=self.treat, **self.store_options(where))["posterior_predictive"]["y"]
        options: dict[str, Any] = {"dim": SAMPLE, "skipna": None if self.args.skipna else False}
        statistics = {"mean": y.mean(**options), "sd": y.std(**options), "quantiles": y.quantile(QUANTILES, **options)}
        return xr.Dataset(statistics).compute()

    def our_mean(self, where: Path) -> object:
        """Compute the mean of one scenario without storing draws."""
        tree = self.model.predict(self.X, treat=self.treat, statistics="mean", **self.store_options(where))
        return tree["posterior_predictive"]["y"].compute()

    def our_loo(self, where: Path) -> object:
        del where  # nothing is stored
        return self.model.loo(self.X, self.y, treat=self.treat, progress=False)

    def their_loo(self, where: Path) -> object:
        """Load the stored log-likelihood and score it with ArviZ."""
        import arviz_stats as az

        tree = self.model.log_likelihood(self.X, self.y, treat=self.treat, **self.store_options(where))
        return az.loo(tree.load(), pointwise=True)


def make(args: argparse.Namespace) -> Callable[[], Seconds]:
    task = Task(args)

    def once() -> Seconds:
        with scratch(args.dir) as where:
            return {"call": clock(lambda: task.run(where))}

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--kernel", choices=KERNELS, default="treated")
    parser.add_argument("--store", choices=["persistent", "memory"], default="persistent")
    parser.add_argument("--skipna", type=int, default=1, help="whether xarray checks for NaN, as by default")
    parser.add_argument("--levels", type=int, default=2, help="scenarios of `average`")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--dir", default=None, help="parent of temporary directories")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # scores from few draws are unreliable, which does not matter here
    with scratch(args.dir) as where:
        args.dir = str(where)
        result = measure(make(args), args.repeat)
    print(json.dumps(vars(args) | result | {"versions": dict(versions())}))


if __name__ == "__main__":
    main()

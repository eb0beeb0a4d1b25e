"""One question about effects in a process of its own, timed; `effects.py` starts it, in either environment.

Each work is done the way the package of the environment documents it: ours in one call, the published one by drawing
and storing what is then added up or sorted.  Prints one line of JSON, as `worker.py` does.

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
from worker import Seconds, clock, measure, scratch, versions

WORKS = ("average", "statistics", "loo", "mean")
QUANTILES = (0.05, 0.5, 0.95)
SAMPLE = ("chain", "draw")
OURS = hasattr(ImpactModel, "compare_scenarios")


def treated(X, treat, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    gain = numpyro.sample("gain", dist.Normal())
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b + gain * treat, sigma), obs=y)


class Question:
    """A model with a posterior, and data it could come from."""

    def __init__(self, args: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        self.args = args
        self.X = rng.standard_normal((args.rows, 10), dtype=np.float32)
        self.treat = (self.X[:, 0] > 0).astype(np.float32)
        self.y = 1 + self.X.sum(1) + self.treat + rng.standard_normal(args.rows, dtype=np.float32)
        svi = SVI(treated, AutoNormal(treated), numpyro.optim.Adam(0.01), Trace_ELBO())
        self.model = ImpactModel(treated, rng_key=random.key(0), inference=svi)
        shapes = {"a": (), "b": (10,), "gain": (), "sigma": ()}
        posterior = {
            name: 1 + 0.01 * rng.standard_normal((args.draws, *shape), dtype=np.float32)
            for name, shape in shapes.items()
        }
        self.model.set_posterior_sample(jax.device_put(posterior))

    def ask(self, where: Path) -> object:
        """Do the work; results are computed, not promised."""
        return getattr(self, f"{'our' if OURS else 'their'}_{self.args.work}")(where)

    def place(self, where: Path) -> dict[str, Any]:
        """Where draws, or what is kept of them, are put."""
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
        """Two predictions with common noise, as arguments have it, and their difference averaged over rows."""
        options = {"rng_key": random.key(1), **self.place(where)}
        trees = [self.model.predict(self.X, treat=np.full(len(self.X), dose, np.float32), **options) for dose in (0, 1)]
        effect = self.model.estimate_effect(*trees)["posterior_predictive"]["y"]
        return effect.mean(effect.dims[-1]).compute()

    def our_statistics(self, where: Path) -> object:
        asked = ("mean", "sd", *QUANTILES)
        tree = self.model.predict(self.X, treat=self.treat, statistics=asked, **self.place(where))
        return tree["posterior_predictive"]["y"].compute()

    def their_statistics(self, where: Path) -> object:
        """One prediction, read once: all statistics are asked for together; as xarray has it, or without NaN."""
        y = self.model.predict(self.X, treat=self.treat, **self.place(where))["posterior_predictive"]["y"]
        options: dict[str, Any] = {"dim": SAMPLE, "skipna": None if self.args.skipna else False}
        asked = {"mean": y.mean(**options), "sd": y.std(**options), "quantiles": y.quantile(QUANTILES, **options)}
        return xr.Dataset(asked).compute()

    def our_mean(self, where: Path) -> object:
        """One scenario, of which no draw is kept."""
        tree = self.model.predict(self.X, treat=self.treat, statistics="mean", **self.place(where))
        return tree["posterior_predictive"]["y"].compute()

    def our_loo(self, where: Path) -> object:
        del where  # nothing is stored
        return self.model.loo(self.X, self.y, treat=self.treat, progress=False)

    def their_loo(self, where: Path) -> object:
        """ArviZ on what was stored, which it wants in memory."""
        import arviz_stats as az

        tree = self.model.log_likelihood(self.X, self.y, treat=self.treat, **self.place(where))
        return az.loo(tree.load(), pointwise=True)


def make(args: argparse.Namespace) -> Callable[[], Seconds]:
    question = Question(args)

    def once() -> Seconds:
        with scratch(args.dir) as where:
            return {"call": clock(lambda: question.ask(where))}

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--store", choices=["persistent", "memory"], default="persistent")
    parser.add_argument("--skipna", type=int, default=1, help="whether xarray looks for NaN, as it does by default")
    parser.add_argument("--levels", type=int, default=2, help="scenarios of `average`")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--dir", default=None, help="where temporary directories are made")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # a score of few draws is not to be relied on, and nobody will
    with scratch(args.dir) as where:
        args.dir = str(where)
        result = measure(make(args), args.repeat)
    print(json.dumps(vars(args) | result | {"versions": dict(versions())}))


if __name__ == "__main__":
    main()

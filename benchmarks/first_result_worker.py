"""Run a short script in a new process, as a user would; started by `first_result.py` in either environment.

Prints one line of JSON: the wall-clock time at the end and the processor time of the process, and the seconds of each
part.

    python benchmarks/first_result_worker.py --work svi
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from jax import random  # noqa: E402
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO  # noqa: E402
from numpyro.infer.autoguide import AutoNormal  # noqa: E402

N_OBS, N_COLUMNS, N_STEPS = 1000, 5, 3000


def kernel(X, treatment, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal())
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b + effect * treatment, sigma), obs=y)


class Parts(dict[str, float]):
    """Seconds of each part of the script."""

    def __call__[T](self, name: str, function: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = function()
        self[name] = time.perf_counter() - start
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["svi", "nuts"], required=True)
    parser.add_argument("--by", choices=["aimz", "numpyro"], default="aimz")
    parser.add_argument("--cache", default="0", help="directory of compiled programs, or 0")
    parser.add_argument("--dir", help="ignored")
    args = parser.parse_args()
    os.environ["AIMZ_COMPILATION_CACHE"] = args.cache
    seconds = Parts()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_OBS, N_COLUMNS), dtype=np.float32)
    treatment = (rng.random(N_OBS) < 0.5).astype(np.float32)
    y = 1 + X.sum(1) + 2 * treatment + rng.standard_normal(N_OBS, dtype=np.float32)
    mcmc = MCMC(NUTS(kernel), num_warmup=500, num_samples=500, progress_bar=False)
    if args.by == "numpyro":
        seconds["import"] = time.perf_counter() - STARTED
        seconds("fit", lambda: mcmc.run(random.key(0), X=X, treatment=treatment, y=y))
    else:
        from aimz import ImpactModel

        seconds["import"] = time.perf_counter() - STARTED
        svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
        inference = svi if args.work == "svi" else mcmc
        steps = {"num_steps": N_STEPS} if args.work == "svi" else {}
        model = ImpactModel(kernel, rng_key=random.key(0), inference=inference)
        seconds("fit", lambda: model.fit_on_batch(X, y, treatment=treatment, progress=False, **steps))
    if args.by == "aimz" and args.work == "svi":

        def predict(value: float):
            arguments = {"treatment": np.full(N_OBS, value, np.float32)}
            return model.predict(X, rng_key=random.key(1), progress=False, **arguments)

        control = seconds("first prediction", lambda: predict(0.0))
        treated = seconds("second prediction", lambda: predict(1.0))
        effect = seconds("effect", lambda: model.estimate_effect(output_baseline=control, output_intervention=treated))
        seconds("mean of the effect", lambda: float(effect["posterior_predictive"]["y"].mean()))
    print(json.dumps({"done": time.time(), "cpu": time.process_time(), "first": seconds, "seconds": {}}))


if __name__ == "__main__":
    main()

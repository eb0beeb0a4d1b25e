"""Calls whose results must not depend on the number of devices; run as a script, once for each number of devices."""

import sys
import warnings
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader
from boundary_cases import CASES, predicted_means
from kernels import BY_NAME, fitted_model, long, long_model

N_ROWS = {
    "linear": 2500,  # three blocks, the last of them shorter: fewer than four devices
    "poisson": 4000,  # four blocks: one for each of four devices
    "local_latents": 5000,  # five blocks: more than four devices
    "subsampled": 3,
    "state_space": 40,
    "flax_net": 2500,
}
"""Number of rows for each kernel: more blocks than devices, fewer, and rows that interact."""
KEY = random.key(3)


SHAPES = ((100, 300), (1500, 10))
"""Numbers of rows and draws: more draws than rows, and more rows than draws."""


def without_plate(X: Any, y: Any = None) -> None:
    """A kernel whose rows are independent, but in no plate."""
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


def on_batch() -> dict[str, np.ndarray]:
    """Return predictions and effects on a batch, and check a fit with parallel chains."""
    found = {}
    for name in ("linear", "local_latents", "flax_net"):
        case = BY_NAME[name]
        model = fitted_model(case)
        for site, value in model.predict_on_batch(**case.arguments(), return_datatree=False).items():
            found[f"{name}.{site}"] = np.asarray(value)
        effect = model.estimate_effect(
            args_baseline=case.arguments(),
            args_intervention={**case.arguments(), "intervention": case.intervention},
            on_batch=True,
        )
        found[f"{name}.effect"] = effect["posterior_predictive"]["y"].values
    case = BY_NAME["linear"]
    method = "parallel" if jax.local_device_count() > 1 else "sequential"
    mcmc = MCMC(NUTS(case.kernel), num_warmup=20, num_samples=10, num_chains=2, chain_method=method, progress_bar=False)
    model = ImpactModel(case.kernel, random.key(0), mcmc).fit_on_batch(case.X, case.y, progress=False)
    tree = model.predict_on_batch(case.X)
    assert tree["posterior_predictive"].sizes["chain"] == 2
    assert len(model.posterior["b"].devices()) == 1
    return found


def streams() -> dict[str, np.ndarray]:
    """Return streamed predictions and scores."""
    found = {}

    def keep(name: str, tree: Any) -> None:
        group = next(tree[g] for g in tree.children if g not in ("posterior", "observed_data", "constant_data"))
        found.update({f"{name}.{site}": array.values for site, array in group.items()})

    options = {"store": "memory", "progress": False}
    for name, n_obs in N_ROWS.items():
        case, model = long(BY_NAME[name], n_obs), long_model(BY_NAME[name], n_obs, n_draws=7)
        for axis in ("obs", "draw"):
            keep(f"{name}.{axis}", model.predict(**case.arguments(), **options, shard_axis=axis, rng_key=KEY))
        keep(f"{name}.scores", model.log_likelihood(**case.arguments(), y=case.y, **options))
        if name == "local_latents":
            keep("persistent", model.predict(**case.arguments(), progress=False, batch_size=1, rng_key=KEY))
        if name == "linear":
            loader = ArrayLoader(ArrayDataset(X=case.X), random.key(0), batch_size=300, device=jax.local_devices()[-1])
            keep("loader", model.predict(loader, **options, rng_key=KEY))
            keep("prior", model.sample_prior_predictive(case.X, **options, num_samples=5, rng_key=KEY))
    for n_obs, n_draws in SHAPES:
        model = ImpactModel(without_plate, random.key(0), MCMC(NUTS(without_plate), num_warmup=1, num_samples=1))
        X = np.linspace(-1, 1, n_obs, dtype=np.float32)
        model.set_posterior_sample({"b": np.linspace(0, 1, n_draws, dtype=np.float32)})
        for axis in ("obs", "draw"):
            keep(f"without_plate.{n_obs}.{axis}", model.predict(X, **options, shard_axis=axis, rng_key=KEY))
    return found


def comparisons() -> dict[str, np.ndarray]:
    """Return averages of scenarios, over few groups and many."""
    found = {}
    for name in ("linear", "local_latents", "state_space"):
        n_obs = N_ROWS[name]
        case, model = long(BY_NAME[name], n_obs), long_model(BY_NAME[name], n_obs, n_draws=7)
        half = {key: 0.5 * value for key, value in case.intervention.items()}
        scenarios = {"as is": {}, "other": {"intervention": case.intervention}, "half": {"intervention": half}}
        many = np.arange(n_obs) * 7 % n_obs // 2
        for by in (None, np.arange(n_obs) % 3, many) if name == "linear" else (many,):
            given = {"by": by, "weights": np.arange(n_obs) % 4, **case.arguments()}
            tree = model.compare_scenarios(scenarios, baseline="as is", **given, progress=False, rng_key=KEY)
            n_groups = 1 if by is None else len(np.unique(by))
            for group in ("effect", "scenarios"):
                for site, array in tree[group].data_vars.items():
                    found[f"{name}.{n_groups}.{group}.{site}"] = array.values
        if name == "linear":
            found["slopes"] = model.slopes("b", **given, progress=False, rng_key=KEY)["effect"]["y"].values
    # Labels and weights that vary within a row.
    case, model = long(BY_NAME["multi_output"], 2500), long_model(BY_NAME["multi_output"], 2500, n_draws=7)
    entry = np.arange(5000).reshape(2500, 2)
    given = {"by": entry % 3, "weights": entry % 4, **case.arguments()}
    scenarios = {"as is": {}, "other": {"intervention": case.intervention}}
    tree = model.compare_scenarios(scenarios, baseline="as is", **given, progress=False, rng_key=KEY)
    for group in ("effect", "scenarios"):
        found |= {f"panel.{group}.{site}": array.values for site, array in tree[group].data_vars.items()}
    return found


def counterfactuals() -> dict[str, np.ndarray]:
    """Return counterfactuals, their averages and a decomposition."""
    n_obs = N_ROWS["local_latents"]
    case, model = long(BY_NAME["local_latents"], n_obs), long_model(BY_NAME["local_latents"], n_obs, n_draws=7)
    given: dict[str, Any] = {**case.arguments(), "progress": False, "rng_key": KEY}
    found = {}
    for axis in ("obs", "draw"):
        tree = model.counterfactual(
            **given, y=case.y, intervention={"mu": 3.0}, return_sites=["z", "y"], store="memory", shard_axis=axis
        )
        found |= {f"{axis}.{group}.{s}": tree[group][s].values for group in ("counterfactual", "effect") for s in "zy"}
    scenarios = {"as is": {}, "other": {"intervention": {"mu": 3.0}}}
    tree = model.compare_scenarios(scenarios, baseline="as is", given=case.y, **given)
    found["given"] = tree["scenarios"]["y"].values
    tree = model.decompose({"mu": (0.0, 1.0)}, "z", kind="interventional", X=case.X, progress=False, rng_key=KEY)
    found["decomposition"] = tree["effect"]["y"].values
    return found


def boundaries() -> dict[str, np.ndarray]:
    """Return predictions, or texts of errors, of inputs whose meaning is easily lost, on several devices."""
    if jax.local_device_count() == 1:  # has tests of its own
        return {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Arguments have NaN")
        return {name: np.asarray(predicted_means(case)) for name, case in CASES.items()}


def main(path: str) -> None:
    """Write all results to a file."""
    for message in (".*local latent site", r".*site\(s\) .* inside a `scan` or `cond`", "Kernel .* cannot be split"):
        warnings.filterwarnings("ignore", message=message)
    parts = {
        "batch": on_batch(),
        "streams": streams(),
        "comparisons": comparisons(),
        "counterfactuals": counterfactuals(),
        "boundaries": boundaries(),
    }
    arrays = {f"{part} {name}": array for part, found in parts.items() for name, array in found.items()}
    np.savez(path, **arrays, devices=np.array(jax.local_device_count()))


if __name__ == "__main__":
    main(sys.argv[1])

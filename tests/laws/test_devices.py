"""Law 1: the number of devices does not show in the numbers."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

CODE = """
import sys, warnings
import jax, numpy as np
from jax import random
from numpyro.infer import MCMC, NUTS
from kernels import BY_NAME, long, long_model
from aimz import ImpactModel

warnings.filterwarnings("ignore", message="Local latent site")
warnings.filterwarnings("ignore", message="Kernel `gaussian_process` cannot be split along its rows")
n_devices = jax.local_device_count()
out = {"devices": np.array(n_devices)}
options = {"rng_key": random.key(5), "store": "memory", "progress": False}
names = ["linear", "local_latents", "flax_net", "gaussian_process"]
# Programs of counts compile slowly, and effects and chains are computed by other laws too.
all_of_it = n_devices in (1, 4)
for name in [*names, *["negative_binomial"] * all_of_it]:
    n_obs = 60 if name == "gaussian_process" else 3000
    case, model = long(BY_NAME[name], n_obs), long_model(BY_NAME[name], n_obs)
    for axis in ("obs",) if name == "negative_binomial" else ("obs", "draw"):
        tree = model.predict(**case.arguments(), **options, shard_axis=axis)
        for site, value in tree["posterior_predictive"].items():
            out[f"{name}.{axis}.{site}"] = value.values
    if name == "local_latents":
        batches = ({"X": case.X[i : i + 700]} for i in range(0, n_obs, 700))
        tree = model.predict(batches, **options)
        out["iterable"] = tree["posterior_predictive"]["y"].values
        for n_few in (1, 5, 1100):
            tree = model.predict(case.X[:n_few], **options, in_sample=False)
            out[f"{n_few} rows"] = tree["predictions"]["y"].values
    if name == "linear" and all_of_it:
        tree = model.log_likelihood(**case.arguments(), y=case.y, store="memory", progress=False)
        out["score"] = tree["log_likelihood"]["y"].values
        effect = model.estimate_effect(
            args_baseline=case.arguments(), args_intervention={**case.arguments(), "intervention": case.intervention}
        )
        out["effect"] = effect["posterior_predictive"]["y"].values
if all_of_it:
    case = BY_NAME["linear"]
    method = "parallel" if n_devices > 1 else "sequential"
    mcmc = MCMC(NUTS(case.kernel), num_warmup=20, num_samples=10, num_chains=2, chain_method=method, progress_bar=False)
    model = ImpactModel(case.kernel, random.key(0), mcmc).fit_on_batch(case.X, case.y, progress=False)
    tree = model.predict(case.X, store="memory", progress=False)
    assert tree["posterior_predictive"].sizes["chain"] == 2
    assert len(model.posterior["b"].devices()) == 1
np.savez(sys.argv[1], **out)
"""


def run(n_devices: int, path: Path) -> dict[str, np.ndarray]:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-W", "error", "-c", CODE, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as saved:
        return dict(saved)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> dict[int, dict[str, np.ndarray]]:
    """What each number of devices computes."""
    path = tmp_path_factory.mktemp("devices")
    with ThreadPoolExecutor(2) as pool:
        found = {n: pool.submit(run, n, path / f"{n}.npz") for n in (1, 2, 4, 8)}
        return {n: future.result() for n, future in found.items()}


@pytest.mark.parametrize("n_devices", [2, 4, 8])
def test_same_bits_as_on_one_device(numbers, n_devices):
    one, many = dict(numbers[1]), dict(numbers[n_devices])
    assert (one.pop("devices"), many.pop("devices")) == (1, n_devices)
    assert one.keys() == many.keys() if n_devices == 4 else len(many) > 10
    for name in many:
        np.testing.assert_array_equal(one[name], many[name], err_msg=name)


def test_axes_agree(numbers):
    """What is shared out, rows or draws, shows in the last bits only, where draws are computed in other groups."""
    one = numbers[1]
    for name in [name for name in one if ".obs." in name and name.replace(".obs.", ".draw.") in one]:
        np.testing.assert_allclose(one[name.replace(".obs.", ".draw.")], one[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(one["iterable"], one["local_latents.obs.y"])

"""Law 1: the number of devices does not show in the numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CODE = """
import sys, warnings
import jax, numpy as np
from jax import random
from numpyro.infer import MCMC, NUTS
from kernels import BY_NAME, fitted_model
from aimz import ImpactModel

warnings.filterwarnings("ignore", message="Local latent site")
out = {"devices": np.array(jax.local_device_count())}
for name in ("linear", "local_latents", "flax_net"):
    case = BY_NAME[name]
    model = fitted_model(case)
    for site, value in model.predict_on_batch(**case.arguments(), return_datatree=False).items():
        out[f"{name}.{site}"] = np.asarray(value)
    effect = model.estimate_effect(
        args_baseline=case.arguments(),
        args_intervention={**case.arguments(), "intervention": case.intervention},
        on_batch=True,
    )
    out[f"{name}.effect"] = effect["posterior_predictive"]["y"].values
case = BY_NAME["linear"]
method = "parallel" if jax.local_device_count() > 1 else "sequential"
mcmc = MCMC(NUTS(case.kernel), num_warmup=20, num_samples=10, num_chains=2, chain_method=method, progress_bar=False)
model = ImpactModel(case.kernel, random.key(0), mcmc).fit_on_batch(case.X, case.y, progress=False)
tree = model.predict_on_batch(case.X)
assert tree["posterior_predictive"].sizes["chain"] == 2
assert len(model.posterior["b"].devices()) == 1
np.savez(sys.argv[1], **out)
"""


STREAMS = """
import sys, warnings
import jax, numpy as np
from jax import random
from kernels import BY_NAME, long, long_model
from aimz.utils.data import ArrayDataset, ArrayLoader

warnings.filterwarnings("ignore", message="Local latent site")
warnings.filterwarnings("ignore", message=r"Site\\(s\\) .* inside a `scan` or `cond`")
warnings.filterwarnings("ignore", message="Kernel .* cannot be split along its rows")
out = {"devices": np.array(jax.local_device_count())}

def keep(name, tree):
    group = next(tree[g] for g in tree.children if g not in ("posterior", "observed_data", "constant_data"))
    out.update({f"{name}.{site}": array.values for site, array in group.items()})

options = {"store": "memory", "progress": False}
key = random.key(3)
for name, n_obs in SIZES.items():
    case, model = long(BY_NAME[name], n_obs), long_model(BY_NAME[name], n_obs, n_draws=7)
    for axis in ("obs", "draw"):
        keep(f"{name}.{axis}", model.predict(**case.arguments(), **options, shard_axis=axis, rng_key=key))
    keep(f"{name}.scores", model.log_likelihood(**case.arguments(), y=case.y, **options))
    if name == "local_latents":
        keep("persistent", model.predict(**case.arguments(), progress=False, batch_size=1, rng_key=key))
    if name == "linear":
        loader = ArrayLoader(ArrayDataset(X=case.X), random.key(0), batch_size=300, device=jax.local_devices()[-1])
        keep("loader", model.predict(loader, **options, rng_key=key))
        keep("prior", model.sample_prior_predictive(case.X, **options, num_samples=5, rng_key=key))
np.savez(sys.argv[1], **out)
"""
SIZES = {
    "linear": 2500,  # three blocks, the last of them shorter: fewer than four devices
    "poisson": 4000,  # four blocks: one for each of four devices
    "local_latents": 5000,  # five blocks: more than four devices
    "subsampled": 3,
    "state_space": 40,
    "flax_net": 2500,
}
PRODUCTS = ("flax_net", "prior")
"""Kernels that are tried, and how many rows: more blocks than devices, fewer, and rows that mix."""


def run(code: str, n_devices: int, path: Path) -> dict[str, np.ndarray]:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], env=environment, check=True, timeout=280)
    with np.load(path) as saved:
        return dict(saved)


def test_same_bits_on_one_device_and_on_four(tmp_path):
    one, four = run(CODE, 1, tmp_path / "one.npz"), run(CODE, 4, tmp_path / "four.npz")
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    assert one.keys() == four.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], four[name], err_msg=name)


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    return run(STREAMS.replace("SIZES", repr(SIZES)), 1, tmp_path_factory.mktemp("one") / "one.npz")


# Four stand for two as well: there are kernels with fewer blocks than devices, as many, and more.
@pytest.mark.parametrize("n_devices", [2, 4, 8])
def test_streams_on_several_devices(on_one, tmp_path, n_devices):
    """Blocks and draws are shared out evenly, whatever their number; padding shows nowhere.

    The exception is a matrix product within a row: where a device has one block or one draw rather than several, XLA
    may sum it up in another order, which changes the last bits.
    """
    several = run(STREAMS.replace("SIZES", repr(SIZES)), n_devices, tmp_path / "several.npz")
    assert several.keys() == on_one.keys()
    assert several.pop("devices") == n_devices
    for name, found in several.items():
        if name.startswith(PRODUCTS):
            np.testing.assert_allclose(found, on_one[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found, on_one[name], err_msg=name)

"""Law 1, as far as batches in memory go: the number of devices does not show in the numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

CODE = """
import sys, warnings
import jax, numpy as np
from jax import random
from numpyro.infer import MCMC, NUTS
from kernels import BY_NAME, fitted_model
from aimz import ImpactModel

warnings.filterwarnings("ignore", message="Local latent site")
out = {"devices": np.array(jax.local_device_count())}
for name in ("linear", "negative_binomial", "local_latents", "flax_net"):
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


def run(n_devices: int, path: Path) -> dict[str, np.ndarray]:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-W", "error", "-c", CODE, str(path)], env=environment, check=True, timeout=240)
    with np.load(path) as saved:
        return dict(saved)


def test_same_bits_on_one_device_and_on_four(tmp_path):
    one, four = run(1, tmp_path / "one.npz"), run(4, tmp_path / "four.npz")
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    assert one.keys() == four.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], four[name], err_msg=name)

"""A slope is the limit of the effects of small steps, for the sites of every kernel of the catalogue."""

import numpy as np
import pytest
from jax import random

from kernels import BY_NAME, fitted_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_local_latents")]

STEP = 1 / 64


@pytest.mark.parametrize("name", BY_NAME)
def test_slopes_equal_effects_of_small_steps(name):
    case = BY_NAME[name]
    model = fitted_model(case)
    given = {**case.arguments(), "progress": False, "rng_key": random.key(1)}
    model.predict_on_batch(**case.arguments())
    spec, output = model.kernel_spec, model.param_output
    sites = [site for site in spec.sites if site.is_sample and not site.is_discrete and site.name != output]
    for site in sites:
        if site.in_control_flow:
            with pytest.raises(ValueError, match="inside a `scan` or `cond`"):
                model.slopes(site.name, **given)
            continue
        steps = {"low": {site.name: lambda v: v - STEP}, "high": {site.name: lambda v: v + STEP}}
        scenarios = {side: {"intervention": step} for side, step in steps.items()}
        effect = model.compare_scenarios(scenarios, baseline="low", return_sites=output, **given)["effect"][output]
        found = model.slopes(site.name, **given)["effect"][output]
        expected = effect.values / (2 * STEP)
        np.testing.assert_allclose(found.values, expected, rtol=2e-3, atol=1e-4 + 1e-3 * np.abs(expected).max())

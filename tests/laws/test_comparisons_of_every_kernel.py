"""Law 4 for averages, over the catalogue: scenarios in one pass are what each would be alone, added up over rows."""

import numpy as np
import pytest
from test_comparisons import OPTIONS, assert_near, averaged, labels_of, row_effect, scenarios_of, weights_of

from kernels import QUICK_CASES, each_kernel, long, long_model
from stream_helpers import MEMORY, D, arrays, n_rows

pytestmark = pytest.mark.usefixtures("quiet_local_latents", "plain_code")


# The negative binomial draws its counts as the Poisson does, and takes half a minute to compile.
@each_kernel(QUICK_CASES)
def test_comparisons_are_effects_averaged(case):
    """Of every kernel, in all and by group, with weights; of several scenarios at once as of each alone."""
    n_obs = n_rows(case)
    model, case = long_model(case, n_obs, n_draws=D), long(case, n_obs)
    arguments, scenarios = case.arguments(), scenarios_of(case)
    labels, weights = labels_of(n_obs), weights_of(n_obs)
    grouped = {"by": labels, "weights": weights, "kind": "outcome"}
    tree = model.compare_scenarios(scenarios, baseline="as is", **grouped, **arguments, **OPTIONS)
    codes = np.unique(labels, return_inverse=True)[1]
    averages, overall = tree["scenarios"], tree["scenarios_overall"]
    assert tuple(averages.data_vars) == case.returns
    assert list(averages["group"].values) == ["low", "mid", "top"]
    assert list(averages["scenario"].values) == list(scenarios)
    anew = averages.attrs.get("drawn_anew")
    for name in ("other", "third"):
        alone = model.predict(**arguments, **MEMORY, **scenarios[name])
        by_row = row_effect(model, arguments, {}, scenarios[name])
        assert alone["posterior_predictive"].attrs.get("drawn_anew") == anew
        for site in case.returns:
            effect = tree["effect"][site].sel(scenario=name).values
            scale = averages[site].values
            assert_near(effect, averaged(by_row[site], weights, codes), scale, site)
            whole = tree["effect_overall"][site].sel(scenario=name).values
            assert_near(whole, averaged(by_row[site], weights), scale, site)
            assert_near(
                averages[site].sel(scenario=name).values,
                averaged(arrays(alone)[site], weights, codes),
                averaged(np.abs(arrays(alone)[site]), weights, codes),
            )
    assert (tree["effect"].to_dataset().sel(scenario="other")["y"] != 0).any()
    for site in case.returns:  # the same twice is the same, to the bit
        for groups, of in ((averages, "effect"), (overall, "effect_overall")):
            assert (tree[of][site].sel(scenario="again") == 0).all()
            same = groups[site].sel(scenario="again", drop=True)
            np.testing.assert_array_equal(same, groups[site].sel(scenario="as is", drop=True))
    np.testing.assert_array_equal(tree["groups"]["rows"], np.bincount(codes))
    np.testing.assert_array_equal(tree["groups"]["weight"], np.bincount(codes, weights))

"""The assurance of a two-arm trial equals its closed form, and depends on the true effect."""

import numpy as np
import numpyro.distributions as dist
import pytest
from exact_inference import exact, trial
from jax import random
from scipy import stats

from aimz import ImpactModel

pytestmark = pytest.mark.usefixtures("plain_code")

N = 100
X = np.zeros(N, np.float32)
ARM = np.float32(np.arange(N) % 2 - 0.5)
QUIET = {"progress": False, "rng_key": random.key(5), "values": (-0.5, 0.5), "arm": ARM}


def closed_form(mean, sd, error, probability):
    """Return the probability that the estimate, from N(mean, sd^2 + error^2), exceeds its critical value."""
    critical = stats.norm.ppf(probability) * error
    return stats.norm.cdf((mean - critical) / np.hypot(sd, error))


def test_closed_form_of_the_published_case():
    """Design prior N(0.3, 0.2^2), sd 1, 200 patients in each arm, flat analysis prior, one-sided 97.5 %."""
    assert closed_form(0.3, 0.2, np.sqrt(2 / 200), 0.975) == pytest.approx(0.6791, abs=5e-5)
    # The same in other units: N(0.6, 0.4^2) and 50 patients in each arm.
    assert closed_form(0.6, 0.4, np.sqrt(2 / 50), 0.975) == pytest.approx(0.6791, abs=5e-5)


def assurance(n, truth, **options):
    model = ImpactModel(trial, random.key(0), exact(prior_sd=1e3))
    return model.assurance("arm", X, truth=truth, num_simulations=n, probability=0.975, **QUIET, **options)


def test_assurance_equals_closed_form_within_its_error():
    found = assurance(50, {"gain": dist.Normal(0.6, 0.4)})
    line = found.summary().iloc[0]
    assert line["low"] < 0.6791 < line["high"]
    assert abs(line["assurance"] - 0.6791) < 3 * line["error"]
    assert found.criterion == "P(effect > 0) > 0.975"
    assert found.criterion in " ".join(repr(found).split())
    # Studies of larger effects find them more often.
    data = found.simulations.isel(quantity=0)
    large = (data["truth"] > 0.6).values
    assert data["found"].values[large].mean() > 0.8 > 0.6 > data["found"].values[~large].mean()


@pytest.mark.slow
def test_assurance_of_many_studies_equals_closed_form():
    line = assurance(2000, {"gain": dist.Normal(0.6, 0.4)}).summary().iloc[0]
    assert abs(line["assurance"] - 0.6791) < 0.03


def test_power_is_not_complete_whatever_the_effect():
    """Without an effect, studies find one as often as the criterion allows."""
    found = assurance(20, {"gain": 0.0})
    line = found.summary().iloc[0]
    assert line["assurance"] <= 0.2
    assert (line["truth_mean"], line["truth_sd"]) == (0.0, 0.0)


def test_options_that_are_not_valid_raise():
    model = ImpactModel(trial, random.key(0), exact())
    for options, error, text in [
        ({"alternative": "both"}, ValueError, "'greater', 'less' or 'two-sided'"),
        ({"probability": 95}, ValueError, "between 0.5 and 1"),
    ]:
        with pytest.raises(error, match=text):
            model.assurance("arm", X, **QUIET, **options)
    with pytest.raises(TypeError, match="needs an effect"):
        model.assurance(None, X, progress=False, arm=ARM)

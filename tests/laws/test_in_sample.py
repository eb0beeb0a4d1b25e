"""Rows that are not the fitted ones are new observations, unless `in_sample=True` is passed."""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel, OutputWarning

pytestmark = pytest.mark.usefixtures("plain_code")
X = np.linspace(0.0, 1.0, 6).reshape(6, 1)
LABELLED = pd.DataFrame(X, columns=["x"], index=list("abcdef"))
N_DRAWS = 1000
KNOWN, SPREAD, NOISE = 50.0, 3.0, 0.1


def kernel(X, y=None):
    with numpyro.plate("row", X.shape[0]):
        level = numpyro.sample("level", dist.Normal(0.0, SPREAD))
        numpyro.sample("y", dist.Normal(level, NOISE), obs=y)


def model_of(data):
    """Return a model that was fitted to the data, with all outcomes at 50."""
    mcmc = MCMC(NUTS(kernel), num_warmup=200, num_samples=N_DRAWS, progress_bar=False)
    return ImpactModel(kernel, random.key(0), mcmc).fit_on_batch(data, np.full(6, KNOWN), progress=False)


@pytest.fixture(scope="module")
def model():
    return model_of(X)


@pytest.fixture(scope="module")
def labelled():
    return model_of(LABELLED)


def predicted(model, data, **options):
    """Return the group of a prediction and whether its rows have their own posterior draws."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = model.predict(data, store="memory", progress=False, rng_key=random.key(1), **options)
    name = ({*tree.children} & {"posterior_predictive", "predictions"}).pop()
    draws = tree[name]["y"].values
    kept = bool((abs(draws - KNOWN) < 15 * NOISE).all())
    if not kept:  # drawn from the prior of a level
        assert abs(draws.std() / np.hypot(SPREAD, NOISE) - 1) < 0.05
    assert len([one for one in caught if issubclass(one.category, OutputWarning)]) == 1
    return name, kept, str(caught[0].message)


CASES = {
    "the data of the fit": (X, {}, "posterior_predictive", True),
    "other values": (X + 1, {}, "posterior_predictive", False),
    "fewer rows": (X[:3], {}, "posterior_predictive", False),
    "more rows": (np.concatenate([X, X]), {}, "posterior_predictive", False),
    "other values, declared as fitted": (X + 1, {"in_sample": True}, "posterior_predictive", True),
    "the data of the fit, declared as new": (X, {"in_sample": False}, "predictions", False),
    "as many rows in batches": ([{"X": X[:4]}, {"X": X[4:]}], {}, "posterior_predictive", True),
    "fewer rows in batches": ([{"X": X[:4]}], {}, "posterior_predictive", False),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_new_unless_they_are_fitted(model, case):
    data, options, group, kept = CASES[case]
    name, found, message = predicted(model, data, **options)
    assert (name, found) == (group, kept)
    assert ("pass `in_sample=True`" in message) == (not kept and not options)


LABELS = {
    "other values, same labels": (LABELLED + 1, True),
    "other labels": (LABELLED.rename(index=str.upper), False),
    "same labels in another order": (LABELLED[::-1], False),
    "values without labels": (X, True),
    "other values without labels": (X + 1, False),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_identify_rows(labelled, case):
    data, kept = LABELS[case]
    assert predicted(labelled, data)[:2] == ("posterior_predictive", kept)


def test_one_scenario_with_fitted_rows_makes_them_the_rows_of_all(model):
    options = {"progress": False, "store": "memory"}
    with pytest.warns(OutputWarning, match="keep their posterior draws"):
        effect = model.estimate_effect(
            args_baseline={"X": X, **options}, args_intervention={"X": X + 1, **options, "intervention": {}}
        )
    assert abs(effect["posterior_predictive"]["y"].values).max() == 0
    with pytest.warns(OutputWarning, match="are resampled"):
        found = model.compare_scenarios(
            {"a": {"X": X + 1}, "b": {"X": X + 2}}, baseline="a", kind="outcome", progress=False
        )
    means = found["scenarios"]["y"].values
    assert abs(means.mean()) < 0.2  # not 50
    assert abs(found["effect"]["y"].values).max() == 0


def test_fitted_rows_are_recognized_by_their_number_without_data():
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(kernel, random.key(0), mcmc).set_posterior_sample({"level": np.full((N_DRAWS, 6), KNOWN)})
    assert predicted(model, X)[1] is True
    assert predicted(model, X[:3])[1] is False

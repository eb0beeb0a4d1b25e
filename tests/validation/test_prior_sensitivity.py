"""Sensitivity to priors equals ArviZ's on the same draws, and is not hidden by unreliable weights."""

import arviz_stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from exact_inference import PRIOR_SD, exact, trial
from jax import random

import aimz
from aimz import ImpactModel

pytestmark = pytest.mark.usefixtures("plain_code")

N = 20
X = np.zeros(N, np.float32)
ARM = np.float32(np.arange(N) % 2)
Y = np.float32(2.5 * ARM + np.random.default_rng(0).normal(size=N))


@pytest.fixture(scope="module")
def model():
    inference = exact(num_samples=1000)
    return ImpactModel(trial, random.key(0), inference).fit(X, Y, arm=ARM, rng_key=random.key(1), progress=False)


def test_sensitivity_of_effect_equals_arviz_on_the_same_draws(model):
    found = model.prior_sensitivity(effect="arm")
    draws = np.asarray(model.posterior["gain"], np.float64)[None]
    prior = -0.5 * (draws / PRIOR_SD) ** 2
    likelihood = -0.5 * ((Y - draws[..., None] * ARM) ** 2).sum(-1)
    dims = ("chain", "draw")
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"gain": (dims, draws)}),
            "log_prior": xr.Dataset({"gain": (dims, prior)}),
            "log_likelihood": xr.Dataset({"y": (dims, likelihood)}),
        }
    )
    table = found.summary()
    for part in ("prior", "likelihood"):
        expected = float(arviz_stats.psense(tree, group=part)["gain"])
        np.testing.assert_allclose(table[part], expected, rtol=2e-3)
    assert table.index.tolist() == ["effect[arm = 1]", "gain"]
    assert table["diagnosis"].tolist() == ["prior-data conflict"] * 2
    assert "the prior and the data disagree" in " ".join(repr(found).split())
    assert (table["pareto_k"] < 0.7).all()
    # The effect that was computed before has the same draws, and ArviZ reads the tree.
    again = model.prior_sensitivity(effect=model.effect("arm", progress=False)).summary()
    np.testing.assert_allclose(again["prior"], table["prior"], rtol=1e-4)
    assert set(arviz_stats.psense_summary(found.tree).index) == {"effect[arm = 1]", "gain"}


def hierarchy(X, arm, y=None):
    top = numpyro.sample("top", dist.Normal(0.0, 1.0))
    with numpyro.plate("groups", 2):
        level = numpyro.sample("level", dist.Normal(top, 0.1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[0] + level[1] * arm, 1.0), obs=y)


def test_only_priors_of_the_top_level_are_scaled():
    rng = np.random.default_rng(3)
    draws = {"top": np.float32(rng.normal(1, 0.3, 400)), "level": np.float32(rng.normal(1, 0.3, (400, 2)))}
    model = ImpactModel(hierarchy, random.key(0), exact(model=hierarchy)).set_posterior_sample(draws)
    found = model.prior_sensitivity(X, Y, arm=ARM)
    assert found.components.columns.tolist() == ["top"]
    assert found.summary().index.tolist() == ["top", "level[0]", "level[1]"]
    both = model.prior_sensitivity(X, Y, arm=ARM, return_sites=["top", "level"]).components
    assert sorted(both.columns) == ["level", "top"]
    np.testing.assert_allclose(both["top"], found.components["top"])


def test_unreliable_weights_are_reported_and_not_taken_for_insensitivity(model):
    """Draws with heavy tails, as of a posterior that the prior hardly allows: a few draws have all the weight."""
    draws = np.float32(np.random.default_rng(0).standard_cauchy(1000))
    far = ImpactModel(trial, random.key(0), exact()).set_posterior_sample({"gain": draws})
    with pytest.warns(aimz.OutputWarning, match="not reliable"):
        found = far.prior_sensitivity(X, Y, arm=ARM)
    assert found.summary()["diagnosis"].iloc[0].startswith("not reliable for the prior")
    assert found.summary()["pareto_k"].iloc[0] > 0.7


def test_likelihood_is_added_up_in_pieces(model, monkeypatch):
    from aimz.validation import prior_sensitivity

    expected = model.prior_sensitivity().summary()["likelihood"]
    monkeypatch.setattr(prior_sensitivity, "_MAX_VALUES", 0)
    monkeypatch.setattr(prior_sensitivity, "_PIECE", 7000)
    np.testing.assert_allclose(model.prior_sensitivity().summary()["likelihood"], expected, rtol=1e-4)


def test_effects_of_another_posterior_raise(model):
    few = model.thin_posterior(100)
    with pytest.raises(ValueError, match="draws of this posterior, 1,000; got 100"):
        model.prior_sensitivity(effect=few.effect("arm", X=X, args={"arm": ARM}, progress=False))
    with pytest.raises(aimz.NotFittedError):
        ImpactModel(trial, random.key(0), exact()).prior_sensitivity(X, Y, arm=ARM)

"""Interventions and effects under the prior, effects of dictionaries, and the locations of stored scenarios."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel

N, DRAWS, KEY = 7, 500, random.key(3)
X = np.linspace(-1.0, 1.0, N, dtype=np.float32)


def kernel(X, y=None, *, dose):
    lift = numpyro.sample("lift", dist.Normal(2.0, 0.5))
    worth = numpyro.sample("worth", dist.Normal(1.0, 0.1))
    with numpyro.plate("obs", X.shape[0]):
        visits = numpyro.sample("visits", dist.Normal(X + lift * dose, 1.0))
        numpyro.sample("y", dist.Normal(worth * visits, 1.0), obs=y)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))


def prior(model, method, intervention, **options):
    dose = np.zeros(N, np.float32)
    arguments = {"num_samples": DRAWS, "dose": dose, "rng_key": KEY, "return_sites": ["y", "lift", "worth"], **options}
    return getattr(model, method)(X, intervention=intervention, **arguments)


@pytest.mark.parametrize("streamed", [False, True])
def test_effect_of_prior_trees_equals_closed_form(model, streamed):
    """The effect of `dose` is `worth * lift` in each draw: the noise of both calls is common."""
    method = "sample_prior_predictive" if streamed else "sample_prior_predictive_on_batch"
    options = {"store": "memory", "progress": False} if streamed else {}
    before, after = (prior(model, method, {"dose": dose}, **options) for dose in (0.0, 1.0))
    found = model.estimate_effect(before, after)["prior_predictive"]
    draws = after["prior_predictive"]
    expected = np.broadcast_to(draws["lift"] * draws["worth"], (N, 1, DRAWS)).transpose(1, 2, 0)
    np.testing.assert_allclose(found["y"], expected, atol=2e-5)
    assert abs(float(found["y"].mean()) - 2.0) < 0.12  # E[lift] E[worth], standard error 0.024


def test_prior_intervention_on_a_site_sets_it_and_keeps_other_sites(model):
    plain = prior(model, "sample_prior_predictive_on_batch", None, return_datatree=False)
    fixed = prior(model, "sample_prior_predictive_on_batch", {"visits": 5.0}, return_datatree=False)
    np.testing.assert_array_equal(plain["lift"], fixed["lift"])
    assert abs(float(np.mean(fixed["y"])) - 5.0) < 0.1
    effect = model.estimate_effect(plain, fixed)
    np.testing.assert_array_equal(effect["y"], fixed["y"] - plain["y"])
    assert not np.any(effect["lift"])
    with pytest.raises(ValueError, match="neither a site nor an argument"):
        prior(model, "sample_prior_predictive_on_batch", {"visit": 5.0})


def test_effect_of_dictionaries_equals_effect_of_trees(model):
    posterior = {"lift": np.linspace(1.0, 3.0, 9, dtype=np.float32), "worth": np.ones(9, np.float32)}
    fitted = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    fitted.set_posterior_sample(posterior)
    results = {}
    for tree in (True, False):
        sides = [
            fitted.predict_on_batch(
                X, dose=np.zeros(N), intervention={"dose": d}, in_sample=False, rng_key=KEY, return_datatree=tree
            )
            for d in (0.0, 1.0)
        ]
        results[tree] = fitted.estimate_effect(*sides)
    np.testing.assert_array_equal(results[True]["predictions"]["y"].values[0], results[False]["y"])
    np.testing.assert_allclose(results[False]["y"].mean(1), posterior["lift"], atol=1e-5)


def test_effect_of_dictionaries_checks_both_sides(model):
    pair = {"y": np.ones((3, 4), bool)}, {"y": np.zeros((3, 4), bool)}
    assert model.estimate_effect(*pair)["y"].sum() == -12
    with pytest.raises(ValueError, match=r"same draws and rows; got shape \(3, 4\) of `y` .* \(3, 5\)"):
        model.estimate_effect(pair[0], {"y": np.zeros((3, 5))})
    with pytest.raises(ValueError, match=r"share no site: the baseline has \['y'\], the intervention \['mu'\]"):
        model.estimate_effect(pair[0], {"mu": np.zeros((3, 4))})
    with pytest.raises(TypeError, match=r"`output_baseline` must be a DataTree .* got dict"):
        model.estimate_effect(pair[0], args_intervention={"X": X})


def test_effect_of_stored_scenarios_names_their_directories(model, tmp_path):
    sides = [
        prior(model, "sample_prior_predictive", {"dose": dose}, output_dir=tmp_path / str(dose), progress=False)
        for dose in (0.0, 1.0)
    ]
    effect = model.estimate_effect(*sides)
    for attrs in (effect.attrs, effect["prior_predictive"].attrs):
        assert attrs["artifact_path_baseline"] == sides[0].attrs["artifact_path"]
        assert attrs["artifact_path_intervention"] == sides[1].attrs["artifact_path"]
        assert "artifact_path" not in attrs


def test_description_as_dictionary(model):
    fresh = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    empty = fresh.describe(as_dict=True)
    assert empty["sites"] == {}
    assert (empty["arguments"], empty["draws"]) == ({"X": True, "y": True, "dose": None}, None)
    fresh.set_posterior_sample({"lift": np.ones(8), "worth": np.ones(8)}, num_chains=2)
    found = fresh.describe(X, X, dose=X, as_dict=True)
    assert found["arguments"] == {"X": True, "y": True, "dose": True}
    assert (found["chains"], found["draws"]) == (2, 4)
    assert found["sites"]["visits"] == {
        "role": "latent",
        "shape": ["n_obs"],
        "dims": ["obs"],
        "dtype": "float32",
        "distribution": "Normal",
        "plates": ["obs"],
        "depends_on": ["X", "dose", "lift"],
        "abduction": "in closed form",
    }
    assert found["sites"]["lift"]["dims"] == []
    assert found["return_sites"] == ["y"]

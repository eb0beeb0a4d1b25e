"""Plates with more entries than in the posterior: known entries keep their draws, new ones are drawn given parents."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel

N_DRAWS = 4000
MU, TAU, SIGMA = 3.0, 2.0, 0.5
KNOWN = np.array([-1.0, 0.0, 1.0, 2.0])

pytestmark = [
    pytest.mark.filterwarnings("ignore:The answer for new entries:UserWarning"),
    pytest.mark.usefixtures("plain_code"),
]


def model_of(kernel: Callable[..., None], draws: Mapping[str, Any]) -> ImpactModel:
    """Return a model whose posterior draws are all equal to ``draws``."""
    repeated = {name: np.tile(value, (N_DRAWS, *[1] * np.ndim(value))) for name, value in draws.items()}
    repeated = {name: value.reshape(N_DRAWS, *np.shape(draws[name])) for name, value in repeated.items()}
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return model.set_posterior_sample(repeated)


def centred(X, y=None, *, n_groups):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("groups", n_groups):
        a = numpyro.sample("a", dist.Normal(mu, tau))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[X], SIGMA), obs=y)


def non_centred(X, y=None, *, n_groups):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("groups", n_groups):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        a = numpyro.deterministic("a", mu + tau * z)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[X], SIGMA), obs=y)


CENTRED = {"mu": MU, "tau": TAU, "a": KNOWN}
NON_CENTRED = {"mu": MU, "tau": TAU, "z": (KNOWN - MU) / TAU}
KERNELS = {"centred": (centred, CENTRED), "non-centred": (non_centred, NON_CENTRED)}
GROUPS = np.array([0, 3, 4, 4, 5])
METHODS = {
    "predict": lambda m, X, **kw: m.predict(X, in_sample=False, progress=False, store="memory", **kw),
    "on a batch": lambda m, X, **kw: m.predict_on_batch(X, in_sample=False, **kw),
    "by draws": lambda m, X, **kw: m.predict(X, in_sample=False, progress=False, shard_axis="draw", **kw),
}


def outcomes(tree: Any) -> np.ndarray:
    """Return the draws of the output, of shape ``(n_draws, n_obs)``."""
    return tree["predictions"]["y"].to_numpy()[0]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("method", METHODS)
def test_new_groups_have_the_distribution_given_their_parents(name, method):
    model = model_of(*KERNELS[name])
    y = outcomes(METHODS[method](model, GROUPS, n_groups=6))
    sd = np.sqrt([SIGMA**2] * 2 + [TAU**2 + SIGMA**2] * 3)
    np.testing.assert_allclose(y.mean(0), [-1.0, 2.0, MU, MU, MU], atol=5 * sd.max() / np.sqrt(N_DRAWS))
    np.testing.assert_allclose(y.std(0), sd, rtol=5 / np.sqrt(2 * N_DRAWS))
    correlation = np.corrcoef(y.T)  # rows of one new group share its value, another new group has its own
    np.testing.assert_allclose(correlation[2, 3], TAU**2 / (TAU**2 + SIGMA**2), atol=0.02)
    np.testing.assert_allclose(correlation[3, 4], 0.0, atol=0.08)


@pytest.mark.parametrize("name", KERNELS)
def test_draws_of_a_new_group_do_not_depend_on_other_groups_or_on_the_method(name):
    model = model_of(*KERNELS[name])
    key = random.key(7)
    few = model.predict_on_batch(
        GROUPS[:4], n_groups=5, in_sample=False, rng_key=key, return_sites=["a"], return_datatree=False
    )["a"]
    many = model.predict_on_batch(
        GROUPS, n_groups=7, in_sample=False, rng_key=key, return_datatree=False, return_sites=["a", "y"]
    )["a"]
    np.testing.assert_array_equal(few, many[:, :5])
    np.testing.assert_allclose(few[:, :4], np.tile(KNOWN, (N_DRAWS, 1)), atol=1e-6)
    streamed = model.predict(
        np.tile(GROUPS, 500),
        n_groups=6,
        in_sample=False,
        rng_key=key,
        return_sites=["a"],
        progress=False,
    )
    np.testing.assert_array_equal(few, streamed["predictions"]["a"].to_numpy()[0][:, :5])


def test_fitted_groups_predict_as_without_new_groups():
    model = model_of(centred, CENTRED)
    key, X = random.key(3), np.array([0, 1, 2, 3])
    before, after = (
        model.predict_on_batch(X, n_groups=n, in_sample=False, rng_key=key, return_datatree=False)["y"] for n in (4, 9)
    )
    np.testing.assert_array_equal(before, after)


def test_result_names_the_new_entries_and_a_warning_does():
    model = model_of(centred, CENTRED)
    with pytest.warns(
        UserWarning, match=r"new entries of plate.s. `groups` .*, and site.s. `a` are drawn for the new ones given"
    ):
        tree = model.predict_on_batch(GROUPS, n_groups=7, in_sample=False)
    assert json.loads(tree["predictions"].attrs["new_entries"]) == {"a": {"groups": "4 to 6"}}
    tree = model.predict_on_batch(GROUPS[:2], n_groups=4, in_sample=False)
    assert "new_entries" not in tree["predictions"].attrs


def test_labels_of_groups_are_kept_and_new_ones_are_called_new():
    model = ImpactModel(
        non_centred,
        random.key(0),
        MCMC(NUTS(non_centred), num_warmup=1, num_samples=1),
        coords={"groups": ["north", "east", "south", "west"]},
    ).set_posterior_sample({name: np.stack([value] * 4) for name, value in NON_CENTRED.items()})
    tree = model.predict_on_batch(GROUPS, n_groups=6, in_sample=False)
    assert tree["posterior"]["groups"].values.tolist() == ["north", "east", "south", "west"]
    assert tree["predictions"]["groups"].values.tolist() == ["north", "east", "south", "west", "new 4", "new 5"]
    with pytest.raises(ValueError, match="must have 3 labels; got 4"):
        model.sample_prior_predictive_on_batch(GROUPS % 3, n_groups=3)


def test_log_likelihood_of_a_new_group_uses_its_draws():
    model = model_of(centred, CENTRED)
    X, y = np.array([0, 4]), np.array([-1.0, 4.0])
    found = model.log_likelihood(X, y, n_groups=5, progress=False)["log_likelihood"]["y"].to_numpy()[0]
    normal = dist.Normal(0.0, SIGMA)
    np.testing.assert_allclose(found[:, 0], normal.log_prob(0.0), rtol=1e-5)
    density = np.exp(found[:, 1])  # its mean is the density of y integrated over the new group
    expected = np.exp(dist.Normal(MU, np.sqrt(TAU**2 + SIGMA**2)).log_prob(4.0))
    np.testing.assert_allclose(density.mean(), expected, atol=5 * density.std() / np.sqrt(N_DRAWS))


def test_effect_of_moving_to_a_new_group_and_its_interventions():
    model = model_of(centred, CENTRED)
    known = np.zeros(50, int)
    found = (
        model.compare_scenarios(
            {"known": {}, "new": {"X": known + 4}},
            baseline="known",
            X=known,
            n_groups=5,
            in_sample=False,
            progress=False,
        )["effect"]["y"]
        .to_numpy()
        .ravel()
    )
    np.testing.assert_allclose(found.mean(), MU + 1, atol=5 * TAU / np.sqrt(N_DRAWS))
    np.testing.assert_allclose(found.std(), TAU, rtol=0.06)
    effect = model.estimate_effect(
        args_baseline={"X": known + 4, "n_groups": 5, "in_sample": False},
        args_intervention={"X": known + 4, "n_groups": 5, "in_sample": False, "intervention": {"mu": MU + 1}},
        on_batch=True,
    )["predictions"]["y"]
    np.testing.assert_allclose(effect.mean(), 1.0, atol=1e-4)
    np.testing.assert_allclose(effect.std(), 0.0, atol=1e-4)


def test_intervention_on_a_group_that_does_not_exist_is_an_error():
    model = model_of(centred, CENTRED)
    for intervention in ({"X": 5}, {"X": lambda X: X + 1}):
        with pytest.raises(ValueError, match=r"site `a`, which has 5 entries along plate `groups`; .* with 5"):
            model.predict_on_batch(np.array([4, 4]), n_groups=5, in_sample=False, intervention=intervention)
    with pytest.raises(ValueError, match="must broadcast to its shape"):
        model.predict_on_batch(np.array([4, 4]), n_groups=5, in_sample=False, intervention={"a": np.zeros(6)})


def varied(X, y=None, *, n_groups, n_regions):
    """Have sites of several distributions and shapes in one plate, and one in two plates."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    groups, regions = numpyro.plate("groups", n_groups, dim=-1), numpyro.plate("regions", n_regions, dim=-2)
    with groups:
        vector = numpyro.sample("vector", dist.MultivariateNormal(mu, jnp.array([[1.0, 0.5], [0.5, 2.0]])))
        scale = numpyro.sample("scale", dist.LogNormal(vector[:, 0], 0.1))
        affine = dist.transforms.AffineTransform(scale, 0.1)
        numpyro.sample("moved", dist.TransformedDistribution(dist.Normal(0.0, 1.0), affine))
        numpyro.sample(
            "count", dist.Categorical(jnp.stack([scale, 1 + scale, 0 * scale + 2], -1) / (3 + 2 * scale[:, None]))
        )
        components = dist.Normal(jnp.stack([scale, -scale], -1), 0.1)
        numpyro.sample("mixed", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), components))
        numpyro.sample("masked", dist.Laplace(jnp.stack([scale, 0 * scale], -1), 1.0).to_event(1).mask(scale > 0))
        numpyro.sample("bounded", dist.TruncatedNormal(scale, 1.0, low=0.0))
    with groups, regions:
        numpyro.sample("cell", dist.Normal(scale, jnp.arange(1.0, n_regions + 1)[:, None]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(vector[X, 0], 1.0), obs=y)


SITES = ["vector", "scale", "moved", "count", "mixed", "masked", "bounded", "cell"]


def test_new_entries_of_sites_of_many_distributions():
    n_draws = 2000
    model = ImpactModel(varied, random.key(0), MCMC(NUTS(varied), num_warmup=1, num_samples=1))
    call = {"n_groups": 5, "n_regions": 3, "return_sites": ["mu", *SITES], "return_datatree": False}
    X = np.zeros(1, int)
    prior = model.sample_prior_predictive_on_batch(X, num_samples=n_draws, **call)
    known = {"mu": prior["mu"], **{name: prior[name][:, :2] for name in SITES}, "cell": prior["cell"][:, :2, :2]}
    model.set_posterior_sample(known)
    call |= {"in_sample": False, "rng_key": random.key(9)}
    found = model.predict_on_batch(X, **call)
    other = model.predict_on_batch(X, **{**call, "n_groups": 3})
    for name in SITES:
        at = tuple(slice(size) for size in known[name].shape)
        np.testing.assert_array_equal(found[name][at], known[name])
        at = tuple(slice(size) for size in other[name].shape)
        np.testing.assert_allclose(other[name], found[name][at], rtol=1e-4, atol=1e-4)
        axis = 2 if name == "cell" else 1
        one, two = (np.arctan(np.take(np.asarray(given[name]), [2, 3, 4], axis)) for given in (found, prior))
        np.testing.assert_array_less(abs(one.mean(0) - two.mean(0)), 6 * two.std(0) / np.sqrt(n_draws) + 1e-6)
        np.testing.assert_allclose(one.std(0), two.std(0), rtol=0.12, atol=0.01)
    # A new entry is drawn given its own parents, with the correlations of its distribution, and not like its neighbor.
    assert np.corrcoef(np.log(found["scale"][:, 4]), found["vector"][:, 4, 0])[0, 1] > 0.98
    residuals = [found["vector"][:, i] - found["mu"] for i in (3, 4)]
    np.testing.assert_allclose(np.corrcoef(residuals[0].T)[0, 1], 0.5 / np.sqrt(2), atol=0.1)
    np.testing.assert_allclose(np.corrcoef(residuals[0][:, 1], residuals[1][:, 1])[0, 1], 0.0, atol=0.1)


def test_plates_that_shrink_and_axes_without_a_plate_keep_an_error():
    with pytest.raises(ValueError, match=r"must have shape \('n_draws', 3\) .* none may have fewer"):
        model_of(centred, CENTRED).predict_on_batch(np.array([0]), n_groups=3, in_sample=False)

    def without_plate(X, y=None, *, n_groups):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([n_groups]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a[X], 1.0), obs=y)

    with pytest.raises(ValueError, match="Only a plate outside of a `scan` may have more entries"):
        model_of(without_plate, {"a": KNOWN}).predict_on_batch(np.array([0]), n_groups=5, in_sample=False)

"""Sites that take given values without an intervention (`condition=`)."""

import json

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

from stream_helpers import KEY, new_model

N, D = 2100, 6
RNG = np.random.default_rng(0)
X, VISITS, Y = (RNG.normal(size=N).astype(np.float32) for _ in range(3))
POSTERIOR = {"b": np.linspace(0.5, 1.5, D), "worth": np.linspace(2, 3, D)}
OPTIONS = {"progress": False, "rng_key": KEY}


def mediated(X, y=None, visits_data=None):
    b = numpyro.sample("b", dist.Normal())
    worth = numpyro.sample("worth", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        visits = numpyro.sample("visits", dist.Normal(b * X, 1.0), obs=visits_data)
        mu = numpyro.deterministic("mu", worth * visits)
        y = numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        numpyro.deterministic("twice", 2 * y)


@pytest.fixture(scope="module")
def model():
    return new_model(mediated, POSTERIOR)


def methods(model):
    """Return the predictive methods, each as a function of a condition that returns a dataset."""
    memory = {**OPTIONS, "store": "memory"}
    batch = {"rng_key": KEY}
    return {
        "predict": lambda **c: model.predict(X, **c, **memory)["posterior_predictive"],
        "by draws": lambda **c: model.predict(X, **c, **memory, shard_axis="draw")["posterior_predictive"],
        "posterior": lambda **c: model.sample_posterior_predictive(X, **c, **memory)["posterior_predictive"],
        "on batch": lambda **c: model.predict_on_batch(X, **c, **batch)["posterior_predictive"],
        "posterior on batch": lambda **c: model.sample_posterior_predictive_on_batch(X, **c, **batch)[
            "posterior_predictive"
        ],
    }


@pytest.mark.filterwarnings("ignore:The answer depends on the prior of site")
@pytest.mark.parametrize("name", ["predict", "by draws", "posterior", "on batch", "posterior on batch"])
def test_descendants_use_the_values(model, name):
    """The witness is NumPyro's `condition` handler, and the closed form of the deterministic site."""
    found = methods(model)[name](condition={"visits": VISITS})
    witness = Predictive(
        handlers.condition(mediated, {"visits": VISITS}),
        {site: jnp.asarray(draws) for site, draws in POSTERIOR.items()},
        return_sites=["mu"],
    )(KEY, X)["mu"]
    np.testing.assert_allclose(found["mu"].values[0], witness, rtol=1e-5, atol=1e-6)
    drawn = methods(model)[name]()
    noise = (drawn["y"] - drawn["mu"]).values  # the noise of a site does not depend on other sites
    np.testing.assert_allclose((found["y"] - found["mu"]).values, noise, atol=1e-4)
    assert json.loads(found.attrs["condition"]) == {"visits": f"array of shape ({N},)"}


def test_outcome_may_be_given(model):
    found = model.predict(X, condition={"visits": VISITS, "y": Y}, store="memory", **OPTIONS)["posterior_predictive"]
    np.testing.assert_array_equal(found["y"].values, np.broadcast_to(Y, (1, D, N)))
    np.testing.assert_array_equal(found["twice"].values, np.broadcast_to(2 * Y, (1, D, N)))


def test_result_on_disk_is_the_same(model, tmp_path):
    given = {"condition": {"visits": VISITS}}
    stored = model.predict(X, **given, output_dir=tmp_path, **OPTIONS)["posterior_predictive"]
    memory = model.predict(X, **given, store="memory", **OPTIONS)["posterior_predictive"]
    np.testing.assert_array_equal(stored["y"], memory["y"])


def test_prior_predictive_of_given_latents():
    model = new_model(mediated, POSTERIOR)
    given = {"b": 2.0, "worth": 1.0, "visits": VISITS}
    for found in (
        model.sample_prior_predictive(X, num_samples=4, condition=given, store="memory", **OPTIONS),
        model.sample_prior_predictive_on_batch(X, num_samples=4, condition=given, rng_key=KEY),
    ):
        mu = found["prior_predictive"]["mu"].values
        np.testing.assert_allclose(mu, np.broadcast_to(VISITS, mu.shape), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:The answer depends on the prior of site")
def test_effects_given_a_mediator_are_direct_effects(model):
    """An intervention upstream of a given mediator has no effect through it."""
    arms = {"low": {"intervention": {"X": 0.0}}, "high": {"intervention": {"X": 1.0}}}
    options = {"baseline": "low", "X": X, **OPTIONS}
    total = model.compare_scenarios(arms, **options)["effect"]["mu"]
    np.testing.assert_allclose(total.values[0, :, 0], POSTERIOR["b"] * POSTERIOR["worth"], rtol=1e-4)
    given = {name: {**arm, "condition": {"visits": VISITS}} for name, arm in arms.items()}
    assert (model.compare_scenarios(given, **options)["effect"]["mu"] == 0).all()
    sides = [{"X": X, **given[name], "store": "memory", "progress": False} for name in ("low", "high")]
    effect = model.estimate_effect(args_baseline=sides[0], args_intervention=sides[1])
    assert (effect["posterior_predictive"]["mu"] == 0).all()


def local(X, y=None):
    with numpyro.plate("row", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(X, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def walk(X, y=None):
    def step(level, x):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        return level, level

    scale = numpyro.sample("scale", dist.HalfNormal())
    numpyro.sample("y", dist.Normal(scan(step, 0.0, X)[1], scale), obs=y)


def random_walk(X, y=None):
    level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[0]))
    scale = numpyro.sample("scale", dist.HalfNormal())
    numpyro.sample("y", dist.Normal(level, scale), obs=y)


ERRORS = [
    ([1.0], TypeError, "`condition` must map names of sites to values; got list"),
    ({"visits": lambda v: v}, TypeError, "`condition` must map names of sites to values; got a callable"),
    ({"sales": 1.0}, ValueError, "Cannot condition on 'sales', which is not a `sample` site. Sample sites: b, worth"),
    ({"mu": 1.0}, ValueError, "Cannot condition on 'mu', which is not a `sample` site"),
    ({"visits_data": X}, ValueError, "Cannot condition on 'visits_data', which is an argument: pass it as one"),
    ({"b": 1.0}, ValueError, "Cannot condition on `b`, which has posterior draws"),
    ({"visits": np.stack([VISITS[:9]] * 2)}, ValueError, r"A condition on site `visits` must broadcast to its shape"),
    ({"visits": np.append(VISITS, 0.0)}, ValueError, "`visits` has 2101 entries along axis 0, and the site has 2100"),
]


@pytest.mark.parametrize(("condition", "error", "text"), ERRORS)
def test_invalid_conditions_raise_before_any_work(model, condition, error, text):
    key = model.rng_key
    for call in methods(model).values():
        with pytest.raises(error, match=text):
            call(condition=condition)
    assert model.rng_key == key


def test_site_in_condition_and_intervention_raises(model):
    with pytest.raises(ValueError, match="Site `visits` is both in `condition` and in `intervention`"):
        model.predict(X, condition={"visits": VISITS}, intervention={"visits": 0.0}, **OPTIONS)


def test_condition_below_a_drawn_latent_raises():
    """`condition` infers nothing, so the latent would not be the one that led to the values."""
    text = "depends on `z`, which would be drawn without regard to the values of `y`"
    with pytest.raises(ValueError, match=text):
        new_model(local, {"z": np.zeros((D, N))}).predict(X, condition={"y": Y}, in_sample=False, **OPTIONS)
    with pytest.raises(ValueError, match=text):
        new_model(local, {"z": np.zeros((D, N))}).sample_prior_predictive(X, condition={"y": Y}, **OPTIONS)


@pytest.mark.parametrize("kernel", [walk, random_walk], ids=["scan", "random walk"])
@pytest.mark.parametrize("n_known", [1, 4])
def test_first_steps_are_given_and_later_ones_drawn(kernel, n_known):
    """Later steps continue from the last given one, with a variance that grows by 1 in each step."""
    model = new_model(kernel, {"scale": np.ones(D)})
    known = np.arange(n_known) + 40.0
    options = {"return_sites": ["level"], "num_samples": 4000, "condition": {"level": known}, "rng_key": KEY}
    found = model.sample_prior_predictive_on_batch(np.zeros(6), **options)["prior_predictive"]["level"].values[0]
    np.testing.assert_array_equal(found[:, :n_known], np.broadcast_to(known, (4000, n_known)))
    variances = 1.0 + np.arange(6 - n_known)
    assert (np.abs(found[:, n_known:].mean(0) - known[-1]) < 4.5 * np.sqrt(variances / 4000)).all()
    assert (np.abs(found[:, n_known:].var(0) / variances - 1) < 4.5 * np.sqrt(2 / 4000)).all()


@pytest.mark.filterwarnings("ignore:The answer depends on the prior of site")
@pytest.mark.parametrize("name", ["predict", "on batch"])
def test_first_rows_are_given_and_later_ones_drawn(model, name):
    found = methods(model)[name](condition={"visits": VISITS[:30]})
    exact = POSTERIOR["worth"][:, None] * VISITS[:30]
    np.testing.assert_allclose(found["mu"].values[0, :, :30], exact, rtol=1e-5)
    later = (found["mu"].values[0, :, 30:] / POSTERIOR["worth"][:, None] - POSTERIOR["b"][:, None] * X[30:]).ravel()
    assert abs(later.mean()) < 4.5 / np.sqrt(later.size)
    assert abs(later.var() - 1) < 4.5 * np.sqrt(2 / later.size)


def test_condition_below_a_drawn_mediator_raises():
    """A mediator that was observed in another call is drawn here, without regard to the outcome."""
    model = new_model(mediated, POSTERIOR)
    model.describe(X, Y, visits_data=VISITS)
    with pytest.raises(ValueError, match="depends on `visits`, which would be drawn without regard"):
        model.predict(X, condition={"y": Y}, **OPTIONS)

"""Effects are contrasts of expected values, without the noise of drawn outcomes; NumPyro's means are the witness."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

import aimz
from aimz import OutputWarning
from stream_helpers import KEY, new_model

N, D = 1200, 40
DIMS = ("chain", "draw")
RNG = np.random.default_rng(0)
X = RNG.normal(size=N).astype(np.float32)
TREAT = RNG.integers(0, 2, N).astype(np.int32)
REGION = np.arange(N) % 60
POSTERIOR = {"level": RNG.normal(-1, 0.07, D), "gain": RNG.normal(0.4, 0.05, D)}
ARMS = {"off": {"intervention": {"treat": 0}}, "on": {"intervention": {"treat": 1}}}
OPTIONS = {"baseline": "off", "X": X, "treat": TREAT, "progress": False, "rng_key": KEY}


def family(outcome):
    """Return a kernel whose outcome has the distribution ``outcome(eta)``."""

    def kernel(X, treat, y=None):
        level = numpyro.sample("level", dist.Normal(0, 5))
        gain = numpyro.sample("gain", dist.Normal(0, 5))
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", outcome(level + 0.3 * X + gain * treat), obs=y)

    return kernel


FAMILIES = {
    "binary": lambda eta: dist.Bernoulli(logits=eta),
    "count": lambda eta: dist.Poisson(jnp.exp(eta)),
    "overdispersed": lambda eta: dist.NegativeBinomial2(jnp.exp(eta), 2.0),
    "many zeros": lambda eta: dist.ZeroInflatedPoisson(0.3, jnp.exp(eta)),
    "heteroscedastic": lambda eta: dist.Normal(eta, jnp.exp(eta)),
    "mixture": lambda eta: dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.stack([eta, 2 * eta], -1), 1.0)
    ),
    "log-normal": lambda eta: dist.TransformedDistribution(dist.Normal(eta, 0.5), dist.transforms.ExpTransform()),
}
MEANS = {
    "many zeros": lambda eta: 0.7 * np.exp(eta),
    "mixture": lambda eta: 1.7 * eta,
    "log-normal": lambda eta: np.exp(eta + 0.125),
}


def expected_rows(name, treat):
    """Return the expected outcomes of shape ``(D, N)`` in double precision, from NumPyro's mean or a closed form."""
    level, gain = (np.asarray(POSTERIOR[site], np.float32).astype(np.float64)[:, None] for site in ("level", "gain"))
    eta = level + 0.3 * X + gain * treat
    return MEANS[name](eta) if name in MEANS else np.asarray(FAMILIES[name](eta).mean, np.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_effects_contrast_expected_values(name):
    model = new_model(family(FAMILIES[name]), POSTERIOR)
    found = model.compare_scenarios(ARMS, by={"region": REGION}, **OPTIONS)
    off, on = (expected_rows(name, treat) for treat in (0, 1))
    by_region = (on - off).reshape(D, -1, 60).mean(1)
    np.testing.assert_allclose(found["effect"]["y"].values[0, :, 0], by_region, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["effect_overall"]["y"].values[0, :, 0], (on - off).mean(1), rtol=1e-4, atol=1e-5)
    assert found["effect"].attrs["kind"] == found["effect"]["y"].attrs["kind"] == "expected"
    assert "drawn_outcomes" not in found["effect"].attrs


def test_outcomes_are_averages_of_predictions():
    model = new_model(family(FAMILIES["binary"]), POSTERIOR)
    found = model.compare_scenarios(ARMS, kind="outcome", **OPTIONS)
    on, off = (
        model.predict(X, treat=TREAT, intervention={"treat": treat}, store="memory", progress=False, rng_key=KEY)
        for treat in (1, 0)
    )
    drawn = (on["posterior_predictive"]["y"] - off["posterior_predictive"]["y"]).mean("row")
    np.testing.assert_allclose(found["effect"]["y"].values[:, :, 0], drawn, atol=1e-6)
    assert found["effect"].attrs["kind"] == found["effect"]["y"].attrs["kind"] == "outcome"
    assert found["effect"].attrs["drawn_outcomes"] == ["y"]


def test_small_groups_have_certain_sign_where_each_draw_has():
    """In groups of 20 rows, drawn outcomes hide an effect that is positive in every draw."""
    model = new_model(family(FAMILIES["binary"]), POSTERIOR)
    kinds = {}
    for kind in ("expected", "outcome"):
        found = model.compare_scenarios(ARMS, by={"region": REGION}, kind=kind, **OPTIONS)
        kinds[kind] = found["effect"]["y"]
        words = [text for text in aimz.in_words(found) if "For region" in text]
        meant = "the drawn share of `y`" if kind == "outcome" else "the probability of `y`"
        assert all(f": {meant}" in text for text in words)
        unsure = sum("which way it goes is open" in text for text in words)
        assert unsure > 30 if kind == "outcome" else unsure == 0
        assert aimz.in_words(found)[0].startswith(meant.capitalize())
    assert (kinds["expected"] > 0).all()
    assert float((kinds["outcome"].std(DIMS) / kinds["expected"].std(DIMS)).min()) > 2


def test_statistics_of_rows_are_of_expected_values():
    model = new_model(family(FAMILIES["log-normal"]), POSTERIOR)
    rows = {"X": X, "treat": TREAT}
    sides = {
        "args_baseline": {**rows, "intervention": {"treat": 0}},
        "args_intervention": {**rows, "intervention": {"treat": 1}, "store": "memory", "progress": False},
    }
    group = model.estimate_effect(**sides, statistics=("mean", "sd", 0.1))["posterior_predictive"]
    effect = expected_rows("log-normal", 1) - expected_rows("log-normal", 0)
    witness = np.stack([effect.mean(0), effect.std(0), np.quantile(effect, 0.1, axis=0)])
    np.testing.assert_allclose(group["y"].values, witness, rtol=1e-3, atol=1e-5)
    assert group.attrs["kind"] == "expected"
    drawn = model.estimate_effect(**sides, statistics="sd", kind="outcome")["posterior_predictive"]
    assert (drawn["y"].values[0] > 1.2 * witness[1]).mean() > 0.9
    assert drawn.attrs["kind"] == "outcome"
    with pytest.raises(ValueError, match="`kind='expected'` needs `statistics`"):
        model.estimate_effect(**sides, kind="expected")


def test_sites_that_are_observed_in_part():
    """NumPyro splits a site with `obs_mask` in two and joins them in a deterministic site."""

    def kernel(X, treat, y=None):
        level = numpyro.sample("level", dist.Normal(0, 5))
        gain = numpyro.sample("gain", dist.Normal(0, 5))
        mask = jnp.ones(X.shape[0], bool)
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=level + 0.3 * X + gain * treat), obs=y, obs_mask=mask)

    found = new_model(kernel, POSTERIOR).compare_scenarios(ARMS, **OPTIONS)
    effect = (expected_rows("binary", 1) - expected_rows("binary", 0)).mean(1)
    np.testing.assert_allclose(found["effect"]["y"].values[0, :, 0], effect, rtol=1e-4)
    assert found["effect"]["y"].attrs["kind"] == "expected"


def test_deterministic_site_next_to_a_site_of_similar_name_is_unchanged():
    """`level_observed` is a site of its own unless NumPyro has split a site by `obs_mask`."""

    def kernel(X, treat, y=None, measured=None):
        level = numpyro.sample("level", dist.Normal(0, 5))
        gain = numpyro.sample("gain", dist.Normal(0, 5))
        with numpyro.plate("row", X.shape[0]):
            rate = numpyro.deterministic("rate", level + gain * treat)
            numpyro.sample("rate_observed", dist.Normal(rate + 100.0, 1.0), obs=measured)
            numpyro.sample("y", dist.Normal(rate, 1.0), obs=y)

    model = new_model(kernel, POSTERIOR)
    # The intervention resamples the site, although it has data.
    found = model.compare_scenarios(ARMS, return_sites="rate", measured=X, **OPTIONS)["scenarios"]["rate"]
    rate = POSTERIOR["level"][:, None] + POSTERIOR["gain"][:, None] * [0, 1]
    np.testing.assert_allclose(found.values[0], rate, rtol=1e-4, atol=1e-5)
    assert "kind" not in found.attrs


def mediated(X, treat, y=None, counted=None):
    """A mediator, which is observed, and a local latent."""
    level = numpyro.sample("level", dist.Normal(0, 5))
    gain = numpyro.sample("gain", dist.Normal(0, 5))
    with numpyro.plate("row", X.shape[0]):
        taste = numpyro.sample("taste", dist.Normal(0, 1))
        visits = numpyro.sample("visits", dist.LogNormal(level + gain * treat, 0.5), obs=counted)
        p = numpyro.deterministic("p", jax.nn.sigmoid(taste + 0.5 * visits))
        numpyro.sample("y", dist.Bernoulli(probs=p), obs=y)


@pytest.mark.filterwarnings("ignore:The answer depends on the prior of site")
def test_parents_of_the_output_stay_random():
    """The output is expected given the drawn mediator and latent: its average is that of its probability."""
    model = new_model(mediated, POSTERIOR)
    model.describe(X, TREAT, treat=TREAT, counted=np.ones(N))  # visits may be observed
    found = model.compare_scenarios(ARMS, return_sites=("y", "p", "visits"), **OPTIONS)["scenarios"]
    np.testing.assert_allclose(found["y"], found["p"], rtol=1e-5)
    rate = np.exp(POSTERIOR["level"][:, None] + POSTERIOR["gain"][:, None] * [0, 1] + 0.125)
    np.testing.assert_allclose(found["visits"].values[0], rate, rtol=1e-4)
    drawn = model.compare_scenarios(ARMS, return_sites="visits", kind="outcome", **OPTIONS)["scenarios"]["visits"]
    assert not np.allclose(drawn.values[0], rate, rtol=1e-3)


def test_distributions_without_a_mean_are_drawn_with_a_warning():
    model = new_model(family(lambda eta: dist.Cauchy(eta, 1.0)), POSTERIOR)
    with pytest.warns(OutputWarning, match=r"site\(s\) `y` are averaged: they have no expected value"):
        found = model.compare_scenarios(ARMS, **OPTIONS)
    assert found["effect"].attrs["kind"] == "expected"
    assert found["effect"]["y"].attrs["kind"] == "outcome"
    assert found["effect"].attrs["drawn_outcomes"] == ["y"]
    assert aimz.in_words(found)[0].startswith("Drawn `y`")
    xr.testing.assert_equal(
        found["effect"]["y"], model.compare_scenarios(ARMS, kind="outcome", **OPTIONS)["effect"]["y"]
    )


def test_callable_interventions_on_the_output_are_averaged_as_drawn_in_every_scenario():
    """The expected value of a function is not the function of the expected value."""
    model = new_model(family(FAMILIES["log-normal"]), POSTERIOR)
    scenarios = {"off": {}, "capped": {"intervention": {"y": lambda y: jnp.minimum(y, 1)}}, "one": ARMS["on"]}
    with pytest.warns(OutputWarning, match="a callable intervention changes"):
        found = model.compare_scenarios(scenarios, **OPTIONS)
    drawn = model.compare_scenarios(scenarios, kind="outcome", **OPTIONS)
    xr.testing.assert_equal(found["effect"]["y"], drawn["effect"]["y"])
    fixed = model.compare_scenarios({"off": {}, "none": {"intervention": {"y": 0}}}, **OPTIONS)
    mean = expected_rows("log-normal", TREAT).mean(1)
    np.testing.assert_allclose(fixed["effect"]["y"].values[0, :, 0], -mean, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mean", 0, np.ones(3)])
def test_unknown_kinds_are_rejected(kind):
    model = new_model(family(FAMILIES["binary"]), POSTERIOR)
    with pytest.raises(ValueError, match="`kind` must be 'expected' or 'outcome'; got"):
        model.compare_scenarios(ARMS, kind=kind, **OPTIONS)
    with pytest.raises(ValueError, match="`kind` must be 'expected' or 'outcome'; got"):
        model.estimate_effect(args_baseline={"X": X}, args_intervention={"X": X}, statistics="mean", kind=kind)

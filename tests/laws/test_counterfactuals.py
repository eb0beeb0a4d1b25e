"""Laws of counterfactuals: consistency, composition, averages, and the same numbers however they are computed."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS

import aimz
from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader
from kernels import BY_NAME, CASES, N_DRAWS, each_kernel, fitted_model, long, long_model

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

MEMORY = {"store": "memory", "progress": False}
NOT_CUT = {
    "gaussian_process": "one joint distribution",
    "state_space": "inside a `scan`",
    "closed_over": "one number of rows only",
    "factor_only": "by a factor",
}
"""Kernels whose noise cannot be inferred row by row, and the reason."""


def coupling(case):
    """Return the coupling that a case needs."""
    return "monotone" if case.name in ("logistic", "poisson", "negative_binomial", "categorical") else None


def seen_rows(case):
    """Return the rows whose output is observed; the others have posterior draws of it."""
    return case.extra.get("seen", np.ones(len(case.y), bool))


def model_of(kernel, **posterior):
    """Return a model with chosen posterior draws."""
    sampler = MCMC(NUTS(kernel), num_warmup=1, num_samples=1)
    return ImpactModel(kernel, random.key(0), sampler).set_posterior_sample(posterior)


@cache
def shared_model(case_name: str):
    """One model per kernel for the whole file, so that each program is compiled once."""
    return fitted_model(BY_NAME[case_name])


def same(X):
    """Return what happened."""
    return X


@each_kernel(CASES)
def test_intervention_that_happened_returns_what_was_observed(case):
    model, options = shared_model(case.name), {"coupling": coupling(case), **MEMORY}
    arguments = {**case.arguments(), "y": case.y, "intervention": {"X": same}, **options}
    if case.name in NOT_CUT:
        with pytest.raises(ValueError, match=NOT_CUT[case.name]):
            model.counterfactual(**arguments)
        return
    had = model.counterfactual(**arguments)
    rows = seen_rows(case)
    found = had["counterfactual"]["y"].values[:, :, rows]
    np.testing.assert_array_equal(found, np.broadcast_to(case.y[rows], (1, N_DRAWS, *case.y[rows].shape)))
    for value in had["effect"].values():  # computed sites are rounded differently in two programs
        np.testing.assert_allclose(value, 0, atol=1e-5)
    assert (had["effect"]["y"] == 0).all()


@each_kernel(CASES)
def test_intervention_changes_outcomes_of_observed_rows(case):
    if case.name in NOT_CUT:
        pytest.skip("no counterfactual")
    had = shared_model(case.name).counterfactual(
        **case.arguments(), y=case.y, intervention=case.intervention, coupling=coupling(case), **MEMORY
    )
    y, effect = had["counterfactual"]["y"].values, had["effect"]["y"].values
    assert (effect != 0).any()
    rows = seen_rows(case)
    np.testing.assert_allclose((y - np.asarray(case.y))[:, :, rows], effect[:, :, rows], atol=1e-5)
    assert "drawn_anew" not in had["counterfactual"].attrs


@pytest.mark.parametrize(
    ("name", "mediator", "abducted"),
    [
        ("linear", "mu", ["y"]),
        pytest.param("poisson", "rate", ["y"], marks=pytest.mark.slow),
        ("local_latents", "z", ["z", "y"]),
        ("chain", "m", ["m", "y"]),
    ],
)
def test_composition_mediator_set_to_its_counterfactual_value(name, mediator, abducted):
    case, model = BY_NAME[name], shared_model(name)
    arguments = {**case.arguments(), "y": case.y, "coupling": coupling(case), "rng_key": random.key(3), **MEMORY}
    set_to = {"chain": {"z": 1.0}}.get(name, case.intervention)
    first = model.counterfactual(**arguments, intervention=set_to, return_sites=[mediator, "y"])["counterfactual"]
    values = xr.DataArray(first[mediator].values, dims=("chain", "draw", "obs"))
    second = model.counterfactual(**arguments, intervention={**set_to, mediator: values})["counterfactual"]
    np.testing.assert_allclose(first["y"], second["y"], rtol=1e-5, atol=1e-5)
    assert first.attrs["abducted"] == abducted
    # Another value of the mediator is another outcome.
    other = model.counterfactual(**arguments, intervention={**set_to, mediator: values + 1})["counterfactual"]
    assert (np.abs(first["y"].values - other["y"].values) > 0.1).any()


@pytest.mark.parametrize("name", ["linear", "chain"])
def test_mean_over_units_equals_comparison_for_additive_noise(name):
    case, model = BY_NAME[name], shared_model(name)
    set_to = {"linear": {"X": 1.0}, "chain": {"z": 1.0}}[name]
    scenarios = {"as is": {}, "set": {"intervention": set_to}}
    in_general = model.compare_scenarios(scenarios, baseline="as is", **case.arguments(), progress=False)
    given = model.compare_scenarios(scenarios, baseline="as is", given=case.y, **case.arguments(), progress=False)
    had = model.counterfactual(**case.arguments(), y=case.y, intervention=set_to, **MEMORY)
    by_unit = had["effect"]["y"].mean("obs").values
    np.testing.assert_allclose(given["effect"]["y"].values[..., 0], by_unit, rtol=1e-4, atol=1e-5)
    if name == "linear":  # in the chain, the mediators of the comparison have another mean than the observed ones
        np.testing.assert_allclose(in_general["effect"]["y"].values[..., 0], by_unit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given["scenarios"]["y"].values[..., 0].mean(), case.y.mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["local_latents", pytest.param("poisson", marks=pytest.mark.slow)])
def test_numbers_do_not_depend_on_batches_stores_or_interruption(name, tmp_path):
    case, model = long(BY_NAME[name], 2500), long_model(BY_NAME[name], 2500)
    fields = {**case.arguments(), "y": case.y}
    options = {
        "intervention": case.intervention,
        "coupling": coupling(case),
        "rng_key": random.key(5),
        "progress": False,
    }
    whole = model.counterfactual(**fields, store="memory", **options)
    small = model.counterfactual(**fields, store="memory", batch_size=1, **options)
    loader = ArrayLoader(ArrayDataset(**fields), random.key(0), batch_size=700)
    by_batch = model.counterfactual(loader, **options, output_dir=tmp_path)
    by_draws = model.counterfactual(**fields, store="memory", shard_axis="draw", **options)
    reopened = aimz.open_result(by_batch.attrs["artifact_path"])
    for other in (small, by_batch, by_draws, reopened):
        for group in ("counterfactual", "effect"):
            np.testing.assert_array_equal(other[group]["y"], whole[group]["y"])

    def batches(last):
        for start in range(0, 2500, 1024):
            if start > last:
                raise ConnectionError
            yield {field: value[start : start + 1024] for field, value in fields.items()}

    with pytest.raises(ConnectionError):
        model.counterfactual(batches(1024), output_dir=tmp_path / "again", batch_size=1024, **options)
    place = next((tmp_path / "again").iterdir())
    resumed = model.counterfactual(batches(2500), resume=place, batch_size=1024, **options)
    for group in ("counterfactual", "effect"):
        np.testing.assert_array_equal(resumed[group]["y"], whole[group]["y"])


@pytest.mark.parametrize("name", ["local_latents"])
def test_statistics_equal_those_of_draws(name):
    case, model = BY_NAME[name], shared_model(name)
    arguments = {**case.arguments(), "y": case.y, "intervention": case.intervention, **MEMORY}
    draws = model.counterfactual(**arguments)
    found = model.counterfactual(**arguments, statistics=("mean", 0.25))
    for group in ("counterfactual", "effect"):
        values = draws[group]["y"].values.astype(float)
        expected = [values.mean((0, 1)), np.quantile(values, 0.25, axis=(0, 1))]
        np.testing.assert_allclose(found[group]["y"], expected, rtol=1e-6, atol=1e-6)


def test_site_that_does_not_descend_keeps_its_data():
    case, model = BY_NAME["chain"], shared_model("chain")
    had = model.counterfactual(
        **case.arguments(), y=case.y, intervention={"m": 1.0}, return_sites=["z", "m", "y"], **MEMORY
    )["counterfactual"]
    np.testing.assert_array_equal(had["z"].values[0, 0], case.extra["t"])
    assert (had["m"] == 1).all()
    assert had.attrs["abducted"] == ["y"]


# ------------------------------------------------------------------------------------------------ witnesses


def joe(X, homework, y=None):
    """Encouragement, homework and exam score of Pearl, Glymour and Jewell (2016), section 4.2.3."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal())
    c = numpyro.sample("c", dist.Normal())
    with numpyro.plate("student", X.shape[0]):
        H = numpyro.sample("H", dist.Normal(a * X, 1.0), obs=homework)
        numpyro.sample("y", dist.Normal(b * X + c * H, 0.75), obs=y)


def test_joe_had_he_doubled_his_homework():
    model = model_of(joe, a=np.full(3, 0.5), b=np.full(3, 0.7), c=np.full(3, 0.4))
    X, H, y = np.array([0.5]), np.array([1.0]), np.array([1.5])
    had = model.counterfactual(X, y, homework=H, intervention={"H": 2.0}, **MEMORY)
    np.testing.assert_allclose(had["counterfactual"]["y"], 1.9, rtol=1e-6)
    # Through homework too: its noise is 0.75, so that it is 1.25 for an encouragement of 1.
    had = model.counterfactual(X, y, homework=H, intervention={"X": 1.0}, return_sites=["H", "y"], **MEMORY)
    np.testing.assert_allclose(had["counterfactual"]["H"], 1.25, rtol=1e-6)
    np.testing.assert_allclose(had["counterfactual"]["y"], 0.75 + 0.7 + 0.4 * 1.25, rtol=1e-6)


def response(X, treated, y=None):
    with numpyro.plate("patient", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(probs=0.3 + 0.2 * treated), obs=y)


def test_probabilities_of_necessity_and_sufficiency():
    """Probabilities 0.3 and 0.5 under monotonicity: PNS = 0.2 and PN = 0.2 / 0.5 (Pearl 1999)."""

    def kernel(X, treated, y=None):
        numpyro.sample("unused", dist.Normal())
        response(X, treated, y)

    rng, n = np.random.default_rng(0), 20_000
    treated = rng.integers(0, 2, n).astype(np.float32)
    y = (rng.random(n) < 0.3 + 0.2 * treated).astype(int)
    model = model_of(kernel, unused=np.zeros(4))
    scenarios = {"none": {"intervention": {"treated": 0.0}}, "drug": {"intervention": {"treated": 1.0}}}
    arguments = {"baseline": "none", "X": np.zeros(n), "treated": treated, "progress": False}
    found = model.compare_scenarios(scenarios, given=y, coupling="monotone", **arguments)
    np.testing.assert_allclose(found["effect"]["y"], 0.2, atol=0.012)
    assert found["effect"].attrs["coupling"] == "monotone"
    cases = (treated == 1) & (y == 1)
    found = model.compare_scenarios(scenarios, given=y, coupling="monotone", weights=cases, **arguments)
    np.testing.assert_allclose(found["effect"]["y"], 0.4, atol=0.03)
    had = model.counterfactual(
        np.zeros(n), y, treated=treated, intervention={"treated": 1.0}, coupling="monotone", statistics="mean", **MEMORY
    )
    assert (had["effect"]["y"].values >= 0).all()  # a treatment that raises the probability harms nobody


def test_mediator_and_local_latent_keep_their_noise():
    """The noise of a latent mediator is the difference of its posterior draw from its mean."""
    case, model = BY_NAME["local_latents"], shared_model("local_latents")
    had = model.counterfactual(
        **case.arguments(), y=case.y, intervention={"mu": 3.0}, return_sites=["z", "y"], **MEMORY
    )
    mu, z = model.posterior["mu"], model.posterior["z"]
    np.testing.assert_allclose(had["counterfactual"]["z"].values[0], z + (3 - mu)[:, None], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(had["effect"]["y"].values[0], np.broadcast_to((3 - mu)[:, None], z.shape), rtol=1e-4)


# --------------------------------------------------------------------------------------------------- errors


def linear_kernel(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(slope * X, 1.0), obs=y)


def counts(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(slope * X)), obs=y)


def angles(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.VonMises(slope * X, 1.0), obs=y)


def shares(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Dirichlet(jnp.exp(slope * X)[:, None] * jnp.ones(3)), obs=y)


def bounded(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Uniform(slope * X, slope * X + 2), obs=y)


def hidden(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        visits = numpyro.sample("visits", dist.Normal(slope * X, 1.0))
        numpyro.sample("y", dist.Normal(visits, 1.0), obs=y)


def lagged(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        before = 0.0 if y is None else y / 2
        numpyro.sample("y", dist.Normal(slope * X + before, 1.0), obs=y)


def centred(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(slope * (X - X.mean()), 1.0), obs=y)


def walk(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())

    def step(level, x):
        with numpyro.plate("row", X.shape[0]):
            level = numpyro.sample("level", dist.Normal(level + slope * x, 1.0))
        return level, level

    _, path = scan(step, jnp.zeros(X.shape[0]), X.T)
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(path[-1], 1.0), obs=y)


ROW, ONES = np.array([1.0, 2.0, 3.0]), np.ones(3)
ERRORS = {
    "discrete without coupling": (counts, ROW, np.array([0, 1, 2]), {}, 'Pass `coupling="monotone"`'),
    "unknown coupling": (counts, ROW, np.array([0, 1, 2]), {"coupling": "copula"}, "must be 'monotone' or None"),
    "no distribution function": (angles, ROW, ONES, {}, r"`y` \(VonMises\) cannot be inferred"),
    "several variables": (shares, ROW, np.full((3, 3), 1 / 3), {}, r"`y` \(Dirichlet\) cannot be inferred"),
    "zero density": (bounded, ROW, np.array([2.0, 9.0, 99.0]), {}, r"row 1 is the first of 2 row\(s\)"),
    "marginalized latent": (hidden, ROW, ONES, {}, "`visits` has neither data nor posterior draws"),
    "outcome as an input": (lagged, ROW, ONES, {}, "computed from the data of `y`"),
    "rows that interact": (centred, ROW, ONES, {}, "cannot be split along its rows"),
    "scan": (walk, np.ones((3, 2)), ONES, {}, "`level` descend from the intervention and are inside a `scan`"),
    "intervention on the outcome": (linear_kernel, ROW, ONES, {"intervention": {"y": 0.0}}, "the outcome itself"),
    "empty intervention": (linear_kernel, ROW, ONES, {"intervention": {}}, "an empty mapping"),
    "another scenario": (linear_kernel, ROW, ONES, {"intervention": {"slope": aimz.as_in("a")}}, "not one of the"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.filterwarnings("ignore::aimz.OutputWarning")
def test_noise_that_cannot_be_inferred_is_an_error(name):
    kernel, X, y, options, message = ERRORS[name]
    draws = {"slope": np.linspace(0.9, 1.1, 5)}
    if kernel is walk:
        draws["level"] = np.zeros((5, 2, 3))
    model = model_of(kernel, **draws)
    with pytest.raises(ValueError, match=message):
        model.counterfactual(X, y, **{"intervention": {"X": 0.0}, **options}, **MEMORY)


def test_local_latents_of_other_rows_are_an_error():
    case, model = BY_NAME["local_latents"], shared_model("local_latents")
    with pytest.raises(ValueError, match="`z` has neither data nor posterior draws of them"):
        model.counterfactual(**case.arguments(), y=case.y, intervention={"mu": 0.0}, in_sample=False, **MEMORY)


def test_local_latents_of_another_outcome_are_an_error():
    X, y = np.linspace(0, 1, 4), np.linspace(0, 2, 4)
    model = ImpactModel(hidden, random.key(0), MCMC(NUTS(hidden), num_warmup=5, num_samples=5, progress_bar=False))
    model.fit_on_batch(X, y, progress=False)
    had = model.counterfactual(X, y, intervention={"X": 0.0}, **MEMORY)
    assert had["counterfactual"].attrs["abducted"] == ["visits", "y"]
    with pytest.raises(ValueError, match="`visits` has neither data nor posterior draws of them"):
        model.counterfactual(X, y + 1, intervention={"X": 0.0}, **MEMORY)


def test_condition_is_evidence_about_a_mediator():
    """Given 5 visits, their noise is 5 - slope X; an intervention moves the visits, and they move the outcome."""
    model = model_of(hidden, slope=np.full(4, 2.0))
    had = model.counterfactual(
        ROW,
        ONES,
        condition={"visits": np.full(3, 5.0)},
        intervention={"X": 0.0},
        return_sites=["visits", "y"],
        **MEMORY,
    )["counterfactual"]
    np.testing.assert_allclose(had["visits"].values[0, 0], 5 - 2 * ROW)
    np.testing.assert_allclose(had["y"].values[0, 0], 1 - 2 * ROW)


@pytest.mark.parametrize(
    ("scenario", "options", "message"),
    [
        ({"X": ONES}, {}, "scenario 'b' sets `X`"),
        ({"in_sample": False}, {}, "scenario 'b' sets `in_sample`"),
        ({}, {"kind": "expected"}, "`kind='expected'`"),
        ({}, {"given": None, "coupling": "monotone"}, "needs observed outcomes"),
        ({}, {"given": "observed"}, "not in memory"),
        ({"intervention": {"y": 0.0}}, {}, "the outcome itself"),
    ],
)
def test_comparison_of_counterfactuals_rejects(scenario, options, message):
    model = model_of(linear_kernel, slope=np.ones(3))
    with pytest.raises(ValueError, match=message):
        model.compare_scenarios(
            {"a": {}, "b": scenario}, baseline="a", **{"X": ROW, "given": ONES, "progress": False, **options}
        )


def test_missing_outcome_is_missing_in_the_counterfactual():
    model = model_of(linear_kernel, slope=np.ones(3))
    had = model.counterfactual(ROW, np.array([1.0, np.nan, 1.0]), intervention={"X": 0.0}, **MEMORY)
    np.testing.assert_array_equal(np.isnan(had["effect"]["y"].values[0, 0]), [False, True, False])


def test_outcome_outside_of_the_support_is_named_with_its_row():
    model = model_of(counts, slope=np.ones(3))
    with pytest.raises(ValueError, match="first in row 1"):
        model.counterfactual(ROW, np.array([0, -1, 2]), intervention={"X": 0.0}, coupling="monotone", **MEMORY)


def test_effect_given_the_observed_outcomes_of_the_fit():
    """With additive noise, the effect on the rows as they were observed is the coefficient."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=40)
    mcmc = MCMC(NUTS(linear_kernel), num_warmup=20, num_samples=10, progress_bar=False)
    model = ImpactModel(linear_kernel, random.key(0), mcmc)
    model.fit_on_batch(X, X + rng.normal(size=40), progress=False)
    found = model.effect(X=X, intervention={"X": X + 1}, given=X, progress=False)
    slope = np.asarray(model.posterior["slope"])
    np.testing.assert_allclose(found.draws.values.ravel(), slope, rtol=1e-4)
    found = model.effect({"X": X + 1}, given="observed", progress=False)
    np.testing.assert_allclose(found.draws.values.ravel(), slope, rtol=1e-4)
    assert "ounterfactual `y`" in repr(found)
    with pytest.raises(ValueError, match="`kind='expected'`"):
        model.effect({"X": X + 1}, given="observed", kind="expected", progress=False)

"""Direct and indirect effects: closed forms, witnesses, additivity for every draw, and errors."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import statsmodels.api as sm
from jax import random
from jax.scipy.special import ndtr
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS
from scipy.stats import norm

import aimz
from aimz import ImpactModel

pytestmark = pytest.mark.filterwarnings("ignore::aimz.OutputWarning")


def model_of(kernel, **posterior):
    """Return a model with chosen posterior draws."""
    sampler = MCMC(NUTS(kernel), num_warmup=1, num_samples=1)
    return ImpactModel(kernel, random.key(0), sampler).set_posterior_sample(posterior)


def path_means(found, site="y"):
    """Return the mean over draws of the effect along each path."""
    return found["effect"][site].mean(("chain", "draw")).to_series().to_dict()


# ------------------------------------------------------------------------------------------------ witnesses


def linear(X, mail, y=None):
    a, b, c = (numpyro.sample(name, dist.Normal()) for name in "abc")
    with numpyro.plate("row", X.shape[0]):
        visits = numpyro.sample("visits", dist.Normal(X + a * mail, 1.0))
        numpyro.sample("y", dist.Normal(b * visits + c * mail, 1.0), obs=y)


@pytest.fixture(scope="module")
def linear_model():
    rng = np.random.default_rng(0)
    return model_of(linear, **{name: rng.normal(2, 0.5, 50) for name in "abc"})


@pytest.mark.parametrize("kind", ["natural", "interventional"])
def test_linear_gaussian_effects_are_products_of_coefficients(linear_model, kind):
    rows = {"X": np.linspace(0, 1, 40), "args": {"mail": np.zeros(40)}, "progress": False}
    found = linear_model.decompose({"mail": (0, 1)}, "visits", kind=kind, by=np.arange(40) % 2, **rows)
    a, b, c = (np.asarray(linear_model.posterior[name]) for name in "abc")
    expected = {"total": a * b + c, "direct": c, "indirect": a * b}
    for name, value in expected.items():
        for group in ("effect", "effect_overall"):
            effect = found[group]["y"].sel(path=name).values[0]
            np.testing.assert_allclose(
                effect, np.broadcast_to(value[:, None], (50, 2)) if effect.ndim == 2 else value, rtol=1e-4
            )
    paths = found["effect"]["y"]
    total = paths.sel(path="direct").values + paths.sel(path="indirect").values
    np.testing.assert_allclose(total, paths.sel(path="total").values, rtol=1e-12)
    assert found["effect"].attrs["decomposition"] == kind
    assert list(aimz.summary(found)["path"].unique()) == ["total", "direct", "indirect"]


def test_controlled_effects_and_the_part_that_is_eliminated(linear_model):
    rows = {"X": np.linspace(0, 1, 40), "args": {"mail": np.zeros(40)}, "progress": False}
    found = linear_model.decompose({"mail": (0, 2)}, {"visits": 1.0}, kind="controlled", **rows)
    a, b, c = (np.asarray(linear_model.posterior[name]) for name in "abc")
    for name, value in {"total": 2 * (a * b + c), "direct": 2 * c, "eliminated": 2 * a * b}.items():
        np.testing.assert_allclose(found["effect"]["y"].sel(path=name).values[0], value, rtol=1e-4)
    with pytest.raises(ValueError, match="no indirect effect"):
        aimz.share_mediated(found)


def framed(X, treat, y=None):
    """A probit outcome with a Gaussian mediator."""
    a, c = (numpyro.sample(name, dist.Normal().expand([X.shape[1]]).to_event(1)) for name in ("a", "c"))
    numbers = {name: numpyro.sample(name, dist.Normal()) for name in ("a_treat", "c_treat", "c_emo", "sd")}
    with numpyro.plate("person", X.shape[0]):
        emo = numpyro.sample("emo", dist.Normal(X @ a + numbers["a_treat"] * treat, numbers["sd"]))
        index = X @ c + numbers["c_treat"] * treat + numbers["c_emo"] * emo
        numpyro.sample("y", dist.Bernoulli(probs=ndtr(index)), obs=y)


def test_framing_experiment_in_closed_form():
    """Brader, Valentino and Suhay (2008), as in the tests of statsmodels: 0.0851, 0.0116 and 0.0967 at the MLE."""
    data = pd.read_csv(Path(sm.__file__).parent / "stats" / "tests" / "results" / "framing.csv")
    about = "treat + age + educ + gender + income"
    family = sm.families.Binomial(link=sm.families.links.Probit())
    mediator = sm.OLS.from_formula(f"emo ~ {about}", data).fit()
    outcome = sm.GLM.from_formula(f"cong_mesg ~ emo + {about}", data, family=family).fit()
    columns = [name for name in mediator.params.index if name != "treat"]
    X, treat = pd.DataFrame(mediator.model.exog, columns=mediator.params.index)[columns], data["treat"].to_numpy(float)
    sd = float(np.sqrt(mediator.scale))
    scale = np.sqrt(1 + outcome.params["emo"] ** 2 * sd**2)

    def mean(t, other):
        emo = X @ mediator.params[columns] + mediator.params["treat"] * other
        index = X @ outcome.params[columns] + outcome.params["treat"] * t + outcome.params["emo"] * emo
        return norm.cdf(index / scale).mean()

    expected = {
        "total": mean(1, 1) - mean(0, 0),
        "direct": mean(1, 0) - mean(0, 0),
        "indirect": mean(1, 1) - mean(1, 0),
    }
    np.testing.assert_allclose(list(expected.values()), [0.0967, 0.0116, 0.0851], atol=1e-4)
    n = 400
    model = model_of(
        framed,
        a=np.tile(mediator.params[columns].to_numpy(), (n, 1)),
        c=np.tile(outcome.params[columns].to_numpy(), (n, 1)),
        a_treat=np.full(n, mediator.params["treat"]),
        c_treat=np.full(n, outcome.params["treat"]),
        c_emo=np.full(n, outcome.params["emo"]),
        sd=np.full(n, sd),
    )
    found = model.decompose({"treat": (0.0, 1.0)}, "emo", X=X.to_numpy(), args={"treat": treat}, progress=False)
    for name, value in path_means(found).items():
        np.testing.assert_allclose(value, expected[name], atol=5e-4)


# ------------------------------------------------------------------------------------------ crossed scenarios


def two_steps(X, dose, y=None):
    """Two mediators in a row; the second one depends on the dose, too."""
    with numpyro.plate("row", X.shape[0]):
        first = numpyro.sample("first", dist.Normal(dose, 1.0))
        second = numpyro.sample("second", dist.Normal(first * dose, 1.0))
        numpyro.sample("y", dist.Normal(first + 10 * second, 1.0), obs=y)
    numpyro.sample("unused", dist.Normal())


@pytest.fixture(scope="module")
def steps():
    return model_of(two_steps, unused=np.zeros(6))


def test_mediators_are_taken_together(steps):
    rows = {"X": np.zeros(2000), "args": {"dose": np.zeros(2000)}, "progress": False}
    found = path_means(steps.decompose({"dose": (1.0, 2.0)}, ["first", "second"], **rows))
    np.testing.assert_allclose(found["direct"], 0, atol=1e-6)
    np.testing.assert_allclose(found["total"], 1 + 10 * (4 - 1), rtol=0.02)


def test_value_as_in_another_scenario_is_the_value_there(steps):
    """Y(2, M(1)) by `as_in` equals Y(2) with the mediator set to the values that a prediction draws under 1."""
    scenarios = {
        "one": {"intervention": {"dose": 1.0}},
        "two": {"intervention": {"dose": 2.0}},
        "crossed": {"intervention": {"dose": 2.0, "first": aimz.as_in("one")}},
        "twice": {"intervention": {"dose": 1.0, "second": aimz.as_in("crossed")}},
    }
    rows, key = {"X": np.zeros(30), "dose": np.zeros(30)}, random.key(4)
    found = steps.compare_scenarios(
        scenarios, baseline="one", return_sites=["first", "second"], kind="outcome", rng_key=key, progress=False, **rows
    )["scenarios"]
    first, second = found["first"].values[0], found["second"].values[0]
    np.testing.assert_allclose(first[:, 2], first[:, 0], rtol=1e-6)
    np.testing.assert_allclose(first[:, 3], first[:, 0], rtol=1e-6)
    np.testing.assert_allclose(second[:, 3], second[:, 2], rtol=1e-6, atol=1e-6)
    assert (np.abs(second[:, 2] - second[:, 1]) > 0.1).all()
    # The second mediator of the crossed scenario is 2 * first + noise, and that of `one` is first + noise.
    np.testing.assert_allclose(second[:, 2] - second[:, 0], first[:, 0], rtol=1e-3, atol=1e-5)


def test_redrawn_value_is_independent_of_other_noise(steps):
    scenarios = {
        "one": {"intervention": {"dose": 1.0}},
        "redrawn": {"intervention": {"dose": 1.0, "first": aimz.as_in("one", redrawn=True)}},
    }
    rows = {"X": np.zeros(5000), "dose": np.zeros(5000)}
    found = steps.compare_scenarios(
        scenarios, baseline="one", return_sites="first", progress=False, kind="outcome", **rows
    )
    first = found["scenarios"]["first"].values[0]
    assert (first[:, 0] != first[:, 1]).all()
    np.testing.assert_allclose(first.mean(0), 1, atol=0.03)


def test_crossed_scenario_of_observed_rows():
    """Of one observed unit: the campaign, with the visits that it would have made without."""

    def kernel(X, mail, counted, y=None):
        numpyro.sample("unused", dist.Normal())
        with numpyro.plate("row", X.shape[0]):
            visits = numpyro.sample("visits", dist.Normal(X + 2 * mail, 1.0), obs=counted)
            numpyro.sample("y", dist.Normal(3 * visits + mail, 1.0), obs=y)

    found = (
        model_of(kernel, unused=np.zeros(3))
        .compare_scenarios(
            {
                "none": {"intervention": {"mail": 0.0}},
                "mail": {"intervention": {"mail": 1.0}},
                "crossed": {"intervention": {"mail": 1.0, "visits": aimz.as_in("none")}},
            },
            baseline="none",
            given=np.array([7.0]),
            X=np.array([1.0]),
            mail=np.array([1.0]),
            counted=np.array([4.0]),
            progress=False,
        )["scenarios"]["y"]
        .values[0, 0]
    )
    # Noise of the visits 1, of the outcome 7 - 12 - 1 = -6.
    np.testing.assert_allclose(found.ravel(), [3 * 2 - 6, 7, 3 * 2 + 1 - 6])


# --------------------------------------------------------------------------------------------------- errors


def confounded(X, mail, seen=None, y=None):
    with numpyro.plate("row", X.shape[0]):
        mood = numpyro.sample("mood", dist.Normal(mail, 1.0))
        visits = numpyro.sample("visits", dist.Normal(mood + mail, 1.0))
        numpyro.sample("other", dist.Normal(X, 1.0))
        numpyro.sample("aside", dist.Normal(mail, 1.0))
        numpyro.sample("y", dist.Normal(visits + mood, 1.0), obs=y)
    numpyro.sample("unused", dist.Normal())


ERRORS = {
    "confounder": ({"mail": (0, 1)}, "visits", {}, "`mood` descends from the treatment, and affects a mediator"),
    "not below the treatment": ({"mail": (0, 1)}, "other", {}, "`other` is on no path .* does not depend on the treat"),
    "not above the outcome": ({"mail": (0, 1)}, "aside", {}, "`aside` is on no path .* does not affect the outcome"),
    "argument": ({"mail": (0, 1)}, "mail", {}, "'mail' is an argument of the kernel"),
    "unknown": ({"mail": (0, 1)}, "visit", {}, "'visit' is not a site"),
    "outcome": ({"mail": (0, 1)}, "y", {}, "must be between the treatment and the outcome"),
    "no effect": ({"X": (0, 1)}, "visits", {}, "`y` does not depend on `X`"),
    "kind": ({"mail": (0, 1)}, "visits", {"kind": "pure"}, "must be 'natural'"),
    "values of natural effects": ({"mail": (0, 1)}, {"visits": 1.0}, {}, "name one or more mediators"),
    "no values": ({"mail": (0, 1)}, "visits", {"kind": "controlled"}, "map each mediator to the value"),
    "one value": ({"mail": 1}, "visits", {}, "two values, the reference first"),
    "no rows": ({"mail": (0, 1)}, "visits", {"X": None}, "no"),
}


@pytest.fixture(scope="module")
def confounded_model():
    return model_of(confounded, unused=np.zeros(20))


@pytest.mark.parametrize("name", ERRORS)
def test_decomposition_that_is_not_identified_is_an_error(confounded_model, name):
    treatment, through, options, message = ERRORS[name]
    rows = {"X": np.zeros(4), "args": {"mail": np.zeros(4)}, "progress": False}
    with pytest.raises((ValueError, TypeError), match=message):
        confounded_model.decompose(treatment, through, **{**rows, **options})


def test_confounder_is_allowed_as_a_mediator_and_for_interventional_effects(confounded_model):
    rows = {"X": np.zeros(3000), "args": {"mail": np.zeros(3000)}, "progress": False}
    found = path_means(confounded_model.decompose({"mail": (0, 1)}, ["visits", "mood"], **rows))
    np.testing.assert_allclose([found["direct"], found["indirect"]], [0, 3], atol=1e-5)
    found = path_means(confounded_model.decompose({"mail": (0, 1)}, "visits", kind="interventional", **rows))
    # Mood moves the outcome by 1 beside the visits, whose law moves by 2.
    np.testing.assert_allclose([found["direct"], found["indirect"], found["total"]], [1, 2, 3], atol=1e-5)


def test_share_mediated_needs_a_total_of_known_sign(linear_model):
    rows = {"X": np.zeros(4), "args": {"mail": np.zeros(4)}, "progress": False}
    share = aimz.share_mediated(linear_model.decompose({"mail": (0, 1)}, "visits", **rows))
    a, b, c = (np.asarray(linear_model.posterior[name]) for name in "abc")
    np.testing.assert_allclose(share.values[0], a * b / (a * b + c), rtol=1e-4)
    uncertain = model_of(linear, a=np.ones(50), b=np.linspace(-1, 1, 50), c=np.zeros(50))
    found = uncertain.decompose({"mail": (0, 1)}, "visits", **rows)
    with pytest.raises(ValueError, match=r"50.0 % of draws have the other sign"):
        aimz.share_mediated(found)
    with pytest.raises(ValueError, match="needs the result of"):
        aimz.share_mediated(found["scenarios"])
    gap = {**rows, "X": np.array([0.0, np.nan, 0.0, 0.0])}
    with pytest.warns(aimz.OutputWarning, match="NaN"):
        missing = linear_model.decompose({"mail": (0, 1)}, "visits", **gap)
    with pytest.raises(ValueError, match=r"got NaN in .*nan_policy='omit'"):
        aimz.share_mediated(missing)


AS_IN_ERRORS = {
    "unknown scenario": ({"b": {"visits": aimz.as_in("c")}}, "not one of the scenarios 'a', 'b'"),
    "circle": ({"a": {"mood": aimz.as_in("b")}, "b": {"visits": aimz.as_in("a")}}, "in a circle"),
    "argument": ({"b": {"mail": aimz.as_in("a")}}, "'mail', which is an argument"),
    "no site": ({"b": {"nothing": aimz.as_in("a")}}, "'nothing', which is not a site"),
    "redrawn from a crossed one": (
        {"b": {"visits": aimz.as_in("c", redrawn=True)}, "c": {"mood": aimz.as_in("a")}},
        "it takes values itself",
    ),
}


@pytest.mark.parametrize("name", AS_IN_ERRORS)
def test_values_of_other_scenarios_that_do_not_exist_are_errors(confounded_model, name):
    acts, message = AS_IN_ERRORS[name]
    scenarios = {key: {"intervention": acts.get(key, {})} for key in {"a": 0, "b": 0, **acts}}
    with pytest.raises(ValueError, match=message):
        confounded_model.compare_scenarios(scenarios, baseline="a", X=np.zeros(4), mail=np.zeros(4), progress=False)


def test_redrawn_value_of_observed_rows_is_an_error(confounded_model):
    X, y = np.zeros(4), np.zeros(4)
    draws = {name: np.zeros((5, 4)) for name in ("mood", "visits", "other", "aside")}
    model = model_of(confounded, unused=np.zeros(5), **draws)
    scenarios = {"a": {}, "b": {"intervention": {"visits": aimz.as_in("a", redrawn=True)}}}
    with pytest.raises(ValueError, match="the noise of observed rows is not drawn"):
        model.compare_scenarios(scenarios, baseline="a", given=y, X=X, mail=np.zeros(4), progress=False)


def test_prediction_cannot_take_a_value_of_another_scenario(confounded_model):
    with pytest.raises(ValueError, match="a call with one scenario has no other"):
        confounded_model.predict_on_batch(np.zeros(4), mail=np.zeros(4), intervention={"mood": aimz.as_in("a")})


def test_site_inside_a_scan_cannot_be_taken():
    def kernel(X, y=None):
        def step(level, x):
            with numpyro.plate("row", X.shape[0]):
                level = numpyro.sample("level", dist.Normal(level + x, 1.0))
            return level, level

        _, path = scan(step, jnp.zeros(X.shape[0]), X.T)
        numpyro.sample("unused", dist.Normal())
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(path[-1], 1.0), obs=y)

    scenarios = {"a": {}, "b": {"intervention": {"level": aimz.as_in("a")}}}
    with pytest.raises(ValueError, match="inside a `scan` or `cond`"):
        model_of(kernel, unused=np.zeros(3)).compare_scenarios(
            scenarios, baseline="a", X=np.ones((3, 2)), in_sample=False, progress=False
        )


def test_column_that_does_not_affect_a_common_cause_of_mediator_and_outcome():
    """Columns of the input are separate causes: `income` descends from the age, not from the treatment."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("person", X.shape[0]):
            income = numpyro.sample("income", dist.Normal(X[:, 1]))
            visits = numpyro.sample("visits", dist.Normal(b * X[:, 0] + income))
            numpyro.sample("y", dist.Normal(3.0 * visits + 0.5 * X[:, 0] + income), obs=y)

    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"b": np.full(4, 2.0)})
    rows = pd.DataFrame({"campaign": np.ones(8), "age": np.arange(8.0)})
    options = {"X": rows, "progress": False}
    found = model.decompose({"campaign": (0, 1)}, "visits", **options)["effect"]["y"].mean(("chain", "draw"))
    assert found.to_series().to_dict() == pytest.approx({"total": 6.5, "direct": 0.5, "indirect": 6.0}, abs=1e-4)
    with pytest.raises(ValueError, match="`income` descends from the treatment, and affects a mediator"):
        model.decompose({"age": (0, 1)}, "visits", **options)
    with pytest.raises(ValueError, match="does not depend on the treatment"):
        model.decompose({"campaign": (0, 1)}, "income", **options)

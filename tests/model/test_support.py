"""Support of questions by the data of a fit: silent for an experiment, a warning for other populations."""

import json
import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import statsmodels.api as sm
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from oracles import DATA, needs_data

pytestmark = [pytest.mark.usefixtures("plain_code"), pytest.mark.filterwarnings("error:The answer extrapolates")]

N = 600
RNG = np.random.default_rng(5)
FRAME = pd.DataFrame({"price": RNG.uniform(4.0, 9.0, N), "age": RNG.normal(40.0, 10.0, N)}).assign(
    mail=RNG.integers(0, 2, N).astype(float)
)
FRAME["region"] = (FRAME["price"] > 6).astype(float)
Y = FRAME["price"].to_numpy() + RNG.normal(size=N)


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    s = numpyro.sample("s", dist.LogNormal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b / 1e3, s), obs=y)


def by_svi():
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    return aimz.ImpactModel(kernel, random.key(0), svi)


def fitted(X=FRAME, y=Y):
    return by_svi().fit_on_batch(X, y, num_steps=5, num_samples=5, progress=False)


@pytest.fixture(scope="module")
def model():
    return fitted()


def test_questions_within_the_data_are_silent(model):
    assert model.support("mail").verdict == "supported"
    assert model.support(intervention={"age": 45.0}).verdict == "supported"
    both = {"no": {"intervention": {"mail": 0}}, "yes": {"intervention": {"mail": 1}}}
    found = model.compare_scenarios(both, baseline="no", X=FRAME, progress=False)
    assert found["effect"].attrs["support"] == "supported"
    assert model.predict_on_batch(FRAME)["posterior_predictive"].attrs["support"] == "supported"
    new = pd.DataFrame({"price": RNG.uniform(4, 9, 300), "age": RNG.normal(40, 10, 300), "mail": 1.0})
    new["region"] = (new["price"] > 6).astype(float)
    assert model.support(X=new).verdict == "supported"


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"price": 20.0}, "100 % of the rows have `price` outside of the data of the fit (4"),
        ({"mail": 0.5}, "100 % of the rows have `mail` outside of the data of the fit (0 and 1)"),
        ({"price": 8.5}, "are asked about a `price` that no row with the same `region` had"),
        ({"region": 1.0}, "are asked about a `region` that no row with a similar `price` had"),
        ({"price": 5.0, "age": 90.0}, "100 % of the rows have `age` outside"),
    ],
)
def test_questions_outside_of_the_data(model, question, reason):
    found = model.support(intervention=question)
    assert found.verdict == "extrapolates"
    assert any(reason in one for one in found.reasons), found.reasons
    assert reason in str(found)
    if question == {"price": 8.5}:
        share = (FRAME["region"] == 0).mean()  # all rows of the region with low prices
        assert found.table.loc[0, "unlike"] == pytest.approx(share)


def test_every_method_records_the_verdict_and_warns_once():
    model = fitted()
    asked = {"intervention": {"price": 20.0}}
    with pytest.warns(aimz.SupportWarning, match="100 % of the rows have `price` outside") as caught:
        tree = model.predict(FRAME, **asked, store="memory", progress=False)
    assert len(caught) == 1
    text = "extrapolates: 100 % of the rows have `price` outside of the data of the fit"
    assert tree["posterior_predictive"].attrs["support"].startswith(text)
    found = [
        model.predict_on_batch(FRAME, **asked)["posterior_predictive"],
        model.effect(price=20.0, progress=False).tree["effect"],
        model.slopes("price", **asked, progress=False)["effect"],
        model.compare_scenarios({"a": {}, "b": asked}, baseline="a", X=FRAME, progress=False)["scenarios"],
    ]
    assert all(one.attrs["support"].startswith(text) for one in found)


def visits(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        seen = numpyro.sample("seen", dist.Normal(X[:, 0] * b[0], 1.0))
        numpyro.sample("y", dist.Normal(seen * b[1], 1.0), obs=y)


ASKED = {
    "counterfactual": lambda m: m.counterfactual(SMALL, Y[:60], intervention={"price": 20.0}, progress=False),
    "decompose": lambda m: m.decompose(X=SMALL, treatment={"price": (5, 20)}, through="seen", progress=False),
    "optimize": lambda m: m.optimize({"price": [20.0]}, X=SMALL),
}
SMALL = FRAME[["price", "age"]].iloc[:60]


@pytest.mark.parametrize("name", ASKED)
def test_counterfactuals_decompositions_and_choices_warn(name):
    mcmc = MCMC(NUTS(visits), num_warmup=1, num_samples=2)
    model = aimz.ImpactModel(visits, random.key(0), mcmc)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit_on_batch(SMALL, Y[:60], progress=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ASKED[name](model)
    (warning,) = [one for one in caught if issubclass(one.category, aimz.SupportWarning)]
    assert "100 % of the rows have `price` outside of the data of the fit" in str(warning.message)
    if name == "optimize":
        assert "Support of the data: extrapolates" in found.notes
    else:
        assert found["effect"].attrs["support"].startswith("extrapolates: 100 %")


def test_rows_that_are_read_once_are_checked_for_constants_only(model):
    batches = [{"X": FRAME.to_numpy()[i : i + 300]} for i in range(0, N, 300)]
    options = {"store": "memory", "progress": False, "in_sample": True}
    silent = model.predict(batches, **options)
    assert silent["posterior_predictive"].attrs["support"] == "supported"  # as many rows as the fit
    fresh = fitted()
    with pytest.warns(aimz.SupportWarning, match="all rows have `price` outside of the data of the fit"):
        fresh.predict([{"X": FRAME.to_numpy()}], intervention={"price": 30.0}, **options)
    found = fresh.predict([{"X": FRAME.to_numpy()}], intervention={"price": 5.0}, **options)
    assert found["posterior_predictive"].attrs["support"].startswith("not checked")


def test_support_is_saved_and_unknown_without_a_fit(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = aimz.ImpactModel.load(tmp_path / "model", kernel)
    asked = {"intervention": {"price": 20.0}, "X": FRAME}
    assert loaded.support(**asked).reasons == model.support(**asked).reasons
    content = json.loads((tmp_path / "model" / "model.json").read_text())
    assert content["support"]["names"] == ["price", "age", "mail", "region"]
    given = by_svi().set_posterior_sample({"b": np.zeros((3, 4)), "s": np.ones(3)})
    assert given.support(**asked).verdict == "not known"
    tree = given.predict_on_batch(FRAME, intervention={"price": 20.0})
    assert tree["posterior_predictive"].attrs["support"].startswith("not known")
    with pytest.raises(ValueError, match="at most ten values in the fit"):
        model.support("age")
    with pytest.raises(TypeError, match="treatment, or an intervention"):
        model.support("mail", intervention={"mail": 1})


@pytest.mark.filterwarnings("ignore:The draws are not from the posterior yet")
def test_streamed_fits_describe_their_rows_as_fits_in_memory_do(model):
    options = {"num_samples": 5, "progress": False, "epochs": 1}
    streamed = by_svi().fit(FRAME, Y, batch_size=70, **options)
    batches = [(FRAME.iloc[i : i + 64].assign(y=Y[i : i + 64])) for i in range(0, N, 64)]
    iterated = by_svi().fit(batches, batch_size=100, total_size=N, **options)
    for other in (streamed, iterated):
        one, two = (
            model.support(intervention={"price": 8.5}, X=FRAME),
            other.support(intervention={"price": 8.5}, X=FRAME),
        )
        pd.testing.assert_frame_equal(one.table, two.table, rtol=1e-4)


# ------------------------------------------------------------------------------------ job training (LaLonde 1986)


def covariates(data):
    frame = data.drop(columns=["re78"]).astype(float)
    return frame.assign(re74=frame["re74"] / 1e3, re75=frame["re75"] / 1e3)


@needs_data
def test_an_experiment_is_silent_and_controls_of_another_population_are_not():
    data = pd.read_csv(DATA / "lalonde_nsw_dw.csv.gz")
    experiment = covariates(data)
    outcome = data["re78"].to_numpy() / 1e3
    model = fitted(experiment, outcome)
    found = model.support("treat")
    assert found.verdict == "supported"
    n_controls = int((experiment["treat"] == 0).sum())
    assert found.table["effective_controls"].iloc[0] > 0.7 * n_controls
    model.effect("treat", progress=False)  # no warning

    # Controls who are older, better educated, married and earn more, as in surveys of the population.
    rng, n = np.random.default_rng(0), 600
    other = pd.DataFrame(
        {
            "treat": 0.0,
            "age": rng.normal(36, 9, n).clip(18, 55).round(),
            "education": rng.normal(11.8, 2.5, n).clip(4, 17).round(),
            "black": (rng.random(n) < 0.3).astype(float),
            "hispanic": (rng.random(n) < 0.1).astype(float),
            "married": (rng.random(n) < 0.7).astype(float),
            "nodegree": (rng.random(n) < 0.4).astype(float),
            "re74": rng.gamma(3.0, 4.0, n) * (rng.random(n) < 0.85),
            "re75": rng.gamma(3.0, 4.0, n) * (rng.random(n) < 0.85),
        }
    )
    mixed = pd.concat([experiment[experiment["treat"] == 1], other], ignore_index=True)
    model = fitted(mixed[experiment.columns], np.zeros(len(mixed)) + rng.normal(size=len(mixed)))
    found = model.support("treat")
    assert found.verdict == "extrapolates"
    design = sm.add_constant(mixed.drop(columns="treat"))
    odds = np.exp(design @ sm.Logit(mixed["treat"], design).fit(disp=0).params)[mixed["treat"] == 0]
    weighted = odds.sum() ** 2 / (odds**2).sum()
    assert found.table["effective_controls"].iloc[0] == pytest.approx(weighted, rel=0.2)
    assert weighted < 0.1 * n
    with pytest.warns(aimz.SupportWarning, match="rows with `treat` = 0 are worth"):
        model.effect("treat", progress=False)


@pytest.mark.slow
def test_mcmc_fits_describe_their_rows():
    mcmc = MCMC(NUTS(kernel), num_warmup=5, num_samples=5)
    model = aimz.ImpactModel(kernel, random.key(0), mcmc).fit_on_batch(FRAME, Y, progress=False)
    assert model.support("mail").table["similar_rows"].min() > 50

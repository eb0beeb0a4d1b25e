"""Support of questions by the data of a fit: silent for an experiment, a warning for other populations."""

import json
import warnings

import dask.array as da
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
import statsmodels.api as sm
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz.engine.support_recorder import SupportCheck, SupportRecorder, _Scenario
from aimz.engine.support_report import report_of
from aimz.statistics import FitSupport, RowSupport, SupportCounts
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
        assert found.table.loc[0, ["low", "high"]].tolist() == pytest.approx([*FRAME["price"].agg(["min", "max"])])
        share = (FRAME["region"] == 0).mean()  # all rows of the region with low prices
        assert found.table.loc[0, "unlike"] == pytest.approx(share)


def test_combinations_that_no_row_of_the_fit_had(model):
    """Each column is within its range, but regions do not have such prices; statsmodels on the same rows."""
    new = FRAME.assign(region=1 - FRAME["region"])
    (reason,) = model.support(X=new, in_sample=False).reasons
    expected = model.support(X=new, in_sample=False).table.iloc[-1]
    assert reason.startswith(f"{100 * expected['far']:.3g} % of the rows combine columns as no row of the fit did")
    ols = sm.OLS(Y, sm.add_constant(FRAME))
    hat = ols.fit().get_influence().hat_matrix_diag
    inverse = ols.normalized_cov_params
    rows = sm.add_constant(new).to_numpy()
    leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
    limit = 1.5 * np.quantile(hat / (1 - hat), 0.99, method="higher")
    assert expected["far"] == pytest.approx((leverage > limit).mean(), abs=2 / N)
    assert expected["similar_rows"] == pytest.approx(np.median(1 / leverage), rel=1e-3)


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


SITES = ["b"]


def in_batches(frame, size=130):
    return [{"X": frame.to_numpy()[i : i + size]} for i in range(0, len(frame), size)]


def text_of(model, call):
    """Return the verdict in the result of a call, and the texts of its warnings."""
    model._shared.warned.clear()  # each reason is a warning once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", aimz.SupportWarning)
        warnings.filterwarnings("ignore", message="The rows are not")
        tree = call()
    found = [str(one.message) for one in caught if issubclass(one.category, aimz.SupportWarning)]
    return next(group.attrs["support"] for group in tree.children.values() if "support" in group.attrs), found


@pytest.mark.parametrize("new", [False, True])
def test_rows_that_are_read_once_are_checked_as_rows_in_memory_are(model, new, tmp_path):
    """Batches, tables read in parts and Dask arrays have the verdict, the attribute and the warning of arrays."""
    frame = FRAME.assign(age=FRAME["age"] + 60 * (np.arange(N) % 4 == 0)) if new else FRAME
    options = {"progress": False, "in_sample": not new, "return_sites": SITES}
    asked = {} if new else {"intervention": {"X": lambda X: X * np.float32([1.35, 1.0, 1.0, 1.0])}}
    expected = text_of(model, lambda: model.predict(frame.to_numpy(), store="memory", **options, **asked))
    assert expected[0].startswith("extrapolates: ")
    assert len(expected[1]) == 1
    table = pads.dataset(pa.Table.from_pandas(frame, preserve_index=False))
    for rows in (in_batches(frame), iter(in_batches(frame)), da.from_array(frame.to_numpy(), chunks=(250, 4)), table):
        found = text_of(
            model, lambda rows=rows: model.predict(rows, store="memory", batch_size=100, **options, **asked)
        )
        assert found == expected
    directory = {"output_dir": tmp_path, **options, **asked}
    assert text_of(model, lambda: model.predict(in_batches(frame), **directory)) == expected
    (path,) = tmp_path.iterdir()
    group = "predictions" if new else "posterior_predictive"
    assert aimz.open_result(path)[group].attrs["support"] == expected[0]
    drawn = text_of(
        model, lambda: model.predict(in_batches(frame), store="memory", shard_axis="draw", **options, **asked)
    )
    assert drawn == expected


def test_rows_that_are_read_once_have_the_overlap_of_the_fit(tmp_path):
    """The treated are younger: the controls have few rows like them."""
    treated = np.repeat([0.0, 1.0], [400, 200])
    frame = pd.DataFrame({"age": RNG.normal(np.where(treated == 1, 28.0, 40.0), 6.0), "treated": treated})
    table = pads.dataset(pa.Table.from_pandas(frame, preserve_index=False))
    fitted(frame).save(tmp_path / "model")
    model = aimz.ImpactModel.load(tmp_path / "model", kernel)
    options = {"in_sample": True, "progress": False}
    asked = {"intervention": {"treated": 1.0}, "store": "memory", "return_sites": SITES, **options}
    expected = text_of(model, lambda: model.predict(frame, **asked))
    assert "the 400 rows with `treated` = 0 are worth" in expected[0]
    assert text_of(model, lambda: model.predict(table, batch_size=100, **asked)) == expected
    one = model.support(intervention={"treated": 1.0}, X=frame, in_sample=True)
    read = model.support(intervention={"treated": 1.0}, X=table, in_sample=True)
    pd.testing.assert_frame_equal(read.table, one.table)
    young = (frame["age"] < 36).to_numpy()
    design = sm.add_constant(frame.loc[young, ["age"]])
    odds = np.exp(sm.Logit(treated[young], design).fit(disp=0).fittedvalues[treated[young] == 0])
    some = model.support(intervention={"treated": 1.0}, X=frame, in_sample=True, where=young)
    assert some.table.loc[0, "effective_controls"] == pytest.approx(odds.sum() ** 2 / (odds**2).sum(), rel=1e-3)
    scenarios = {"no": {"intervention": {"treated": 0.0}}, "yes": {"intervention": {"treated": 1.0}}}
    weights = np.ones(N) + (treated == 1)
    weighed = text_of(
        model, lambda: model.compare_scenarios(scenarios, baseline="no", X=table, weights=weights, **options)
    )
    assert "are worth" not in weighed[0]


def test_comparisons_of_rows_that_are_read_once_use_their_weights(model):
    rows = da.from_array(FRAME.to_numpy(), chunks=(250, 4))
    scenarios = {"now": {}, "dear": {"intervention": {"X": lambda X: X * np.float32([1.35, 1.0, 1.0, 1.0])}}}
    weights = (FRAME["price"] < 5).to_numpy(float)  # these stay in the range of the fit
    for options, verdict in (({}, "extrapolates"), ({"weights": weights}, "supported")):
        given = {"baseline": "now", "in_sample": True, "progress": False, **options}
        found = [
            text_of(model, lambda X=X, given=given: model.compare_scenarios(scenarios, X=X, **given))
            for X in (rows, FRAME.to_numpy())
        ]
        assert found[0] == found[1]
        assert found[0][0].startswith(verdict)


def test_recorder_samples_rows_after_the_first():
    """One of 127 rows counts for 127, whatever the batches are."""
    fit = FitSupport.of({"X": np.zeros((100, 1))}, {"X": ["x"]})
    fit.add({"X": np.linspace(0, 1, 100)[:, None]})
    check = SupportCheck(fit.finished(), {"one": _Scenario((0,), {"X": ("X", None)}, {})}, None)
    X = np.linspace(0, 2, 100_003)[:, None].astype(np.float32)
    found = []
    for size in (100_003, 7_000, 33):
        recorder = SupportRecorder(check, None)
        for start in range(0, len(X), size):
            recorder.add({"X": X[start : start + size]}, start)
        found.append(recorder.finish()["one"].whole.columns[0])
    assert len({(one.n, one.outside) for one in found}) == 1
    assert found[0].n == pytest.approx(len(X), rel=4e-3)
    assert found[0].outside == pytest.approx((X > 1.05).sum(), rel=4e-3)
    # An intervention with one value for each row in memory is read at the numbers of the sampled rows.
    by_row = SupportCheck(check.fit, {"one": _Scenario((0,), {}, {"X": X})}, len(X))
    recorder = SupportRecorder(by_row, None)
    for start in range(0, len(X), 7_000):
        recorder.add({"other": X[start : start + 7_000]}, start)
    (line,) = recorder.finish()["one"].whole.columns.values()
    assert (line.n, line.outside) == (found[0].n, found[0].outside)


@pytest.mark.parametrize(("n_outside", "is_named"), [(4, False), (6, True)])
def test_small_groups_and_small_fits_have_a_slack_of_four_rows(n_outside, is_named):
    """The shares of 20 rows may exceed 5 % by 4 rows; shares have the weights of the rows."""
    fit = FitSupport.of({"x": np.zeros(20)}, {})
    fit.add({"x": np.linspace(0, 1, 20)})
    few, x = fit.finished(), np.linspace(0, 1, 1020)
    x[:n_outside] = 1.08
    small = SupportCounts(RowSupport(few, (0,)))
    small.add(x[:20, None])
    assert bool(report_of(small, (), {}).reasons) == is_named
    fit = FitSupport.of({"x": np.zeros(1)}, {})
    fit.add({"x": np.linspace(0, 1, 5000)})
    codes, weights = np.repeat([0, 1], [20, 1000]), np.ones(1020)
    counts = SupportCounts(RowSupport(fit.finished(), (0,)))
    counts.add(x[:, None], weights, codes)
    report = report_of(counts, (), {"shop": np.array(["small", "large"])})
    data = "the data of the fit (0 to 1)"
    named = (f"{5 * n_outside} % of the rows of `shop` = small have `x` outside of {data}",)
    assert report.reasons == (named if is_named else ())
    weights[:2] = 3.0
    weighed = SupportCounts(RowSupport(fit, (0,)))
    weighed.add(x[:, None], weights, codes)
    line = weighed.cells[0].columns[0]
    assert line.share(line.outside) == pytest.approx(np.average(x[:20] > 1.05, weights=weights[:20]))


def test_shares_have_weights_and_groups_and_selected_rows(model):
    """A quarter of the rows, all of one group, is asked about prices that it never had."""
    asked = {"intervention": {"price": 8.5}, "X": FRAME}
    cheap = (FRAME["region"] == 0).to_numpy()
    group = np.where(cheap, "south", "north")
    found = model.support(by=group, **asked)
    assert found.table["group"].tolist() == ["north", "south"]
    np.testing.assert_allclose(found.table["unlike"], [0, 1])
    weights = np.where(cheap, 1.0, 19.0 * cheap.sum() / (~cheap).sum())
    assert model.support(weights=weights, **asked).table.loc[0, "unlike"] == pytest.approx(0.05)
    assert model.support(where=~cheap, **asked).verdict == "supported"
    assert model.support(where=cheap, **asked).table.loc[0, "unlike"] == 1
    # The group is named if the rows of all groups together are supported.
    heavier = np.where(cheap, 0.5, 1) * weights
    silent = model.support(weights=heavier, **asked)
    assert silent.verdict == "supported"
    named = model.support(weights=heavier, by={"region": group}, **asked)
    assert named.reasons == (
        "100 % of the rows of `region` = south are asked about a `price` that no row with the same `region` had",
    )


def test_effects_of_selected_rows_and_groups_are_checked_for_these(model):
    cheap, asked = (FRAME["region"] == 0).to_numpy(), {"intervention": {"price": 8.5}, "progress": False}
    for options, verdict in (({"where": ~cheap}, "supported"), ({"where": cheap}, "extrapolates: 100 %")):
        found = text_of(model, lambda options=options: model.slopes("price", **asked, **options))
        assert found[0].startswith(verdict)


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
    """The verdicts agree with DoWhy 0.14: its ``assess_overlap`` keeps 98 % of the experiment, 40 % of the mixture.

    DoWhy learns no rules of overlap in the experiment, since all propensities are between 0.1 and 0.9. In the mixture
    it keeps 75 % of the treated and 29 % of the controls.
    """
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

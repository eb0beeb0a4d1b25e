"""The effect of an event, against closed forms, and the traps of other packages."""

import html
import re

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

import aimz
from aimz import plots

N, START, N_DRAWS = 40, 30, 2000
RNG = np.random.default_rng(3)
CONTROL = 10.0 + np.cumsum(RNG.normal(size=N))
SALES = 5.0 + 2.0 * CONTROL + RNG.normal(size=N) + 3.0 * (np.arange(N) >= START)
DRAWS = {"a": RNG.normal(5.0, 0.4, N_DRAWS), "b": RNG.normal(2.0, 0.02, N_DRAWS)}
DATES = pd.date_range("2024-01-01", periods=N, freq="W-MON")
OPTIONS = {"progress": False, "rng_key": random.key(1)}


def kernel(X, y=None, *, campaign=None):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    mean = a + b * X.reshape(len(X), -1)[:, 0] + (0.0 if campaign is None else 3.0 * campaign)
    with numpyro.plate("week", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


MODEL = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=20, num_samples=20))


def given(draws=DRAWS):
    """Return the model with a known posterior."""
    return MODEL.set_posterior_sample({name: np.asarray(values) for name, values in draws.items()})


@pytest.fixture
def model():
    return given()


@pytest.fixture(scope="module")
def found():
    return given().estimate_impact(CONTROL, SALES, period=np.arange(N), start=START, **OPTIONS)


def values(tree, group="effect", **labels):
    """Return the draws of the only variable of a group."""
    return tree[group]["y"].sel(labels).values.reshape(N_DRAWS, -1)[:, 0 if group == "effect" else slice(None)]


def test_effects_on_the_mean_equal_their_closed_form_in_each_draw(found):
    without = DRAWS["a"][:, None] + DRAWS["b"][:, None] * CONTROL
    mean = {"reading": "mean"}
    np.testing.assert_allclose(values(found, "pointwise", **mean), SALES - without, atol=1e-4)
    by_draw = (SALES - without)[:, START:]
    np.testing.assert_allclose(values(found, "cumulative", **mean), by_draw.cumsum(1), atol=1e-3)
    total, total_without = SALES[START:].sum(), without[:, START:].sum(1)
    expected = {"average": by_draw.mean(1), "cumulative": by_draw.sum(1), "relative": total / total_without - 1}
    for quantity, draws in expected.items():
        np.testing.assert_allclose(values(found, quantity=quantity, **mean), draws, atol=1e-3)


def test_outcomes_add_the_noise_of_each_period_and_keep_the_dependence_between_periods(found):
    n = N - START
    outcome, mean = (values(found, reading=reading, quantity="cumulative") for reading in ("outcome", "mean"))
    noise = outcome - mean
    assert noise.std() == pytest.approx(np.sqrt(n), rel=0.06)
    # Parameters are common to all periods: their part of the total grows with n, not with its root.
    x = CONTROL[START:].sum()
    expected = np.sqrt(np.var(n * DRAWS["a"] + x * DRAWS["b"]) + n)
    cumulative = outcome.std()
    assert cumulative == pytest.approx(expected, rel=0.06)
    as_independent = np.sqrt((values(found, "pointwise", reading="outcome")[:, START:].var(0)).sum())
    assert cumulative > 1.5 * as_independent


def test_total_equals_average_and_last_cumulative_effect(found):
    effect, cumulative = found["effect"]["y"], found["cumulative"]["y"]
    np.testing.assert_allclose(effect.sel(quantity="cumulative"), (N - START) * effect.sel(quantity="average"))
    np.testing.assert_allclose(cumulative.isel(period=-1), effect.sel(quantity="cumulative"))


@pytest.mark.parametrize("as_frame", [pd.DataFrame, pl.DataFrame])
def test_tables_in_any_order_of_rows_give_the_same_effect(model, found, as_frame):
    order = np.random.default_rng(0).permutation(N)
    columns = {"week": DATES.values[order], "control": CONTROL[order], "y": SALES[order]}
    table = as_frame(columns)
    again = model.estimate_impact(table, period="week", start="2024-07-29", **OPTIONS)
    assert again["effect"].attrs["event_start"] == "2024-07-29"
    assert again["pointwise"]["y"].dims[-1] == "week"
    xr.testing.assert_allclose(again["effect"]["y"], found["effect"]["y"], rtol=1e-5)


def test_row_labels_are_the_default_periods(model, found):
    table = pd.DataFrame({"control": CONTROL}, index=DATES)
    again = model.estimate_impact(table, SALES, start=pd.Timestamp("2024-07-29"), **OPTIONS)
    xr.testing.assert_allclose(again["effect"]["y"], found["effect"]["y"], rtol=1e-5)
    with pytest.raises(TypeError, match=r"`period` must be given.*Pass the name of a column"):
        model.estimate_impact(CONTROL, SALES, start=30, **OPTIONS)


def test_groups_add_up_to_all_rows(model):
    x, y = np.repeat(CONTROL, 2), np.repeat(SALES, 2) + np.tile([0.0, 1.0], N)
    region = np.tile(["a", "b"], N)
    rows = {"period": np.repeat(np.arange(N), 2), "start": START, "by": {"region": region}}
    tree = model.estimate_impact(x, y, **rows, **OPTIONS)
    total, overall = (tree[g]["y"].sel(quantity="cumulative") for g in ("effect", "effect_overall"))
    xr.testing.assert_allclose(total.sum("region"), overall.drop_vars(["observed", "counterfactual"]))
    averaged = model.estimate_impact(x, y, aggregate="mean", **rows, **OPTIONS)
    np.testing.assert_allclose(averaged["effect"]["y"].sel(quantity="cumulative"), total, rtol=1e-5)
    np.testing.assert_allclose(averaged["effect_overall"]["y"].sel(quantity="cumulative"), overall / 2, rtol=1e-5)
    table = aimz.summary(tree)
    assert table["region"].unique().tolist() == ["all", "a", "b"]
    assert any(text.startswith("For region b: from 30 to 39") for text in aimz.in_words(tree))


def test_end_limits_the_event_and_later_rows_are_not_used(model, found):
    broken = SALES.copy()
    broken[35:] = np.nan
    ended = model.estimate_impact(CONTROL, broken, period=np.arange(N), start=START, end=34, **OPTIONS)
    assert ended["cumulative"].sizes["period"] == 5
    mean = {"reading": "mean"}
    np.testing.assert_allclose(
        values(ended, "cumulative", **mean), values(found, "cumulative", **mean)[:, :5], rtol=1e-4
    )


def test_baseline_intervenes_in_the_periods_of_the_event_only(model, found):
    campaign = 1.0 * (np.arange(N) >= START)
    rows = {"period": np.arange(N), "start": START, "campaign": campaign, **OPTIONS}
    without = model.estimate_impact(CONTROL, SALES, baseline={"campaign": 0.0}, **rows)
    np.testing.assert_allclose(without["effect"]["y"], found["effect"]["y"], atol=1e-4)
    kept = model.estimate_impact(CONTROL, SALES, **rows)
    change = (without["effect"]["y"] - kept["effect"]["y"]).sel(quantity="average", reading="mean")
    np.testing.assert_allclose(change, 3.0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_unfitted_models_are_fitted_to_the_rows_before_the_event_and_other_fits_rejected():
    mcmc = MCMC(NUTS(kernel), num_warmup=200, num_samples=200, progress_bar=False)
    model = aimz.ImpactModel(kernel, random.key(0), mcmc)
    event = {"period": np.arange(N), "progress": False}
    fitted = model.estimate_impact(CONTROL, SALES, start=START, **event)
    assert model.inputs.n_obs == START
    design = np.stack([np.ones(START), CONTROL[:START]], 1)
    a, b = np.linalg.lstsq(design, SALES[:START], rcond=None)[0]
    expected = (SALES - a - b * CONTROL)[START:].mean()
    draws = fitted["effect"]["y"].sel(reading="mean", quantity="average")
    assert draws.mean().item() == pytest.approx(expected, abs=0.3 * draws.std().item())
    with pytest.raises(ValueError, match=r"must be fitted to the 25 rows before the event.*its fit has 30 rows, among"):
        model.estimate_impact(CONTROL, SALES, start=25, **event)
    with pytest.raises(ValueError, match="`X` differs"):
        model.estimate_impact(CONTROL + 1.0, SALES, start=START, **event)
    again = model.estimate_impact(CONTROL, SALES, start=START, **event)
    np.testing.assert_allclose(again["effect"]["y"].mean(), fitted["effect"]["y"].mean(), rtol=0.05)


def test_difference_in_differences_equals_its_closed_form():
    rng = np.random.default_rng(2)
    units, periods, start = 4, 8, 5
    y = rng.normal(size=(units, 1)) + rng.normal(size=periods) + 0.1 * rng.normal(size=(units, periods)) + 20.0
    y[0, start:] -= 4.0

    def panel(X, y=None, *, state, year):
        level = numpyro.sample("level", dist.Normal(0.0, 20.0).expand([units]).to_event(1))
        shock = numpyro.sample("shock", dist.Normal(0.0, 20.0).expand([periods]).to_event(1))
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(level[state] + shock[year], 0.1), obs=y)

    state, year = (index.ravel() for index in np.indices(y.shape))
    kept = (state > 0) | (year < start)
    design = np.concatenate([np.eye(units)[state], np.eye(periods)[year]], 1)
    least_squares = np.linalg.lstsq(design[kept], y.ravel()[kept], rcond=None)[0]
    model = aimz.ImpactModel(panel, random.key(0), MCMC(NUTS(panel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"level": [least_squares[:units]] * 4, "shock": [least_squares[units:]] * 4})
    columns = {"state": state, "year": year}
    event = {"period": year, "start": start, "unit": state, "treated": 0, **OPTIONS}
    found = model.estimate_impact(np.zeros(state.size), y.ravel(), **columns, **event)
    change = y[:, start:].mean(1) - y[:, :start].mean(1)
    average = found["effect"]["y"].sel(reading="mean", quantity="average")
    np.testing.assert_allclose(average, change[0] - change[1:].mean(), atol=1e-4)
    assert found["observed_data"]["y"].values == pytest.approx(y[0], abs=1e-5)
    assert found["effect"].attrs["n_rows_fitted"] == kept.sum()


def test_errors_name_rows_and_advice(model):
    event = {"period": np.arange(N), "start": START, **OPTIONS}

    def call(y=SALES, **changes):
        return model.estimate_impact(CONTROL, y, **{**event, **changes})

    cases = [
        ({"start": 90}, r"`start` must be one of the 40 periods, 0 to 39; got 90. The closest one is 39"),
        ({"start": "later"}, r"`start` must be one of the 40 periods, 0 to 39; got 'later'. Pass a label such as '20'"),
        ({"start": 0}, r"`start` must have periods before it.*got 0, the first of 40"),
        ({"end": 20}, r"`end` must be `start` or later.*got `start` 30 and `end` 20"),
        ({"period": np.arange(N - 1)}, r"`period` must have a label for each of the 40 rows; got 39"),
        ({"period": [None] + [1.0] * (N - 1)}, r"1 of 40 are missing \(the first in row 0\)"),
        ({"y": np.where(np.arange(N) == 36, np.nan, SALES)}, r"NaN in 1 of 10 \(the first in period 36\)"),
        ({"by": "region"}, r"`by` names 'region', which is neither a column"),
        ({"aggregate": "median"}, r"`aggregate` must be 'sum' or 'mean'; got 'median'"),
        ({"treated": "California"}, r"without `unit`. Pass `unit='state'"),
        ({"unit": ["a"] * N, "treated": "b"}, r"'b' is not among the values of `unit`: a\."),
        ({"treated": np.zeros(N, bool)}, r"must have rows in the event, 30 to 39; got none among 40 rows"),
        ({"y": np.ones((N, 3))}, r"one outcome in each row; got an output of shape \(40, 3\). Pass a row"),
        ({"y": None}, r"`y` must be an array; got None. Pass it"),
        ({"by": {"g": np.arange(N) % 2}, "aggregate": "mean"}, r"40 have none \(the first is period 0, g 1\)"),
    ]
    for changes, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            call(**changes)
    with pytest.raises(ValueError, match="closest ones are 2024-07-29 and 2024-08-05"):
        call(period=DATES, start="2024-07-31")


def test_probabilities_are_of_the_effect_and_may_be_on_either_side(found):
    draws = values(found, reading="outcome", quantity="average")
    table = aimz.summary(found).set_index(["reading", "quantity"])
    assert table.loc[("outcome", "average"), "P(>0)"] == (draws > 0).mean() > 0.99
    fallen = given().estimate_impact(
        CONTROL, SALES - 6.0 * (np.arange(N) >= START), period=np.arange(N), start=START, **OPTIONS
    )
    text = aimz.in_words(fallen)[0]
    assert re.search(r"on average \d\.\d\d lower per period.*below 0 with probability (over )?99", text)


def test_a_wide_interval_is_not_called_an_absent_effect():
    wide = given({"a": np.random.default_rng(1).normal(8.0, 6.0, N_DRAWS), "b": np.full(N_DRAWS, 2.0)})
    found = wide.estimate_impact(CONTROL, SALES, period=np.arange(N), start=START, **OPTIONS)
    for text in aimz.in_words(found):
        assert "so which way it goes is open" in text
        assert re.search(r"interval \S+ (% )?lower to \S+ (% )?higher", text)
        assert not re.search("no effect|not significant|did not", text)


def test_sentences_agree_in_direction_where_the_mean_ratio_has_the_other_sign():
    total = SALES[START:].sum()
    # The mean of the total without the event is above what was observed; that of its inverse is above 1 / observed.
    without = np.where(np.arange(N_DRAWS) % 10 == 0, 0.2 * total, 1.12 * total) / (N - START)
    model = given({"a": without, "b": np.zeros(N_DRAWS)})
    found = model.estimate_impact(CONTROL, SALES, period=np.arange(N), start=START, **OPTIONS)
    table = aimz.summary(found).set_index(["reading", "quantity"])["mean"]
    assert table["mean", "cumulative"] < 0 < table["mean", "relative"]
    for text in aimz.in_words(found):
        claim = text.split("(")[0]
        assert "lower" in claim
        assert "higher" not in claim
        assert "below 0 with probability" in text


def test_relative_effect_needs_a_positive_total_without_the_event(model):
    with pytest.warns(aimz.OutputWarning, match=r"The relative effect on `y` is NaN.*2,000 of 2,000 draws"):
        found = model.estimate_impact(CONTROL - 60.0, SALES - 120.0, period=np.arange(N), start=START, **OPTIONS)
    texts = aimz.in_words(found)
    assert (
        texts[2]
        == "From 30 to 39, `y` has no relative effect: the total without the event is not above 0 in every draw."
    )
    assert "higher per period" in texts[0]


def test_result_text_and_plot(found):
    lines = aimz.describe_result(found).splitlines()
    assert lines[1] == "  Rows:   10 periods, 30 to 39, after 30 others"
    assert lines[-1] == "  Table:  aimz.summary(result)"
    figure = plots.plot_impact(found)
    top, middle, bottom = figure.axes
    np.testing.assert_allclose(top.lines[1].get_ydata(), SALES, rtol=1e-6)
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), values(found, "cumulative", reading="outcome").mean(0))
    assert {line.get_xdata()[0] for ax in figure.axes for line in ax.lines if len(set(line.get_xdata())) == 1} == {29.5}
    assert middle.get_ylabel() == "difference"
    with pytest.raises(ValueError, match="`reading` must be 'outcome' or 'mean'"):
        plots.plot_impact(found, reading="median")
    with pytest.raises(ValueError, match=r"`group` must name a label of each dimension of `by`"):
        plots.plot_impact(found, group={"region": "a"})
    with pytest.raises(TypeError, match=r"needs the result of `ImpactModel\.estimate_impact`"):
        plots.plot_impact(found["effect"])


def test_an_option_with_the_name_of_a_kernel_argument_is_ambiguous():
    def with_unit(X, y=None, *, unit):
        numpyro.sample("y", dist.Normal(X + unit, 1.0), obs=y)

    model = aimz.ImpactModel(with_unit, random.key(0))
    with pytest.raises(TypeError, match="`unit` could be the option of `estimate_impact` or the argument"):
        model.estimate_impact(CONTROL, SALES, period=np.arange(N), start=START, unit=np.zeros(N))


def test_report_has_the_sentences_of_an_impact(model, found, tmp_path):
    """The report accepts the result of `estimate_impact` as its effect."""
    page = model.report(tmp_path / "report.html", effect=found).read_text(encoding="utf-8")
    text = html.unescape(re.sub("</?code>", "`", page))
    assert all(line in text for line in aimz.in_words(found))

"""The first hour with the package: what a person types, in this order, and what is printed."""

import contextlib
import io

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import aimz


def kernel(X, campaign, sales=None):
    level = numpyro.sample("level", dist.Normal(0, 20))
    pull = numpyro.sample("pull", dist.Normal(0, 5))
    lift = numpyro.sample("lift", dist.Normal(0, 5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))
    with numpyro.plate("week", X.shape[0]):
        numpyro.sample("sales", dist.Normal(level + pull * X[:, 0] + lift * campaign, noise), obs=sales)


@pytest.fixture(scope="module")
def weeks():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"demand": rng.normal(size=156)})
    frame["campaign"] = (frame["demand"] + rng.normal(size=156) > 0.5).astype(int)
    frame["sales"] = 20 + 2.5 * frame["demand"] + 3 * frame["campaign"] + rng.normal(size=156)
    frame["region"] = np.where(np.arange(156) % 2, "north", "south")
    return frame


@pytest.fixture(scope="module")
def model(weeks):
    fresh = aimz.ImpactModel(kernel, rng_key=0, param_output="sales")
    with pytest.warns(UserWarning, match="The kernel does not get 'region'"):
        return fresh.fit(weeks, progress=False)


@pytest.fixture(scope="module")
def effect(model):
    return model.effect("campaign", progress=False)


def text_of(value) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print(value)
    return printed.getvalue()


def test_01_which_version_is_this():
    assert aimz.__version__


def test_02_which_names_are_there():
    assert {"ImpactModel", "summary", "in_words", "open_result"} <= set(dir(aimz)) | set(aimz.__all__)


def test_03_describe_before_the_fit(weeks):
    text = aimz.ImpactModel(kernel, rng_key=0, param_output="sales").describe(weeks.drop(columns="region"))
    assert "Fitted: no" in text
    assert "lift" in text


def test_04_predict_before_the_fit_names_the_call(weeks):
    fresh = aimz.ImpactModel(kernel, rng_key=0, param_output="sales")
    with pytest.raises(aimz.NotFittedError, match="fit"):
        fresh.predict(weeks)


def test_04_a_text_column_is_kept_out_of_the_input_with_advice(model, weeks):
    fresh = aimz.ImpactModel(kernel, rng_key=0, param_output="sales")
    with pytest.warns(UserWarning, match=r"'region' of `X`, which is text.*`by=`.*Leave it out"):
        fresh.describe(weeks)
    assert model.inputs.columns == ("demand",)


def test_05_print_the_model(model):
    assert "ImpactModel" in text_of(model)


def test_06_look_at_the_posterior(model):
    assert abs(float(model.posterior["lift"].mean()) - 3) < 0.6


def test_07_did_it_work(model):
    verdicts = model.diagnose()["verdict"]
    assert (verdicts == "ok").any()
    assert not verdicts.str.startswith("bad").any()


def test_07_a_summary_and_a_check(model):
    assert abs(model.summary().loc["lift", "mean"] - 3) < 0.6
    assert text_of(model.check())


def test_08_the_effect(effect):
    text = text_of(effect)
    assert text.startswith("Expected `sales` is on average ")
    assert "campaign = 1" in text
    assert "higher" in text


def test_09_the_truth_is_inside_the_interval(effect):
    low, high = effect.draws.quantile([0.005, 0.995]).values
    assert low < 3 < high


def test_10_in_percent(model):
    assert "%" in text_of(model.effect("campaign", contrast="lift", progress=False)).partition("(")[0]


def test_11_by_region(model, weeks):
    table = model.effect("campaign", by="region", progress=False).summary()
    assert set(table["region"]) == {"all", "north", "south"}


def test_12_on_the_treated(model):
    treated = model.effect("campaign", where="campaign", progress=False)
    assert abs(float(treated.draws.mean()) - 3) < 0.6


def test_13_any_change(model, weeks):
    found = model.effect(demand=lambda demand: demand + 1, progress=False)
    assert abs(float(found.draws.mean()) - 2.5) < 0.5


def test_14_a_table_and_a_file(effect, tmp_path):
    effect.summary().to_csv(tmp_path / "effect.csv")
    assert "mean" in (tmp_path / "effect.csv").read_text()
    assert len(effect.to_pandas()) == effect.draws.size


def test_15_a_plot(effect):
    assert effect.plot().axes


def test_16_a_sentence(effect):
    assert aimz.in_words(effect)[0].endswith(".")


def test_17_new_rows(model):
    new = pd.DataFrame({"demand": [0.0, 1.0], "campaign": [1, 0]}, index=["next", "after"])
    tree = model.predict(new, in_sample=False, progress=False)
    predicted = tree["predictions"]["sales"].mean(("chain", "draw")).to_series()
    assert list(predicted.index) == ["next", "after"]
    assert abs(predicted["next"] - 23) < 1


def test_18_statistics_in_place_of_draws(model, weeks):
    rows = model.predict(weeks, statistics=("mean", 0.05, 0.95), store="memory", progress=False)
    group = next(rows[name] for name in ("posterior_predictive", "predictions") if name in rows.children)
    low, high = group["sales"].sel(statistic=["0.05", "0.95"]).values
    assert 0.8 < ((low < weeks["sales"]) & (weeks["sales"] < high)).mean() < 0.97


def test_19_a_misspelled_name_lists_the_known_ones(model):
    with pytest.raises(ValueError, match=r"campain.*campaign"):
        model.effect("campain", progress=False)


def test_20_save_and_load(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = aimz.ImpactModel.load(tmp_path / "model", kernel)
    np.testing.assert_array_equal(loaded.posterior["lift"], model.posterior["lift"])

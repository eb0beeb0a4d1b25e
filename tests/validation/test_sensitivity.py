"""Sensitivity to a hidden common cause, against ordinary least squares and published numbers."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import statsmodels.api as sm
from jax import random
from numpyro.infer import MCMC, NUTS
from scipy import stats

from aimz import ImpactModel
from aimz.statistics import BenchmarkStrength, ConfoundingBias, bounding_factor, e_value, robustness_value
from aimz.validation import SensitivityResult

N = 500
QUIET = {"progress": False}


def mailing(X, mail, shop, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]))
    by_shop = numpyro.sample("by_shop", dist.Normal(0.0, 1.0).expand([3]))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b + by_shop[shop] + gain * mail, noise), obs=y)


def unfitted(kernel):
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))


@pytest.fixture(scope="module")
def rows():
    """Rows of a study in which demand is a common cause of mail and outcome."""
    noise = np.random.default_rng(0)
    X = pd.DataFrame({"demand": noise.normal(3.0, 1.0, N), "season": noise.normal(size=N)})
    shop = noise.integers(0, 3, N)
    mail = (0.5 * (X["demand"] - 3) + 0.3 * shop + noise.normal(size=N) > 0.3).to_numpy().astype(float)
    y = 2 + 0.3 * X["demand"] + 0.2 * X["season"] + 0.4 * shop + 0.5 * mail + noise.normal(size=N)
    return {"X": X, "y": y.to_numpy(), "mail": mail, "shop": shop}


@pytest.fixture(scope="module")
def regression(rows):
    """The regression with an intercept and an indicator of each shop, of which the first has none."""
    indicators = rows["shop"][:, None] == np.arange(1, 3)
    return sm.OLS(rows["y"], np.column_stack([np.ones(N), rows["mail"], rows["X"], indicators])).fit()


@pytest.fixture(scope="module")
def draws(regression):
    """Draws of the posterior under a flat prior."""
    noise = np.random.default_rng(1)
    variance = regression.ssr / noise.chisquare(regression.df_resid, 2000)
    root = np.linalg.cholesky(regression.normalized_cov_params)
    return regression.params + np.sqrt(variance)[:, None] * (noise.normal(size=(2000, 6)) @ root.T)


def with_draws(draws):
    zero = np.zeros((len(draws), 1))
    sites = {"a": draws[:, 0], "gain": draws[:, 1], "b": draws[:, 2:4], "noise": np.ones(len(draws))}
    return unfitted(mailing).set_posterior_sample({**sites, "by_shop": np.hstack([zero, draws[:, 4:]])})


@pytest.fixture(scope="module")
def found(draws, rows):
    return with_draws(draws).sensitivity(treatment="mail", benchmark=["demand", "season"], **rows, **QUIET)


def ovb_bound(r2_treatment, r2_outcome, k):
    """Return the bounds of Cinelli and Hazlett (2020), equations 14 and 15."""
    treatment = k * r2_treatment / (1 - r2_treatment)
    induced = k * r2_treatment**2 / ((1 - k * r2_treatment) * (1 - r2_treatment))
    outcome = ((np.sqrt(k) + np.sqrt(induced)) / np.sqrt(1 - induced)) ** 2 * r2_outcome / (1 - r2_outcome)
    return treatment, outcome


def test_robustness_values_match_ordinary_least_squares(found, regression):
    # f of Cinelli and Hazlett: the t value over the square root of the degrees of freedom.
    degrees = regression.df_resid
    f = regression.tvalues[1] / np.sqrt(degrees)
    assert found.robustness_value() == pytest.approx(robustness_value(f), rel=0.02)
    assert found.robustness_value(q=0.5) == pytest.approx(robustness_value(f / 2), rel=0.02)
    at_level = f - stats.t.ppf(0.975, degrees - 1) / np.sqrt(degrees - 1)
    assert found.robustness_value(alpha=0.05) == pytest.approx(robustness_value(at_level), rel=0.03)
    r2 = regression.tvalues[1] ** 2 / (regression.tvalues[1] ** 2 + degrees)
    assert float(found.partial_r2.median()) == pytest.approx(r2, rel=0.03)
    assert found.n_obs == N
    assert found.covariates == ("demand", "season", "shop")


@pytest.mark.parametrize(("name", "place"), [("demand", 2), ("season", 3)])
def test_bounds_match_the_formulas_for_ordinary_least_squares(found, regression, rows, name, place):
    design, t, degrees = regression.model.exog, regression.tvalues, regression.df_resid
    of_mail = sm.OLS(rows["mail"], np.delete(design, 1, axis=1)).fit()
    t_mail = of_mail.tvalues[place - 1]
    r2_treatment = t_mail**2 / (t_mail**2 + of_mail.df_resid)
    r2_outcome = t[place] ** 2 / (t[place] ** 2 + degrees)
    table = found.table(times=[1, 2, 3]).set_index("hidden cause")
    for k in (1, 2, 3):
        treatment, outcome = ovb_bound(r2_treatment, r2_outcome, k)
        line = table.loc[f"{k} x {name}"]
        assert line["r2_treatment"] == pytest.approx(treatment, rel=1e-4)
        assert line["r2_outcome"] == pytest.approx(outcome, abs=0.02 * k)
        bias = regression.bse[1] * np.sqrt(degrees) * np.sqrt(outcome * treatment / (1 - treatment))
        assert line["mean"] == pytest.approx(regression.params[1] - bias, abs=0.02)


def test_every_draw_matches_its_residuals(found, draws, regression, rows):
    design = regression.model.exog
    sd_outcome = np.sqrt(((rows["y"] - draws @ design.T) ** 2).mean(axis=1))
    left = sm.OLS(rows["mail"], np.delete(design, 1, axis=1)).fit().resid
    sd_mail = np.sqrt((left**2).sum() / regression.df_resid)
    np.testing.assert_allclose(found.strengths.sd_outcome, sd_outcome, rtol=1e-4)
    assert found.strengths.sd_treatment == pytest.approx(sd_mail, rel=1e-5)
    adjusted = draws[:, 1] - sd_outcome / sd_mail * np.sqrt(0.1 * 0.2 / 0.8)
    np.testing.assert_allclose(found.adjusted(0.2, 0.1).values.ravel(), adjusted, atol=1e-4)
    demand = sm.OLS(design[:, 2], np.delete(design, 2, axis=1)).fit().resid
    f2 = draws[:, 2] ** 2 * (demand**2).sum() / regression.df_resid / sd_outcome**2
    np.testing.assert_allclose(found.strengths.benchmarks["demand"].f2_outcome, f2, rtol=2e-3, atol=1e-5)
    treatment, outcome = found.strengths.benchmarks["demand"].bound(1)
    left_over = draws[:, 1] - sd_outcome / sd_mail * np.sqrt(outcome * treatment / (1 - treatment))
    table = found.table(times=[1]).set_index("hidden cause")
    assert table.loc["1 x demand", "P(>0)"] == pytest.approx((left_over > 0).mean(), abs=0.002)


def test_robustness_is_the_strength_at_which_the_effect_vanishes(found):
    for q in (1.0, 0.5):
        value = found.strengths.robustness(q)
        np.testing.assert_allclose(found.strengths.adjusted(value, value), (1 - q) * found.strengths.effect, atol=1e-9)
    tipping = found.tipping_point(0.3).values.ravel()
    np.testing.assert_allclose(found.strengths.adjusted(0.3, tipping), 0, atol=1e-9)
    at = found.robustness_value(alpha=0.1)
    assert float((found.adjusted(at, at) > 0).mean()) == pytest.approx(0.95, abs=2e-3)


def test_coefficients_of_a_cause_of_variance_one_have_the_same_bias(found):
    # Omitted variable bias: coefficient in the outcome times the slope of the cause on what is left of the treatment.
    gamma, delta = found.strength(0.2, 0.1)
    bias = float(found.effect.mean() - found.adjusted(0.2, 0.1).mean())
    assert gamma * delta / found.strengths.sd_treatment**2 == pytest.approx(bias, rel=1e-6)


def test_batches_and_blocks_give_the_same_numbers(found, draws, rows):
    def batches():
        for start in range(0, N, 90):
            part = slice(start, start + 90)
            yield {name: np.asarray(values[part]) for name, values in rows.items()}

    model = with_draws(draws[:200])
    streamed = model.sensitivity(treatment="mail", benchmark="X[0]", X=batches(), **QUIET)
    np.testing.assert_allclose(streamed.effect, found.effect[:, :200], rtol=1e-5)
    np.testing.assert_allclose(streamed.strengths.sd_outcome, found.strengths.sd_outcome[:200], rtol=1e-5)
    assert streamed.strengths.sd_treatment == pytest.approx(found.strengths.sd_treatment, rel=1e-6)
    known, again = found.strengths.benchmarks["demand"], streamed.strengths.benchmarks["X[0]"]
    np.testing.assert_allclose(again.f2_outcome, known.f2_outcome[:200], rtol=1e-3, atol=1e-6)
    assert streamed.n_obs == N


def test_a_given_effect_sets_the_unit(draws, rows):
    model = with_draws(draws[:50])
    data = {"X": rows["X"], "args": {"mail": rows["mail"], "shop": rows["shop"]}, "progress": False}
    effect = model.effect("mail", values=[1.0, 3.0], **data)
    found = model.sensitivity(effect, treatment="mail", y=rows["y"], **data)
    assert found.unit == 2.0
    np.testing.assert_allclose(found.strengths.effect, draws[:50, 1], rtol=1e-4)
    np.testing.assert_allclose(found.effect.values.ravel(), 2 * draws[:50, 1], rtol=1e-4)
    with pytest.raises(ValueError, match=r"must change `demand` alone, from one number to another"):
        model.sensitivity(effect, treatment="demand", y=rows["y"], **data)


def bias_of(effect, **benchmarks):
    return ConfoundingBias(np.asarray(effect), np.full(len(effect), 2.0), 0.5, benchmarks)


def test_a_negative_effect_is_moved_up_towards_zero():
    down, up = bias_of([-1.0, -0.8, 0.1]), bias_of([1.0, 0.8, -0.1])
    np.testing.assert_allclose(down.adjusted(0.1, 0.1), -up.adjusted(0.1, 0.1))
    np.testing.assert_allclose(down.robustness(), up.robustness())
    assert down.robustness()[2] == 0


def test_robustness_values_and_e_values_match_published_numbers():
    # Cinelli and Hazlett (2020), Darfur: t = 4.18 with 783 degrees of freedom.
    f = 4.184448 / np.sqrt(783)
    assert robustness_value(np.array(f)) == pytest.approx(0.1388, abs=5e-5)
    assert robustness_value(np.array(f - 1.963 / np.sqrt(782))) == pytest.approx(0.0763, abs=5e-5)
    # VanderWeele and Ding (2017): breastfeeding and respiratory deaths, 3.9 (1.8 to 8.7).
    assert e_value(3.9) == pytest.approx(7.26, abs=5e-3)
    assert e_value(1.8) == pytest.approx(3.0, abs=1e-12)
    assert e_value(1 / 3.9) == pytest.approx(e_value(3.9))
    assert bounding_factor(float(e_value(3.9)), float(e_value(3.9))) == pytest.approx(3.9)


def converting(X, mail, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.BernoulliLogits(a + X + gain * mail), obs=y)


def test_ratio_of_risks_has_an_e_value(rows):
    model = unfitted(converting).set_posterior_sample({"a": np.full(3, -1.0), "gain": np.array([0.5, 0.7, 0.9])})
    X, y = rows["X"]["season"].to_numpy(), (rows["y"] > 4).astype(int)
    with pytest.raises(ValueError, match=r"BernoulliLogits.*none is named\. Pass `scale='ratio'`"):
        model.sensitivity(treatment="mail", X=X, y=y, mail=rows["mail"], **QUIET)
    with pytest.raises(ValueError, match=r"which ratios do not have"):
        model.sensitivity(treatment="mail", benchmark=["X"], scale="ratio", X=X, y=y, mail=rows["mail"], **QUIET)
    found = model.sensitivity(treatment="mail", scale="ratio", X=X, y=y, mail=rows["mail"], **QUIET)
    logits = -1.0 + X[:, None] + np.array([0.5, 0.7, 0.9])
    ratio = (1 / (1 + np.exp(-logits))).mean(0) / (1 / (1 + np.exp(1.0 - X))).mean()
    np.testing.assert_allclose(found.effect.values.ravel(), ratio, rtol=1e-4)
    np.testing.assert_allclose(found.robustness.values.ravel(), ratio + np.sqrt(ratio * (ratio - 1)), rtol=1e-4)
    line = found.table(risk_ratios=[2.0]).iloc[1]
    assert line["mean"] == pytest.approx((ratio / (4 / 3)).mean(), rel=1e-4)
    with pytest.raises(TypeError, match=r"`adjusted` is about the partial R² of a difference"):
        found.adjusted(0.1, 0.1)
    assert "multiply both" in repr(found)
    assert found.plot().axes[0].get_xlabel() == "ratio of the hidden cause with mail"


def mediated(X, campaign, seen=None, written=None, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3]))
    with numpyro.plate("obs", X.shape[0]):
        visits = numpyro.sample("visits", dist.Normal(b[0] * campaign, 1.0), obs=seen)
        numpyro.sample("leads", dist.Normal(b[1] * campaign, 1.0), obs=written)
        numpyro.sample("y", dist.Normal(b[2] * visits + X, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_rows_of_the_fit_are_the_default(rows):
    """Also their outcome and the arguments of the kernel are kept by the fit."""
    model = unfitted(mailing).fit_on_batch(**rows, **QUIET)
    asked = {"treatment": "mail", "benchmark": ["season"], **QUIET}
    kept, passed = model.sensitivity(**asked), model.sensitivity(**asked, **rows)
    np.testing.assert_array_equal(kept.effect, passed.effect)
    assert kept.robustness_value() == passed.robustness_value()


def test_effects_of_the_treatment_are_no_benchmarks(rows):
    model = unfitted(mediated).set_posterior_sample({"b": np.ones((5, 3))})
    data = {"X": rows["X"]["season"].to_numpy(), "y": rows["y"], "campaign": rows["mail"], "progress": False}
    for name in ("leads", "written"):
        with pytest.raises(ValueError, match=rf"got '{name}', which descends from `campaign` in the kernel"):
            model.sensitivity(treatment="campaign", benchmark=[name], written=rows["y"], **data)
    with pytest.raises(ValueError, match=r"`visits` descends from it and is passed as data"):
        model.sensitivity(treatment="campaign", seen=rows["y"], **data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"benchmark": ["demond"]}, r"got 'demond', neither\. Known: demand, season, shop"),
        ({"benchmark": ["gain"]}, r"got 'gain', neither"),
        ({"benchmark": ["mail"]}, r"got 'mail', the treatment itself"),
        ({"benchmark": ["season"], "covariates": ["demand"]}, r"which the list `covariates` leaves out"),
        ({"treatment": "gain"}, r"got 'gain', a site without data"),
        ({"treatment": "shop"}, r"a treatment of categories, 'shop'"),
        ({"treatment": "y"}, r"the outcome 'y' itself"),
        ({"outcome": "sales"}, r"`outcome` must be the output of the kernel, `y`"),
        ({"mail": np.ones(N)}, r"has one value in all rows"),
        ({"mail": "season"}, r"is determined by the covariates"),
        ({"mail": np.where(np.arange(N) < 7, np.nan, 1.0)}, r"7 of 500 rows have NaN .* \(row 0 is the first\)"),
    ],
)
def test_questions_without_an_answer_are_errors(draws, rows, options, words):
    given = {"treatment": "mail", **rows, **options, **QUIET}
    if isinstance(given["mail"], str):
        given["mail"] = 2 * rows["X"][given["mail"]].to_numpy() + 1
    with pytest.raises(ValueError, match=words):
        with_draws(draws[:4]).sensitivity(**given)


def test_causes_that_cannot_exist_have_no_number():
    strong = BenchmarkStrength(0.6, np.full(3, 0.1))
    result = SensitivityResult("mail", "y", "difference", (), 9, 1, strengths=bias_of([1.0, 0.8, 0.9], strong=strong))
    assert result.table(times=[1]).iloc[1].isna().sum() == 7
    assert "No hidden cause can be as strong as `strong`" in " ".join(repr(result).split())


def test_text_states_the_cause_and_gives_no_verdict(found):
    text = " ".join(repr(found).split())
    share = f"{100 * found.robustness_value():.3g} %"
    assert f"a hidden common cause of `mail` and `y` would have to explain {share}" in text
    assert "robust" not in text.lower()
    assert "One as strong as `season` would leave an effect of" in text
    assert list(found.summary().index) == ["effect", "partial_r2", "robustness_value"]
    assert found.to_pandas().columns.tolist() == ["chain", "draw", "effect", "robustness_value", "partial_r2"]


def test_plot_marks_the_benchmarks(found):
    axes = found.plot(times=[1, 2], xlim=0.9, ylim=0.9).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert any(text.startswith("1 x demand (") for text in texts)
    assert any(text.startswith("2 x season (") for text in texts)
    assert axes.get_legend().get_texts()[1].get_text() == "P(effect > 0) = 97.5 %"


def test_plot_has_one_mark_where_a_cause_explains_the_whole_outcome():
    """Stronger multiples of a covariate would have the same height, with labels on top of each other."""
    strong = BenchmarkStrength(0.001, np.full(100, 0.8))
    bias = ConfoundingBias(np.full(100, 1.0), np.full(100, 2.0), 0.5, {"age": strong})
    result = SensitivityResult("mail", "y", "difference", ("age",), 800, 1, strengths=bias)
    texts = [text.get_text() for text in result.plot(times=(3, 2, 1, 4)).axes[0].texts]
    assert [text.split(" (")[0] for text in texts if "age" in text] == ["1 x age", "2 x age"]

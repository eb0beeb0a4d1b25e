"""Average effects, whole and by group, against closed forms and references computed elsewhere.

Posteriors in closed form are drawn with NumPy and put into the model, mostly moved so that their mean is exact: what
is left of the error is that of our arithmetic, and means have to agree to a few digits of single precision rather than
to 1 %.  Where draws are what they are, comparisons are in Monte Carlo standard errors (`yardstick`), 4 allowed: about
60 of them, so a fresh set of keys would fail somewhere with probability at most 0.4 %.
"""

import arviz_stats as az
import numpy as np
import numpyro
import pandas as pd
import pytest
import statsmodels.api as sm
from arviz_base import rc_context
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from scipy.stats import t

import aimz
import reference_kernels as kernels
from aimz import ImpactModel
from oracles import DATA, by_hand, by_mcmc, close, moments, needs_data, read

SAMPLE = ("chain", "draw")


def compare(model, scenarios, **options):
    """Compare the scenarios with the first of them."""
    return model.compare_scenarios(scenarios, baseline=next(iter(scenarios)), progress=False, **options)


def arms(name):
    """Return the scenarios that nobody is treated, and that everybody is."""
    return {"nobody": {"intervention": {name: 0}}, "everybody": {"intervention": {name: 1}}}


def moved(draws, mean):
    """Return draws whose average is ``mean``."""
    return draws + (mean - draws.mean(0))


def whitened(rng, n_draws, n_columns):
    """Return normal draws with means of exactly 0 and a covariance of exactly 1."""
    z = moved(rng.normal(size=(n_draws, n_columns)), 0.0)
    return np.linalg.solve(np.linalg.cholesky(np.cov(z.T)), z.T).T


def sd_of(what, draws, sd):
    """Assert the sd of draws of shape ``(chain, draw, ...)`` within Monte Carlo error."""
    draws = np.asarray(draws, dtype=np.float64)
    close(f"sd of {what}", draws.std((0, 1), ddof=1), sd, az.mcse(draws, method="sd"))


# ------------------------------------------------------------------------------------ job training (LaLonde 1986)


@pytest.fixture(scope="module")
def earnings():
    """Return the data, treatment, outcome in thousands of dollars, and the reference."""
    data = pd.read_csv(DATA / "lalonde_nsw_dw.csv.gz")
    return data, data["treat"].to_numpy(), data["re78"].to_numpy() / 1000.0, read("reference_effects.json")


def regression_on_treatment(treat, y, n_draws):
    """Return draws of the posterior under p(coefficients, sigma) proportional to 1/sigma, with the exact mean."""
    rng = np.random.default_rng(1)
    Z = np.stack([np.ones(len(y)), treat], axis=-1)
    scale = np.linalg.inv(Z.T @ Z)
    estimate = scale @ Z.T @ y
    sigma = np.sqrt(((y - Z @ estimate) ** 2).sum() / rng.chisquare(len(y) - 2, n_draws))
    coefficients = estimate + sigma[:, None] * (rng.normal(size=(n_draws, 2)) @ np.linalg.cholesky(scale).T)
    alpha, gain = moved(coefficients, estimate).T
    return {"alpha": alpha, "gain": gain, "log_sigma": np.log(sigma)}


@needs_data
def test_job_training(earnings):
    _, treat, y, references = earnings
    reference = references["lalonde_nsw_dw"]["ols_unadjusted"]["bayes_flat_beta_jeffreys_sigma"]
    means = references["lalonde_nsw_dw"]["diff_in_means_re78"]
    model = by_hand(kernels.earnings_unadjusted, regression_on_treatment(treat, y, 4000), num_chains=2)
    found = compare(model, arms("X"), X=treat)
    gain = 1000.0 * found["effect"]["y"].sel(scenario="everybody")
    assert gain.dims == SAMPLE
    np.testing.assert_allclose(gain.mean(), means["diff"], rtol=1e-5)
    assert round(float(gain.mean()), 1) == 1794.3
    sd_of("gain", gain, reference["sd"])

    # The averages themselves have noise of their own rows.
    averages = 1000.0 * found["scenarios"]["y"].transpose(..., "scenario")
    truth = [means["control_mean"], means["treated_mean"]]
    close("averages of the arms", averages.mean(SAMPLE), truth, az.mcse(averages.to_numpy(), method="mean"))

    # The table says the same, at any level.
    with rc_context({"stats.ci_prob": 0.9, "stats.ci_kind": "eti"}):
        (line,) = aimz.summary(1000.0 * found["effect"].to_dataset()).to_dict("records")
    np.testing.assert_allclose([line["mean"], line["sd"]], [gain.mean(), gain.std(ddof=1)], rtol=1e-6)
    for name, level in (("lb", 0.05), ("ub", 0.95)):
        se = az.mcse(gain.to_numpy(), method="quantile", prob=level)
        close(f"{level} quantile of gain", line[f"eti90_{name}"], reference[f"q{100 * level:02.0f}"], se)
    p = t.cdf(means["diff"] / references["lalonde_nsw_dw"]["ols_unadjusted"]["se_classical"], len(y) - 2)
    close("P(gain > 0)", line["P(>0)"], p, np.sqrt(p * (1 - p) / 4000))


@needs_data
def test_job_training_fitted(earnings):
    _, treat, y, references = earnings
    reference = references["lalonde_nsw_dw"]["ols_unadjusted"]["bayes_flat_beta_jeffreys_sigma"]
    model = by_mcmc(kernels.earnings_unadjusted, 31, treat, y)
    found = compare(model, arms("X"), X=treat, by={"arm": treat})
    gain = 1000.0 * found["effect"]["y"].sel(scenario="everybody")
    overall = 1000.0 * found["effect_overall"]["y"].sel(scenario="everybody")
    moments("gain", overall, reference["mean"], reference["sd"])
    # The kernel knows one gain, so all groups have it.
    np.testing.assert_allclose(gain - overall, 0.0, atol=0.01)


@needs_data
@pytest.mark.parametrize("name", ["nodegree", "re75", "black"])
def test_job_training_by_group(earnings, name):
    data, treat, y, references = earnings
    group = (data[name] > 0).to_numpy().astype(int)
    labels = np.array([f"{name}=0", f"{name}>0" if name == "re75" else f"{name}=1"])
    members = [[y[(group == g) & (treat == arm)] for arm in (0, 1)] for g in (0, 1)]
    size, mean, squares = (
        np.array([[what(cell) for cell in row] for row in members])
        for what in (len, np.mean, lambda cell: ((cell - cell.mean()) ** 2).sum())
    )
    # With 1/sigma in each cell as prior, the mean of a cell has a t distribution with n - 1 degrees of freedom.
    rng = np.random.default_rng(2)
    sigma = np.sqrt(squares / rng.chisquare(size - 1, (4000, 2, 2)))
    level = moved(mean + sigma / np.sqrt(size) * rng.normal(size=sigma.shape), mean)
    difference, variance = 1000.0 * (mean[:, 1] - mean[:, 0]), 1e6 * (squares / size / (size - 3)).sum(1)

    model = by_hand(kernels.cells, {"level": level, "log_sigma": np.log(sigma)}, num_chains=2)
    options = {"X": treat, "group": group, "n_groups": 2, "by": {"who": labels[group]}}
    found = compare(model, arms("X"), **options)
    np.testing.assert_array_equal(found["groups"]["rows"].sel(who=labels), size.sum(1))
    gain = 1000.0 * found["effect"]["mean"].sel(scenario="everybody", who=labels)
    np.testing.assert_allclose(gain.mean(SAMPLE), difference, rtol=1e-5)
    sd_of("gain by group", gain, np.sqrt(variance))
    witnessed = 0
    for label in labels:
        if (witness := references["lalonde_nsw_dw"].get(f"diff_in_means_re78 | {label}")) is not None:
            witnessed += 1
            np.testing.assert_allclose(gain.sel(who=label).mean(), witness["diff"], rtol=1e-5)
    assert witnessed == (1 if name == "black" else 2)
    # Cells differ in spread, so that outcomes under common noise change by more than their means do, by chance.
    outcomes = 1000.0 * found["effect"]["y"].sel(scenario="everybody", who=labels)
    close("gain in outcomes", outcomes.mean(SAMPLE), difference, az.mcse(outcomes.to_numpy(), method="mean"))

    # Over all rows, and over those of the treated: groups count as much as they have members there.
    treated = compare(model, arms("X"), weights=treat, **options)
    for what, tree, members in (("all", found, size.sum(1)), ("the treated", treated, size[:, 1])):
        share = members / members.sum()
        overall = 1000.0 * tree["effect_overall"]["mean"].sel(scenario="everybody")
        np.testing.assert_allclose(overall.mean(), share @ difference, rtol=1e-5)
        sd_of(f"gain of {what}", overall, np.sqrt(share**2 @ variance))


# --------------------------------------------------------------------------- health insurance (RAND, Manning 1987)

PLANS = ("free", "c25", "c50", "c95", "id")


@pytest.fixture(scope="module")
def visits():
    """Return the plan of each person-year, and how often a doctor was seen in it."""
    table = sm.datasets.randhie.load_pandas().data
    # A deductible comes before coinsurance: most who have one pay nothing beyond it.
    coinsurance = np.rint(np.expm1(table["lncoins"].to_numpy()))
    plan = np.where(table["idp"] == 1, 4, np.searchsorted([0, 25, 50, 95], coinsurance))
    return plan, table["mdvis"].to_numpy().astype(int)


@pytest.fixture(scope="module")
def insured(visits):
    """Return a model with draws of its posterior, their exact means, and their sds.

    Flat on its logarithm, a Poisson rate has a gamma posterior, whose mean is that of the sample.
    """
    plan, y = visits
    rows, total = np.bincount(plan), np.bincount(plan, weights=y)
    mean = total / rows
    draws = np.random.default_rng(3).gamma(total, 1 / rows, (1000, 5))
    model = by_hand(kernels.plans, {"log_rate": np.log(draws * (mean / draws.mean(0)))}, num_chains=2)
    return model, mean, np.sqrt(total) / rows


def test_health_insurance_by_plan(visits, insured):
    plan, y = visits
    model, mean, sd = insured
    scenarios = {"as it was": {}, "all free": {"intervention": {"X": 0}}}
    options = {"X": plan, "n_plans": 5, "by": {"plan": np.array(PLANS)[plan]}}
    found = compare(model, scenarios, return_sites="rate", **options)
    averages = found["scenarios"]["rate"].sel(plan=list(PLANS))
    np.testing.assert_allclose(averages.sel(scenario="as it was").mean(SAMPLE), mean, rtol=1e-5)
    sd_of("visits by plan", averages.sel(scenario="as it was"), sd)
    np.testing.assert_allclose(averages.sel(scenario="all free").mean(SAMPLE), mean[0], rtol=1e-5)
    expected = compare(model, scenarios, **options)  # of visits themselves: the rate, without the noise of counts
    np.testing.assert_allclose(expected["effect"]["y"], found["effect"]["rate"], rtol=1e-4, atol=1e-6)
    overall = found["scenarios_overall"]["rate"].sel(scenario="as it was")
    np.testing.assert_allclose(overall.mean(), y.mean(), rtol=1e-5)

    # Visits themselves, which are drawn: some of the draws, for some of the rows.
    few = by_hand(kernels.plans, {"log_rate": model.posterior["log_rate"][::5]}, num_chains=2)
    options = {"X": plan[::5], "n_plans": 5, "by": {"plan": np.array(PLANS)[plan[::5]]}}
    drawn = compare(few, scenarios, return_sites="y", kind="outcome", **options)["scenarios"]["y"]
    drawn = drawn.sel(scenario="as it was", plan=list(PLANS))
    moments("visits drawn, by plan", drawn, mean, np.sqrt(sd**2 + mean / np.bincount(plan[::5])))


def test_health_insurance_if_all_had_one_plan(visits, insured):
    plan, _ = visits
    model, mean, sd = insured
    scenarios = {name: {"intervention": {"X": i}} for i, name in enumerate(PLANS)}
    options = {"X": plan, "n_plans": 5, "return_sites": "rate"}
    found = compare(model, scenarios, **options)
    averages = found["scenarios"]["rate"].sel(scenario=list(PLANS))
    np.testing.assert_allclose(averages.mean(SAMPLE), mean, rtol=1e-5)
    effect = found["effect"]["rate"].sel(scenario=list(PLANS[1:]))
    np.testing.assert_allclose(effect.mean(SAMPLE), mean[1:] - mean[0], rtol=1e-5)
    sd_of("visits more than under free care", effect, np.hypot(sd[1:], sd[0]))
    # Effects can be compared in turn: two plans that cost, without the one that does not.
    sd_of("95 % without 50 %", effect.sel(scenario="c95") - effect.sel(scenario="c50"), np.hypot(sd[3], sd[2]))

    ratio = compare(model, scenarios, contrast="ratio", **options)["effect"]["rate"].sel(scenario=list(PLANS[1:]))
    # The mean of 1 / rate where the rate has a gamma distribution with mean / sd = square root of its shape.
    expected = mean[1:] / mean[0] / (1 - (sd[0] / mean[0]) ** 2)
    close("ratio to free care", ratio.mean(SAMPLE), expected, az.mcse(ratio.to_numpy(), method="mean"))
    assert round(float(ratio.sel(scenario="c95").mean()), 2) == 0.59  # as in the literature: 0.60


@needs_data
def test_health_insurance_as_the_reference_has_it(visits, insured):
    plan, _ = visits
    model, _, _ = insured
    known = read("randhie_reference.json")
    scenarios = {name: {"intervention": {"X": i}} for i, name in enumerate(PLANS)}
    found = compare(model, scenarios, X=plan, n_plans=5, return_sites="rate")
    averages, effect = (found[name]["rate"].mean(SAMPLE) for name in ("scenarios", "effect"))
    for i, name in enumerate(PLANS):
        assert (plan == i).sum() == known["arm_means"][name]["person_years"]
        np.testing.assert_allclose(averages.sel(scenario=name), known["arm_means"][name]["mdvis"], atol=1e-4)
    for name in PLANS[1:]:
        less, _ = known["mdvis minus free, OLS unadjusted, person-clustered SE"][name]
        np.testing.assert_allclose(effect.sel(scenario=name), less, atol=1e-4)


# -------------------------------------------------------------------------------- two lines, in closed form and OLS


@pytest.fixture(scope="module")
def lines():
    """Return input, treatment, groups and outcome; and what least squares makes of them."""
    rng = np.random.default_rng(4)
    X = rng.normal(0.5, 1.0, 400)
    treat = rng.integers(0, 2, 400)
    group = np.where(X < 0, "low", np.where(X < 1, "middle", "high"))
    y = 1.0 + 0.5 * X + 2.0 * treat - 1.5 * treat * X + rng.normal(0, 0.8, 400)
    return X, treat, group, y, sm.OLS(y, np.stack([np.ones(400), X, treat, treat * X], axis=-1)).fit()


def effects_of_treatment(X, group, fit):
    """Return the effect by group and over all rows, and their sds, as statsmodels has them."""
    at = [X[group == name].mean() for name in GROUPS] + [X.mean()]
    tests = [fit.t_test([0.0, 0.0, 1.0, x]) for x in at]
    return np.array([(test.effect.item(), test.sd.item()) for test in tests]).T


GROUPS = ["low", "middle", "high"]


def test_lines(lines):
    X, treat, group, _, fit = lines
    # Flat priors and known noise: what statsmodels calls estimate and covariance is the posterior.
    draws = fit.params + whitened(np.random.default_rng(5), 2000, 4) @ np.linalg.cholesky(fit.cov_params()).T
    model = by_hand(kernels.sloped, {"coefficients": draws}, num_chains=2)
    options = {"X": X, "treat": treat, "noise_sd": np.sqrt(fit.mse_resid), "by": {"group": group}}
    found = compare(model, arms("treat"), **options)
    by_formula = fit.params[2] + fit.params[3] * np.array([X[group == name].mean() for name in GROUPS])
    expected, sd = effects_of_treatment(X, group, fit)
    np.testing.assert_allclose(expected[:-1], by_formula, rtol=1e-12)
    for site in ("mean", "y"):
        effect = found["effect"][site].sel(scenario="everybody", group=GROUPS)
        overall = found["effect_overall"][site].sel(scenario="everybody")
        got = np.append(effect.mean(SAMPLE), overall.mean())
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6, err_msg=site)
        got = np.append(effect.std(SAMPLE, ddof=1), overall.std(ddof=1))
        np.testing.assert_allclose(got, sd, rtol=2e-5, err_msg=site)
    # Draw by draw, too.
    effect = found["effect"]["mean"].sel(scenario="everybody", group="low").to_numpy().ravel()
    np.testing.assert_allclose(effect, draws[:, 2] + draws[:, 3] * X[group == "low"].mean(), rtol=1e-4, atol=1e-5)

    table = aimz.summary(found).set_index(["site", "group"])
    np.testing.assert_allclose(table.loc["mean"].loc[[*GROUPS, "all"], "mean"], expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(table.loc["mean"].loc[[*GROUPS, "all"], "sd"], sd, rtol=2e-5)


def test_lines_fitted(lines):
    X, treat, group, y, fit = lines
    options = {"treat": treat, "noise_sd": np.sqrt(fit.mse_resid)}
    guide = AutoMultivariateNormal(kernels.sloped)
    # The step size falls a thousandfold, so that the guide ends at the optimum, which is the posterior.
    optimizer = numpyro.optim.Adam(lambda step: 0.05 * 0.001 ** (step / 3000))
    svi = SVI(kernels.sloped, guide, optimizer, Trace_ELBO(num_particles=16))
    model = ImpactModel(kernels.sloped, random.key(32), svi)
    model.fit_on_batch(X, y, num_steps=3000, num_samples=4000, progress=False, **options)
    found = compare(model, arms("treat"), X=X, by={"group": group}, **options)
    expected, sd = effects_of_treatment(X, group, fit)
    effect = found["effect"]["y"].sel(scenario="everybody", group=GROUPS)
    moments("effect by group", effect, expected[:-1], sd[:-1])
    moments("effect", found["effect_overall"]["y"].sel(scenario="everybody"), expected[-1], sd[-1])


# ------------------------------------------------------------------------------------------- counts, multiplied


def test_ratio_and_lift_of_a_rate():
    rng = np.random.default_rng(7)
    X, group, exposure = rng.normal(size=3000), rng.integers(0, 3, 3000), rng.uniform(0.1, 5.0, 3000)
    draws = {
        "level": rng.normal(0.5, 0.2, 300),
        "slope": rng.normal(0.3, 0.2, 300),
        "shift": rng.normal([-0.7, 0.1, 0.4], 0.2, (300, 3)),
    }
    model = by_hand(kernels.multiplied, draws)
    options = {"X": X, "treat": np.zeros(3000), "group": group, "exposure": exposure, "return_sites": "rate"}
    factor = np.exp(draws["shift"])
    base = exposure * np.exp(draws["level"][:, None] + draws["slope"][:, None] * X)
    total = np.stack([base[:, group == g].sum(1) for g in range(3)], axis=-1)
    overall = (total * factor).sum(1) / total.sum(1)
    for contrast, truth, whole in (("ratio", factor, overall), ("lift", factor - 1, overall - 1)):
        found = compare(model, arms("treat"), contrast=contrast, by={"segment": group}, **options)
        effect = found["effect"]["rate"].sel(scenario="everybody", segment=[0, 1, 2])
        np.testing.assert_allclose(effect[0], truth, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(found["effect_overall"]["rate"].sel(scenario="everybody")[0], whole, atol=3e-6)
    # Where the treatment does the same to all, so does the ratio, whatever the rows.
    same = by_hand(kernels.multiplied, draws | {"shift": np.repeat(draws["shift"][:, :1], 3, axis=1)})
    found = compare(same, arms("treat"), contrast="ratio", **options)
    np.testing.assert_allclose(found["effect"]["rate"].sel(scenario="everybody")[0], factor[:, 0], rtol=1e-5)

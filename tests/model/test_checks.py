"""``summary`` and ``check``: the table of the posterior, and the verdicts about a fit."""

import arviz_stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats

from aimz import CheckResult, ImpactModel, NotFittedError
from aimz.methods.check_findings import data_findings, statistic_lines
from aimz.methods.predictive_checks import CheckedRows
from aimz.statistics import Groups, PredictiveChecks

RNG = np.random.default_rng(3)
N = 300
TABLE = pd.DataFrame({"age": RNG.normal(size=N), "income": RNG.normal(size=N)}).astype(np.float32)
Y = (1 + 2 * TABLE["age"].to_numpy() + RNG.normal(size=N)).astype(np.float32)
DRAWS = {
    "a": 1 + 0.06 * RNG.normal(size=(400,)),
    "b": np.array([2.0, 0.0]) + 0.06 * RNG.normal(size=(400, 2)),
}


def kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b, 1.0), obs=y)


def given(draws=DRAWS, **options):
    """Return a model with draws of known mean and sd, which has seen the labels of the columns."""
    model = ImpactModel(kernel, 0, dims={"b": ["feature"]}, coords={"feature": ["age", "income"]})
    model.describe(TABLE, Y)
    return model.set_posterior_sample(draws, **options)


def test_summary_equals_moments_of_draws():
    table = given().summary(ci_prob=0.8, round_to="none")
    assert table.index.tolist() == ["a", "b[age]", "b[income]"]
    assert table.columns.tolist() == ["mean", "sd", "eti80_lb", "eti80_ub"]
    np.testing.assert_allclose(table.loc["b[age]", "mean"], DRAWS["b"][:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(table.loc["a", "sd"], DRAWS["a"].std(ddof=1), rtol=1e-2)
    np.testing.assert_allclose(table.loc["a", "eti80_lb"], np.quantile(DRAWS["a"], 0.1), rtol=1e-3)
    assert given().summary("a").index.tolist() == ["a"]


def test_summary_of_chains_has_diagnostics():
    model = given(num_chains=4)
    table = model.summary(round_to="none")
    expected = arviz_stats.rhat(DRAWS["a"].reshape(4, 100))
    np.testing.assert_allclose(table.loc["a", "r_hat"], expected, rtol=1e-4)
    assert {"ess_bulk", "ess_tail"} <= set(table.columns)


def test_summary_and_check_need_a_posterior():
    for method in ("summary", "check"):
        with pytest.raises(NotFittedError, match=f"`{method}` needs a posterior"):
            getattr(ImpactModel(kernel, 0), method)()


def test_check_of_a_correct_model_and_of_wrong_draws():
    model = given(num_chains=4)
    with pytest.raises(TypeError, match="`check` needs rows"):
        model.check()
    assert model.check(TABLE, Y).to_pandas().query("question == 'data'")["verdict"].eq("ok").all()
    wrong = given({**DRAWS, "a": DRAWS["a"] + 0.5}, num_chains=4).check(TABLE, Y)
    assert isinstance(wrong, CheckResult)
    assert not wrong.ok
    assert "data: the predicted mean is off" in " ".join(str(wrong).split())
    assert wrong._repr_html_().count("<tr>") == len(wrong.to_dict()) + 1


def test_check_predicts_a_sample_of_the_rows():
    found = given(num_chains=4).check(TABLE, Y, max_rows=100).to_pandas()
    # The standard error of a coverage of 0.9 over 100 rows is 0.03.
    assert found.loc["coverage of 90 % intervals", "expected"] == "0.75-1.00"


def findings(observed, drawn):
    checks = PredictiveChecks(len(drawn))
    checks.add(0, drawn, observed, None, None)
    found = CheckedRows(checks, Groups({}, None, None), {}, len(observed), True, "")
    return {finding.check.split(":")[0]: finding for finding in data_findings(found, statistic_lines(found))}


def test_share_of_predicted_statistics_equals_closed_form():
    """The mean of 50 predicted values is normal with sd ``1 / sqrt(50)``."""
    observed = np.linspace(-1, 1, 50) + 0.2
    drawn = RNG.normal(size=(20_000, 50))
    found = findings(observed, drawn)
    share = stats.norm.sf(0.2 * np.sqrt(50))
    assert abs(found["mean"].value - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
    assert found["mean"].verdict == "ok"
    assert "zeros" not in found


def test_excess_of_zeros_and_narrow_intervals_are_found():
    counts = np.where(RNG.random(400) < 0.5, 0, RNG.poisson(5, 400))
    found = findings(counts, RNG.poisson(counts.mean(), (1000, 400)))
    assert (found["mean"].verdict, found["zeros"].verdict, found["sd"].verdict) == ("ok", "bad", "bad")
    found = findings(RNG.normal(size=400), 0.5 * RNG.normal(size=(1000, 400)))
    assert found["coverage of 90 % intervals"].verdict == "bad"
    assert abs(found["coverage of 90 % intervals"].value - (1 - 2 * stats.norm.sf(1.645 / 2))) < 0.1

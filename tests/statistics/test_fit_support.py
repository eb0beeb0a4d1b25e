"""Descriptions of the rows of a fit: moments, leverage and quantiles against statsmodels, NumPy and closed forms."""

import numpy as np
import pytest
import statsmodels.api as sm

from aimz.statistics import FitSupport, RowSupport, overlap_of
from aimz.statistics.fit_support import Moments, left_out

RNG = np.random.default_rng(3)
N = 3000
X = RNG.normal([1e4, 5.0, -2.0], [1.0, 2.0, 0.5], (N, 3))
X[:, 2] += X[:, 0] - 1e4
T = (RNG.random(N) < 0.3).astype(float)
ROWS = np.column_stack([X, T])


def described(parts):
    found = FitSupport.of({"X": X, "t": T}, {"X": ("a", "b", "c")})
    for part in parts:
        found.add({"X": X[part], "t": T[part]})
    return found


@pytest.fixture(scope="module")
def support():
    return described([slice(i, i + 700) for i in range(0, N, 700)]).finished()


def test_leverage_equals_the_hat_matrix_of_statsmodels(support):
    centered = ROWS - [1e4, 0, 0, 0]
    influence = sm.OLS(np.zeros(N), sm.add_constant(centered)).fit().get_influence()
    hat = influence.hat_matrix_diag
    np.testing.assert_allclose(support.moments.leverage(ROWS), hat, rtol=1e-7)
    # The leverage of a row among the others, computed without the row.
    without = Moments.of(np.delete(ROWS, 7, axis=0))
    np.testing.assert_allclose(left_out(hat[7:8]), without.leverage(ROWS[7:8]), rtol=1e-6)
    assert support.far == pytest.approx(np.quantile(left_out(hat), 0.99, method="higher"), rel=1e-6)


def test_moments_do_not_depend_on_the_parts(support):
    whole = Moments.of(ROWS)
    np.testing.assert_allclose(support.moments.mean, ROWS.mean(0), rtol=1e-13)
    np.testing.assert_allclose(support.moments.products, whole.products, rtol=1e-9, atol=1e-6)
    first, second = described([slice(0, 1000)]), described([slice(1000, N)])
    first.merge(second)
    merged = first.finished()
    np.testing.assert_allclose(merged.moments.products, whole.products, rtol=1e-9, atol=1e-6)
    treated = merged.levels[3][1.0].moments
    assert treated.n == T.sum()
    np.testing.assert_allclose(treated.products[:3, :3], np.cov(X[T == 1].T) * (T.sum() - 1), rtol=1e-9, atol=1e-6)
    assert merged.levels[0] is None


def test_quantiles_of_a_sketch_of_many_parts():
    values = RNG.gamma(0.5, 1.0, 200_000)
    found = FitSupport.of({"x": values}, {})
    for i in range(0, len(values), 5000):
        found.add({"x": values[i : i + 5000]})
    for q in (0.01, 0.25, 0.5, 0.9, 0.99):
        share = (values <= found.quantile(0, q)).mean()
        assert share == pytest.approx(q, abs=0.005)


def test_leverage_of_gaussian_rows_has_the_distribution_of_its_closed_form(support):
    """The squared distance has a chi-squared distribution, whose 99th percentile is 11.34 for 3 columns."""
    rows = np.random.default_rng(0).normal(size=(4000, 3))
    found = FitSupport.of({"X": rows}, {})
    found.add({"X": rows})
    assert found.finished().far * 4000 == pytest.approx(11.34, rel=0.08)


def test_round_trip(support):
    other = FitSupport.from_arrays(support.names, support.places, support.to_arrays())
    rows = RowSupport(support, (3,)), RowSupport(other, (3,))
    for one in rows:
        one.add(ROWS * [1, 1, 1, 0] + [0, 0, 0, 1])
    assert rows[0].columns[3].similar_rows == rows[1].columns[3].similar_rows
    assert other.quantile(1, 0.3) == support.quantile(1, 0.3)
    assert other.levels[0] is None


def test_rows_outside_of_the_space_of_the_fit_have_infinite_leverage():
    rows = np.column_stack([X[:, 1], 2 * X[:, 1] + 1, np.ones(N)])
    moments = Moments.of(rows)
    asked = np.array([[1.0, 3.0, 1.0], [1.0, 4.0, 1.0], [1.0, 3.0, 2.0], [np.nan, 3.0, 1.0]])
    found = moments.leverage(asked)
    assert np.isfinite(found[0])
    assert np.isinf(found[1:3]).all()
    assert np.isnan(found[3])


def test_effective_number_of_controls_equals_inverse_odds_weights_of_statsmodels():
    logits = 0.8 * (X[:, 1] - 5) / 2 - 1
    treated = (RNG.random(N) < 1 / (1 + np.exp(-logits))).astype(float)
    design = sm.add_constant(X - X.mean(0))
    odds = np.exp(design @ sm.Logit(treated, design).fit(disp=0).params)[treated == 0]
    found = overlap_of(treated, X)
    assert found.effective[0] == pytest.approx(odds.sum() ** 2 / (odds**2).sum(), rel=1e-3)
    assert found.n == ((treated == 0).sum(), treated.sum())
    assert found.thin == ()

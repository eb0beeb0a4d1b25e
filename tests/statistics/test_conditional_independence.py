"""Tests of conditional independence from sums, against regressions on the rows."""

import numpy as np
import pytest
from scipy import stats

from aimz.statistics import Moments, holm, independence_test

RNG = np.random.default_rng(2)
ROWS = RNG.normal(size=(60, 4)) @ RNG.normal(size=(4, 4))


def residuals(of, given):
    """Return residuals of a regression with an intercept."""
    design = np.column_stack([np.ones(len(given)), given])
    return of - design @ np.linalg.lstsq(design, of, rcond=None)[0]


def moments_in_parts(rows):
    """Return moments that are merged from blocks."""
    first, *others = (Moments.of(part) for part in np.array_split(rows, 7))
    for other in others:
        first = first.merged(other)
    return first


@pytest.mark.parametrize("given", [[], [2], [2, 3]])
def test_partial_correlations_equal_those_of_residuals(given):
    found = independence_test(moments_in_parts(ROWS), [0], [1], given)
    one, other = (residuals(ROWS[:, i], ROWS[:, given]) for i in (0, 1))
    expected = np.corrcoef(one, other)[0, 1]
    left = len(ROWS) - 2 - len(given)
    t = expected * np.sqrt(left / (1 - expected**2))
    assert found.correlation == pytest.approx(expected, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), left), rel=1e-8)


def test_several_columns_equal_the_f_test_of_nested_regressions():
    group = RNG.integers(0, 4, 60)
    dummies = (group[:, None] == np.arange(1, 4)).astype(float)
    rows = np.column_stack([ROWS, dummies])
    found = independence_test(moments_in_parts(rows), [0], [4, 5, 6], [2])
    small = residuals(ROWS[:, 0], ROWS[:, [2]])
    large = residuals(ROWS[:, 0], np.column_stack([ROWS[:, [2]], dummies]))
    left = 60 - 2 - 3
    f = (small @ small - large @ large) / 3 / (large @ large / left)
    assert found.p_value == pytest.approx(stats.f.sf(f, 3, left), rel=1e-8)
    # The same in exchange, and with redundant columns among the given ones.
    again = independence_test(moments_in_parts(np.column_stack([rows, 2 * rows[:, 2]])), [4, 5, 6], [0], [2, 7])
    assert again.p_value == pytest.approx(found.p_value, rel=1e-6)
    assert again.correlation == pytest.approx(np.sqrt(1 - large @ large / (small @ small)), rel=1e-6)


def test_determined_and_constant_variables_are_not_tested():
    rows = np.column_stack([ROWS, ROWS[:, 2] + ROWS[:, 3], np.ones(60)])
    moments = Moments.of(rows)
    assert independence_test(moments, [4], [0], [2, 3]) is None
    assert independence_test(moments, [5], [0], []) is None
    assert independence_test(Moments.of(rows[:4]), [1], [0], [2]) is None
    assert independence_test(moments, [1], [0], [5]).p_value == independence_test(moments, [1], [0], []).p_value


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_p_values_are_uniform_if_independent():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        c = rng.normal(size=50)
        rows = np.column_stack([c + rng.normal(size=50), c - rng.normal(size=50), c])
        found.append(independence_test(Moments.of(rows), [0], [1], [2]).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01

"""Description of the rows of a fit: the same for any pieces in which rows are added."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from aimz.statistics import FitSupport, RowSupport
from aimz.statistics.row_moments import Moments, left_out

ROWS = np.random.default_rng(0).normal(size=(50_000, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 0.0]
SHOP = np.arange(50_000) % 4


def described(*ranges: tuple[int, int], size: int) -> FitSupport:
    """Return a description of ranges of rows, each added in pieces and merged with the others."""
    found = [FitSupport.of({"X": ROWS, "shop": SHOP}, {}) for _ in ranges]
    for part, (first, last) in zip(found, ranges, strict=True):
        for start in range(first, last, size):
            stop = min(start + size, last)
            part.add({"X": ROWS[start:stop], "shop": SHOP[start:stop]})
    for part in found[1:]:
        found[0].merge(part)
    return found[0].finished()


@pytest.mark.parametrize(
    ("ranges", "size"), [([(0, 50_000)], 50_000), ([(0, 50_000)], 777), ([(0, 40_000), (40_000, 50_000)], 1000)]
)
def test_description_is_independent_of_pieces(ranges, size):
    found = described(*ranges, size=size)
    whole = np.c_[ROWS, SHOP]
    assert (found.n, found.names) == (50_000, ("X[0]", "X[1]", "X[2]", "shop"))
    np.testing.assert_array_equal(found.low, whole.min(0))
    np.testing.assert_array_equal(found.high, whole.max(0))
    np.testing.assert_allclose(found.moments.products / 50_000, np.cov(whole.T, bias=True), atol=1e-10)
    assert found.levels[0] is None
    assert [level.moments.n for level in found.levels[3].values()] == [12_500] * 4
    # A systematic sample of at least 4,096 rows: the standard error of the median is 0.02 standard deviations.
    for q in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(found.quantile(1, q), np.quantile(ROWS[:, 1], q), atol=4 * 0.035 * 10)
    assert not found.sample
    assert not found.pending
    # No row of the fit is far from the others by more than chance: (1 + z'z) / n, with a chi-squared variable z'z.
    np.testing.assert_allclose(found.far, (1 + 13.3) / 50_000, rtol=0.15)
    for level in found.levels[3].values():  # in the other three columns, among the rows of the level
        np.testing.assert_allclose(level.far, (1 + stats.chi2(3).ppf(0.99)) / 12_500, rtol=0.2)


def test_level_of_a_constant_column_has_all_rows():
    rows = np.c_[ROWS[:5000, :2], np.ones(5000)]
    found = FitSupport.of({"X": rows}, {})
    found.add({"X": rows})
    (level,) = found.finished().levels[2].values()
    assert level.moments.n == 5000
    np.testing.assert_allclose(level.moments.products / 5000, np.cov(rows.T, bias=True), atol=1e-10)
    # Among rows that all have the value: the leverage in the other columns.
    np.testing.assert_allclose(level.far, (1 + stats.chi2(2).ppf(0.99)) / 5000, rtol=0.1)


def test_levels_of_many_rows_have_their_number_and_range_and_moments_of_a_sample():
    """From 65,536 rows on, 64 rows of a level, of 4,096, have the weight of all: standard error 0.015 sd."""
    noise = np.random.default_rng(2)
    mail = (noise.random(200_000) < 0.3).astype(float)
    rows = np.c_[noise.normal(size=(200_000, 2)) * [1.0, 10.0] + np.c_[mail, -mail], mail]
    rows[7, 0] = rows[-1, 1] = np.nan
    found = FitSupport.of({"X": rows}, {})
    for start in range(0, 200_000, 1000):
        found.add({"X": rows[start : start + 1000]})
    complete = ~np.isnan(rows).any(1)
    for value, level in found.finished().levels[2].items():
        own = rows[mail == value]
        np.testing.assert_array_equal([level.low, level.high], [np.nanmin(own, 0), np.nanmax(own, 0)])
        own = rows[(mail == value) & complete]
        assert level.moments.n == len(own)
        unit = np.array([1.0, 10.0, 1.0])
        np.testing.assert_allclose((level.moments.mean - own.mean(0)) / unit, 0.0, atol=4 * 0.015)
        difference = level.moments.products / len(own) - np.cov(own.T)
        np.testing.assert_allclose(difference / np.outer(unit, unit), 0.0, atol=4 * 0.021)


@pytest.mark.parametrize("size", [1000, 50_000])
def test_later_rows_of_many_enter_the_moments_by_a_sample(size):
    """Extremes and counts are of all rows, and the leverage is the exact one within six standard errors."""
    noise = np.random.default_rng(2)
    rows = noise.normal(size=(300_000, 3)) @ noise.normal(size=(3, 3)) * [1.0, 10.0, 1e4]
    rows[::7, 1] = np.nan
    found = FitSupport.of({"X": rows}, {})
    for start in range(0, len(rows), size):
        found.add({"X": rows[start : start + size]})
    found = found.finished()
    complete = rows[~np.isnan(rows).any(axis=1)]
    assert (found.n, found.moments.n, found.missing.tolist()) == (300_000, len(complete), [0, 42_858, 0])
    np.testing.assert_array_equal(found.low, np.nanmin(rows, axis=0))
    np.testing.assert_array_equal(found.high, np.nanmax(rows, axis=0))
    exact = Moments.of(complete).leverage(complete[:1000])
    # At least 80,000 rows are in the moments, so the standard error of a variance is sqrt(2 / 80,000) of it.
    np.testing.assert_allclose(found.moments.leverage(complete[:1000]), exact, rtol=6 * np.sqrt(2 / 80_000))


def test_ten_levels_are_found_wherever_values_are_missing():
    values = np.tile(np.arange(10.0), 400)
    for gaps in (slice(5, 3000, 11), slice(3500, None)):
        rows = np.c_[ROWS[:4000, 0], values]
        rows[gaps, 1] = np.nan
        found = FitSupport.of({"X": rows}, {})
        found.add({"X": rows})
        assert len(found.finished().levels[1]) == 10


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_expected_columns_do_not_depend_on_the_units_of_others(scale):
    """The time of a row with an input in the middle is the middle, whatever unit another input has."""
    time, size = np.arange(1000.0), scale * SHOP[:1000] + scale
    moments = Moments.of(np.c_[time, 2 * time + ROWS[:1000, 0], size])
    asked = np.c_[9999.0, 400.0, 2 * scale]
    np.testing.assert_allclose(moments.with_expected(asked, [0])[0, 0], 200.0, atol=2.0)


def test_leverage_is_the_diagonal_of_the_hat_matrix_of_statsmodels():
    rows = ROWS[:400] * [1.0, 1.0, 30.0]
    moments = Moments.of(rows)
    influence = sm.OLS(rows[:, 0] + SHOP[:400], sm.add_constant(rows)).fit().get_influence()
    np.testing.assert_allclose(moments.leverage(rows), influence.hat_matrix_diag, rtol=1e-8)
    # The leverage in the model without a row is that of a new row.
    others = sm.OLS(rows[1:, 0], sm.add_constant(rows[1:])).fit()
    new = sm.add_constant(rows)[0] @ others.normalized_cov_params @ sm.add_constant(rows)[0]
    np.testing.assert_allclose(left_out(moments.leverage(rows[:1])), new, rtol=1e-8)
    np.testing.assert_allclose(Moments.of(rows[1:]).leverage(rows[:1]), new, rtol=1e-8)


def test_leverage_of_gaussian_rows_is_chi_squared():
    """n h - 1 of a row of a Gaussian with p columns is chi-squared with p degrees of freedom, for large n."""
    mixed = ROWS @ np.array([[1.0, 0.5, 0.0], [0.0, 0.1, 2.0], [3.0, 0.0, 1.0]])
    fit = FitSupport.of({"X": mixed}, {})
    fit.add({"X": mixed[:40_000]})
    found = fit.finished()
    scaled = 40_000 * found.moments.leverage(mixed[40_000:]) - 1
    assert stats.kstest(scaled, stats.chi2(3).cdf).pvalue > 1e-3
    far = stats.chi2(3).ppf(0.99)
    np.testing.assert_allclose(40_000 * found.far - 1, far, rtol=0.1)
    # A shift of all columns by 2 standard deviations in one direction is non-central chi-squared.
    shift = 2 * np.linalg.cholesky(np.cov(mixed.T))[:, 0]
    near, moved = RowSupport(found, (0, 1, 2)), RowSupport(found, (0, 1, 2))
    near.add(mixed[40_000:])
    moved.add(mixed[40_000:] + shift)
    for rows, exact in ((near, stats.chi2(3)), (moved, stats.ncx2(3, 4))):
        for line in (rows.joint, *rows.columns.values()):
            assert line.share(line.far) == pytest.approx(exact.sf(1.5 * far), abs=0.01)
            assert line.similar_rows == pytest.approx(40_000 / (1 + exact.median()), rel=0.03)


def test_overlap_of_a_sample_is_scaled_to_all_rows():
    """The effective number of controls equals the number from inverse-odds weights of a logit on all rows."""
    rng = np.random.default_rng(1)
    treated = (rng.random(40_000) < 1 / (1 + np.exp(1 - 0.5 * ROWS[:40_000, 0]))).astype(float)
    rows = np.column_stack([ROWS[:40_000, :2], treated])
    fit = FitSupport.of({"X": rows}, {})
    for part in np.split(rows, 8):
        fit.add({"X": part})
    (found,) = fit.finished().overlaps.values()
    logits = sm.Logit(treated, sm.add_constant(rows[:, :2])).fit(disp=0).fittedvalues
    odds = np.exp(logits[treated == 0]), np.exp(-logits[treated == 1])
    assert found.n == (len(odds[0]), len(odds[1]))
    np.testing.assert_allclose(found.effective, [own.sum() ** 2 / (own**2).sum() for own in odds], rtol=0.1)


@pytest.mark.parametrize(("n_rows", "is_counted"), [(19, False), (20, True)])
def test_levels_have_a_range_from_twenty_rows_on(n_rows, is_counted):
    """The range of a level is widened by a tenth of that of all rows, in both directions of the question."""
    x = np.linspace(0.0, 1.0, 501)
    level = np.zeros(501)
    level[:n_rows] = 1
    fit = FitSupport.of({"x": x, "level": level, "x again": x}, {})
    fit.add({"x": x, "level": level, "x again": x})
    questions = (1, "x"), (1, "x again"), (0, "level"), (2, "level")
    expected = (x > x[n_rows - 1] + 0.1).sum() if is_counted else 0
    finished = fit.finished()
    for asked, other in questions:
        rows = RowSupport(finished, (asked,))
        rows.add(np.column_stack([x, np.ones(501), x]))
        (line,) = rows.columns.values()
        assert line.apart.get(other, 0) == expected

"""Ranks, coverage and placebo statistics equal closed forms, and the band of ranks that of ArviZ."""

import numpy as np
import pytest
from scipy import stats

from aimz.statistics import coverage_of, placebo_null, rank_of, shape_of_ranks, uniform_band, uniformity

RNG = np.random.default_rng(1)


def test_ranks_count_draws_below_and_split_ties_at_random():
    draws = np.array([0.0, 1.0, 2.0, 3.0])
    assert rank_of(1.5, draws, RNG) == 2
    assert {rank_of(0.0, np.zeros(3), RNG) for _ in range(60)} == {0, 1, 2, 3}


def test_band_has_its_simultaneous_coverage():
    """Of 4,000 samples of uniform ranks, 5 % leave the 95 % band somewhere."""
    n, n_ranks = 60, 25
    share, lower, upper = uniform_band(n, n_ranks, 0.95)
    ranks = RNG.integers(0, n_ranks, (4000, n))
    ecdf = (ranks[:, :, None] < np.arange(1, n_ranks)).mean(axis=1)
    outside = ((ecdf < lower - 1e-9) | (ecdf > upper + 1e-9)).any(axis=1)
    assert 0.03 < outside.mean() < 0.065  # discrete, so at most 5 % up to Monte Carlo error
    judged = np.mean([uniformity(one, n_ranks) < 0.05 for one in ranks[:1000]])
    assert 0.02 < judged < 0.07
    assert share[0] == 1 / n_ranks


def test_band_equals_that_of_arviz():
    from arviz_stats.ecdf_utils import ecdf_pit

    n = 100
    points, _, lower, upper = ecdf_pit(np.linspace(0, 1, n), 0.95, 4000)
    share, own_lower, own_upper = uniform_band(n, 100, 0.95)
    width, own_width = upper - lower, own_upper - own_lower
    np.testing.assert_allclose(np.interp(share, points, width)[20:80], own_width[20:80], atol=0.035)


@pytest.mark.parametrize(
    ("truths", "shape"),
    [
        (lambda rng: rng.normal(0, 2, 300), "intervals too narrow"),
        (lambda rng: rng.normal(0, 0.5, 300), "intervals too wide"),
        (lambda rng: rng.normal(0.5, 1, 300), "estimates too low"),
        (lambda rng: rng.normal(-0.5, 1, 300), "estimates too high"),
    ],
)
def test_wrong_posteriors_are_found_and_described(truths, shape):
    pit = stats.norm.cdf(truths(np.random.default_rng(0)))
    assert uniformity(np.floor(100 * pit), 100) < 0.001
    assert shape_of_ranks(pit) == shape


def test_coverage_has_exact_bounds_and_an_error_that_is_never_zero():
    pit = np.array([0.5] * 45 + [0.99] * 5)
    share, error, low, high = coverage_of(pit, 0.9)
    interval = stats.binomtest(45, 50).proportion_ci(method="exact")
    assert share == 0.9
    np.testing.assert_allclose([low, high], [interval.low, interval.high], rtol=1e-6)
    assert 0.03 < error < 0.06
    assert coverage_of(np.full(10, 0.5), 0.9)[1] > 0.05


def test_placebo_distribution_separates_spread_from_posterior_uncertainty():
    means, sds = np.array([-1.0, 0.0, 1.0, 2.0]), np.full(4, 1.0)
    null = placebo_null(means, sds)
    variance = np.var(means, ddof=1)
    np.testing.assert_allclose([null.mean, null.sd, null.spread], [0.5, 1.0, np.sqrt(variance - 1)])
    np.testing.assert_allclose(null.z(2.5), 2 / np.sqrt(variance - 1 + 1))
    assert placebo_null(np.zeros(5), np.ones(5)).spread == 0

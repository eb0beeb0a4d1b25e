"""PSIS-LOO equals ArviZ for many rows at once, and gives NaN or infinity where it is undefined."""

import tracemalloc

import numpy as np
import pytest
from arviz_stats.base import array_stats

from aimz.statistics import psis
from aimz.statistics.psis import psis_loo

N_ROWS = 20
TIGHT = {"rtol": 1e-10, "atol": 1e-11}


def arviz(log_likelihood, r_eff=1.0):
    """Return ArviZ's elpd, k-hat and p_loo, row by row, in float64 (with overflows in between)."""
    with np.errstate(all="ignore"):
        chains = np.asarray(log_likelihood, dtype=np.float64)[None]
        return array_stats.loo(chains, chain_axis=0, draw_axis=1, r_eff=r_eff)


def unsmoothed(log_likelihood):
    """Return elpd and p_loo from unsmoothed importance ratios."""
    ratios = -np.asarray(log_likelihood, dtype=np.float64)
    shift = ratios.max(axis=0)
    elpd = np.log(len(ratios)) - np.log(np.exp(ratios - shift).sum(axis=0)) - shift
    return elpd, np.logaddexp.reduce(-ratios, axis=0) - np.log(len(ratios)) - elpd


def assert_same(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, **TIGHT)


def make_log_likelihood(kind, n_draws, n_rows=N_ROWS):
    rng = np.random.default_rng([n_draws, len(kind)])
    z = rng.normal(size=(n_draws, n_rows))
    match kind:
        case "gaussian":
            return -0.5 * (2 * rng.normal(size=n_rows) + 0.1 * z) ** 2
        case "bounded":
            return -rng.random(size=(n_draws, n_rows))
        case "heavy":
            return -rng.exponential(size=(n_draws, n_rows)) * np.linspace(0.6, 2.0, n_rows)
        case "hopeless":
            return -rng.exponential(size=(n_draws, n_rows)) * np.linspace(2.0, 50.0, n_rows)
        case "ties":
            return np.log(rng.integers(1, 40, size=(n_draws, n_rows)) / 40)
        case "rounded":
            return np.round(z, 1)
        case "far":
            return z + 1e4
        case "nearly constant":
            return 1e-8 * z - 1.0
        case _:
            return z.astype(np.float32)


KINDS = ["gaussian", "bounded", "heavy", "hopeless", "ties", "rounded", "far", "nearly constant", "single precision"]


@pytest.mark.parametrize("r_eff", [0.3, 1.0, 1.3])
@pytest.mark.parametrize("n_draws", [25, 100, 400, 1000, 4000])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_arviz(kind, n_draws, r_eff):
    log_likelihood = make_log_likelihood(kind, n_draws, N_ROWS if n_draws < 4000 else 6)
    got = psis_loo(log_likelihood, r_eff)
    assert_same(got, arviz(log_likelihood, r_eff))
    if n_draws == 1000 and kind in ("heavy", "hopeless"):
        assert got[1].max() > (0.7 if kind == "heavy" else 10.0)


@pytest.mark.parametrize(("n_draws", "r_eff"), [(224, 1.0), (225, 1.0), (226, 1.0), (450, 0.5), (451, 0.5), (750, 0.3)])
def test_tail_length_equals_arviz(n_draws, r_eff):
    log_likelihood = make_log_likelihood("heavy", n_draws)
    assert_same(psis_loo(log_likelihood, r_eff), arviz(log_likelihood, r_eff))


@pytest.mark.parametrize("n_rows", [0, 1, 3, 4, 9])
def test_tiles_cover_all_rows(n_rows, monkeypatch):
    monkeypatch.setattr(psis, "_TILE_ROWS", 4)
    log_likelihood = make_log_likelihood("heavy", 200, max(n_rows, 1))[:, :n_rows]
    got = psis_loo(log_likelihood)
    assert [values.shape for values in got] == [(n_rows,)] * 3
    if n_rows:
        assert_same(got, arviz(log_likelihood))


def test_tile_of_one_row(monkeypatch):
    log_likelihood = make_log_likelihood("heavy", 200)
    expected = psis_loo(log_likelihood)
    monkeypatch.setattr(psis, "_TILE_VALUES", 10)
    assert_same(psis_loo(log_likelihood), expected)


def test_independent_of_memory_layout_and_draw_order():
    log_likelihood = make_log_likelihood("ties", 300)
    kept = log_likelihood.copy()
    expected = psis_loo(log_likelihood)
    wide = np.zeros((600, 3 * N_ROWS))
    wide[::2, 1::3] = log_likelihood
    for same in (np.asfortranarray(log_likelihood), wide[::2, 1::3], log_likelihood[::-1]):
        assert_same(psis_loo(same), expected)
    np.testing.assert_array_equal(log_likelihood, kept)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_float_types_are_converted_to_float64(dtype):
    log_likelihood = make_log_likelihood("heavy", 300).astype(dtype)
    for layout in (log_likelihood, np.asfortranarray(log_likelihood)):
        assert_same(psis_loo(layout), psis_loo(log_likelihood.astype(np.float64)))


def test_equal_ratios_are_not_smoothed():
    elpd, khat, p_loo = psis_loo(np.full((100, 2), -1.5))
    np.testing.assert_allclose(elpd, -1.5)
    np.testing.assert_array_equal(khat, 0.0)
    np.testing.assert_allclose(p_loo, 0.0, atol=1e-14)


def test_tail_of_equal_ratios_is_not_smoothed():
    log_likelihood = np.full((100, 1), np.log(0.8))
    log_likelihood[::3] = np.log(0.2)
    with pytest.raises(ValueError, match="same"):
        arviz(log_likelihood)
    elpd, khat, p_loo = psis_loo(log_likelihood)
    assert_same((elpd, p_loo), unsmoothed(log_likelihood))
    assert khat[0] == 0.0


def test_tail_with_equal_lowest_quarter_is_not_smoothed():
    log_likelihood = np.concatenate([np.zeros((90, 1)), -np.arange(1.0, 11.0)[:, None]])
    got = psis_loo(log_likelihood)
    assert np.isnan(got[1][0])
    assert_same(got, arviz(log_likelihood))
    assert_same((got[0], got[2]), unsmoothed(log_likelihood))


@pytest.mark.parametrize("span", [690.0, 700.0, 706.0, 720.0, 744.0, 800.0, 1e5, 1e300])
def test_ratios_beyond_float_range(span):
    """One draw outweighs the others by ``exp(span)``."""
    log_likelihood = make_log_likelihood("gaussian", 400)
    log_likelihood[7] -= span
    got = psis_loo(log_likelihood)
    if span <= 700:
        assert_same(got, arviz(log_likelihood))
        assert (got[1] > 1).all()
    elif span >= 720:
        # ArviZ returns NaN or a k-hat near zero here, which does not mark the estimate as unreliable.
        assert (got[1] == np.inf).all()
        assert_same((got[0], got[2]), unsmoothed(log_likelihood))
    else:
        assert (got[1] > 1).all()


def test_smoothed_ratio_beyond_float_range():
    """Ratios of the bulk and the start of the tail are tiny; the lowest quarter of the tail is smoothed as well."""
    log_likelihood = make_log_likelihood("gaussian", 100)
    log_likelihood[:80] += 1e4
    log_likelihood[80:83] += 5e3
    got = psis_loo(log_likelihood)
    assert_same(got, arviz(log_likelihood))
    assert np.isfinite(got).all()


def test_zero_likelihood_gives_elpd_minus_infinity():
    log_likelihood = make_log_likelihood("gaussian", 100)
    expected = psis_loo(log_likelihood)
    log_likelihood[3, 5] = -np.inf
    log_likelihood[:, 6] = -np.inf
    elpd, khat, p_loo = psis_loo(log_likelihood)
    assert elpd[5] == elpd[6] == -np.inf
    assert khat[5] == khat[6] == np.inf
    assert p_loo[5] == np.inf
    assert np.isnan(p_loo[6])
    others = np.delete(np.arange(N_ROWS), [5, 6])
    assert_same([v[others] for v in (elpd, khat, p_loo)], [v[others] for v in expected])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_invalid_likelihood_gives_nan_for_its_row(value):
    log_likelihood = make_log_likelihood("gaussian", 100)
    expected = psis_loo(log_likelihood)
    log_likelihood[3, 5] = value
    log_likelihood[3, 6], log_likelihood[4, 6] = value, -np.inf
    log_likelihood[:, 7] = value
    got = psis_loo(log_likelihood)
    lost = [5, 6, 7]
    others = np.delete(np.arange(N_ROWS), lost)
    assert np.isnan([v[lost] for v in got]).all()
    assert_same([v[others] for v in got], [v[others] for v in expected])


def test_no_row_can_be_fitted():
    assert np.isnan(psis_loo(np.full((100, 3), np.nan))).all()


@pytest.mark.parametrize(("n_draws", "r_eff"), [(24, 1.0), (1, 1.0), (0, 1.0), (100, 40.0)])
def test_too_few_draws_raise(n_draws, r_eff):
    with pytest.raises(ValueError, match=r"The tail of \d+ draws .* needs at least 5.* `num_samples=1000`"):
        psis_loo(np.zeros((n_draws, 2)), r_eff)


@pytest.mark.parametrize("r_eff", [0.0, -1.0, np.nan, np.inf])
def test_invalid_r_eff_raises(r_eff):
    with pytest.raises(ValueError, match="`r_eff` must be a positive number"):
        psis_loo(np.zeros((100, 2)), r_eff)


@pytest.mark.parametrize("shape", [(100,), (4, 25, 2)])
def test_invalid_shape_raises(shape):
    with pytest.raises(ValueError, match="must have the shape"):
        psis_loo(np.zeros(shape))


def test_products_equal_sums_of_logarithms(monkeypatch):
    """The mean of logarithms does not depend on whether products are used."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.exponential(size=(94, 30)) ** np.linspace(0.5, 40.0, 30), axis=0)
    grid = 0.99 / x[-1] - rng.exponential(size=(39, 30)) ** 9 / x[40]
    grid[5], grid[6] = -1e-13 / x[-1], 1e-9 / x[-1]
    expected = np.log1p(-grid[:, None] * x).mean(axis=1)
    np.testing.assert_allclose(psis._mean_log1p(grid, x), expected, rtol=1e-11)
    monkeypatch.setattr(psis, "_SMALL", np.inf)
    np.testing.assert_allclose(psis._mean_log1p(grid, x), expected, rtol=1e-13)


def test_grid_containing_zero():
    x = np.linspace(0.0, 3.0, 73)[1:, None].copy()
    quartile = np.array([1.0])
    with np.errstate(all="ignore"):
        exact = psis._fit_pareto(x, quartile)
        nearly = psis._fit_pareto(x, quartile * (1 + 1e-9))
    np.testing.assert_allclose(exact, nearly, rtol=1e-6)


def test_shape_zero_gives_exponential_quantiles(monkeypatch):
    log_likelihood = make_log_likelihood("gaussian", 100)
    results = []
    for shape in (0.0, 1e-9):
        monkeypatch.setattr(psis, "_fit_pareto", lambda x, q, shape=shape: (np.full_like(q, shape), x.mean(axis=0)))
        results.append(psis_loo(log_likelihood)[0])
    assert np.isfinite(results[0]).all()
    np.testing.assert_allclose(*results, rtol=1e-8)


def test_memory_is_independent_of_n_rows():
    peaks = []
    for n_rows in (2_000, 8_000):
        log_likelihood = np.broadcast_to(make_log_likelihood("heavy", 100, 1), (100, n_rows))
        tracemalloc.start()
        psis_loo(log_likelihood)
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * 8 * n_rows)
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 20 * 2**20

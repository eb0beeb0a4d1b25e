"""Leave-one-out cross-validation by Pareto-smoothed importance sampling (PSIS), for many rows at a time.

The importance ratio of a draw is one over the likelihood it gives the row. The largest ratios of a row, its tail, are
replaced by the quantiles of a generalised Pareto distribution fitted to them, whose shape k-hat says how far the
estimate is to be trusted: up to 0.7 with a few thousand draws, and never above 1.

References
----------
Vehtari, Simpson, Gelman, Yao and Gabry (2024). Pareto smoothed importance sampling. Journal of Machine Learning
Research 25(72), 1-58.

Zhang and Stephens (2009). A new and efficient estimation method for the generalized Pareto distribution.
Technometrics 51(3), 316-325.
"""

__all__ = ["psis_loo"]

from typing import Any

import numpy as np
import numpy.typing as npt

type _Array = npt.NDArray[np.float64]

_TILE_VALUES = 2**20
"""Log-likelihoods worked on at once; two arrays of that size are alive together, 16 MiB, and smaller ones."""
_TILE_ROWS = 256
_BLOCK = 128
"""Draws transposed at a time."""
_MIN_TAIL = 5
_GROUP = 16
"""Factors multiplied before a logarithm is taken."""
_SMALL, _LARGE = 1e-3, 1e18
"""Between them, products of ``_GROUP`` factors ``1 - b * x`` stay within range and keep their digits."""
_TINY = 2 * np.finfo(np.float64).tiny
"""Below it the grid of the fit overflows: the logarithms of a tail span 700, and its largest ratio decides alone."""


def psis_loo(log_likelihood: npt.NDArray[Any], r_eff: float = 1.0) -> tuple[_Array, _Array, _Array]:
    """Return elpd, Pareto k-hat and p_loo of each row.

    Computed in float64, in tiles of rows: besides the result, memory does not grow with the rows.

    Parameters
    ----------
    log_likelihood : numpy.ndarray
        Log-likelihoods of shape ``(n_draws, n_rows)``, of any float type and memory layout.
    r_eff : float
        Effective sample size of the draws, relative to their number.

    Returns
    -------
    elpd : numpy.ndarray
        Expected log pointwise predictive density, leaving the row out. ``-inf`` where a draw gives the row no
        likelihood at all, since its importance ratio is infinite then; NaN where a log-likelihood is NaN or ``inf``.
    khat : numpy.ndarray
        Shape of the fitted tail. ``0.0`` where all ratios of the tail are the same, so that there is no tail to
        distrust; NaN where the lowest quarter of them are, which is no Pareto distribution, or where elpd is NaN;
        ``inf`` where the ratios span more than float64 holds. Nothing is smoothed in these cases.
    p_loo : numpy.ndarray
        Effective number of parameters: log pointwise predictive density with the row, less elpd.

    Raises
    ------
    ValueError
        If ``log_likelihood`` is not two-dimensional, ``r_eff`` not a positive number, or the tail too short to fit.
    """
    values = np.asarray(log_likelihood)
    if values.ndim != 2:
        msg = f"`log_likelihood` must have the shape (n_draws, n_rows); got {values.shape}. Reshape it to that."
        raise ValueError(msg)
    n_draws, n_rows = values.shape
    n_tail = _tail_length(n_draws, r_eff)
    elpd, khat, p_loo = np.empty((3, n_rows))
    step = min(max(_TILE_VALUES // n_draws, 1), _TILE_ROWS)
    # Made once: fresh memory for each tile would cost as much as half of the work.
    buffers = np.empty((2, min(step, n_rows), n_draws))
    # What overflows or divides by zero is provided for where it can happen.
    with np.errstate(all="ignore"):
        for start in range(0, n_rows, step):
            here = slice(start, start + step)
            elpd[here], khat[here], p_loo[here] = _tile(values[:, here], n_tail, buffers)
    return elpd, khat, p_loo


def _tail_length(n_draws: int, r_eff: float) -> int:
    """Return how many of the largest ratios make up the tail."""
    if not 0 < r_eff < np.inf:
        msg = (
            f"`r_eff` must be a positive number; got {r_eff!r}. Pass the effective sample size over the number of "
            "draws, or `r_eff=1.0`."
        )
        raise ValueError(msg)
    n_tail = int(3 * (n_draws / r_eff) ** 0.5 if n_draws * r_eff > 225 else n_draws / 5)
    if n_tail < _MIN_TAIL:
        msg = (
            f"The tail of {n_draws} draws with `r_eff={r_eff:g}` has {n_tail}; a Pareto distribution needs at least "
            f"{_MIN_TAIL}, as 25 independent draws have. Draw more: `num_samples=1000`."
        )
        raise ValueError(msg)
    return n_tail


def _tile(values: npt.NDArray[Any], n_tail: int, buffers: _Array) -> tuple[_Array, _Array, _Array]:
    """Return elpd, k-hat and p_loo of the rows of one tile."""
    n_draws, n_rows = values.shape
    ratios, weights = buffers[:, :n_rows]
    _fill_log_ratios(values, ratios)
    largest, smallest = ratios.max(axis=1), ratios.min(axis=1)
    undefined = np.isnan(largest) | (smallest == -np.inf)
    impossible = ~undefined & (largest == np.inf)
    lost = undefined | impossible
    if lost.any():
        never = (smallest == np.inf)[impossible]
        ratios[lost] = largest[lost] = smallest[lost] = 0.0

    # Values alone decide: a smoothed ratio goes by its rank, and all others leave the same mark on elpd.
    ratios.partition(n_draws - n_tail - 1, axis=1)
    ratios[:, -n_tail:].sort(axis=1)
    ratios -= largest[:, None]
    np.exp(ratios, out=weights)
    tail = ratios[:, -n_tail:].copy()
    lppd = _log_sum_inverse(ratios, weights, smallest - largest) - np.log(n_draws)

    khat, smoothed, fitted = _smooth(weights[:, -n_tail - 1 :], tail[:, 0])
    weights[fitted, -n_tail:] = smoothed
    # Weight times likelihood is one where nothing was smoothed, in logarithms, since either may be out of range.
    gain = np.zeros_like(tail)
    gain[fitted] = np.log(smoothed) - tail[fitted]
    top = np.maximum(gain.max(axis=1), 0.0)
    total = (n_draws - n_tail) * np.exp(-top) + np.exp(gain - top[:, None]).sum(axis=1)
    elpd = np.log(total) + top - np.log(weights.sum(axis=1))

    # Before the shift is undone, which would cost the difference digits.
    p_loo = lppd - elpd
    elpd -= largest
    if lost.any():
        elpd[impossible], khat[impossible], p_loo[impossible] = -np.inf, np.inf, np.where(never, np.nan, np.inf)
        elpd[undefined] = khat[undefined] = p_loo[undefined] = np.nan
    return elpd, khat, p_loo


def _fill_log_ratios(values: npt.NDArray[Any], ratios: _Array) -> None:
    """Fill ``ratios`` with the negative log-likelihoods, the draws of a row side by side."""
    n_draws, n_rows = values.shape
    if values.strides[0] <= values.strides[1]:
        np.negative(values.T, out=ratios, dtype=np.float64)
        return
    # Through a block of odd width: columns a power of two apart would all fall on the same lines of the cache.
    block = np.empty((_BLOCK, n_rows | 1))
    for start in range(0, n_draws, _BLOCK):
        part = values[start : start + _BLOCK]
        turned = np.negative(part, out=block[: len(part), :n_rows], dtype=np.float64)
        ratios[:, start : start + _BLOCK] = turned.T


def _log_sum_inverse(ratios: _Array, weights: _Array, lowest: _Array) -> _Array:
    """Return the logarithm of the sum of ``1 / weights``, where ``weights = exp(ratios)``; ``ratios`` is used up."""
    wide = lowest < -650.0
    beyond = np.log(np.exp(lowest[wide, None] - ratios[wide]).sum(axis=1)) - lowest[wide]
    # Dividing is cheaper than another exponential; it overflows where a weight is next to nothing.
    logs: _Array = np.log(np.reciprocal(weights, out=ratios).sum(axis=1))
    logs[wide] = beyond
    return logs


def _smooth(weights: _Array, lowest: _Array) -> tuple[_Array, _Array, npt.NDArray[np.bool_]]:
    """Return k-hat of all rows, smoothed tails of those it could be fitted to, and which those are.

    ``weights`` are sorted, the cutoff before the tail; ``lowest`` is the logarithm of the tail's first, its last is 0.
    """
    tail = weights[:, 1:] - weights[:, :1]
    n_tail = tail.shape[1]
    first = int(n_tail / 4 + 0.5) - 1
    quartile = tail[:, first]
    above = quartile > tail[:, 0]
    fitted = above & (quartile > _TINY)
    khat = np.where(above | (weights[:, first + 1] <= _TINY), np.inf, np.nan)
    khat[lowest > -np.finfo(np.float64).tiny] = 0.0
    if not fitted.any():
        return khat, np.empty((0, n_tail)), fitted
    shape, scale = _fit_pareto(np.ascontiguousarray(tail[fitted].T), quartile[fitted])
    khat[fitted] = shape
    # The quantile function's limit at zero is the exponential's, which this gives to the last digit.
    shape = np.where(shape == 0.0, 1e-30, shape)
    chances = -np.log1p(-(np.arange(n_tail) + 0.5) / n_tail)
    quantiles = weights[fitted, :1] + (scale / shape)[:, None] * np.expm1(shape[:, None] * chances)
    return khat, np.minimum(quantiles, 1.0), fitted


def _fit_pareto(x: _Array, quartile: _Array) -> tuple[_Array, _Array]:
    """Return shape and scale of the generalised Pareto distribution of each column of ``x``, which is sorted.

    The estimate of Zhang and Stephens: a mean over a grid of ``b = -shape / scale``, weighted by the profile
    likelihood, with the weak prior of Vehtari et al. that draws the shape towards 0.5.
    """
    n_tail = len(x)
    n_grid = 30 + int(n_tail**0.5)
    steps = 1.0 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))
    grid = steps[:, None] / (3.0 * quartile) + 1.0 / x[-1]
    shapes = _mean_log1p(grid, x)
    # At b = 0 the distribution is exponential, and the quotient has the mean's inverse as its limit.
    profile = n_tail * (np.log(np.where(shapes == 0.0, 1.0 / x.mean(axis=0), -grid / shapes)) - shapes - 1.0)
    weights = np.exp(profile - profile.max(axis=0))
    weights /= weights.sum(axis=0)
    # Far ends of the grid are many times larger than the rest; a weight of rounding error is not to count there.
    weights[weights < 10 * np.finfo(np.float64).eps] = 0.0
    b = (grid * weights).sum(axis=0) / weights.sum(axis=0)
    shape = np.log1p(-b * x).mean(axis=0)
    return (n_tail * shape + 10 * 0.5) / (n_tail + 10), -shape / b


def _mean_log1p(grid: _Array, x: _Array) -> _Array:
    """Return the mean over ``x`` of ``log1p(-b * x)`` for each ``b`` of the grid, column by column.

    The sum of logarithms is the logarithm of the product, a tenth of the work; where products would lose digits or
    leave the range, logarithms are summed after all.
    """
    reach = np.abs(grid) * x[-1]
    direct = (reach < _SMALL) | (reach > _LARGE)
    slopes = np.where(direct, 0.0, -grid)
    product, factor, total = np.empty_like(grid), np.empty_like(grid), np.zeros_like(grid)
    for start in range(0, len(x), _GROUP):
        product.fill(1.0)
        for row in x[start : start + _GROUP]:
            np.multiply(slopes, row, out=factor)
            factor += 1.0
            product *= factor
        total += np.log(product, out=product)
    places, columns = np.nonzero(direct)
    if len(places):
        total[places, columns] = np.log1p(-grid[places, columns] * x[:, columns]).sum(axis=0)
    total /= len(x)
    return total

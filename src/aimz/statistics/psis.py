"""Leave-one-out cross-validation by Pareto-smoothed importance sampling (PSIS), for many rows at a time.

The importance ratio of a draw is the inverse of the row's likelihood. The largest ratios of a row, its tail, are
replaced by the quantiles of a generalised Pareto distribution fitted to them. Its shape k-hat measures how reliable the
estimate is: reliable up to 0.7 with a few thousand draws, and never above 1.

References
----------
Vehtari, Simpson, Gelman, Yao and Gabry (2024). Pareto smoothed importance sampling. Journal of Machine Learning
Research 25(72), 1-58.

Zhang and Stephens (2009). A new and efficient estimation method for the generalized Pareto distribution.
Technometrics 51(3), 316-325.
"""

__all__ = ["psis_loo", "psis_weights"]

from typing import Any

import numpy as np
import numpy.typing as npt

type _Array = npt.NDArray[np.float64]

_TILE_VALUES = 2**20
"""Number of log-likelihoods in a tile; two arrays of this size (16 MiB) are allocated, and smaller ones."""
_TILE_ROWS = 256
_BLOCK = 128
"""Number of draws transposed at a time."""
_MIN_TAIL = 5
_GROUP = 16
"""Number of factors multiplied before taking the logarithm."""
_SMALL, _LARGE = 1e-3, 1e18
"""Range of ``b * x`` in which products of ``_GROUP`` factors ``1 - b * x`` neither overflow nor lose digits."""
_TINY = 2 * np.finfo(np.float64).tiny
"""Least quartile of a tail that is fitted: below it, log ratios span 700 and the grid of the fit overflows."""


def psis_loo(log_likelihood: npt.NDArray[Any], r_eff: float = 1.0) -> tuple[_Array, _Array, _Array]:
    """Return elpd, Pareto k-hat and p_loo of each row.

    Computed in float64, in tiles of rows, so that memory beyond the result does not grow with ``n_rows``.

    Parameters
    ----------
    log_likelihood : numpy.ndarray
        Log-likelihoods of shape ``(n_draws, n_rows)``, of any float type and memory layout.
    r_eff : float
        Relative effective sample size: effective draws over draws.

    Returns
    -------
    elpd : numpy.ndarray
        Expected log pointwise predictive density, leaving the row out, of shape ``(n_rows,)``. ``-inf`` if the row's
        likelihood is zero for some draw, whose importance ratio is then infinite; NaN if a log-likelihood is NaN or
        ``inf``.
    khat : numpy.ndarray
        Shape of the fitted tail, of shape ``(n_rows,)``. ``0.0`` if all ratios of the tail are equal; NaN if the lowest
        quarter of them are equal, which no Pareto distribution fits, or if elpd is NaN; ``inf`` if the ratios span more
        than the range of float64. Nothing is smoothed in these cases.
    p_loo : numpy.ndarray
        Effective number of parameters, of shape ``(n_rows,)``: log pointwise predictive density including the row,
        minus elpd.

    Raises
    ------
    ValueError
        If ``log_likelihood`` is not two-dimensional, ``r_eff`` not a positive number, or the tail too short to fit.
    """
    values = np.asarray(log_likelihood)
    if values.ndim != 2:
        msg = f"`log_likelihood` must have the shape (n_draws, n_rows); got {values.shape}. Reshape it."
        raise ValueError(msg)
    n_draws, n_rows = values.shape
    n_tail = _tail_length(n_draws, r_eff)
    elpd, khat, p_loo = np.empty((3, n_rows))
    step = min(max(_TILE_VALUES // n_draws, 1), _TILE_ROWS)
    # Allocated once: new buffers for each tile would take half as long as the computation.
    buffers = np.empty((2, min(step, n_rows), n_draws))
    # Overflow and division by zero are handled where they can occur.
    with np.errstate(all="ignore"):
        for start in range(0, n_rows, step):
            rows = slice(start, start + step)
            elpd[rows], khat[rows], p_loo[rows] = _tile(values[:, rows], n_tail, buffers)
    return elpd, khat, p_loo


def psis_weights(log_likelihood: npt.NDArray[Any], r_eff: float = 1.0) -> tuple[_Array, _Array]:
    """Return the weight of each draw for the predictions of each row, leaving the row out, and Pareto k-hat.

    Parameters
    ----------
    log_likelihood, r_eff
        As in :func:`psis_loo`.

    Returns
    -------
    weights : numpy.ndarray
        Weights of shape ``(n_draws, n_rows)`` that sum to 1 for each row; NaN if no weights are defined.
    khat : numpy.ndarray
        Shape of the fitted tail, of shape ``(n_rows,)``, as in :func:`psis_loo`.
    """
    n_draws, n_rows = log_likelihood.shape
    n_tail = _tail_length(n_draws, r_eff)
    ratios = np.empty((n_rows, n_draws))
    _fill_log_ratios(log_likelihood, ratios)
    lost = ~np.isfinite(ratios).all(axis=1)
    ratios[lost] = 0.0
    ratios -= ratios.max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(all="ignore"):
        weights = np.exp(ratios)
        top = np.argpartition(ratios, n_draws - n_tail - 1, axis=1)[:, n_draws - n_tail - 1 :]
        logs = np.take_along_axis(ratios, top, axis=1)
        order = np.argsort(logs, axis=1, kind="stable")
        top, logs = np.take_along_axis(top, order, axis=1), np.take_along_axis(logs, order, axis=1)
        khat, smoothed, fitted = _smooth(np.exp(logs), logs[:, 1])
        weights[np.flatnonzero(fitted)[:, None], top[fitted, 1:]] = smoothed
        weights /= weights.sum(axis=1, keepdims=True)
    weights[lost] = khat[lost] = np.nan
    return weights.T, khat


def _tail_length(n_draws: int, r_eff: float) -> int:
    """Return the number of ratios in the tail."""
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

    # The order of draws is irrelevant: a smoothed ratio depends on its rank, and every other adds the same term to
    # elpd.
    ratios.partition(n_draws - n_tail - 1, axis=1)
    ratios[:, -n_tail:].sort(axis=1)
    ratios -= largest[:, None]
    np.exp(ratios, out=weights)
    tail = ratios[:, -n_tail:].copy()
    lppd = _log_sum_inverse(ratios, weights, smallest - largest) - np.log(n_draws)

    khat, smoothed, fitted = _smooth(weights[:, -n_tail - 1 :], tail[:, 0])
    weights[fitted, -n_tail:] = smoothed
    # Weight times likelihood is one if nothing was smoothed. In logarithms, since either may be out of range.
    gain = np.zeros_like(tail)
    gain[fitted] = np.log(smoothed) - tail[fitted]
    top = np.maximum(gain.max(axis=1), 0.0)
    total = (n_draws - n_tail) * np.exp(-top) + np.exp(gain - top[:, None]).sum(axis=1)
    elpd = np.log(total) + top - np.log(weights.sum(axis=1))

    # Computed before undoing the shift, which would cancel digits of the difference.
    p_loo = lppd - elpd
    elpd -= largest
    if lost.any():
        elpd[impossible], khat[impossible], p_loo[impossible] = -np.inf, np.inf, np.where(never, np.nan, np.inf)
        elpd[undefined] = khat[undefined] = p_loo[undefined] = np.nan
    return elpd, khat, p_loo


def _fill_log_ratios(values: npt.NDArray[Any], ratios: _Array) -> None:
    """Fill ``ratios`` with the negative log-likelihoods, the draws of a row contiguous in memory."""
    n_draws, n_rows = values.shape
    if values.strides[0] <= values.strides[1]:
        np.negative(values.T, out=ratios, dtype=np.float64)
        return
    # Through a block of odd width: columns a power of two apart would share cache sets.
    block = np.empty((_BLOCK, n_rows | 1))
    for start in range(0, n_draws, _BLOCK):
        part = values[start : start + _BLOCK]
        transposed = np.negative(part, out=block[: len(part), :n_rows], dtype=np.float64)
        ratios[:, start : start + _BLOCK] = transposed.T


def _log_sum_inverse(ratios: _Array, weights: _Array, lowest: _Array) -> _Array:
    """Return the logarithm of the sum of ``1 / weights``, where ``weights = exp(ratios)``; overwrites ``ratios``."""
    wide = lowest < -650.0
    wide_logs = np.log(np.exp(lowest[wide, None] - ratios[wide]).sum(axis=1)) - lowest[wide]
    # Division is cheaper than another exponential, but overflows for tiny weights.
    logs: _Array = np.log(np.reciprocal(weights, out=ratios).sum(axis=1))
    logs[wide] = wide_logs
    return logs


def _smooth(weights: _Array, lowest: _Array) -> tuple[_Array, _Array, npt.NDArray[np.bool_]]:
    """Return k-hat of all rows, the smoothed tails of fitted rows, and the mask of fitted rows.

    ``weights`` holds the cutoff and the sorted tail, whose largest weight is 1; ``lowest`` the log of its smallest.
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
    # At shape 0 the quantile function is that of an exponential distribution; 1e-30 gives the same digits.
    shape = np.where(shape == 0.0, 1e-30, shape)
    chances = -np.log1p(-(np.arange(n_tail) + 0.5) / n_tail)
    quantiles = weights[fitted, :1] + (scale / shape)[:, None] * np.expm1(shape[:, None] * chances)
    return khat, np.minimum(quantiles, 1.0), fitted


def _fit_pareto(x: _Array, quartile: _Array) -> tuple[_Array, _Array]:
    """Return shape and scale of a generalised Pareto distribution fitted to each sorted column of ``x``.

    The estimator of Zhang and Stephens: a mean over a grid of ``b = -shape / scale``, weighted by the profile
    likelihood, with the weak prior of Vehtari et al., which shrinks the shape towards 0.5.
    """
    n_tail = len(x)
    n_grid = 30 + int(n_tail**0.5)
    steps = 1.0 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))
    grid = steps[:, None] / (3.0 * quartile) + 1.0 / x[-1]
    shapes = _mean_log1p(grid, x)
    # At b = 0 the distribution is exponential; the limit of the quotient is the inverse of the mean.
    profile = n_tail * (np.log(np.where(shapes == 0.0, 1.0 / x.mean(axis=0), -grid / shapes)) - shapes - 1.0)
    weights = np.exp(profile - profile.max(axis=0))
    weights /= weights.sum(axis=0)
    # The ends of the grid are much larger than the rest: there, even weights of rounding error would matter.
    weights[weights < 10 * np.finfo(np.float64).eps] = 0.0
    b = (grid * weights).sum(axis=0) / weights.sum(axis=0)
    shape = np.log1p(-b * x).mean(axis=0)
    return (n_tail * shape + 10 * 0.5) / (n_tail + 10), -shape / b


def _mean_log1p(grid: _Array, x: _Array) -> _Array:
    """Return the mean over ``x`` of ``log1p(-b * x)`` for each ``b`` of the grid, column by column.

    Computed as logarithms of products, in a tenth of the time; where products would overflow or lose digits, as sums of
    logarithms.
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
    points, columns = np.nonzero(direct)
    if len(points):
        total[points, columns] = np.log1p(-grid[points, columns] * x[:, columns]).sum(axis=0)
    total /= len(x)
    return total

"""Ranks, coverage, bias and placebo statistics of estimates whose true value is known."""

__all__ = [
    "MIN_SIMULATIONS",
    "PlaceboNull",
    "coverage_of",
    "placebo_null",
    "rank_of",
    "shape_of_ranks",
    "uniform_band",
    "uniformity",
]

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import bdtr, betaincinv

MIN_SIMULATIONS = 20
"""Number of simulations below which there is no verdict."""
_SIMULATED = 20_000
"""Number of samples of uniform ranks from which the width of the band is found."""


def rank_of(truth: float, draws: np.ndarray, rng: np.random.Generator) -> int:
    """Return the number of draws below the truth; draws that equal it count as below at random."""
    below, equal = int((draws < truth).sum()), int((draws == truth).sum())
    return below + int(rng.integers(0, equal + 1))


@lru_cache(maxsize=64)
def _thresholds(n: int, n_ranks: int) -> np.ndarray:
    """Return sorted values of the statistic of :func:`uniformity` for samples of uniform ranks."""
    rng = np.random.default_rng(20221)
    pieces, left = [], _SIMULATED
    while left:
        size = min(left, max(1, 2**22 // n_ranks))
        counts = rng.multinomial(n, np.full(n_ranks, 1 / n_ranks), size=size)
        pieces.append(_statistic(np.cumsum(counts, axis=1)[:, :-1], n, n_ranks))
        left -= size
    return np.sort(np.concatenate(pieces))


def _statistic(cumulative: np.ndarray, n: int, n_ranks: int) -> np.ndarray:
    """Return twice the smallest binomial tail probability of cumulative counts of shape ``(..., n_ranks - 1)``."""
    share = np.arange(1, n_ranks) / n_ranks
    table = _binomial(n, share)
    column = np.arange(n_ranks - 1)
    lower, upper = table[cumulative + 1, column], 1 - table[cumulative, column]
    smallest: np.ndarray = 2 * np.minimum(lower, upper).min(axis=-1)
    return smallest


def _binomial(n: int, share: np.ndarray) -> np.ndarray:
    """Return probabilities of at most -1, 0, ..., ``n`` successes, of shape ``(n + 2, ...)``."""
    table: np.ndarray = np.stack([np.zeros_like(share), *(bdtr(k, n, share) for k in range(n + 1))])
    return table


def uniformity(ranks: np.ndarray, n_ranks: int) -> float:
    """Return the probability that uniform ranks leave the simultaneous band of their ECDF as far as these.

    The band is that of Säilynoja, Bürkner and Vehtari (2022), for ranks from 0 to ``n_ranks - 1``. Its width is found
    from simulated samples, which takes into account that cumulative counts are dependent.
    """
    counts = np.bincount(ranks.astype(int), minlength=n_ranks)
    own = _statistic(np.cumsum(counts)[None, :-1], len(ranks), n_ranks)[0]
    known = _thresholds(len(ranks), n_ranks)
    return float((1 + np.searchsorted(known, own * (1 + 1e-9), side="right")) / (1 + len(known)))


def uniform_band(n: int, n_ranks: int, prob: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return fractional ranks, and the bounds of the simultaneous band of the ECDF of ``n`` uniform ranks there."""
    share = np.arange(1, n_ranks) / n_ranks
    level = np.quantile(_thresholds(n, n_ranks), 1 - prob)
    table = _binomial(n, share)[1:]
    # The smallest counts whose probability reaches the level.
    lower, upper = ((table < tail - 1e-12).sum(axis=0) / n for tail in (level / 2, 1 - level / 2))
    return share, lower, upper


def shape_of_ranks(pit: np.ndarray) -> str:
    """Return in words how fractional ranks differ from uniform ones."""
    n = len(pit)
    mean = (pit.mean() - 0.5) * np.sqrt(12 * n)
    spread = (((pit - 0.5) ** 2).mean() - 1 / 12) * np.sqrt(180 * n)
    if abs(mean) > max(2.0, abs(spread)):
        return "estimates too low" if mean > 0 else "estimates too high"
    if abs(spread) > 2:
        return "intervals too narrow" if spread > 0 else "intervals too wide"
    return "ranks not uniform"


def coverage_of(pit: np.ndarray, prob: float, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """Return the coverage of equal-tailed intervals, its Monte Carlo error, and exact bounds (Clopper-Pearson).

    ``pit`` are the shares of draws below the truth.
    """
    n, inside = len(pit), int((np.abs(pit - 0.5) <= prob / 2 + 1e-12).sum())
    share, tail = inside / n, (1 - confidence) / 2
    # The error of a share of 0 or 1 is not 0: one more success and one more failure (Agresti and Coull 1998).
    error = float(np.sqrt((inside + 2) / (n + 4) * (n - inside + 2) / (n + 4) / (n + 4)))
    low = float(betaincinv(inside, n - inside + 1, tail)) if inside else 0.0
    high = float(betaincinv(inside + 1, n - inside, 1 - tail)) if inside < n else 1.0
    return share, error, low, high


@dataclass(frozen=True)
class PlaceboNull:
    """Distribution of effects without a treatment."""

    mean: float
    """Mean of the placebo effects."""
    spread: float
    """Standard deviation of the placebo effects beyond their posterior standard deviations."""
    sd: float
    """Root mean square of the posterior standard deviations."""
    error: float
    """Standard error of ``mean``."""

    def z(self, estimate: float) -> float:
        """Return the distance of an estimate from the placebo effects, in standard deviations."""
        return float((estimate - self.mean) / np.hypot(self.spread, self.sd))


def placebo_null(means: np.ndarray, sds: np.ndarray) -> PlaceboNull:
    """Return the distribution of placebo effects from the means and standard deviations of their posteriors."""
    sd = float(np.sqrt((sds**2).mean()))
    variance = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    spread = float(np.sqrt(max(0.0, variance - sd**2)))
    return PlaceboNull(float(means.mean()), spread, sd, float(np.sqrt(variance / len(means))))

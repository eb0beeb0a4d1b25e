"""Tests of conditional independence from sums over rows."""

__all__ = ["IndependenceTest", "holm", "independence_test"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from aimz.statistics.row_moments import Moments

_SMALLEST = 1e-8
"""Share of the variance of a variable below which others determine it."""


@dataclass(frozen=True)
class IndependenceTest:
    """Test of the independence of two variables, given others, in a linear model."""

    correlation: float
    """Partial correlation; the multiple one, without sign, for variables with several columns."""
    p_value: float


def independence_test(
    moments: Moments, one: Sequence[int], other: Sequence[int], given: Sequence[int]
) -> IndependenceTest | None:
    """Return the test of two variables, each given by its columns; None if ``given`` determines one of them.

    The p-value is of Wilks' lambda in Rao's approximation [1]_, which for variables with one column is the t test of a
    partial correlation.

    References
    ----------
    .. [1] Rao (1951), An asymptotic expansion of the distribution of Wilks' criterion, Bulletin of the International
       Statistical Institute 33.
    """
    scale = np.sqrt(np.diag(moments.products))
    columns = [*one, *other, *given]
    if moments.n < len(columns) + 3 or (scale[[*one, *other]] <= 0).any():
        return None
    given = [i for i in given if scale[i] > 0]
    rest = [*one, *other]
    safe = np.where(scale > 0, scale, 1.0)
    correlations = moments.products / np.outer(safe, safe)
    residual = correlations[np.ix_(rest, rest)]
    if given:
        across = correlations[np.ix_(given, rest)]
        # Columns of `given` may depend on one another.
        inverse = np.linalg.pinv(correlations[np.ix_(given, given)], 1e-10, hermitian=True)
        residual = residual - across.T @ inverse @ across
    p, q = len(one), len(other)
    first, second = residual[:p, :p], residual[p:, p:]
    smallest = min(float(np.linalg.eigvalsh(part)[0]) for part in (first, second))
    if smallest < _SMALLEST:
        return None
    ratio = float(np.linalg.slogdet(residual)[1] - np.linalg.slogdet(first)[1] - np.linalg.slogdet(second)[1])
    wilks = float(np.exp(min(ratio, 0.0)))
    rank = int(np.linalg.matrix_rank(correlations[np.ix_(given, given)], hermitian=True)) if given else 0
    freedom, power = p * q, 1.0
    if p**2 + q**2 > 5:
        power = float(np.sqrt((freedom**2 - 4) / (p**2 + q**2 - 5)))
    left = (moments.n - 1 - rank - (p + q + 1) / 2) * power - freedom / 2 + 1
    if left <= 0:
        return None
    root = wilks ** (1 / power)
    # The upper tail of F, from the distribution of its ratio of sums of squares.
    p_value = float(special.betainc(left / 2, freedom / 2, root))
    size = float(residual[0, 1] / np.sqrt(residual[0, 0] * residual[1, 1])) if p == q == 1 else np.sqrt(1 - wilks)
    return IndependenceTest(float(size), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, so that the probability of any false rejection is controlled [1]_.

    References
    ----------
    .. [1] Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(order))
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[i]))
        adjusted[i] = largest
    return [float(value) for value in adjusted]

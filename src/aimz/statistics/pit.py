"""Calibration of predictions of rows: PIT values, and observed shares at each predicted probability."""

__all__ = ["Calibration"]

from dataclasses import dataclass, field

import numpy as np

_PIT_EDGES, _BINS = 101, 20
_TOLERATED = 0.03
"""Distance from perfect calibration that is too small to matter for a decision."""
_KOLMOGOROV = 1.95
"""Kolmogorov-Smirnov distance, times the root of the number of values, that is exceeded with probability 0.1 %."""
_ERRORS = 4.0


@dataclass(eq=False)
class Calibration:
    """Sums over rows for the calibration of their predictions; their size does not depend on the number of rows."""

    leave_one_out: bool = False
    """Whether the prediction of each row leaves the row out."""
    n: int = 0
    """Number of PIT values."""
    below: np.ndarray = field(default_factory=lambda: np.zeros(_PIT_EDGES))
    """Number of PIT values below each of 101 probabilities."""
    covered: int = 0
    """Number of values within the 90 % interval of their predictions, which includes the row in the fit."""
    n_covered: int = 0
    """Number of values for which that was computed."""
    n_lost: int = 0
    """Number of values whose prediction has no PIT value, since it is NaN or has no weights."""
    n_unreliable: int = 0
    """Number of values with a Pareto k-hat above 0.7."""
    is_discrete: bool = True
    is_binary: bool = True
    counts: np.ndarray = field(default_factory=lambda: np.zeros((3, _BINS)))
    """Number of rows, sum of predicted probabilities and number of ones, by predicted probability."""

    @property
    def edges(self) -> np.ndarray:
        """Probabilities at which the distribution of the PIT values is known."""
        return np.linspace(0.0, 1.0, _PIT_EDGES)

    @property
    def ecdf(self) -> np.ndarray:
        """Share of the PIT values below each of ``edges``."""
        return np.asarray(self.below / max(self.n, 1))

    def histogram(self, bins: int = 20) -> np.ndarray:
        """Return the share of the PIT values in each of ``bins`` equal bins, a divisor of 100."""
        shares = self.ecdf[:: (_PIT_EDGES - 1) // bins]
        return np.diff(shares, prepend=0.0)[1:] + np.where(np.arange(bins) == 0, shares[0], 0.0)

    def add_pit(self, lower: np.ndarray, at: np.ndarray) -> None:
        """Add PIT values: probabilities below the observed value, and of the value itself, between which they spread.

        With discrete values this is the non-randomized PIT of Czado, Gneiting and Held (2009).
        """
        edges, lower = self.edges[:, None], np.minimum(lower, 1.0)
        spread = np.where(at > 0, at, 1.0)
        share = np.where(at > 0, np.clip((edges - lower) / spread, 0.0, 1.0), lower <= edges)
        self.below += share.sum(axis=1)
        self.n += len(lower)

    def add_probabilities(self, predicted: np.ndarray, observed: np.ndarray) -> None:
        """Add predicted probabilities of 1, and the observed zeros and ones."""
        bins = np.minimum((predicted * _BINS).astype(np.int64), _BINS - 1)
        for i, weights in enumerate((None, predicted, observed)):
            self.counts[i] += np.bincount(bins, weights, minlength=_BINS)

    def merge(self, other: "Calibration") -> None:
        """Add the sums over other rows."""
        for name in ("n", "below", "covered", "n_covered", "n_lost", "n_unreliable", "counts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.is_discrete &= other.is_discrete
        self.is_binary &= other.is_binary

    @property
    def distance(self) -> float:
        """Largest distance of the distribution of the PIT values from the uniform one; NaN without values."""
        return float(np.abs(self.ecdf - self.edges).max()) if self.n else np.nan

    @property
    def tolerated_distance(self) -> float:
        """Distance above which predictions are not calibrated."""
        return float(_TOLERATED + _KOLMOGOROV / np.sqrt(max(self.n, 1)))

    def band(self) -> np.ndarray:
        """Return the half-width of the simultaneous 99.9 % band of the distribution of uniform values."""
        return np.full(_PIT_EDGES, _KOLMOGOROV / np.sqrt(max(self.n, 1)))

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return, for each bin with rows: mean probability, observed share, its standard error and number of rows."""
        n, predicted, observed = self.counts[:, self.counts[0] > 0]
        p = predicted / n
        return p, observed / n, np.sqrt(p * (1 - p) / n), n

    @property
    def excess(self) -> float:
        """Largest distance of an observed share from its predicted probability, less four standard errors."""
        p, share, error, _ = self.reliability()
        return float((np.abs(share - p) - _ERRORS * error).max(initial=0.0))

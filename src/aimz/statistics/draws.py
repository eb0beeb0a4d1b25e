"""Statistics over the draws of each row, exact: all draws of a row are there together.

Means and spreads are taken in double precision.  Quantiles sort the draws of each row, some rows at a time, so that
what is sorted is contiguous and stays in the cache.
"""

__all__ = ["Reduction", "Statistic", "Statistics", "over_draws"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_TILE = 256
"""Columns that are sorted together."""
_BESIDE = 16
"""Columns that are left empty beside them."""
_SOME = 64
"""Draws whose squares are added up together."""


class Reduction(Protocol):
    """What is kept of the draws of each row, in their place."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the numbers that are kept."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What a group says of them."""

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """Return ``(n_statistics, ...)`` of ``(n_draws, ...)``, in double precision."""


@dataclass(frozen=True)
class Statistic:
    """One number, or two, for each array of draws."""

    kind: str
    """"mean", "sd", "quantile", "exceeds", "eti" or "hdi"."""
    at: float = 0.0
    """The probability, or what is to be exceeded."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it is called in a result; bounds of an interval as in ArviZ's tables."""
        if self.kind in ("eti", "hdi"):
            return tuple(f"{self.kind}{100 * self.at:.15g}_{bound}" for bound in ("lb", "ub"))
        if self.kind == "quantile":
            return (f"{self.at:.15g}",)
        return (f"exceeds {self.at:.15g}",) if self.kind == "exceeds" else (self.kind,)


@dataclass(frozen=True)
class Statistics:
    """What is asked for, in order."""

    parts: tuple[Statistic, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names along the dimension ``statistic``."""
        return tuple(label for part in self.parts for label in part.labels)

    @property
    def attrs(self) -> dict[str, Any]:
        """What a group says of its intervals."""
        found = [part for part in self.parts if part.kind in ("eti", "hdi")]
        if not found:
            return {}
        return {"interval_kind": [part.kind for part in found], "interval_prob": [part.at for part in found]}

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """Return statistics of shape ``(n_statistics, ...)`` of ``draws`` of shape ``(n_draws, ...)``."""
        return over_draws(draws, self)


def over_draws(draws: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Return statistics of shape ``(n_statistics, ...)`` of ``draws`` of shape ``(n_draws, ...)``.

    Equal to :func:`numpy.mean`, :func:`numpy.std` and :func:`numpy.quantile` along the first axis of the draws as
    doubles.  NaN among the draws of a row makes all its statistics NaN.
    """
    flat = draws.reshape(len(draws), -1)
    found = np.empty((len(statistics.labels), flat.shape[1]))
    ordered: list[tuple[int, Statistic]] = []
    at = 0
    with np.errstate(invalid="ignore", over="ignore"):  # infinite draws have no spread
        mean = np.add.reduce(flat, axis=0, dtype=np.float64) / len(flat)
        for part in statistics.parts:
            if part.kind == "mean":
                found[at] = mean
            elif part.kind == "sd":
                found[at] = _sd(flat, mean)
            elif part.kind == "exceeds":
                found[at] = np.where(np.isnan(flat).any(axis=0), np.nan, (flat > np.float64(part.at)).mean(axis=0))
            else:
                ordered.append((at, part))
            at += len(part.labels)
        if ordered:
            # Where draws are a power of two apart, as those of a batch are, the cache has one place for all draws of a
            # row.  They are turned around in a buffer that is a little wider, which takes a quarter of the time.
            buffer = np.empty((len(flat), _TILE + _BESIDE), flat.dtype)
            for start in range(0, flat.shape[1], _TILE):
                some = buffer[:, : min(_TILE, flat.shape[1] - start)]
                some[...] = flat[:, start : start + _TILE]
                rows = np.array(some.T, order="C")
                rows.sort(axis=-1)
                for place, part in ordered:
                    bounds = _of_sorted(rows, part)
                    found[place : place + len(bounds), start : start + _TILE] = bounds
    return found.reshape(-1, *draws.shape[1:])


def _sd(flat: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the standard deviation, with all draws counting as the population (NumPy's default)."""
    squares = np.zeros(flat.shape[1])
    for start in range(0, len(flat), _SOME):
        off = flat[start : start + _SOME] - mean
        squares += np.einsum("ij,ij->j", off, off)
    spread: np.ndarray = np.sqrt(squares / len(flat))
    return spread


def _of_sorted(rows: np.ndarray, part: Statistic) -> np.ndarray:
    """Return one statistic of draws that were sorted, ``(n_rows, n_draws)``, as ``(1 or 2, n_rows)``."""
    if part.kind == "quantile":
        found = np.stack([_quantile(rows, part.at)])
    elif part.kind == "eti":
        tail = (1 - part.at) / 2
        found = np.stack([_quantile(rows, tail), _quantile(rows, 1 - tail)])
    else:
        found = _shortest(rows, part.at)
    last = rows[:, -1]
    return np.where(last == last, found, np.nan)  # NaN is sorted to the end


def _quantile(rows: np.ndarray, q: float) -> np.ndarray:
    """Return a quantile by linear interpolation between order statistics (Hyndman and Fan 1996, type 7)."""
    place = q * (rows.shape[1] - 1)
    below = min(math.floor(place), rows.shape[1] - 1)
    low = rows[:, below].astype(np.float64)
    high = rows[:, min(below + 1, rows.shape[1] - 1)].astype(np.float64)
    between = place - below
    if between == 0:
        return low
    # From the nearer end, as NumPy does, so that the bits are the same; infinite ends have nothing between them.
    found: np.ndarray = low + (high - low) * between if between < 0.5 else high - (high - low) * (1 - between)
    return np.where(low == high, low, found)


def _shortest(rows: np.ndarray, prob: float) -> np.ndarray:
    """Return the shortest interval between two draws that holds a share ``prob`` of them, as ArviZ takes it."""
    across = math.floor(prob * rows.shape[1])
    widths = rows[:, across:].astype(np.float64) - rows[:, : rows.shape[1] - across]
    first = np.argmin(widths, axis=1)
    each = np.arange(len(rows))
    return np.stack([rows[each, first], rows[each, first + across]]).astype(np.float64)

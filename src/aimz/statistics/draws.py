"""Exact statistics over the draws of each row, and the parser of ``statistics=``.

Means and standard deviations are computed in float64. Quantiles sort the draws of each row, one tile of rows at a time,
so that the sorted memory is contiguous and stays in the CPU cache.
"""

__all__ = ["Reduction", "Statistic", "Statistics", "read_ci", "read_interval", "read_statistics", "reduce_rows"]

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np

_TILE = 256
"""Number of columns sorted together."""
_PADDING = 16
"""Padding columns of the buffer, so that rows a power of two apart do not share cache sets."""
_DRAW_BLOCK = 64
"""Number of draws whose squared deviations are summed together."""
_DEVIATION_TILE = 512
"""Number of columns whose deviations are computed together, so that they stay in the CPU cache."""
_MIN_COLUMNS = 512
"""Least number of columns for each thread."""
_KNOWN = (
    "Known: 'mean', 'sd', numbers between 0 and 1 (quantiles), 'interval' (of ArviZ's default level and kind), "
    "('eti', 0.9), ('hdi', 0.9), and ('exceeds', c) for P(> c)."
)


class Reduction(Protocol):
    """Function that replaces the draws of each row by a few numbers."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each number."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the result's group."""

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """Return ``(n_statistics, ...)`` of ``(n_draws, ...)``, in float64."""


@dataclass(frozen=True)
class Statistic:
    """A mean, standard deviation, quantile, probability or interval of draws."""

    kind: str
    """"mean", "sd", "quantile", "exceeds", "eti" or "hdi"."""
    at: float = 0.0
    """Probability of a quantile or interval, or threshold of "exceeds"."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels along the dimension ``statistic``; bounds of an interval are named as in ArviZ's tables."""
        if self.kind in ("eti", "hdi"):
            return tuple(f"{self.kind}{100 * self.at:.15g}_{bound}" for bound in ("lb", "ub"))
        if self.kind == "quantile":
            return (f"{self.at:.15g}",)
        return (f"exceeds {self.at:.15g}",) if self.kind == "exceeds" else (self.kind,)


@dataclass(frozen=True)
class Statistics:
    """The requested statistics, in order."""

    parts: tuple[Statistic, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels along the dimension ``statistic``."""
        return tuple(label for part in self.parts for label in part.labels)

    @property
    def attrs(self) -> dict[str, Any]:
        """Kind and probability of the intervals, as attributes of the result's group."""
        intervals = [part for part in self.parts if part.kind in ("eti", "hdi")]
        if not intervals:
            return {}
        return {"interval_kind": [part.kind for part in intervals], "interval_prob": [part.at for part in intervals]}

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """Return statistics of shape ``(n_statistics, ...)`` of ``draws`` of shape ``(n_draws, ...)``.

        Equal to :func:`numpy.mean`, :func:`numpy.std` and :func:`numpy.quantile` along the first axis of the draws as
        float64. A row with a NaN among its draws has NaN for every statistic.
        """
        flat = draws.reshape(len(draws), -1)
        result = np.empty((len(self.labels), flat.shape[1]))
        order_statistics: list[tuple[int, Statistic]] = []
        at = 0
        with np.errstate(invalid="ignore", over="ignore"):  # the standard deviation of infinite draws is NaN
            mean = np.add.reduce(flat, axis=0, dtype=np.float64) / len(flat)
            for part in self.parts:
                if part.kind == "mean":
                    result[at] = mean
                elif part.kind == "sd":
                    result[at] = _standard_deviation(flat, mean)
                elif part.kind == "exceeds":
                    exceeds = (flat > np.float64(part.at)).mean(axis=0)
                    result[at] = np.where(np.isnan(flat).any(axis=0), np.nan, exceeds)
                else:
                    order_statistics.append((at, part))
                at += len(part.labels)
            if order_statistics:
                _fill_order_statistics(result, flat, order_statistics)
        return result.reshape(-1, *draws.shape[1:])


def _fill_order_statistics(result: np.ndarray, flat: np.ndarray, parts: Sequence[tuple[int, Statistic]]) -> None:
    """Compute quantiles and intervals, with the first row of ``result`` for each."""
    # If draws are a power of two apart in memory, all draws of a row map to the same cache set. Copying them through a
    # slightly wider buffer before transposing takes a quarter of the time.
    buffer = np.empty((len(flat), _TILE + _PADDING), flat.dtype)
    for start in range(0, flat.shape[1], _TILE):
        tile = buffer[:, : min(_TILE, flat.shape[1] - start)]
        tile[...] = flat[:, start : start + _TILE]
        rows = np.array(tile.T, order="C")
        rows.sort(axis=-1)
        for at, part in parts:
            bounds = _of_sorted(rows, part)
            result[at : at + len(bounds), start : start + _TILE] = bounds


def _standard_deviation(flat: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the population standard deviation (NumPy's default)."""
    squares = np.zeros(flat.shape[1])
    n_tiles = max(1, flat.shape[1] // _DEVIATION_TILE)  # the last tile has at least as many columns
    for tile in range(n_tiles):
        first, last = tile * _DEVIATION_TILE, None if tile == n_tiles - 1 else (tile + 1) * _DEVIATION_TILE
        for start in range(0, len(flat), _DRAW_BLOCK):
            deviations = flat[start : start + _DRAW_BLOCK, first:last] - mean[first:last]
            squares[first:last] += np.einsum("ij,ij->j", deviations, deviations)
    result: np.ndarray = np.sqrt(squares / len(flat))
    return result


def _of_sorted(rows: np.ndarray, part: Statistic) -> np.ndarray:
    """Return one statistic of sorted draws ``(n_rows, n_draws)``, of shape ``(1 or 2, n_rows)``."""
    if part.kind == "quantile":
        result = np.stack([_quantile(rows, part.at)])
    elif part.kind == "eti":
        tail = (1 - part.at) / 2
        result = np.stack([_quantile(rows, tail), _quantile(rows, 1 - tail)])
    else:
        result = _shortest_interval(rows, part.at)
    last = rows[:, -1]
    return np.where(last == last, result, np.nan)  # NaN is sorted to the end


def _quantile(rows: np.ndarray, q: float) -> np.ndarray:
    """Return a quantile by linear interpolation between order statistics (Hyndman and Fan 1996, type 7)."""
    position = q * (rows.shape[1] - 1)
    below = min(math.floor(position), rows.shape[1] - 1)
    low = rows[:, below].astype(np.float64)
    high = rows[:, min(below + 1, rows.shape[1] - 1)].astype(np.float64)
    weight = position - below
    if weight == 0:
        return low
    # Interpolated from the nearer end, as in NumPy, for the same bits; two equal infinite ends would give NaN.
    result: np.ndarray = low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight)
    return np.where(low == high, low, result)


def _shortest_interval(rows: np.ndarray, prob: float) -> np.ndarray:
    """Return the shortest interval between two draws with probability ``prob``, by ArviZ's definition."""
    span = math.floor(prob * rows.shape[1])
    widths = rows[:, span:].astype(np.float64) - rows[:, : rows.shape[1] - span]
    first = np.argmin(widths, axis=1)
    row_numbers = np.arange(len(rows))
    return np.stack([rows[row_numbers, first], rows[row_numbers, first + span]]).astype(np.float64)


def reduce_rows(reduction: Reduction, draws: np.ndarray, n_threads: int) -> np.ndarray:
    """Return ``reduction(draws)`` of draws ``(n_draws, ...)``, with the columns divided between threads."""
    flat = draws.reshape(len(draws), -1)
    n_parts = min(n_threads, flat.shape[1] // _MIN_COLUMNS)
    if n_parts < 2:
        return reduction(draws)
    # NumPy releases the GIL while it sorts.
    with ThreadPoolExecutor(n_parts, thread_name_prefix="aimz-statistics") as pool:
        parts = list(pool.map(reduction, np.array_split(flat, n_parts, axis=1)))
    return np.concatenate(parts, axis=1).reshape(-1, *draws.shape[1:])


def read_statistics(given: Any) -> Statistics | None:
    """Return the statistics in ``statistics=``, or None if draws are requested.

    Raises
    ------
    ValueError
        If an item is not a statistic, none is given, or one is given twice.
    """
    if given is None:
        return None
    if isinstance(given, str | Real) or not isinstance(given, Iterable):
        given = (given,)
    items = list(given)
    statistics = Statistics(tuple(_read_statistic(item, items) for item in items))
    labels = statistics.labels
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if not labels or repeated:
        got = f"{repeated[0]!r} twice" if repeated else "none"
        msg = f"`statistics` must name at least one statistic, and each once; got {got}. {_KNOWN}"
        raise ValueError(msg)
    return statistics


def _read_statistic(item: Any, items: Sequence[Any]) -> Statistic:
    if isinstance(item, str) and item in ("mean", "sd"):
        return Statistic(item)
    if isinstance(item, str) and item == "interval":
        return read_interval()
    if _is_number(item) and 0 <= float(item) <= 1:
        return Statistic("quantile", float(item))
    if isinstance(item, tuple | list) and len(item) == 2 and _is_number(item[1]):
        kind, at = item[0], float(item[1])
        if kind == "exceeds" and at == at:
            return Statistic(kind, at)
        if kind in ("eti", "hdi") and 0 < at < 1:
            return Statistic(kind, at)
    is_pair = items and isinstance(items[0], str) and items[0] in ("exceeds", "eti", "hdi")
    hint = f" Put it in brackets, `statistics=({items!r},)`." if is_pair else ""
    msg = f"`statistics` must be known; got {item!r}.{hint} {_KNOWN}"
    raise ValueError(msg)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def read_interval(prob: float | None = None, kind: str | None = None) -> Statistic:
    """Return an interval, with ArviZ's default probability and kind where None is given.

    The defaults are ``rcParams["stats.ci_prob"]`` and ``rcParams["stats.ci_kind"]``, or 0.89 and "eti" if ArviZ is not
    installed.
    """
    if prob is None or kind is None:
        try:
            from arviz_base import rcParams
        except ImportError:
            rcParams = {"stats.ci_prob": 0.89, "stats.ci_kind": "eti"}
        prob = rcParams["stats.ci_prob"] if prob is None else prob
        kind = rcParams["stats.ci_kind"] if kind is None else kind
    return Statistic(str(kind), float(prob))


def read_ci(ci_prob: float | None, ci_kind: str | None, hdi_prob: float | None = None) -> Statistic:
    """Return the interval that a user requests, with ArviZ's default probability and kind where None is given.

    Raises
    ------
    ValueError
        If a probability is not between 0 and 1, the kind is unknown, or ``hdi_prob`` is passed with the others.
    """
    for name, prob in (("ci_prob", ci_prob), ("hdi_prob", hdi_prob)):
        if prob is not None and not 0 < prob < 1:
            msg = f"`{name}` must lie between 0 and 1; got {prob!r}. For 90 %, pass 0.9."
            raise ValueError(msg)
    if ci_kind not in (None, "eti", "hdi"):
        msg = f"`ci_kind` must be 'eti' (equal-tailed) or 'hdi' (highest-density); got {ci_kind!r}. Pass one of them."
        raise ValueError(msg)
    if hdi_prob is None:
        return read_interval(ci_prob, ci_kind)
    if ci_prob is not None or ci_kind == "eti":
        msg = (
            f"`hdi_prob={hdi_prob!r}` means `ci_prob={hdi_prob!r}, ci_kind='hdi'`; got other values of these. Pass "
            "`ci_prob` and `ci_kind` alone."
        )
        raise ValueError(msg)
    return Statistic("hdi", float(hdi_prob))

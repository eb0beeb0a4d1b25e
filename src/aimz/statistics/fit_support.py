"""Sums over the rows of a fit that describe which data it has: moments, ranges, quantiles and levels of each column."""

__all__ = ["FitSupport"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.statistics.category_ranges import CategoryRanges
from aimz.statistics.fit_levels import Level, Levels, levels_of, merged_levels
from aimz.statistics.overlap import Overlap, overlap_of
from aimz.statistics.row_moments import Moments, complete_rows, left_out

_EXACT_MOMENTS = 2**16
"""Number of rows of a fit up to which all rows enter the moments."""
_MOMENT_STEP = 8
"""Number of later rows for each row that enters the moments: moments of all rows take longer than a fit in minibatches,
and these determine a leverage to a few per mille."""
_MAX_COLUMNS = 64
"""Largest number of columns that are described."""
_MAX_CATEGORIES = 2**10
"""Largest number of categories of an argument whose rows are described."""
_SKETCH = 512
"""Number of points that a quantile sketch is compressed to."""
_PIECE = 8192
"""Number of rows that are described at once, few enough to stay in the cache of a CPU."""
_SAMPLE = 4096
"""Number of rows from which quantiles and the distribution of the leverage are computed; dropped when the fit ends."""
_MAX_OVERLAP = 2**12
"""Number of cross products in the logistic regressions of all binary columns."""
_MAX_NUMBERS = 2**20
"""Number of cross products of all levels that are kept."""


@dataclass
class FitSupport:
    """Description of the rows of a fit; nothing is stored by row."""

    names: tuple[str, ...]
    """Names of the columns."""
    places: tuple[tuple[str, int | None], ...]
    """Argument of each column, and its number among the columns of the argument."""
    categories: tuple[str, ...] = ()
    """Names of the arguments with categories; rows have their codes after the columns."""
    n: int = 0
    missing: np.ndarray = field(default_factory=lambda: np.empty(0))
    """Number of rows with NaN, by column."""
    low: np.ndarray = field(default_factory=lambda: np.empty(0))
    high: np.ndarray = field(default_factory=lambda: np.empty(0))
    moments: Moments | None = None
    levels: list[Levels | None] = field(default_factory=list)
    """Values of each column, None if there are more than ten."""
    ranges: list[CategoryRanges | None] = field(default_factory=list)
    """Rows of each category of each argument with categories, None if there are more than 1,024."""
    sketches: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Points and weights of the distribution of each column, from the sample."""
    far: float = np.inf
    """99th percentile of the leverage of the rows, each among the others."""
    overlaps: dict[int, Overlap] = field(default_factory=dict)
    """Overlap of each column with the values 0 and 1, and of each argument with two categories, by its number."""
    sample: list[np.ndarray] = field(default_factory=list)
    """Rows from which ``far``, ``sketches`` and ``overlaps`` are computed, with their numbers in the last column."""
    step: int = 1
    """Number of rows for each row of the sample; a power of two."""
    pending: list[np.ndarray] = field(default_factory=list)
    """Rows that are not part of the sums yet: they are described some thousands at a time."""

    @staticmethod
    def of(
        arrays: Mapping[str, Any], columns: Mapping[str, Sequence[str]], categories: Collection[str] = ()
    ) -> "FitSupport | None":
        """Return an empty description of arguments ``(n_rows, ...)``; None if there are too many columns, or none.

        Arguments in ``categories`` are codes. They have no range, and their leverage is not computed, since a category
        without rows in the fit is a new group; columns have a range for each category.
        """
        names: list[str] = []
        places: list[tuple[str, int | None]] = []
        groups: list[str] = []
        for name, array in arrays.items():
            shape = array.shape[1:]
            if name in categories:
                groups += [name] if not shape else []
                continue
            if len(shape) > 1 or np.dtype(array.dtype).kind not in "biuf":
                continue
            if not shape:
                names.append(name)
                places.append((name, None))
                continue
            given = columns.get(name) or [f"{name}[{i}]" for i in range(shape[0])]
            names += map(str, given)
            places += [(name, i) for i in range(shape[0])]
        return FitSupport(tuple(names), tuple(places), tuple(groups)) if 1 <= len(names) <= _MAX_COLUMNS else None

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments that are described, in the order in which rows have them."""
        return (*dict.fromkeys(name for name, _ in self.places), *self.categories)

    def rows_of(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """Return the columns of some rows, and then the codes of their categories, in double precision."""
        parts = [np.asarray(arrays[name]) for name in self.arguments]
        return np.concatenate([p if p.ndim == 2 else p[:, None] for p in parts], axis=1, dtype=np.float64)

    def add(self, arrays: Mapping[str, Any]) -> None:
        """Add some rows of the arguments."""
        for start in range(0, len(arrays[self.arguments[0]]), _PIECE):
            self.pending.append(self.rows_of({name: arrays[name][start : start + _PIECE] for name in self.arguments}))
            if sum(map(len, self.pending)) >= _SAMPLE:
                self._add_pending()

    def _add_pending(self) -> None:
        """Add the pending rows to the sums."""
        rows = np.concatenate(self.pending) if self.pending else np.empty(0)
        self.pending = []
        if len(rows):
            self._merge(self._described(rows))
            while sum(map(len, self.sample)) > 2 * _SAMPLE:
                self.sample = [np.concatenate(self.sample)]
                self._thin(2 * self.step)

    def _thin(self, step: int) -> None:
        """Remove the rows of the sample that are not in a smaller one."""
        self.sample, self.step = [rows[_is_sampled(rows[:, -1], step)] for rows in self.sample], step

    def _described(self, rows: np.ndarray) -> "FitSupport":
        """Return the description of some rows."""
        numbers = np.arange(self.n, self.n + len(rows))
        chosen = _is_sampled(numbers, self.step)
        sample = np.column_stack([rows[chosen], numbers[chosen]])
        rows, codes = np.split(rows, [len(self.names)], axis=1)
        complete, thin = complete_rows(rows), self.n >= _EXACT_MOMENTS
        with np.errstate(invalid="ignore"):
            low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
        moments = Moments.of(rows[_is_sampled(numbers, _MOMENT_STEP)] if thin else rows)
        whole = Level(moments.of_rows(int(complete.sum())), low, high)
        return FitSupport(
            self.names,
            self.places,
            self.categories,
            len(rows),
            np.zeros(rows.shape[1], np.int64) if complete.all() else np.isnan(rows).sum(axis=0),
            low,
            high,
            whole.moments,
            levels_of(rows, complete, whole, self.levels or [{}] * len(self.names), thin=thin),
            [
                CategoryRanges.of(own, rows, codes[:, :i]) if own.max() < _MAX_CATEGORIES else None
                for i, own in enumerate(codes.T)
            ],
            sample=[sample],
        )

    def merge(self, other: "FitSupport") -> None:
        """Add the rows of another description, such as one of another worker."""
        self._add_pending()
        other._add_pending()
        step = max(self.step, other.step)
        for one in (self, other):
            one._thin(step)
        self._merge(other)

    def _merge(self, other: "FitSupport") -> None:
        if self.n == 0:
            for name, value in vars(other).items():
                if name not in ("far", "step", "pending"):
                    setattr(self, name, value)
            return
        assert self.moments is not None
        assert other.moments is not None
        self.n += other.n
        self.missing = self.missing + other.missing
        self.low, self.high = np.fmin(self.low, other.low), np.fmax(self.high, other.high)
        self.moments = self.moments.merged(other.moments)
        self.levels = [merged_levels(*both) for both in zip(self.levels, other.levels, strict=True)]
        self.ranges = [
            None if one is None or its is None else one.merged(its)
            for one, its in zip(self.ranges, other.ranges, strict=True)
        ]
        self.sample = [*self.sample, *other.sample]

    def finished(self) -> "FitSupport | None":
        """Return the description with quantiles and the distribution of the leverage; None if it has no rows."""
        self._add_pending()
        if self.n == 0 or self.moments is None:
            return None
        sample = np.concatenate(self.sample)[:, :-1]
        rows = sample[:, : len(self.names)]
        few = sample[:: 1 + (len(sample) > _SAMPLE)]
        found = {i: (overlap_of(few, len(self.names), i), n) for i, n in self._binary().items()}
        self.overlaps = {i: own.of_rows(n) for i, (own, n) in found.items() if own is not None}
        self.sketches = [_compressed(column[~np.isnan(column)]) for column in rows.T]
        self.far = _percentile(left_out(self.moments.leverage(rows)))
        for column, levels in enumerate(self.levels):
            others = np.delete(rows, column, axis=1)
            for value, level in (levels or {}).items():
                own = others[rows[:, column] == value]
                level.far = _percentile(left_out(level.moments.without(column).leverage(own)))
        self.sample = []
        self._limit_levels()
        return self

    def _limit_levels(self) -> None:
        """Drop the levels of columns with most levels until the moments of levels fit into 8 MiB."""
        while sum(map(len, filter(None, self.levels))) * len(self.names) ** 2 > _MAX_NUMBERS:
            most = max(range(len(self.levels)), key=lambda i: len(self.levels[i] or {}))
            self.levels[most] = None

    def _binary(self) -> dict[int, tuple[int, int]]:
        """Return the numbers of rows with 0 and 1 of columns and arguments with only these values.

        Empty for too many columns: logistic regressions on all other columns would take longer than a fit.
        """
        counts = [{value: level.moments.n for value, level in (found or {}).items()} for found in self.levels]
        counts += [{} if one is None else dict(enumerate(one.count.tolist())) for one in self.ranges]
        found = {i: (own[0], own[1]) for i, own in enumerate(counts) if own.keys() == {0, 1} and all(own.values())}
        return found if len(found) * len(self.names) ** 2 <= _MAX_OVERLAP else {}

    def quantile(self, column: int, q: float) -> float:
        """Return a quantile of a column, from its sketch."""
        points, weights = self.sketches[column]
        if not len(points):
            return np.nan
        share = (np.cumsum(weights) - weights / 2) / weights.sum()
        return float(np.interp(q, share, points))

    def shares_beside(self, column: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of the rows of the fit below and above each value of a column."""
        levels = self.levels[column]
        if levels:
            count = np.array([level.moments.n for level in levels.values()]) / self.n
            own = np.array(list(levels))
            return (own < values[:, None]) @ count, (own > values[:, None]) @ count
        points, weights = self.sketches[column]
        if not len(points):
            return np.zeros(len(values)), np.zeros(len(values))
        share = np.interp(values, points, (np.cumsum(weights) - weights / 2) / weights.sum(), left=0.0, right=1.0)
        return share, 1 - share

    def with_groups(self, name: str, codes: np.ndarray, rows: np.ndarray) -> "FitSupport":
        """Return a description in which groups of the rows of the fit are categories, after the others."""
        kept = codes >= 0
        columns, earlier = np.split(rows[kept], [len(self.names)], axis=1)
        ranges = CategoryRanges.of(codes[kept], columns, earlier) if kept.any() else None
        return replace(self, categories=(*self.categories, name), ranges=[*self.ranges, ranges])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the numbers of a finished description as arrays, for a file."""
        assert self.moments is not None
        levels = [(i, value, level) for i, found in enumerate(self.levels) for value, level in (found or {}).items()]
        p = len(self.names)

        def stacked(values: list[Any], *shape: int) -> np.ndarray:
            return np.asarray(values, np.float64).reshape(len(levels), *shape)

        return {
            "counts": np.array([self.n, self.moments.n], np.int64),
            "missing": np.asarray(self.missing, np.int64),
            "far": np.array([self.far]),
            "low": self.low,
            "high": self.high,
            "mean": self.moments.mean,
            "products": self.moments.products,
            "has_levels": np.array([found is not None for found in self.levels]),
            "level_column": np.array([i for i, _, _ in levels], np.int64),
            "level_value": stacked([value for _, value, _ in levels]),
            "level_count": np.array([level.moments.n for _, _, level in levels], np.int64),
            "level_far": stacked([level.far for _, _, level in levels]),
            "level_low": stacked([level.low for _, _, level in levels], p),
            "level_high": stacked([level.high for _, _, level in levels], p),
            "level_mean": stacked([level.moments.mean for _, _, level in levels], p),
            "level_products": stacked([level.moments.products for _, _, level in levels], p, p),
            "points": np.concatenate([points for points, _ in self.sketches]),
            "weights": np.concatenate([weights for _, weights in self.sketches]),
            "sketch_lengths": np.array([len(points) for points, _ in self.sketches], np.int64),
            "overlap_column": np.array(list(self.overlaps), np.int64),
            "overlap_n": np.array([one.n for one in self.overlaps.values()], np.int64).reshape(-1, 2),
            "overlap_effective": np.array([one.effective for one in self.overlaps.values()]).reshape(-1, 2),
            **{name: array for i, own in enumerate(self.ranges) if own for name, array in own.to_arrays(i).items()},
        }

    @staticmethod
    def from_arrays(
        names: Sequence[str],
        places: Sequence[tuple[str, int | None]],
        categories: Sequence[str],
        arrays: Mapping[str, np.ndarray],
    ) -> "FitSupport":
        """Return the description whose numbers :meth:`to_arrays` returned."""
        levels: list[Levels | None] = [{} if found else None for found in arrays["has_levels"]]
        for i, column in enumerate(arrays["level_column"]):
            moments = Moments(int(arrays["level_count"][i]), arrays["level_mean"][i], arrays["level_products"][i])
            level = Level(moments, arrays["level_low"][i], arrays["level_high"][i], float(arrays["level_far"][i]))
            own = levels[int(column)]
            assert own is not None
            own[float(arrays["level_value"][i])] = level
        ends = np.cumsum(arrays["sketch_lengths"])[:-1]
        sketches = zip(np.split(arrays["points"], ends), np.split(arrays["weights"], ends), strict=True)
        overlaps = zip(*(arrays.get(f"overlap_{name}", ()) for name in ("column", "n", "effective")), strict=True)
        return FitSupport(
            tuple(names),
            tuple(places),
            tuple(categories),
            int(arrays["counts"][0]),
            arrays["missing"],
            arrays["low"],
            arrays["high"],
            Moments(int(arrays["counts"][1]), arrays["mean"], arrays["products"]),
            levels,
            [CategoryRanges.from_arrays(i, arrays) for i in range(len(categories))],
            list(sketches),
            float(arrays["far"][0]),
            {int(i): Overlap((int(n[0]), int(n[1])), (float(own[0]), float(own[1]))) for i, n, own in overlaps},
        )


def _is_sampled(numbers: np.ndarray, step: int) -> np.ndarray:
    """Return which rows are in a sample of one of ``step``: by a hash of their numbers, since rows may be periodic."""
    mixed = numbers.astype(np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    found: np.ndarray = mixed <= np.uint64((2**64 - 1) // step)
    return found


def _percentile(leverage: np.ndarray) -> float:
    """Return the 99th percentile of the values that are finite."""
    finite = leverage[np.isfinite(leverage)]
    return float(np.quantile(finite, 0.99, method="higher")) if len(finite) else np.inf


def _compressed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 512 sorted points with weights: means of parts of the sorted values, of about equal length."""
    if not len(points):
        return np.empty(0), np.empty(0)
    starts = np.linspace(0, len(points), min(_SKETCH, len(points)), endpoint=False).astype(np.intp)
    lengths = np.diff(starts, append=len(points)).astype(np.float64)
    return np.add.reduceat(np.sort(points), starts) / lengths, lengths

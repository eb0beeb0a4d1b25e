"""Findings in the rows of arguments: NaN, and distinct float64 values that become equal in the type of the device."""

__all__ = ["NanCounts", "RoundedValues", "RowFindings", "has_nan", "record_rounding", "warn_if_rounded"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from aimz.errors import OutputWarning, warn

_STEPS = 1024
"""Least number of steps between neighbouring floats that a column's values should span."""
_KEPT = 4096
"""Largest number of distinct values that are kept of a column."""
_RECORDER = ContextVar["RoundedValues | None"]("recorder", default=None)


@dataclass(frozen=True)
class _Column:
    """Values of a column that span few steps between neighbouring floats."""

    least: float
    most: float
    values: np.ndarray
    """Distinct values, at most ``_KEPT``."""
    rounded: np.ndarray
    """Distinct values in the type of the device."""
    more: bool = False
    """Whether there are more distinct values than are kept."""

    @property
    def step(self) -> float:
        """Distance of neighbouring floats of the size of the values."""
        return float(np.finfo(self.rounded.dtype).eps * max(abs(self.least), abs(self.most)))

    def merged(self, other: "_Column") -> "_Column | None":
        """Return the column of the values of both; None if they span many steps."""
        found = replace(self, least=min(self.least, other.least), most=max(self.most, other.most))
        if found.most > found.least and found.most - found.least >= _STEPS * found.step:
            return None
        values = np.union1d(self.values, other.values)
        more = self.more or other.more or len(values) > _KEPT
        return replace(found, values=values[:_KEPT], rounded=np.union1d(self.rounded, other.rounded), more=more)


@dataclass
class RoundedValues:
    """Columns whose values may become equal in the type of the device, among the rows that were read."""

    columns: dict[tuple[str, int | None], _Column | None] = field(default_factory=dict)
    """Name of an argument and number of its column to the values; None if these span many steps."""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the arrays that are cast in this block."""
        token = _RECORDER.set(self)
        try:
            yield
        finally:
            _RECORDER.reset(token)

    def add(self, name: str, array: np.ndarray, dtype: np.dtype) -> None:
        """Record rows of an argument before they are cast to ``dtype``."""
        by_column = array.reshape(len(array), -1)
        keys: list[tuple[str, int | None]] = [(name, i if array.ndim > 1 else None) for i in range(by_column.shape[1])]
        open_ = [i for i, key in enumerate(keys) if self.columns.get(key, True) is not None]
        if not open_:
            return
        some = by_column if len(open_) == len(keys) else by_column[:, open_]
        with np.errstate(invalid="ignore", over="ignore"):
            # Missing values are ignored; `min` is the faster function.
            least, most = some.min(axis=0), some.max(axis=0)
            if np.isnan(least).any():
                least, most = np.fmin.reduce(some, axis=0), np.fmax.reduce(some, axis=0)
            step = np.finfo(dtype).eps * np.maximum(np.abs(least), np.abs(most))
            narrow = (most == least) | (most - least < _STEPS * step)
            for at, i in enumerate(open_):
                before = self.columns.get(keys[i])
                is_known = before is not None and before.least == before.most == least[at] == most[at]
                if np.isnan(least[at]) or is_known:
                    continue
                column = None
                if narrow[at]:
                    values = np.unique(some[:, at]) if most[at] > least[at] else least[at : at + 1]
                    values = values[~np.isnan(values)]
                    ends = float(least[at]), float(most[at])
                    column = _Column(*ends, values[:_KEPT], np.unique(values.astype(dtype)), len(values) > _KEPT)
                self._merge_column(keys[i], column)

    def merge(self, other: "RoundedValues") -> None:
        """Add the values of other rows."""
        for key, column in other.columns.items():
            self._merge_column(key, column)

    def _merge_column(self, key: tuple[str, int | None], column: _Column | None) -> None:
        if key in self.columns:
            before = self.columns[key]
            column = None if before is None or column is None else before.merged(column)
        self.columns[key] = column

    def warn(self, tables: Mapping[str, Sequence[str]]) -> None:
        """Warn once about each column that has lost values; ``tables`` are the names of columns by argument."""
        for (name, place), column in self.columns.items():
            if column is None or len(column.rounded) >= len(column.values):
                continue
            before, after = len(column.values), len(column.rounded)
            where = column_in_words(name, place, tables)
            count = f"more than {before}" if column.more else f"{before}"
            lost = "the others" if column.more else f"{before - after}"
            warn(
                f"{where[:1].upper()}{where[1:]} has {count} distinct values, of which {after} remain in "
                f"{column.rounded.dtype}, the type of the device: {lost} are lost, since neighbouring floats of that "
                f"size are {column.step:.3g} apart. Subtract an offset first (seconds since the first one, say), or "
                "enable 64 bits with `jax.config.update('jax_enable_x64', True)`.",
                OutputWarning,
            )
            self.columns[name, place] = None


def column_in_words(name: str, place: int | None, tables: Mapping[str, Sequence[str]]) -> str:
    """Return a column of an argument in words, or the argument if it is a vector."""
    known = tables.get(name, ())
    label = repr(known[place]) if place is not None and place < len(known) else str(place)
    return f"`{name}`" if place is None else f"column {label} of `{name}`"


def record_rounding(array: np.ndarray, name: str) -> None:
    """Record an array of float64 before it is cast, if casts are recorded."""
    recorder = _RECORDER.get()
    if recorder is not None and array.dtype == np.float64 and array.size and array.ndim in (1, 2):
        recorder.add(name, array, np.dtype(jax.dtypes.canonicalize_dtype(np.float64)))


@contextmanager
def warn_if_rounded() -> Iterator[None]:
    """Warn at the end of this block if distinct values became equal in it."""
    found = RoundedValues()
    with found.recording():
        yield
    found.warn({})


def has_nan(rows: np.ndarray) -> bool:
    """Return whether an array of floats has NaN, in a single pass without temporary memory."""
    if rows.dtype.kind != "f" or not rows.size:
        return False
    flat = rows.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):  # squares are not negative, so that infinities do not cancel
        return bool(np.isnan(np.dot(flat, flat)))


@dataclass
class NanCounts:
    """Counts of the rows with NaN, for each column of each argument."""

    found: dict[tuple[str, int | None], tuple[int, int]] = field(default_factory=dict)
    """Name and number of a column to the number of its rows with NaN and the first of them."""

    def add(self, name: str, rows: np.ndarray, first: int = 0) -> None:
        """Count some rows of an argument, which begin with row ``first``."""
        if not has_nan(rows):
            return
        by_column = np.isnan(rows).reshape(len(rows), -1)
        for i in map(int, np.flatnonzero(by_column.any(axis=0))):
            at = first + int(by_column[:, i].argmax())
            self._add((name, None if rows.ndim == 1 else i), int(by_column[:, i].sum()), at)

    def merge(self, other: "NanCounts") -> None:
        """Add the counts of other rows."""
        for key, (count, first) in other.found.items():
            self._add(key, count, first)

    def _add(self, key: tuple[str, int | None], count: int, first: int) -> None:
        before, start = self.found.get(key, (0, first))
        self.found[key] = before + count, min(start, first)

    def describe(self, tables: Mapping[str, Sequence[str]]) -> str:
        """Return the counts in words; ``tables`` are the names of columns by argument."""
        return "; ".join(
            f"{column_in_words(name, place, tables)}: {count} row(s), the first row {first}"
            for (name, place), (count, first) in self.found.items()
        )


@dataclass
class RowFindings:
    """NaN, equal values after rounding, and support by the data of the fit, of rows that were read lazily."""

    nan: NanCounts = field(default_factory=NanCounts)
    rounding: RoundedValues = field(default_factory=RoundedValues)
    support: dict[Any, Any] = field(default_factory=dict)
    """Counts of the rows outside of the data of the fit, by scenario."""

    def merge(self, other: "RowFindings") -> None:
        """Add the findings in other rows."""
        self.nan.merge(other.nan)
        self.rounding.merge(other.rounding)
        for name, counts in other.support.items():
            if name in self.support:
                self.support[name].merge(counts)
            else:
                self.support[name] = counts

"""Counts of NaN in the rows of arguments, and all findings in the rows of a call."""

__all__ = ["NanCounts", "RowFindings", "has_nan"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.data.rounding import RoundedValues, column_in_words


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

"""Counts of NaN in the rows of arguments."""

__all__ = ["NanCounts", "has_nan"]

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


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

    found: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Column, in words, to the number of its rows with NaN and the first of them."""
    ignored: str = ""
    """Argument that is not counted: the output, whose NaN are judged with the likelihood."""

    def add(self, name: str, rows: np.ndarray, first: int = 0, columns: Sequence[str] = ()) -> None:
        """Count some rows of an argument, which begin with row ``first``."""
        if name == self.ignored or not has_nan(rows):
            return
        by_column = np.isnan(rows).reshape(len(rows), -1)
        for i in map(int, np.flatnonzero(by_column.any(axis=0))):
            label = repr(columns[i]) if by_column.shape[1] == len(columns) else str(i)
            text = f"`{name}`" if rows.ndim == 1 else f"column {label} of `{name}`"
            count, start = self.found.get(text, (0, first + int(by_column[:, i].argmax())))
            self.found[text] = count + int(by_column[:, i].sum()), start

    def __str__(self) -> str:
        """Return the counts in words."""
        return "; ".join(
            f"{text}: {count} row(s), the first row {start}" for text, (count, start) in self.found.items()
        )

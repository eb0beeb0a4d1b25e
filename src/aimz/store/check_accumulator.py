"""Store that compares predictions with data as they are streamed."""

__all__ = ["CheckAccumulator"]

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.statistics import PredictiveChecks, with_nan
from aimz.store.base import Group, ResultStore, StorePart


@dataclass(kw_only=True, eq=False)
class CheckAccumulator(ResultStore, StorePart):
    """Adds predictions, data and log densities of the same rows to predictive checks.

    Parts for other processes are accumulators too.
    """

    whole_chunks = False

    checks: PredictiveChecks
    names: tuple[str, ...]
    """Names of the predictions, of the data and, if there are any, of the log densities."""
    row_axes: tuple[int, ...]
    """Row axis of one draw of each of these."""
    may_be_missing: bool
    """Whether the least integer among the predictions represents NaN."""
    codes: np.ndarray | None = None
    """Group of each row from ``first_row`` on; None if all rows are in the same one."""
    first_row: int = 0
    pending: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    """Pieces by first row, until all pieces of the rows are there."""

    def open(self, group: Group) -> None:
        """Return at once: nothing is allocated."""

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Add a piece, with the draws along its first axis."""
        pieces = self.pending.setdefault(start, {})
        pieces[name] = array
        if len(pieces) < len(self.names):
            return
        del self.pending[start]
        drawn, observed, *density = (
            np.moveaxis(pieces[name], 1 + axis, 1) for name, axis in zip(self.names, self.row_axes, strict=True)
        )
        first = start - self.first_row
        codes = None if self.codes is None else self.codes[first : first + drawn.shape[1]]
        drawn = with_nan(drawn) if self.may_be_missing else drawn
        self.checks.add(start, drawn, observed[0], density[0] if density else None, codes)

    def finish(self, length: int) -> None:
        """Return at once: the sums are complete."""

    def part(self, start: int, stop: int, /) -> "CheckAccumulator":
        """Return an accumulator for some of the rows."""
        codes = None if self.codes is None else self.codes[start:stop]
        return replace(self, checks=self.checks.empty(), codes=codes, first_row=start, pending={})

    def payload(self) -> PredictiveChecks:
        """Return the checks of the rows."""
        return self.checks

    def add(self, payload: Any) -> None:
        """Add the checks of other rows."""
        self.checks.merge(payload)

    def read(self, _name: str) -> PredictiveChecks:
        """Return the checks."""
        return self.checks

"""Checks on the host that the indices a kernel computes from its arguments are inside of its tables."""

__all__ = ["BadIndices", "IndexCheck", "IndexChecks", "Source"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.kernel.flat_jaxpr import Conditions, FlatJaxpr, Step, evaluate

type Source = tuple[str, int | None]
"""Name of an input, and the number of its column if a single one is used."""


@dataclass(frozen=True)
class BadIndices:
    """Rows whose index is outside of a table."""

    check: "IndexCheck"
    n_rows: int
    """Number of affected rows."""
    first_row: int
    value: int
    """Index in the first affected row."""

    def merged(self, later: "BadIndices") -> "BadIndices":
        """Return the faults of two ranges of rows together."""
        return replace(self, n_rows=self.n_rows + later.n_rows)


@dataclass(frozen=True)
class IndexCheck:
    """Axis of a table that is indexed by arguments, or by a constant of the kernel."""

    index: int
    """Number of the value that is the index."""
    column: int | None
    """Position along the last axis of the index, or None for all of it."""
    first: int
    last: int
    """Smallest and largest valid index."""
    table: str
    """Description of the table for messages."""
    plate: str | None
    """Name of the plate along the indexed axis, if it is known."""
    sources: frozenset[Source]
    """Inputs that the index is computed from; empty for a constant."""
    row_axis: int | None
    """Axis of the index along the rows."""
    guards: tuple[tuple[int, int], ...] = ()
    """Numbers of predicates, and their value where the looked-up entry is used; it is always used without guards."""
    conditions: Conditions = ()
    """Conditions under which the table is indexed at all, in a branch or a loop."""


@dataclass(frozen=True)
class IndexChecks:
    """All checks of one kernel for one kind of call."""

    flat: FlatJaxpr
    checks: tuple[IndexCheck, ...]
    steps: tuple[Step, ...]
    """Steps that compute the indices and their guards."""
    leaves: tuple[tuple[str, int, int | None], ...]
    """Name, number and row axis of each input that is used."""
    n_rows: int
    """Number of rows of the trace."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the inputs that are read."""
        return frozenset(name for name, _, _ in self.leaves)

    def faults(
        self, inputs: Mapping[str, Any], start: int, stop: int, first_row: int = 0
    ) -> dict[IndexCheck, BadIndices]:
        """Return the rows ``start:stop`` of ``inputs`` with a bad index; their first row has number ``first_row``."""
        found: dict[IndexCheck, BadIndices] = {}
        inputs = {n: np.asarray(value) if isinstance(value, jax.Array) else value for n, value in inputs.items()}
        for begin in range(start, stop, self.n_rows):
            length = min(self.n_rows, stop - begin)
            values = {number: self._piece(inputs[name], axis, begin, length) for name, number, axis in self.leaves}
            evaluate(self.flat, self.steps, values)
            for check in self.checks:
                bad = self._bad_rows(check, values, length, first_row + begin)
                if bad is not None:
                    found[check] = found[check].merged(bad) if check in found else bad
        return found

    def _piece(self, value: Any, axis: int | None, begin: int, length: int) -> np.ndarray:
        """Return as many rows as the trace has; the last one is repeated."""
        if axis is None:
            return np.asarray(value)
        part = slice(begin, begin + length)
        rows = np.asarray(value[part] if axis == 0 else value[(slice(None),) * axis + (part,)])
        short = self.n_rows - length
        return np.pad(rows, [(0, short if i == axis else 0) for i in range(rows.ndim)], mode="edge") if short else rows

    def _value(self, number: int, values: Mapping[int, Any]) -> np.ndarray:
        return np.asarray(values[number] if number in values else self.flat.constants[number])

    def _bad_rows(self, check: IndexCheck, values: dict[int, Any], length: int, first_row: int) -> BadIndices | None:
        conditions = [self._value(number, values) == wanted for number, wanted in check.conditions]
        if not all(condition.any() for condition in conditions):
            return None
        index = self._value(check.index, values)
        index = index if check.column is None else index[..., check.column]
        if not index.size or (index.min() >= check.first and index.max() <= check.last):
            return None
        bad = (index < check.first) | (index > check.last)
        if check.row_axis is None:
            return BadIndices(check, length, first_row, int(index[bad][0]))
        bad, index = (_by_row(array, check.row_axis, length) for array in (bad, index))
        rows = bad.any(1)
        used = np.zeros(length, bool) if check.guards else np.ones(length, bool)
        for predicate, wanted in check.guards:
            chosen = self._value(predicate, values) == wanted
            axis = next((i for i, size in enumerate(chosen.shape) if size == self.n_rows), None)
            used |= chosen.any() if axis is None else _by_row(chosen, axis, length).any(1)
        for condition in conditions:
            used &= condition if condition.ndim == 0 else condition[:length]
        rows &= used
        if not rows.any():
            return None
        first = int(rows.argmax())
        return BadIndices(check, int(rows.sum()), first_row + first, int(index[first][bad[first]][0]))


def _by_row(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Return the first ``length`` rows along ``axis`` as a matrix."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)[:length]

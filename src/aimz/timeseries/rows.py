"""Rows of a call, as the user passed them, and parts of these rows."""

__all__ = ["Rows", "is_wide", "take_rows"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aimz.data import is_batches, open_table
from aimz.engine import KernelEngine, with_outcome


@dataclass(frozen=True)
class Rows:
    """Input, output and further arguments of the kernel, with the names of those that have an axis along time."""

    X: Any
    y: Any
    """Output: an array, the name of a column of ``X``, or None if ``X`` has a column of its name."""
    arguments: Mapping[str, Any]
    by_row: frozenset[str]
    """Names of the further arguments with a value for each row; in wide form, for each step of a row."""
    observed: np.ndarray
    """Values of the output."""
    axis: int = 0
    """Axis along time: 0 if a row belongs to one period, 1 in wide form, where a row is a series."""

    @staticmethod
    def of(engine: KernelEngine, X: Any, y: Any, arguments: Mapping[str, Any], method: str) -> "Rows":
        """Return the rows of a call, after the checks of a fit.

        Raises
        ------
        TypeError
            If the rows come in batches.
        ValueError
            If a row has several outcomes.
        """
        if is_batches(X) and open_table(X, engine.signature.param_input) is None:
            msg = (
                f"`{method}` selects rows by their period, so it needs arrays or a table; got batches of type "
                f"`{type(X).__name__}`. Pass the arrays of the data set."
            )
            raise TypeError(msg)
        engine, opened, values = with_outcome(engine, X, y)
        output = engine.signature.param_output
        call = engine.read_call(opened, arguments, output=values)
        shape, axis = call.arrays[output].shape, int(is_wide(X, y))
        if len(shape) > 1 + axis:
            msg = (
                f"`{method}` needs one outcome in each row; got an output of shape {tuple(shape)}. Pass a row for each "
                "series and period, with the series as `unit` or in `by`, or an input of "
                "shape (n_series, n_steps, ...) with an output of shape (n_series, n_steps)."
            )
            raise ValueError(msg)
        by_row = frozenset(
            name
            for name, array in call.arrays.items()
            if name in arguments and array.ndim > axis and (not axis or array.shape[1] == shape[1])
        )
        if axis:
            return Rows(X, y, dict(arguments), by_row, np.asarray(call.arrays[output]), axis)
        every = np.arange(len(call.arrays[output]))
        kept = {name: take_rows(value, every) if name in by_row else value for name, value in arguments.items()}
        y = y if y is None or isinstance(y, str) else take_rows(y, every)
        return Rows(take_rows(X, every), y, kept, by_row, np.asarray(call.arrays[output]))

    @property
    def n_obs(self) -> int:
        """Number of rows."""
        return len(self.observed)

    @property
    def n_times(self) -> int:
        """Number of rows, or in wide form of steps."""
        return int(self.observed.shape[self.axis])

    @property
    def noun(self) -> str:
        """Word for the entries along time."""
        return "steps of each series" if self.axis else "rows"

    def values(self, index: np.ndarray) -> np.ndarray:
        """Return the output of some rows or steps, as floats."""
        return np.take(self.observed, index, self.axis).astype(np.float64)

    def check_length(self, option: str, labels: np.ndarray | None) -> None:
        """Raise if there is not one label for each row, or one period for each step; None is no labels."""
        steps = option == "period"
        n, what = (self.n_times, self.noun) if steps else (self.n_obs, "rows")
        if labels is not None and len(labels) != n:
            msg = f"`{option}` must have a label for each of the {n:,} {what}; got {len(labels):,}. Pass as many."
            raise ValueError(msg)

    def history(self, param_input: str, param_output: str) -> dict[str, Any]:
        """Return the rows as arguments of the kernel by name."""
        output = {} if self.y is None else {param_output: self.y}
        return {param_input: self.X, **output, **self.arguments}

    def take(self, index: np.ndarray) -> "Rows":
        """Return some of the rows, or of the steps in wide form, by number."""
        take = _take_steps if self.axis else take_rows
        arguments = {
            name: take(value, index) if name in self.by_row else value for name, value in self.arguments.items()
        }
        y = self.y if self.y is None or isinstance(self.y, str) else take(self.y, index)
        observed = np.take(self.observed, index, self.axis)
        return replace(self, X=take(self.X, index), y=y, arguments=arguments, observed=observed)


def is_wide(X: Any, y: Any) -> bool:
    """Return whether a row is a series, with time as the second axis of the input and of the output."""
    shape = () if y is None or isinstance(y, str) else np.shape(y)
    return len(shape) == 2 and tuple(np.shape(X))[:2] == shape


def take_rows(value: Any, index: np.ndarray) -> Any:
    """Return some rows of an array, a list or a table, without row labels; a range of rows is not copied."""
    is_range = len(index) and (np.diff(index) == 1).all()
    at: Any = slice(int(index[0]), int(index[-1]) + 1) if is_range else index
    if hasattr(value, "iloc"):
        return value.iloc[at].reset_index(drop=True)
    if hasattr(value, "isel"):
        dim = value.dims[0] if isinstance(value.dims, tuple) else next(iter(value.data_vars.values())).dims[0]
        return value.isel({dim: at}).drop_vars(dim, errors="ignore")
    if isinstance(value, list | tuple):
        return np.asarray(value)[at]
    if hasattr(value, "column_names") and hasattr(value, "take"):  # a table of PyArrow
        return value.take(index)
    return value[at]


def _take_steps(value: Any, index: np.ndarray) -> Any:
    """Return some steps of an array or a table whose second axis is time."""
    if hasattr(value, "iloc"):
        return value.iloc[:, index]
    if hasattr(value, "isel"):
        return value.isel({value.dims[1]: index})
    if hasattr(value, "get_column") or hasattr(value, "column_names"):  # Polars and PyArrow
        names = value.columns if hasattr(value, "get_column") else value.column_names
        return value.select([names[i] for i in index])
    return np.asarray(value)[:, index]

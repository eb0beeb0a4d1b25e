"""Rows of a call, as the user passed them, and parts of these rows."""

__all__ = ["Rows", "take_rows"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aimz.data import is_batches, open_table
from aimz.engine import KernelEngine, with_outcome


@dataclass(frozen=True)
class Rows:
    """Input, output and further arguments of the kernel, with the names of those that have a row axis."""

    X: Any
    y: Any
    """Output: an array, the name of a column of ``X``, or None if ``X`` has a column of its name."""
    arguments: Mapping[str, Any]
    by_row: frozenset[str]
    """Names of the further arguments with a value for each row."""
    observed: np.ndarray
    """Values of the output."""

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
        shape = call.arrays[output].shape
        if len(shape) > 1:
            msg = (
                f"`{method}` needs one outcome in each row; got an output of shape {tuple(shape)}. Pass a row for each "
                "series and period, with the series as `unit` or in `by`."
            )
            raise ValueError(msg)
        by_row = frozenset(name for name, array in call.arrays.items() if array.ndim and name in arguments)
        every = np.arange(len(call.arrays[output]))
        kept = {name: take_rows(value, every) if name in by_row else value for name, value in arguments.items()}
        y = y if y is None or isinstance(y, str) else take_rows(y, every)
        return Rows(take_rows(X, every), y, kept, by_row, np.asarray(call.arrays[output]))

    @property
    def n_obs(self) -> int:
        """Number of rows."""
        return len(self.observed)

    def check_length(self, option: str, labels: np.ndarray | None) -> None:
        """Raise if there is not one label for each row; None is no labels."""
        if labels is not None and len(labels) != self.n_obs:
            msg = (
                f"`{option}` must have a label for each of the {self.n_obs:,} rows; got {len(labels):,}. Pass as many."
            )
            raise ValueError(msg)

    def history(self, param_input: str, param_output: str) -> dict[str, Any]:
        """Return the rows as arguments of the kernel by name."""
        output = {} if self.y is None else {param_output: self.y}
        return {param_input: self.X, **output, **self.arguments}

    def take(self, index: np.ndarray) -> "Rows":
        """Return some of the rows, by number."""
        arguments = {
            name: take_rows(value, index) if name in self.by_row else value for name, value in self.arguments.items()
        }
        y = self.y if self.y is None or isinstance(self.y, str) else take_rows(self.y, index)
        return replace(self, X=take_rows(self.X, index), y=y, arguments=arguments, observed=self.observed[index])


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

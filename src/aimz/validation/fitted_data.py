"""The rows that a rehearsal fits: separated from the outcome, permuted, and checked."""

__all__ = ["FitRows", "read_rows_of_fit"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aimz.data import column_names, is_batches, open_chunked_table, open_frame
from aimz.engine import KernelEngine
from aimz.methods import FittedRows
from aimz.utils.data import ArrayDataset, ArrayLoader


@dataclass(frozen=True)
class FitRows:
    """Input and further arguments of a fit, without the outcome."""

    X: Any
    arguments: Mapping[str, Any]
    param_input: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the input; empty if they have no names."""
        return tuple(column_names(self.X, self.param_input) or ())

    def get(self, name: str) -> np.ndarray | None:
        """Return an argument or a column with one value for each row; None if there is none of that name."""
        if name in self.arguments:
            return np.asarray(self.arguments[name])
        if name in self.columns:
            frame = _frame(self.X)
            return np.asarray(self.X[name]) if frame is None else frame[name].to_numpy()
        return np.asarray(self.X) if name == self.param_input and not self.columns else None

    def moved(self, names: Sequence[str], order: np.ndarray) -> "FitRows":
        """Return rows with the values of some arguments or columns in another order."""
        X, arguments = self.X, dict(self.arguments)
        for name in names:
            if name in arguments:
                arguments[name] = _in_order(arguments[name], order)
            elif name in self.columns:
                X = _with_moved_column(X, name, order)
            else:
                X = np.asarray(X)[order]
        return replace(self, X=X, arguments=arguments)


def read_rows_of_fit(rows: FittedRows, engine: KernelEngine, method: str) -> FitRows:
    """Return the rows of a fit without the outcome.

    Raises
    ------
    TypeError
        If the rows are a table that is read in chunks, or batches.
    """
    X, arguments = rows.X, dict(rows.arguments)
    names = engine.signature.param_input, engine.signature.param_output
    if isinstance(X, ArrayLoader):
        X = X.dataset
    if isinstance(X, ArrayDataset):
        fields = dict(engine.parameters.by_parameter(X.labelled))
        X = fields.pop(names[0])
        fields.pop(names[1], None)
        return FitRows(X, {**fields, **arguments}, names[0])
    if open_chunked_table(X, engine.parameters) is not None or is_batches(X):
        msg = (
            f"`{method}` fits the same rows with other outcomes, for which the input must be separate from the "
            f"outcome; got a {type(X).__name__}, which is read in chunks. Pass a table in memory, or arrays (also in "
            "files)."
        )
        raise TypeError(msg)
    for outcome in {engine.parameters.outcome, names[1]} & set(column_names(X, names[0]) or ()):
        X = _without_column(X, str(outcome))
    return FitRows(X, arguments, names[0])


def _frame(X: Any) -> Any:
    """Return a data frame of Narwhals; None for other tables."""
    return open_frame(X, "X")


def _without_column(X: Any, name: str) -> Any:
    """Return a table without one of its columns."""
    frame = _frame(X)
    if frame is not None:
        return frame.drop(name).to_native()
    return X.drop_vars(name) if hasattr(X, "data_vars") else X.drop_sel({X.dims[1]: name})


def _with_moved_column(X: Any, name: str, order: np.ndarray) -> Any:
    """Return a table with the values of a column in another order."""
    frame = _frame(X)
    if frame is not None:
        if hasattr(X, "iloc"):
            return X.assign(**{name: _in_order(X[name], order)})
        return frame.with_columns(frame[name][order.tolist()].alias(name)).to_native()
    if hasattr(X, "data_vars"):
        return X.assign({name: (X[name].dims, np.asarray(X[name])[order])})
    values, place = np.array(X), [str(label) for label in X.indexes[X.dims[1]]].index(name)
    values[:, place] = values[order, place]
    return X.copy(data=values)


def _in_order(values: Any, order: np.ndarray) -> Any:
    """Return the values of an argument in another order, in an object of the same kind."""
    if hasattr(values, "iloc"):
        return values.iloc[order].set_axis(values.index)
    if isinstance(values, list | tuple):
        return type(values)(values[i] for i in order)
    return values[order]

"""Check that the input has rows of the known shape, and does not have the outcome among its columns."""

__all__ = ["check_input", "check_outcome_not_in_input", "check_row_shape"]

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

_MIN_ROWS = 20
"""Least number of rows for which a column that equals the outcome is no coincidence, even if both are 0 or 1."""
_FIRST_ROWS = 1024
"""Number of rows that are compared first; the others are read only if all of them are equal."""


def check_input(X: Any, name: str) -> None:
    """Raise ``TypeError`` if the input is None, a path or a mapping."""
    if X is None:
        msg = f"`{name}` must be an array; got None. Pass it, as an argument or as a field of the batches."
        raise TypeError(msg)
    if isinstance(X, str | PathLike):
        msg = (
            f"`{name}` must be an array or a table; got the text {str(X)!r}. Read the file with `pandas.read_csv`, or "
            "open it with `pyarrow.dataset.dataset(path)` to read it in pieces."
        )
        raise TypeError(msg)
    if isinstance(X, dict):  # a data set of xarray is a mapping, too
        msg = (
            f"`{name}` must be an array or a table; got a mapping with {', '.join(map(repr, X)) or 'no entry'}. Pass "
            f"`pandas.DataFrame({name})`."
        )
        raise TypeError(msg)


def check_row_shape(name: str, shape: tuple[int, ...], fitted: tuple[int, ...] | None) -> None:
    """Raise ``ValueError`` if a row of the input has another shape than in the fit."""
    if fitted is None or shape == fitted:
        return
    msg = (
        f"`{name}` must have the shape {('n_obs', *fitted)}, as in the fit; got {('n_obs', *shape)}. Pass the "
        "columns that the model was fitted with, in the same order."
    ).replace("'n_obs'", "n_obs")
    raise ValueError(msg)


def check_outcome_not_in_input(
    X: Any, y: Any, names: tuple[str, str], columns: Sequence[str] = (), label: object = None
) -> None:
    """Raise ``ValueError`` if a column of the input is the outcome: it has its label, or equal values."""
    place = columns.index(label) if isinstance(label, str) and label in columns else None
    reason = "has the name of"
    if place is None:
        place, reason = _equal_column(X, y), f"equals, in all {y.shape[0]} rows,"
    if place is None:
        return
    column = repr(columns[place]) if columns else str(place)
    how = (
        f"`{names[0]}.drop(columns={columns[place]!r})`" if columns else f"`numpy.delete({names[0]}, {place}, axis=1)`"
    )
    msg = (
        f"`{names[0]}` must not contain the outcome; its column {column} {reason} `{names[1]}`, so that the outcome "
        f"would be predicted from itself. Pass {how}."
    )
    raise ValueError(msg)


def _equal_column(X: Any, y: Any) -> int | None:
    """Return the position of a column of a matrix that equals a vector which is not constant; None if there is none."""
    if len(X.shape) != 2 or X.shape[1] < 2 or len(y.shape) != 1 or X.shape[0] < _MIN_ROWS:
        return None
    if any(getattr(array, "from_batches", False) for array in (X, y)):
        return None  # the rows are read once, when they are needed
    equal, varies, start, stop = np.ones(X.shape[1], bool), False, 0, _FIRST_ROWS
    first = np.asarray(y[:1])
    while start < X.shape[0] and equal.any():
        outcome = np.asarray(y[start:stop])
        varies = varies or bool((outcome != first).any())
        equal &= (np.asarray(X[start:stop]) == outcome[:, None]).all(axis=0)
        start, stop = stop, stop + 2**20
    return int(equal.argmax()) if equal.any() and varies else None

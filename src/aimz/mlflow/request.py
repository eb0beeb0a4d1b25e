"""The rows of a request, filled up and taken back."""

__all__ = ["Request", "read_request"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from aimz.model import ImpactModel


@dataclass(frozen=True)
class Request:
    """The arguments of a prediction."""

    param_input: str
    given: Any
    """Frame or array of the input."""
    further: Mapping[str, Any]
    """Further arguments that have rows."""
    static: Mapping[str, Any]
    n_rows: int
    index: Any
    places: np.ndarray | None = None
    """Which rows stand where, once they are filled up."""
    has_rows: Callable[[str], bool] = lambda _: True
    """Whether values of an intervention belong to rows."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the kernel by name."""
        rows = {self.param_input: self.given, **self.further}
        return {**{name: self._taken(value) for name, value in rows.items()}, **self.static}

    def scenario(self, intervention: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return an intervention with as many values as there are rows."""
        if intervention is None or self.places is None:
            return None if intervention is None else dict(intervention)

        def fit(name: str, value: Any) -> Any:
            mine = np.ndim(value) and len(value) == self.n_rows and self.has_rows(name)
            return self._taken(value) if mine else value

        return {name: fit(name, value) for name, value in intervention.items()}

    def filled(self, length: int, has_rows: Callable[[str], bool]) -> "Request":
        """Return the request with its last row repeated until there are so many."""
        if length == self.n_rows:
            return self
        return replace(self, places=np.minimum(np.arange(length), self.n_rows - 1), has_rows=has_rows)

    def _taken(self, rows: Any) -> Any:
        if self.places is None:
            return rows
        if isinstance(rows, pd.DataFrame):
            return rows.take(self.places).reset_index(drop=True)
        return rows[self.places]


def read_request(given: Any, model: ImpactModel, static: Mapping[str, Any]) -> Request:
    """Sort what a request holds.

    Raises
    ------
    ValueError
        If there are no rows, arrays are not of one length, or the input is missing.
    """
    name = model.param_input
    if isinstance(given, pd.Series):
        given = given.to_frame()
    if isinstance(given, Mapping) and name not in given and all(np.ndim(v) == 1 for v in given.values()) and given:
        given = pd.DataFrame(dict(given))
    if isinstance(given, Mapping):
        return _of_mapping(given, name, static)
    frame = given if isinstance(given, pd.DataFrame) else _array(given, name)
    if not len(frame):
        msg = f"`{name}` must have at least one row; got none. Send one line for each row to be answered."
        raise ValueError(msg)
    if isinstance(frame, pd.DataFrame):
        return Request(name, frame.reset_index(drop=True), {}, static, len(frame), frame.index)
    return Request(name, frame, {}, static, len(frame), None)


def _of_mapping(given: Mapping[str, Any], name: str, static: Mapping[str, Any]) -> Request:
    if name not in given:
        msg = f"The request must hold `{name}`; got {', '.join(map(repr, given)) or 'nothing'}. Send it by that name."
        raise ValueError(msg)
    arrays = {key: _array(value, key) for key, value in given.items() if np.ndim(value)}
    plain = {key: value for key, value in given.items() if key not in arrays}
    lengths = {key: len(array) for key, array in arrays.items()}
    if name not in arrays or 0 in lengths.values() or len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{key}`: {length}" for key, length in lengths.items())
        msg = f"Arrays must have the same number of rows, at least one; got {listed}. Send one entry for each row."
        raise ValueError(msg)
    rows = arrays.pop(name)
    return Request(name, rows, arrays, {**static, **plain}, len(rows), None)


def _array(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        msg = f"`{name}` must be an array; got rows of different lengths. Send lists of one length."
        raise ValueError(msg) from error
    if array.dtype.kind not in "biuf":
        msg = f"`{name}` must be numeric; got {array.dtype}. Send numbers."
        raise TypeError(msg)
    return array

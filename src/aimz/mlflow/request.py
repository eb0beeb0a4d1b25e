"""Parameters and rows of a request to a served model."""

__all__ = ["DEFAULT_STATISTICS", "RequestParameters", "RequestRows", "read_parameters", "read_rows"]

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from aimz.model import ImpactModel
from aimz.statistics import read_statistics

DEFAULT_STATISTICS = '["mean", "sd", 0.05, 0.5, 0.95]'
_KNOWN = ("statistics", "intervention", "baseline", "num_samples", "seed", "arguments")


@dataclass(frozen=True)
class RequestParameters:
    """Checked parameters of a request."""

    statistics: tuple[Any, ...]
    """Statistics as :meth:`ImpactModel.predict` takes them."""
    intervention: dict[str, Any] | None
    """Intervention to predict under."""
    baseline: dict[str, Any] | None
    """Intervention to compare with; None predicts instead of estimating an effect."""
    num_samples: int | None
    """Number of posterior draws to use; None for all."""
    seed: int
    """Seed of the PRNG key."""
    arguments: Mapping[str, Any]
    """Arguments of the kernel without rows, used in place of the arguments of the fit."""


def read_parameters(params: Mapping[str, Any] | None) -> RequestParameters:
    """Check the parameters of a request, which are numbers and JSON.

    Raises
    ------
    TypeError, ValueError
        If one is unknown, is not valid JSON, or has the wrong type.
    """
    given = {name: value for name, value in (params or {}).items() if value is not None}
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        msg = f"`params` got {unknown[0]!r}, which is not a parameter of this model. Known: {', '.join(_KNOWN)}."
        raise ValueError(msg)
    example = 'a list, as in ["mean", "sd", 0.05, 0.95]'
    statistics = _parse_json("statistics", given.get("statistics", DEFAULT_STATISTICS), list, example)
    read_statistics(statistics)
    num_samples = given.get("num_samples")
    return RequestParameters(
        tuple(statistics),
        _parse_by_name("intervention", given, '{"price": 1.2}'),
        _parse_by_name("baseline", given, '{"price": 1.2}'),
        None if num_samples is None else _read_integer("num_samples", num_samples, 1),
        _read_integer("seed", given.get("seed", 0), 0),
        _parse_by_name("arguments", given, '{"n_groups": 6}') or {},
    )


def _parse_json(name: str, value: Any, kind: type, expected: str) -> Any:
    """Return a JSON text as an object; an object that is not a text is checked only."""
    parsed = value
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError as error:
            msg = f"`{name}` must be JSON; got {value!r}, which is not ({error}). Send {expected}."
            raise ValueError(msg) from error
    if not isinstance(parsed, kind):
        msg = f"`{name}` must be JSON of {expected}; got {value!r}. Send it as a string."
        raise TypeError(msg)
    return parsed


def _parse_by_name(name: str, given: Mapping[str, Any], example: str) -> dict[str, Any] | None:
    """Return values by name, whose lists are arrays, or None."""
    if given.get(name) in (None, ""):
        return None
    parsed = _parse_json(name, given[name], dict, f"names and values, as in {example}")
    return {site: np.asarray(value) if isinstance(value, list) else value for site, value in parsed.items()}


def _read_integer(name: str, value: Any, least: int) -> int:
    """Check that a value is an integer of 64 bits and at least ``least``."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or value >= 2**63:
        msg = f"`{name}` must be an integer of at least {least}; got {value!r}. Omit it for the default."
        raise ValueError(msg)
    return int(value)


@dataclass(frozen=True)
class RequestRows:
    """Rows of a request, as arguments of the kernel."""

    by_row: Mapping[str, Any]
    """Argument name to a frame or an array with an entry for each row."""
    static: Mapping[str, Any]
    """Argument name to a value without rows."""
    n_rows: int
    """Number of rows in the request, not counting padding."""
    index: Any = None
    """Index of the response; None counts the rows."""

    def with_arguments(self, arguments: Mapping[str, Any]) -> "RequestRows":
        """Return a copy with other values of arguments without rows; raise ``ValueError`` if one has rows."""
        twice = sorted(arguments.keys() & self.by_row.keys())
        if twice:
            msg = f"`{twice[0]}` must be given once; it has rows and is among `arguments`. Leave one out."
            raise ValueError(msg)
        return replace(self, static={**self.static, **arguments})

    def padded(self, length: int) -> "RequestRows":
        """Return a copy in which the last row is repeated, up to ``length`` rows."""
        if length == self.n_rows:
            return self
        return replace(self, by_row={name: _pad(value, length) for name, value in self.by_row.items()})

    def pad_intervention(
        self, intervention: Mapping[str, Any] | None, has_rows: Callable[[str], bool]
    ) -> dict[str, Any] | None:
        """Return an intervention whose values by row are padded as the rows are."""
        if intervention is None:
            return None
        length = len(next(iter(self.by_row.values())))
        return {
            name: _pad(value, length) if np.ndim(value) and len(value) == self.n_rows and has_rows(name) else value
            for name, value in intervention.items()
        }


def _pad(values: Any, length: int) -> Any:
    """Return a frame or an array whose last row is repeated, up to ``length`` rows."""
    positions = np.minimum(np.arange(length), len(values) - 1)
    if isinstance(values, pd.DataFrame):
        return values.take(positions).reset_index(drop=True)
    return values[positions]


def read_rows(given: Any, model: ImpactModel, static: Mapping[str, Any], dtypes: Mapping[str, str]) -> RequestRows:
    """Split the input of a request into arguments with and without rows, in the dtypes of the fit.

    Raises
    ------
    TypeError, ValueError
        If there are no rows, arrays differ in length or are not numeric, or the input is missing.
    """
    name = model.param_input
    if isinstance(given, pd.Series):
        given = given.to_frame()
    if isinstance(given, Mapping) and given and name not in given and all(np.ndim(v) == 1 for v in given.values()):
        given = pd.DataFrame(dict(given))
    if isinstance(given, Mapping):
        return _read_arguments(given, name, static, dtypes)
    rows = _read_frame(given, dtypes) if isinstance(given, pd.DataFrame) else _read_array(given, name, dtypes)
    if not len(rows):
        msg = f"`{name}` must have at least one row; got none. Send one line for each prediction."
        raise ValueError(msg)
    if isinstance(rows, pd.DataFrame):
        return RequestRows({name: rows.reset_index(drop=True)}, static, len(rows), rows.index)
    return RequestRows({name: rows}, static, len(rows))


def _read_arguments(
    given: Mapping[str, Any], name: str, static: Mapping[str, Any], dtypes: Mapping[str, str]
) -> RequestRows:
    """Read a request that has the arguments of the kernel by name."""
    if name not in given:
        msg = f"The request must have `{name}`; got {', '.join(map(repr, given)) or 'nothing'}. Send it by that name."
        raise ValueError(msg)
    arrays = {key: _read_array(value, key, dtypes) for key, value in given.items() if np.ndim(value)}
    lengths = {key: len(array) for key, array in arrays.items()}
    if name not in arrays or 0 in lengths.values() or len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{key}`: {length}" for key, length in lengths.items())
        msg = f"Arrays must have the same number of rows, at least one; got {listed}. Send one entry for each row."
        raise ValueError(msg)
    plain = {key: value for key, value in given.items() if key not in arrays}
    return RequestRows(arrays, {**static, **plain}, lengths[name])


def _read_array(value: Any, name: str, dtypes: Mapping[str, str]) -> np.ndarray:
    """Return a numeric array in the dtype of the schema, if that is int64 or float64 and keeps the values."""
    try:
        array = np.asarray(value)
        array = np.asarray(array.tolist()) if array.dtype.kind == "O" else array  # numbers of a JSON request
        if array.dtype.kind == "O" and all(cell is None or isinstance(cell, int | float) for cell in array.flat):
            array = array.astype(np.float64)  # null is a missing value, as it is in a data frame
    except ValueError as error:
        msg = f"`{name}` must be an array; got rows of different lengths. Send lists of equal length."
        raise ValueError(msg) from error
    if dtypes.get(name) == "object" and array.ndim == 1:
        return array.astype(object)  # categories, which the model encodes
    if array.dtype.kind not in "biuf":
        msg = f"`{name}` must be numeric; got {array.dtype}. Send numbers."
        raise TypeError(msg)
    return _as_in_fit(array, dtypes.get(name))


def _read_frame(frame: pd.DataFrame, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Return a frame whose numeric columns have the dtypes of the schema, if these keep the values."""
    if not frame.columns.is_unique:
        return frame
    known = [name for name in dtypes if name in frame.columns and isinstance(frame[name].dtype, np.dtype)]
    return frame.assign(**{name: _as_in_fit(frame[name].to_numpy(), dtypes[name]) for name in known})


def _as_in_fit(array: np.ndarray, dtype: str | None) -> np.ndarray:
    """Return integers as floats if the fit had floats, and whole floats as integers if the fit had integers."""
    if dtype == "float64" and array.dtype.kind in "iu":
        return array.astype(np.float64)
    if dtype == "int64" and array.dtype.kind == "f" and (array == np.round(array)).all() and _fits(array):
        return array.astype(np.int64)
    return array


def _fits(array: np.ndarray) -> bool:
    """Return whether all floats are exact integers of 64 bits."""
    return bool((np.abs(array) <= 2**53).all())

"""Arguments of one call of a kernel, checked and sorted into arrays and static values."""

__all__ = ["KernelArguments", "check_aligned", "check_input", "check_row_shape", "read_call", "read_rows"]

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np

from aimz.data.arrays import check_array, fingerprint, is_array
from aimz.data.axis_labels import AxisLabels
from aimz.data.categories import Categories, categories_of
from aimz.data.dataframes import index_of
from aimz.data.lazy_arrays import LazyArray
from aimz.data.row_findings import RoundedValues
from aimz.data.row_readers import RowReader, open_rows
from aimz.data.tables import matrix_or_value, table_columns

_MIN_ROWS = 20
"""Least number of rows for which a column that equals the outcome is no coincidence, even if both are 0 or 1."""
_FIRST_ROWS = 1024
"""Number of rows that are compared first; the others are read only if all of them are equal."""


@dataclass(frozen=True)
class KernelArguments:
    """Checked arguments of one call of the kernel."""

    arrays: dict[str, Any]
    """Arrays, or readers of their rows (:class:`RowReader`), with the rows along the first axis, and 0-d arrays."""
    static: dict[str, object] = field(default_factory=dict)
    """Arguments that are not arrays, which the kernel receives unchanged, and arrays without a row axis."""
    n_obs: int = 0
    """Number of rows."""
    columns: tuple[str, ...] = ()
    """Names of the columns of the input; empty unless it is a table."""
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the columns of each argument that is a table."""
    index: Any = None
    """Labels of the rows of the input, a :class:`pandas.Index`; None without labels."""
    axes: Mapping[str, AxisLabels] = field(default_factory=dict)
    """Names and labels of the axes of each argument that is an xarray array."""
    categories: Mapping[str, Categories] = field(default_factory=dict)
    """Categories of each argument that is text or categorical: of the fit, then new ones."""

    def without(self, name: str) -> "KernelArguments":
        """Return the call without the array ``name``."""
        return replace(self, arrays={k: v for k, v in self.arrays.items() if k != name})

    def fingerprint(self, name: str) -> str:
        """Return a digest of an array's shape and values, which does not depend on its dtype."""
        array = self.arrays[name]
        return read_rows(array, name).digest if array.ndim else fingerprint([np.asarray(array)])

    @cached_property
    def rows(self) -> dict[str, RowReader]:
        """Readers of the arrays that have a row axis."""
        return {name: open_rows(array) for name, array in self.arrays.items() if array.ndim}

    @property
    def batch_fields(self) -> frozenset[str]:
        """Names of the arrays whose rows are supplied by batches."""
        return frozenset(name for name, rows in self.rows.items() if rows.from_batches)


def read_rows(value: Any, name: str) -> Any:
    """Return a reader of an array that was not checked, or the reader that ``value`` is."""
    return value if isinstance(value, RowReader) else LazyArray(value, name)


def _list_as_rows(value: Any, n_obs: int | None) -> Any:
    """Return a list of ``n_obs`` numbers (of any length if None) as an array, and anything else unchanged."""
    if not isinstance(value, list | tuple) or n_obs not in (None, len(value)):
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # ragged, or not numbers
        return value
    return array if array.dtype.kind in "biufc" else value


def read_call(
    required: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    in_parts: bool = False,
    known: Mapping[str, tuple[str, ...]] | None = None,
    index: Any = None,
    whole: Container[str] = (),
    by_row: Container[str] = (),
    unchanged: Container[str] = (),
) -> KernelArguments:
    """Check the arguments of a call, and sort them into arrays and static values.

    Parameters
    ----------
    required : mapping of str to array_like
        The input first, then the output if the method takes it.
    extra : mapping of str to object
        Other arguments of the kernel.  Arrays, and lists of numbers with one entry for each row, must be aligned with
        the rows; anything else (numbers, strings, other lists, None) is passed to the kernel unchanged.
    in_parts : bool
        Whether rows are read when they are needed, so that no array is loaded or converted as a whole.
    known : mapping of str to tuple of str, optional
        Columns of arguments that are tables, in order, if a fit has determined them.
    index : pandas.Index, optional
        Labels of the rows, for an input that has lost them.
    whole : container of str
        Names of arrays without a row axis, which are passed to the kernel whole.
    by_row, unchanged : container of str
        Names of arguments that were arrays with rows, or no arrays, in an earlier call.

    Raises
    ------
    TypeError, ValueError
        If an array is empty, 0-d or not numeric, if a value does not fit the dtype of the device, or if lengths
        differ.
    """
    input_ = next(iter(required))
    index = index_of(required[input_]) if index is None else index
    label = getattr(list(required.values())[-1], "name", None)
    check_aligned({**required, **extra}, {input_: index})
    given = {name: matrix_or_value(value, name, known or {}) for name, value in {**required, **extra}.items()}
    tables = table_columns(given)
    rounded = RoundedValues()
    with rounded.recording():
        given = {name: np.asarray(value) if name in tables and not in_parts else value for name, value in given.items()}
        required, extra = {name: given[name] for name in required}, {name: given[name] for name in extra}
        arrays = _read_required(required, in_parts=in_parts)
        for name, value in extra.items():
            if name not in unchanged and name not in whole:
                extra[name] = _list_as_rows(value, None if name in by_row else arrays[input_].shape[0])
        further, static = _sort_further(extra, in_parts=in_parts, whole=whole)
        arrays |= further
        for array in arrays.values():  # rows that are read lazily are judged when all of them have been read
            if isinstance(array, LazyArray) and not array.is_lazy:
                rounded.merge(array.rounding)
                array.rounding.columns.clear()
    rounded.warn(tables)
    lengths = {name: array.shape[0] for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
        msg = (
            f"Arrays must have the same number of rows (length of the first axis); got {listed}. Let the "
            "kernel close over an array without a row axis (a table per group, say)."
        )
        raise ValueError(msg)
    n_obs = next(iter(lengths.values()))
    if n_obs == 0:
        msg = f"{' and '.join(f'`{name}`' for name in lengths)} must not be empty; got no rows."
        raise ValueError(msg)
    for name in list(required)[1:]:
        columns = tables.get(input_, ())
        check_outcome_not_in_input(arrays[input_], arrays[name], (input_, name), columns, label)
    columns = tables.get(input_, ())
    return KernelArguments(arrays, static, n_obs, columns, tables, index, categories=categories_of(given))


def _read_required(required: Mapping[str, Any], *, in_parts: bool) -> dict[str, Any]:
    """Return the input, and the output if there is one, as arrays or readers of their rows."""
    arrays: dict[str, Any] = {}
    for name, value in required.items():
        if value is None:
            msg = f"`{name}` must be an array; got None. Pass it, as an argument or as a field of the batches."
            raise TypeError(msg)
        arrays[name] = read_rows(value, name) if in_parts else check_array(value, name)
        if arrays[name].ndim == 0:
            msg = f"`{name}` must have a row axis; got a 0-d array. Pass an array of shape (n_obs, ...)."
            raise ValueError(msg)
    return arrays


def _sort_further(
    extra: Mapping[str, Any], *, in_parts: bool, whole: Container[str]
) -> tuple[dict[str, Any], dict[str, object]]:
    """Return further arguments as arrays and as static values.

    Zero-dimensional integers become Python integers, since a kernel may use them as sizes, which are static in a
    compiled program.
    """
    arrays: dict[str, Any] = {}
    static: dict[str, object] = {}
    for name, value in extra.items():
        if isinstance(value, complex):
            check_array(value, name)
        if name in whole and is_array(value):
            static[name] = jnp.asarray(check_array(value, name))
        elif isinstance(value, np.generic):
            static[name] = value.item()
        elif not is_array(value):
            static[name] = value
        else:
            array: Any = read_rows(value, name) if in_parts and np.ndim(value) else check_array(value, name)
            is_integer = array.ndim == 0 and array.dtype.kind in "iub"
            (static if is_integer else arrays)[name] = array.item() if is_integer else array
    return arrays, static


def check_aligned(given: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> None:
    """Raise ``ValueError`` if labelled arrays have different labels: rows are matched by position.

    ``known`` has the labels of arrays that have lost them.
    """
    labels = {name: index_of(value) for name, value in given.items() if value is not None} | dict(known or {})
    labelled = {name: index for name, index in labels.items() if index is not None}
    name = next(iter(labelled), "")
    for other, index in labelled.items():
        if len(index) == len(labelled[name]) and not index.equals(labelled[name]):
            msg = (
                f"`{other}` has another index than `{name}`, but rows are matched by position. Put both in the same "
                "order, or pass the values alone."
            )
            raise ValueError(msg)


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
        start, stop = stop, stop + 2**16
    return int(equal.argmax()) if equal.any() and varies else None

"""Tables: columns that share their rows, in memory or not, and how they become the arguments of a kernel."""

__all__ = ["KernelParameters", "Matrix", "Table", "match_columns", "named_columns", "open_table"]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np

from aimz.data.arrays import read_array
from aimz.data.dataframes import (
    HOW_TO_ENCODE,
    check_whole,
    column_values,
    index_of,
    is_plain_range,
    open_frame,
    unfit_columns,
)


class Table(ABC):
    """Columns with a name each."""

    names: tuple[str, ...]
    index: Any = None
    """Labels of the rows, if there are any."""
    is_lazy = False
    """Whether the columns are read when they are needed."""

    @abstractmethod
    def column(self, name: str, of: str) -> Any:
        """Return a column as an array of which rows can be taken; ``of`` is what to call the table in an error."""

    @abstractmethod
    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return which columns cannot be part of a matrix, with what they hold."""

    def labels(self, name: str) -> Any:
        """Return a column as it is, to tell groups by."""
        return self.column(name, "X")

    def matrix(self, names: Sequence[str], of: str) -> "Matrix":
        """Return columns side by side.

        Raises
        ------
        TypeError
            If one is not numeric.
        """
        unfit = self.unfit(names)
        if unfit:
            listed = ", ".join(f"{name!r} ({kind})" for name, kind in unfit.items())
            msg = f"The columns of `{of}` must be numeric; got {listed}. {HOW_TO_ENCODE} Or leave them out."
            raise TypeError(msg)
        return Matrix({name: self.column(name, of) for name in names}, of, index=self.index, is_lazy=self.is_lazy)


class Matrix:
    """Columns side by side, of shape ``(n_obs, n_columns)``.

    Parameters
    ----------
    columns : mapping of str to array_like
        Arrays of shape ``(n_obs,)``.
    name : str
        What to call the whole in an error.
    index : pandas.Index, optional
        Labels of the rows.
    is_lazy : bool
        Whether the columns are read when they are needed.
    """

    ndim = 2
    whole: Any = None
    """The array that the columns were taken from, if they are all from one."""
    places: Sequence[int] = ()
    """Which columns of it they are."""

    def __init__(self, columns: Mapping[str, Any], name: str, *, index: Any = None, is_lazy: bool = False) -> None:
        self.columns = tuple(columns)
        self.index = index
        self.is_lazy = is_lazy
        self.chunks = getattr(next(iter(columns.values())), "chunks", None)
        self.parts = dict(columns)
        self.name = name
        lengths = {column: int(array.shape[0]) for column, array in columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{column!r}: {length}" for column, length in lengths.items())
            msg = f"The columns of `{name}` must have the same number of rows; got {listed}. Drop what is no column."
            raise ValueError(msg)
        self.shape = (next(iter(lengths.values())), len(columns))
        kinds = [self._checked(column, array[0:0]).dtype for column, array in columns.items()]
        self.dtype = np.dtype(reduce(jnp.promote_types, kinds))

    def __getitem__(self, rows: slice) -> np.ndarray:
        given = [self.parts[column][rows] for column in self.columns]
        if any(hasattr(part, "__dask_graph__") for part in given):
            from dask.base import compute

            given = compute(*given)  # together, since what they are made of may be the same
        parts = [self._checked(column, part) for column, part in zip(self.columns, given, strict=True)]
        whole = np.empty((len(parts[0]), len(parts)), self.dtype)
        for i, part in enumerate(parts):
            whole[:, i] = part
            if part.dtype.kind in "iu" and self.dtype.kind == "f":
                check_whole(part, self.dtype, f"The column {self.columns[i]!r} of `{self.name}`")
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        return np.asarray(self[slice(None)], dtype)

    def _checked(self, column: str, part: Any) -> np.ndarray:
        return np.asarray(read_array(np.asarray(part), f"{self.name}[{column!r}]"))


class _Frame(Table):
    """A data frame in memory."""

    def __init__(self, frame: Any, index: Any) -> None:
        self._columns = {str(column): frame.get_column(column) for column in frame.columns}
        self.names = tuple(self._columns)
        self.index = index

    def column(self, name: str, of: str) -> np.ndarray:
        return column_values(self._columns[name], f"{of}[{name!r}]")

    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        return unfit_columns({name: self._columns[name].dtype for name in names})

    def labels(self, name: str) -> Any:
        return self._columns[name].to_native()


class _Arrays(Table):
    """Arrays by name, which may be read when they are needed: a data set of xarray, a group of Zarr."""

    def __init__(self, arrays: Mapping[str, Any], index: Any = None) -> None:
        self._arrays = arrays
        self.names = tuple(arrays)
        self.index = index
        self.is_lazy = not all(_in_memory(array) for array in arrays.values())

    def column(self, name: str, of: str) -> Any:  # noqa: ARG002
        return self._arrays[name]

    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        def kind(array: Any) -> str | None:
            if len(array.shape) != 1:
                return f"shape {tuple(array.shape)}"
            return None if np.dtype(array.dtype).kind in "biuf" else str(array.dtype)

        first = getattr(self._arrays[names[0]], "dims", None) if names else None
        kinds = {name: kind(self._arrays[name]) for name in names}
        other = {name: getattr(self._arrays[name], "dims", None) for name in names}
        if first:
            kinds |= {n: f"along {dims[0]!r}, not {first[0]!r}" for n, dims in other.items() if dims and dims != first}
        return {name: found for name, found in kinds.items() if found is not None}


class _Named(Table):
    """A matrix whose columns have names."""

    def __init__(self, array: Any, names: Sequence[Any]) -> None:
        self._array = array
        self.names = tuple(map(str, names))
        self.index = index_of(array)
        self.is_lazy = not _in_memory(array)

    def column(self, name: str, of: str) -> Any:  # noqa: ARG002
        return self._array[:, self.names.index(name)]

    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        numeric = np.dtype(self._array.dtype).kind in "biuf"
        return {} if numeric else dict.fromkeys(names, str(self._array.dtype))

    def matrix(self, names: Sequence[str], of: str) -> "Matrix":
        super().matrix(names, of)  # for what it refuses
        return _Picked(self, self._array, names)


class _Picked(Matrix):
    """Columns of a matrix, whose rows are read once for all of them."""

    def __init__(self, table: Table, array: Any, names: Sequence[str]) -> None:
        self.columns, self.index, self.is_lazy = tuple(names), table.index, table.is_lazy
        self.shape, self.dtype = (int(array.shape[0]), len(names)), np.dtype(array.dtype)
        self.chunks = getattr(array, "chunks", None)
        self.whole = array
        self.places = [table.names.index(name) for name in names]

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = np.asarray(self.whole[rows])
        return part if self.places == list(range(part.shape[1])) else part[:, self.places]


def _in_memory(array: Any) -> bool:
    """Whether an array's numbers are at hand."""
    return isinstance(getattr(getattr(array, "variable", array), "_data", array), np.ndarray)


def open_table(value: Any, name: str) -> Table | None:
    """Return a table for a data frame, a data set of xarray, an array with labelled columns, or a group of Zarr.

    None for anything else: arrays, batches.

    Raises
    ------
    ValueError
        If columns have one name.
    """
    if isinstance(value, Table):
        return value
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    if kind == "zarr.Group":
        return _Arrays(dict(value.arrays()))
    if kind == "xarray.Dataset":
        first = next(iter(value.data_vars.values()), None)
        index = None if first is None or not first.dims else value.indexes.get(first.dims[0])
        return _Arrays({str(n): array for n, array in value.data_vars.items()}, index)
    if kind == "xarray.DataArray":
        labels = value.indexes.get(value.dims[1]) if value.ndim == 2 else None
        return None if labels is None or is_plain_range(labels) else named_columns(value, labels, name)
    frame = open_frame(value, name)
    return None if frame is None else _Frame(frame, index_of(value))


def named_columns(array: Any, names: Sequence[Any], of: str) -> Table:
    """Return a table of a matrix and the names of its columns.

    Raises
    ------
    ValueError
        If two columns have one name.
    """
    found = _Named(array, names)
    if len(set(found.names)) < len(found.names):
        msg = f"The columns of `{of}` must have different names; got {list(found.names)}. Rename them."
        raise ValueError(msg)
    return found


def match_columns(table: Table, name: str, known: Mapping[str, tuple[str, ...]]) -> Matrix:
    """Return the columns of a table as a matrix: those the argument ``name`` is known to have, else all.

    Raises
    ------
    ValueError
        If a column is missing.
    TypeError
        If one is not numeric.
    """
    columns = known.get(name, table.names)
    missing = [column for column in columns if column not in table.names]
    if missing:
        lacking = f"column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
        msg = (
            f"`{name}` lacks the {lacking}; got {', '.join(map(repr, table.names))}. Columns are matched by name with "
            "those of the fit, in any order; pass all of them."
        )
        raise ValueError(msg)
    return table.matrix(columns, name)


@dataclass(frozen=True)
class KernelParameters:
    """The parameters of a kernel, as columns and fields of batches are matched with them by name."""

    input: str
    output: str
    further: tuple[str, ...] = ()
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The columns of an argument, in their order, once a table has shown them."""

    def fields(self, table: Table, *, leave: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the arguments that a table holds.

        A column that has the name of a parameter is that argument; ``leave`` names those that are not wanted.  The
        others, or those that are known, are the columns of the input.

        Raises
        ------
        ValueError
            If a column is missing, or it cannot be told which is the input.
        TypeError
            If a column of the input is not numeric.
        """
        named = [name for name in (self.output, *self.further) if name in table.names]
        found = {name: table.column(name, self.input) for name in named if name not in leave}
        columns = tuple(name for name in table.names if name not in named)
        known = self.known.get(self.input)
        if self.input in table.names and (known is None or not set(known) <= set(table.names)):
            given = table.column(self.input, self.input)
            inner = open_table(given, self.input)
            if inner is not None:
                return {self.input: match_columns(inner, self.input, self.known), **found}
            if len(columns) > 1 and len(given.shape) == 1:
                msg = (
                    f"`{self.input}` has a column of its own name, and {', '.join(map(repr, columns))}: it cannot be "
                    f"told which is the input. Rename the column {self.input!r}, or leave out the others."
                )
                raise ValueError(msg)
            return {self.input: given, **found}
        if not columns:
            msg = (
                f"`{self.input}` must have a column for the input; got {', '.join(map(repr, table.names)) or 'none'}, "
                "which are other arguments of the kernel. Add one."
            )
            raise ValueError(msg)
        return {self.input: match_columns(table, self.input, {self.input: columns, **self.known}), **found}

    def matched(self, name: str, value: Any) -> Any:
        """Return an argument that is a table as a matrix, and anything else as it is."""
        table = open_table(value, name)
        return value if table is None else match_columns(table, name, self.known)

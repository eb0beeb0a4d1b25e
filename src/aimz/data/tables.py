"""Tables: columns that share their rows, in memory or not, and how they become the arguments of a kernel."""

__all__ = ["Matrix", "Parameters", "Table", "open_table"]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np

from aimz.data.arrays import read_array
from aimz.data.frames import HOW_TO_ENCODE, column_values, index_of, open_frame, unfit_columns


class Table(ABC):
    """Columns with a name each."""

    names: tuple[str, ...]
    index: Any = None
    """Labels of the rows, if there are any."""
    lazy = False
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

    def matrix(self, names: Sequence[str], of: str) -> Any:
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
        return Matrix({name: self.column(name, of) for name in names}, of, index=self.index, lazy=self.lazy)


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
    lazy : bool
        Whether the columns are read when they are needed.
    """

    ndim = 2

    def __init__(self, columns: Mapping[str, Any], name: str, *, index: Any = None, lazy: bool = False) -> None:
        self.columns = tuple(columns)
        self.index = index
        self.lazy = lazy
        self.chunks = getattr(next(iter(columns.values())), "chunks", None)
        self._columns = dict(columns)
        self._name = name
        n_obs = int(next(iter(columns.values())).shape[0])
        self.shape = (n_obs, len(columns))
        kinds = [self._read(column, slice(0, 0)).dtype for column in columns]
        self.dtype = np.dtype(reduce(jnp.promote_types, kinds))

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = [self._read(column, rows) for column in self.columns]
        whole = np.empty((len(parts[0]), len(parts)), self.dtype)
        for i, part in enumerate(parts):
            whole[:, i] = part
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        return np.asarray(self[slice(None)], dtype)

    def _read(self, column: str, rows: slice) -> np.ndarray:
        part = np.asarray(self._columns[column][rows])
        return np.asarray(read_array(part, f"{self._name}[{column!r}]"))


class _Frame(Table):
    """A data frame in memory."""

    def __init__(self, frame: Any, index: Any) -> None:
        self._frame = frame
        self._called = {str(name): name for name in frame.columns}
        self.names = tuple(self._called)
        self.index = index

    def column(self, name: str, of: str) -> np.ndarray:
        return column_values(self._frame[self._called[name]], f"{of}[{name!r}]")

    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        schema = self._frame.schema
        return unfit_columns({name: schema[self._called[name]] for name in names})

    def labels(self, name: str) -> Any:
        return self._frame[self._called[name]].to_native()


class _Arrays(Table):
    """Arrays by name, which are read when they are needed: a data set of xarray, a group of Zarr."""

    lazy = True

    def __init__(self, arrays: Mapping[str, Any], index: Any = None) -> None:
        self._arrays = arrays
        self.names = tuple(arrays)
        self.index = index

    def column(self, name: str, of: str) -> Any:  # noqa: ARG002
        return self._arrays[name]

    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        def kind(array: Any) -> str | None:
            if len(array.shape) != 1:
                return f"shape {tuple(array.shape)}"
            return None if np.dtype(array.dtype).kind in "biuf" else str(array.dtype)

        kinds = {name: kind(self._arrays[name]) for name in names}
        return {name: found for name, found in kinds.items() if found is not None}


class _Labelled(Table):
    """An array of xarray whose second axis has labels."""

    lazy = True

    def __init__(self, array: Any) -> None:
        self._array = array
        self._dim = array.dims[1]
        self.names = tuple(str(label) for label in array.indexes[self._dim])
        self.index = index_of(array)

    def column(self, name: str, of: str) -> Any:  # noqa: ARG002
        return self._array[:, self.names.index(name)]

    def unfit(self, names: Sequence[str]) -> Mapping[str, str]:
        numeric = np.dtype(self._array.dtype).kind in "biuf"
        return {} if numeric else dict.fromkeys(names, str(self._array.dtype))


def open_table(value: Any, name: str) -> Table | None:
    """Return a table for a data frame, a data set of xarray, an array with labelled columns, or a group of Zarr.

    None for anything else: arrays, batches.

    Raises
    ------
    ValueError
        If columns have one name.
    """
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    if kind == "zarr.Group":
        return _Arrays(dict(value.arrays()))
    if kind == "xarray.Dataset":
        first = next(iter(value.data_vars.values()), None)
        index = None if first is None or not first.dims else value.indexes.get(first.dims[0])
        return _Arrays({str(n): array for n, array in value.data_vars.items()}, index)
    if kind == "xarray.DataArray":
        labelled = value.ndim == 2 and value.dims[1] in value.indexes and value.indexes[value.dims[1]].dtype.kind != "i"
        if labelled and not value.indexes[value.dims[1]].is_unique:
            msg = f"The columns of `{name}` must have different names; got {list(value.indexes[value.dims[1]])}."
            raise ValueError(msg)
        return _Labelled(value) if labelled else None
    frame = open_frame(value, name)
    return None if frame is None else _Frame(frame, index_of(value))


@dataclass(frozen=True)
class Parameters:
    """The parameters of a kernel, as columns and fields of batches are matched with them by name."""

    input: str
    output: str
    further: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    """The columns of the input, in their order, once a fit has seen them."""

    def fields(self, table: Table, *, leave: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the arguments that a table holds.

        A column that has the name of a parameter is that argument; ``leave`` names those that are not wanted.  The
        others, or those the fit saw, are the columns of the input.

        Raises
        ------
        ValueError
            If a column is missing.
        TypeError
            If a column of the input is not numeric.
        """
        named = [name for name in (self.output, *self.further) if name in table.names]
        found = {name: table.column(name, self.input) for name in named if name not in leave}
        if self.input in table.names:
            return {self.input: table.column(self.input, self.input), **found}
        if self.columns is None:
            columns = [name for name in table.names if name not in named]
        else:
            columns = list(self.columns)
            missing = [name for name in columns if name not in table.names]
            if missing:
                lacking = f"column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
                msg = (
                    f"`{self.input}` lacks the {lacking}; got {', '.join(map(repr, table.names))}. Columns are matched "
                    "by name with those of the fit, in any order; pass all of them."
                )
                raise ValueError(msg)
        if not columns:
            msg = (
                f"`{self.input}` must have a column for the input; got {', '.join(map(repr, table.names)) or 'none'}, "
                "which are other arguments of the kernel. Add one."
            )
            raise ValueError(msg)
        return {self.input: table.matrix(columns, self.input), **found}

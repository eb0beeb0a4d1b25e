"""Tables of named columns, and the arguments of a kernel that the columns are matched with."""

__all__ = [
    "KernelParameters",
    "Table",
    "matrix_or_value",
    "named_columns",
    "open_table",
    "table_columns",
    "with_missing_chunks",
]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np

from aimz.data.array_sources import ZarrSource, is_zarr
from aimz.data.axis_labels import AxisLabels, align_axes
from aimz.data.categories import Categories, encode, has_text
from aimz.data.dataframes import (
    HOW_TO_ENCODE,
    column_values,
    index_of,
    is_plain_range,
    non_numeric_columns,
    open_frame,
)
from aimz.data.matrices import Matrix
from aimz.data.row_readers import RowReader
from aimz.errors import OutputWarning, warn
from aimz.kernel import count_parameters


class Table(ABC):
    """Named columns."""

    name: str
    """Name of the table in error messages."""
    names: tuple[str, ...]
    """Names of the columns."""
    index: Any = None
    """Labels of the rows, a :class:`pandas.Index`; None without labels."""

    @abstractmethod
    def column(self, name: str) -> Any:
        """Return a column as an array."""

    @abstractmethod
    def non_numeric(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return the columns that cannot be part of a matrix, with their type in words."""

    def labels(self, name: str) -> Any:
        """Return a column unconverted, as labels of groups."""
        return self.column(name)

    @abstractmethod
    def categorical(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that may be text or categories."""

    def matrix(self, names: Sequence[str]) -> Matrix:
        """Return columns as a matrix; raise ``TypeError`` if a column is not numeric."""
        self.check_numeric(names)
        return Matrix.of_columns({name: self.column(name) for name in names}, self.name, self.index)

    def check_numeric(self, names: Sequence[str]) -> None:
        """Raise ``TypeError`` if a column is not numeric."""
        found = self.non_numeric(names)
        if found:
            listed = ", ".join(f"{name!r} ({kind})" for name, kind in found.items())
            msg = f"The columns of `{self.name}` must be numeric; got {listed}. {HOW_TO_ENCODE} Or leave them out."
            raise TypeError(msg)


class _Frame(Table):
    """A data frame in memory."""

    def __init__(self, name: str, frame: Any, index: Any) -> None:
        self.name = name
        self._columns = {str(column): frame.get_column(column) for column in frame.columns}
        self.names = tuple(self._columns)
        self.index = index

    def column(self, name: str) -> np.ndarray:
        return column_values(self._columns[name], f"{self.name}[{name!r}]")

    def non_numeric(self, names: Sequence[str]) -> Mapping[str, str]:
        return non_numeric_columns({name: self._columns[name].dtype for name in names})

    def labels(self, name: str) -> Any:
        return self._columns[name].to_native()

    def categorical(self, names: Sequence[str]) -> tuple[str, ...]:
        kinds = non_numeric_columns({name: self._columns[name].dtype for name in names})
        return tuple(name for name in names if kinds.get(name) in ("text", "categorical", "object"))


class _Arrays(Table):
    """Named arrays, which may be lazy: an xarray data set, a Zarr group."""

    def __init__(self, name: str, arrays: Mapping[str, Any], index: Any = None) -> None:
        self.name = name
        self._arrays = arrays
        self.names = tuple(arrays)
        self.index = index

    def column(self, name: str) -> Any:
        return self._arrays[name]

    def categorical(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if getattr(self._arrays[name].dtype, "kind", "O") in "OUST")

    def non_numeric(self, names: Sequence[str]) -> Mapping[str, str]:
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

    def __init__(self, name: str, array: Any, names: Sequence[Any]) -> None:
        self.name = name
        self._array = array
        self.names = tuple(map(str, names))
        self.index = index_of(array)

    def column(self, name: str) -> Any:
        return self._array[:, self.names.index(name)]

    def categorical(self, names: Sequence[str]) -> tuple[str, ...]:
        return () if np.dtype(self._array.dtype).kind in "biufc" else tuple(names)

    def non_numeric(self, names: Sequence[str]) -> Mapping[str, str]:
        numeric = np.dtype(self._array.dtype).kind in "biuf"
        return {} if numeric else dict.fromkeys(names, str(self._array.dtype))

    def matrix(self, names: Sequence[str]) -> Matrix:
        self.check_numeric(names)
        return Matrix.of_matrix(self._array, {name: self.names.index(name) for name in names}, self.name, self.index)


def open_table(value: Any, name: str) -> Table | None:
    """Return a table for a data frame, an xarray object with named columns or a Zarr group; None for anything else.

    Raises
    ------
    ValueError
        If two columns have the same name.
    """
    if isinstance(value, Table):
        return value
    if isinstance(value, np.ndarray | Number):
        return None
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    if kind == "zarr.Group":
        return _Arrays(name, dict(sorted(value.arrays())))  # zarr lists arrays in any order
    if kind == "xarray.Dataset":
        first = next(iter(value.data_vars.values()), None)
        index = None if first is None or not first.dims else value.indexes.get(first.dims[0])
        return _Arrays(name, {str(n): array for n, array in value.data_vars.items()}, index)
    if kind == "xarray.DataArray":
        labels = value.indexes.get(value.dims[1]) if value.ndim == 2 else None
        return None if labels is None or is_plain_range(labels) else named_columns(name, value, labels)
    frame = open_frame(value, name)
    return None if frame is None else _Frame(name, frame, index_of(value))


def with_missing_chunks(array: Any) -> Any:
    """Return a Zarr array or group as an input whose missing chunks are read as the fill value.

    By default Zarr does not write chunks in which all values are the fill value, and a chunk that was never written
    looks the same. Inputs with missing chunks therefore raise an error, unless they are passed through this function.

    Parameters
    ----------
    array : zarr.Array of shape (n_obs, ...) or zarr.Group
        Array in a store, or a group whose arrays are the columns of a table.

    Returns
    -------
    object
        The same rows, for any method that takes arrays or tables.

    Raises
    ------
    TypeError
        If ``array`` is neither a Zarr array nor a group.

    Examples
    --------
    >>> import zarr
    >>> from aimz.utils.data import with_missing_chunks
    >>> array = zarr.create_array({}, shape=(4, 2), chunks=(2, 2), dtype="float32")  # no chunk is written
    >>> with_missing_chunks(array)[0:1]
    array([[0., 0.]], dtype=float32)
    """
    if f"{type(array).__module__.partition('.')[0]}.{type(array).__name__}" == "zarr.Group":
        return _Arrays("X", {name: ZarrSource.of(column) for name, column in sorted(array.arrays())})
    if not is_zarr(array):
        msg = (
            "`array` must be a Zarr array with a row axis, or a Zarr group; got an object of type "
            f"`{type(array).__name__}`. Pass one of them."
        )
        raise TypeError(msg)
    return ZarrSource.of(array)


def named_columns(name: str, array: Any, columns: Sequence[Any]) -> Table:
    """Return a table of a matrix with named columns; raise ``ValueError`` if two have the same name."""
    found = _Named(name, array, columns)
    if len(set(found.names)) < len(found.names):
        msg = f"The columns of `{name}` must have different names; got {list(found.names)}. Rename them."
        raise ValueError(msg)
    return found


def matrix_or_value(value: Any, name: str, known: Mapping[str, tuple[str, ...]]) -> Any:
    """Return a table as a matrix of the known columns of argument ``name``, and anything else unchanged.

    Raises
    ------
    ValueError
        If a column is missing.
    TypeError
        If a column is not numeric.
    """
    table = open_table(value, name)
    if table is None:
        return value
    columns = known.get(name, table.names)
    missing = ", ".join(repr(column) for column in columns if column not in table.names)
    if missing:
        msg = (
            f"`{name}` is missing column{'s' if ', ' in missing else ''} {missing}; got "
            f"{', '.join(map(repr, table.names))}. Pass every column that the model was fitted with, in any order."
        )
        raise ValueError(msg)
    return table.matrix(columns)


def table_columns(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the names of the columns of those arguments that were tables."""
    tables = {name: value for name, value in given.items() if isinstance(value, Matrix | RowReader)}
    return {name: table.columns for name, table in tables.items() if table.columns}


@dataclass(frozen=True)
class KernelParameters:
    """Parameters of a kernel that columns and fields of batches are matched with by name."""

    input: str
    output: str
    further: tuple[str, ...] = ()
    """Names of the other parameters."""
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns of each argument, in order, once a table has been read."""
    axes: Mapping[str, AxisLabels] = field(default_factory=dict)
    """Names and labels of the axes of each argument that was an xarray array in the fit."""
    outcome: str | None = None
    """Name of the column with the output, if it is not the name of the parameter."""
    categories: Mapping[str, Categories] = field(default_factory=dict)
    """Categories of each text or categorical argument of the fit."""
    grows: bool = True
    """Whether other categories are new groups, if the kernel takes their number; False in a fit, which sets them."""
    leaves_text: bool = False
    """Whether columns of text are left out of the input: until there is a posterior, which belongs to its columns."""

    @property
    def column_names(self) -> dict[str, str]:
        """Name of the column of each parameter but the input."""
        output = self.outcome or self.output
        return {self.output: output, **{name: name for name in self.further if name != output}}

    def by_parameter(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return fields of batches or of a data set with the name of the parameter in place of the outcome's name."""
        if self.outcome not in fields or self.output in fields:
            return fields
        return {self.output if name == self.outcome else name: value for name, value in fields.items()}

    def fields(self, table: Table, *, leave: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the arguments that a table holds.

        A column with the name of a parameter is that argument, unless ``leave`` names it.  The other columns, or the
        known ones among them, are the columns of the input.

        Raises
        ------
        ValueError
            If a column is missing, or the input is ambiguous.
        TypeError
            If a column of the input is not numeric.

        Warns
        -----
        OutputWarning
            If columns of text are left out, before there is a posterior.
        """
        named = {name: column for name, column in self.column_names.items() if column in table.names}
        found = {name: self.aligned(name, self._column(table, named[name])) for name in named if name not in leave}
        columns = tuple(name for name in table.names if name not in named.values())
        known = self.known.get(self.input)
        if self.input in table.names and (known is None or not set(known) <= set(table.names)):
            given = self.aligned(self.input, table.column(self.input))
            nested = open_table(given, self.input)
            if nested is None and len(columns) > 1 and len(given.shape) == 1:
                msg = (
                    f"`{self.input}` has a column of its own name and {', '.join(map(repr, columns))}, so the input is "
                    f"ambiguous. Rename the column {self.input!r}, or leave out the others."
                )
                raise ValueError(msg)
            return {self.input: given if nested is None else self.matched(self.input, nested), **found}
        if not columns:
            msg = (
                f"`{self.input}` must have a column for the input; got {', '.join(map(repr, table.names)) or 'none'}, "
                "which are other arguments of the kernel. Add one."
            )
            raise ValueError(msg)
        if known is None and self.leaves_text:
            columns = self._without_text(table, columns)
        return {self.input: matrix_or_value(table, self.input, {self.input: columns, **self.known}), **found}

    def _without_text(self, table: Table, columns: tuple[str, ...]) -> tuple[str, ...]:
        """Return columns without text, if the others are numeric; warn about text, which a matrix cannot hold."""
        text = table.non_numeric(columns)
        if len(text) in (0, len(columns)) or not all(
            name in table.categorical((name,)) and (kind == "text" or has_text(table.labels(name)))
            for name, kind in text.items()
        ):
            return columns
        warn(
            f"The kernel does not get {', '.join(map(repr, text))} of `{self.input}`, which is text: its columns are "
            "numbers. Text can form groups of an answer (`by=`), be a parameter of the kernel, or be encoded as "
            "numbers before. Leave it out to avoid this warning.",
            OutputWarning,
        )
        return tuple(name for name in columns if name not in text)

    def _column(self, table: Table, name: str) -> Any:
        """Return a column as an array, or unconverted if it has categories."""
        return table.labels(name) if name in self.further and name in table.categorical((name,)) else table.column(name)

    def is_counted(self, name: str) -> bool:
        """Return whether the kernel has a parameter for the number of categories of an argument."""
        return bool(count_parameters(name, self.further))

    def encoded(self, name: str, value: Any) -> Any:
        """Return a text or categorical argument as codes, and anything else unchanged."""
        known, counted = self.categories.get(name), self.is_counted(name)
        return encode(value, name, known, counted=counted, grows=self.grows)

    def matched(self, name: str, value: Any) -> Any:
        """Return a table as a matrix of its known columns, and anything else unchanged."""
        return matrix_or_value(self.aligned(name, value), name, self.known)

    def aligned(self, name: str, value: Any) -> Any:
        """Return an xarray array in the order of the fit, a text argument as codes, and anything else unchanged."""
        value = align_axes(value, name, self.axes[name]) if name in self.axes else value
        return self.encoded(name, value) if name in self.further else value

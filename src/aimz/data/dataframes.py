"""Data frames and their columns, of pandas, Polars and PyArrow."""

__all__ = [
    "check_integers_fit",
    "column_values",
    "index_of",
    "is_plain_range",
    "non_numeric_columns",
    "open_frame",
    "open_series",
]

from collections.abc import Mapping
from typing import Any

import jax
import narwhals as nw
import numpy as np

_NO_FRAMES = frozenset({"aimz", "builtins", "collections", "jax", "jaxlib", "numpy", "torch", "xarray", "zarr", "h5py"})
"""Packages that have no data frames, whose objects :mod:`narwhals` need not check."""


def _may_be_frame(value: object) -> bool:
    module = type(value).__module__
    return module.partition(".")[0] not in _NO_FRAMES and not module.startswith("dask.array")


def open_frame(value: Any, name: str) -> nw.DataFrame[Any] | None:
    """Return a data frame in memory, or None for anything else.

    Raises
    ------
    TypeError
        If the frame is lazy.
    ValueError
        If two of its columns have the same name.
    """
    if not _may_be_frame(value):
        return None
    if type(value).__name__ == "RecordBatch" and hasattr(value, "schema"):
        value = nw.dependencies.get_pyarrow().Table.from_batches([value])
    if type(value).__module__.startswith("pandas") and getattr(getattr(value, "columns", None), "nlevels", 1) > 1:
        msg = f"The columns of `{name}` must have one name each; got {value.columns.nlevels} levels. Join their names."
        raise ValueError(msg)
    try:
        # Narwhals warns that its support of Dask is moving to another package.
        is_dask = type(value).__module__.partition(".")[0] in {"dask", "dask_expr"} and hasattr(value, "columns")
        found = None if is_dask else nw.from_native(value, pass_through=True)
        if is_dask:
            msg = (
                f"`{name}` must be an array, or a table in memory or in files; got a Dask data frame (of type "
                f"`{type(value).__module__}.{type(value).__name__}`). Pass `frame.to_dask_array(lengths=True)`, whose "
                "rows are read as they are needed; or write it to Parquet and pass `pyarrow.dataset.dataset(path)` to "
                "`fit` or `predict`, where columns keep their names; or `frame.compute()`, if it is small."
            )
            raise TypeError(msg)
        if isinstance(found, nw.LazyFrame):
            msg = (
                f"`{name}` must be a table in memory, or a table that the streaming methods read in chunks; got a lazy "
                f"frame of type `{type(value).__module__}.{type(value).__name__}`. Collect it (`.collect()`, "
                "`.compute()`), or write it to Parquet and pass `pyarrow.dataset.dataset(path)` to `fit` or `predict`."
            )
            raise TypeError(msg)
        names = [str(column) for column in found.columns] if isinstance(found, nw.DataFrame) else []
    except nw.exceptions.DuplicateError as error:
        msg = f"The columns of `{name}` must have different names; got two of one name ({error}). Rename them."
        raise ValueError(msg) from error
    if len(set(names)) < len(names):
        msg = f"The columns of `{name}` must have different names, as texts; got {names}. Rename them."
        raise ValueError(msg)
    return found if isinstance(found, nw.DataFrame) else None


def open_series(value: Any) -> nw.Series[Any] | None:
    """Return a column of a data frame, or None for anything else."""
    if not _may_be_frame(value):
        return None
    if type(value).__module__.startswith("pyarrow") and hasattr(value, "to_pylist") and hasattr(value, "buffers"):
        value = nw.dependencies.get_pyarrow().chunked_array([value])
    found = nw.from_native(value, series_only=True, pass_through=True)
    return found if isinstance(found, nw.Series) else None


def column_values(series: nw.Series[Any], name: str) -> np.ndarray:
    """Return a column as an array, with NaN for missing values; lists of one length add axes.

    Raises
    ------
    TypeError
        If the column is not numeric.
    """
    kind = _non_numeric_kind(series.dtype)
    if kind is not None:
        msg = f"`{name}` must be numeric; got {kind} data. {HOW_TO_ENCODE}"
        raise TypeError(msg)
    if isinstance(series.dtype, nw.Array | nw.List):
        return _stacked(series.to_numpy(), name)
    if not series.null_count() and not isinstance(series.dtype, nw.Decimal):
        return np.asarray(series.to_numpy())
    values = np.asarray(series.cast(nw.Float64).to_numpy())
    if series.dtype.is_integer():  # floats only because of missing values
        check_integers_fit(values[~np.isnan(values)], jax.dtypes.canonicalize_dtype(np.float64), f"`{name}`")
    return values


def check_integers_fit(values: np.ndarray, dtype: np.dtype, what: str) -> None:
    """Raise ``ValueError`` if an integer changes when it is converted to a floating-point ``dtype``."""
    if not np.array_equal(values.astype(dtype), values):
        msg = (
            f"{what} holds whole numbers that do not fit {dtype}, the type it shares with missing values or other "
            "columns; they would be changed silently. Recode them (identifiers as 0 .. n-1, dates as days since one of "
            "them), pass them as a separate argument, or make them floats if rounding is harmless."
        )
        raise ValueError(msg)


def _stacked(lists: np.ndarray, name: str) -> np.ndarray:
    """Stack lists of equal length as rows of an array."""
    if lists.dtype.kind != "O":
        return lists
    rows = [np.asarray(row) for row in lists]
    if len({row.shape for row in rows}) > 1 or any(row.dtype.kind not in "biuf" for row in rows):
        msg = f"`{name}` must hold lists of numbers, all of one length; got others. Pad them, or drop the column."
        raise TypeError(msg)
    return np.stack(rows) if rows else np.zeros((0, 0))


HOW_TO_ENCODE = (
    "Encode categories as integer codes or as one column for each, dates as days; the codes must be the same as in the "
    "fit in every call."
)


def _non_numeric_kind(dtype: Any) -> str | None:
    """Return the kind of a column that has no obvious conversion to numbers; None for a numeric column."""
    if dtype.is_numeric() or dtype == nw.Boolean or isinstance(dtype, nw.Array | nw.List):
        return None
    known = {
        nw.Categorical: "categorical",
        nw.Enum: "categorical",
        nw.String: "text",
        nw.Object: "object",
        nw.Datetime: "date",
        nw.Date: "date",
        nw.Duration: "duration",
    }
    return next((word for kind, word in known.items() if dtype == kind), str(dtype))


def non_numeric_columns(schema: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that cannot be part of a matrix, with their kinds."""
    kinds = {n: "lists" if isinstance(d, nw.Array | nw.List) else _non_numeric_kind(d) for n, d in schema.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def index_of(value: Any) -> Any:
    """Return the labels of the rows, a :class:`pandas.Index`; None without labels."""
    dims, indexes = getattr(value, "dims", None), getattr(value, "indexes", None)
    if indexes is not None:  # an xarray object, whose attribute `index` may be a variable
        return indexes.get(dims[0]) if isinstance(dims, tuple) and dims else None
    index = getattr(value, "index", None)
    return index if hasattr(index, "equals") else None


def is_plain_range(index: Any) -> bool:
    """Return whether labels are 0, 1, 2 and so on."""
    if hasattr(index, "start"):
        return bool(index.start == 0 and index.step == 1)
    labels = np.asarray(index)
    return labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels)))

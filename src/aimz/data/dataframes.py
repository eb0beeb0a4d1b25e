"""Data frames and their columns, whichever library they come from: pandas, Polars, PyArrow."""

__all__ = ["check_whole", "column_values", "index_of", "is_plain_range", "open_frame", "open_series", "unfit_columns"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import narwhals as nw

_NEVER = frozenset({"aimz", "builtins", "collections", "jax", "jaxlib", "numpy", "torch", "xarray", "zarr", "h5py"})
"""Where nothing that is a data frame comes from, so that :mod:`narwhals` need not be imported to know."""


def _may_be_frame(value: object) -> bool:
    module = type(value).__module__
    return module.partition(".")[0] not in _NEVER and not module.startswith("dask.array")


def open_frame(value: Any, name: str) -> "nw.DataFrame[Any] | None":
    """Return a data frame that is in memory, or None for anything else.

    Raises
    ------
    ValueError
        If two of its columns have one name.
    """
    if not _may_be_frame(value):
        return None
    import narwhals as nw

    if type(value).__name__ == "RecordBatch" and hasattr(value, "schema"):
        import pyarrow as pa

        value = pa.Table.from_batches([value])
    if type(value).__module__.startswith("pandas") and getattr(getattr(value, "columns", None), "nlevels", 1) > 1:
        msg = f"The columns of `{name}` must have one name each; got {value.columns.nlevels} levels. Join their names."
        raise ValueError(msg)
    try:
        # Narwhals is leaving Dask to a package of its own, and warns of it where it sees one.
        of_dask = type(value).__module__.partition(".")[0] in {"dask", "dask_expr"} and hasattr(value, "columns")
        found = None if of_dask else nw.from_native(value, pass_through=True)
        if of_dask:
            msg = (
                f"`{name}` must be an array, or a table in memory or in files; got a Dask data frame (of type "
                f"`{type(value).__module__}.{type(value).__name__}`). Pass `frame.to_dask_array(lengths=True)`, whose "
                "rows are read as they are needed; or write it to Parquet and pass `pyarrow.dataset.dataset(path)` to "
                "`fit` or `predict`, where columns keep their names; or `frame.compute()`, if it is small."
            )
            raise TypeError(msg)
        if isinstance(found, nw.LazyFrame):
            msg = (
                f"`{name}` must be a table in memory, or one that the methods that stream read in pieces; got a lazy "
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


def open_series(value: Any) -> "nw.Series[Any] | None":
    """Return one column of a data frame, or None for anything else."""
    if not _may_be_frame(value):
        return None
    import narwhals as nw

    if type(value).__module__.startswith("pyarrow") and hasattr(value, "to_pylist") and hasattr(value, "buffers"):
        import pyarrow as pa

        value = pa.chunked_array([value])
    found = nw.from_native(value, series_only=True, pass_through=True)
    return found if isinstance(found, nw.Series) else None


def column_values(series: "nw.Series[Any]", name: str) -> np.ndarray:
    """Return the numbers of a column, missing ones as NaN; lists of one length give more axes.

    Raises
    ------
    TypeError
        If they are no numbers.
    """
    import narwhals as nw

    kind = unfit_kind(series.dtype)
    if kind is not None:
        msg = f"`{name}` must be numeric; got {kind} data. {HOW_TO_ENCODE}"
        raise TypeError(msg)
    if isinstance(series.dtype, nw.Array | nw.List):
        return _stacked(series.to_numpy(), name)
    if not series.null_count() and not isinstance(series.dtype, nw.Decimal):
        return np.asarray(series.to_numpy())
    values = np.asarray(series.cast(nw.Float64).to_numpy())
    if series.dtype.is_integer():  # floats only for what is missing
        check_whole(values[~np.isnan(values)], jax.dtypes.canonicalize_dtype(np.float64), f"`{name}`")
    return values


def check_whole(values: np.ndarray, dtype: np.dtype, what: str) -> None:
    """Refuse whole numbers that become others as ``dtype``, a type of floats.

    Raises
    ------
    ValueError
        If one does.
    """
    if not np.array_equal(values.astype(dtype), values):
        msg = (
            f"{what} holds whole numbers that do not fit {dtype}, which missing values or other columns beside it make "
            "them share; they would be changed without a word. Recode them (identifiers as 0 .. n-1, dates as days "
            "since one of them), pass them as an argument of their own, or make them floats where rounding does no "
            "harm."
        )
        raise ValueError(msg)


def _stacked(lists: np.ndarray, name: str) -> np.ndarray:
    """Return lists as rows of an array."""
    if lists.dtype.kind != "O":
        return lists
    rows = [np.asarray(row) for row in lists]
    if len({row.shape for row in rows}) > 1 or any(row.dtype.kind not in "biuf" for row in rows):
        msg = f"`{name}` must hold lists of numbers, all of one length; got others. Pad them, or drop the column."
        raise TypeError(msg)
    return np.stack(rows) if rows else np.zeros((0, 0))


HOW_TO_ENCODE = (
    "Encode categories as integer codes or as one column for each, dates as days; the codes must be those of the fit "
    "in every call."
)


def unfit_kind(dtype: Any) -> str | None:
    """Return what a column holds, in a word, if it cannot be made numbers without a decision."""
    import narwhals as nw

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


def unfit_columns(schema: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that cannot be part of a matrix, with what they hold."""
    import narwhals as nw

    kinds = {n: "lists" if isinstance(d, nw.Array | nw.List) else unfit_kind(d) for n, d in schema.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def index_of(value: Any) -> Any:
    """Return the labels of the rows: a :class:`pandas.Index`, or None where there are none."""
    dims, indexes = getattr(value, "dims", None), getattr(value, "indexes", None)
    if indexes is not None:  # of xarray, where `value.index` may be anything
        return indexes.get(dims[0]) if isinstance(dims, tuple) and dims else None
    index = getattr(value, "index", None)
    return index if hasattr(index, "equals") else None


def is_plain_range(index: Any) -> bool:
    """Whether labels of rows, or of columns, only count them."""
    if hasattr(index, "start"):
        return bool(index.start == 0 and index.step == 1)
    labels = np.asarray(index)
    return labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels)))

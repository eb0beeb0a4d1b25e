"""Rows on a grid of values, for dose-response curves and slopes at given values."""

__all__ = ["grid"]

from collections.abc import Mapping
from itertools import product
from typing import Any, Literal

import numpy as np

from aimz._imports import pandas as pd
from aimz.data.dataframes import open_frame

_MAX_ROWS = 10_000_000


def grid(frame: Any, *, rows: Literal["typical", "all"] = "typical", **values: Any) -> "pd.DataFrame":
    """Return a data frame with one row for each combination of values of some columns.

    The rows are scenarios for :meth:`ImpactModel.predict` and :meth:`ImpactModel.slopes`. With ``by`` set to the
    columns of the grid, the group ``scenarios`` of ``slopes`` is the dose-response curve, and ``effect`` its slope;
    :func:`aimz.plots.plot_response` plots them.

    Parameters
    ----------
    frame : data frame
        Rows from which the columns without given values are taken (pandas, Polars or PyArrow).
    rows : {"typical", "all"}
        Values of the other columns: one typical row, with the mean of each numeric column and the most frequent label
        of each other column; or all rows of ``frame``, repeated at each combination, so that averages over the rows of
        a combination are average predictions.
    **values
        Values of columns: an array, one value, or ``"each"`` for all values that occur in the column.

    Returns
    -------
    pandas.DataFrame
        Columns in the order of ``frame``. Columns with given values vary slowest, the first of them most slowly.

    Raises
    ------
    TypeError, ValueError
        If ``frame`` is no data frame, a column is unknown, or there are no values.

    Examples
    --------
    >>> import pandas as pd, aimz
    >>> shops = pd.DataFrame({"price": [4.0, 6.0, 8.0], "size": [1.0, 2.0, 3.0], "region": ["N", "S", "S"]})
    >>> print(aimz.grid(shops, price=[5, 7], region="each").to_string(index=False))
     price  size region
       5.0   2.0      N
       5.0   2.0      S
       7.0   2.0      N
       7.0   2.0      S
    """
    opened = open_frame(frame, "frame")
    if opened is None:
        msg = f"`grid` needs a data frame; got {type(frame).__name__}. Pass `pandas.DataFrame({{'price': ...}})`."
        raise TypeError(msg)
    table = opened.to_pandas()
    if rows not in ("typical", "all"):
        msg = f"`rows` must be 'typical' or 'all'; got {rows!r}. Pass 'all' to repeat all rows at each combination."
        raise ValueError(msg)
    if not values or not len(table):
        msg = f"`grid` needs rows and the values of a column; got {len(table)} rows and {len(values)} columns. Pass "
        msg += "`price=[4.0, 5.0]`."
        raise ValueError(msg)
    levels = {name: _levels(table, name, given) for name, given in values.items()}
    n_combinations = int(np.prod([len(found) for found in levels.values()]))
    n_rows = n_combinations * (len(table) if rows == "all" else 1)
    if n_rows > _MAX_ROWS:
        msg = f"The grid has {n_rows:,} rows, of at most {_MAX_ROWS:,}. Pass fewer values, or `rows='typical'`."
        raise ValueError(msg)
    combinations = list(product(*levels.values()))
    base = table if rows == "all" else pd.DataFrame({name: [_typical(table[name])] for name in table.columns})
    result = base.iloc[np.tile(np.arange(len(base)), n_combinations)].reset_index(drop=True)
    for i, name in enumerate(levels):
        column = pd.Series([one[i] for one in combinations]).repeat(len(base)).reset_index(drop=True)
        dtype = table[name].dtype
        keeps = not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_float_dtype(dtype)
        result[name] = column.astype(dtype) if keeps else column
    return result


def _levels(table: "pd.DataFrame", name: str, given: Any) -> list[Any]:
    """Return the values of a column on the grid."""
    if name not in table.columns:
        known = ", ".join(map(str, table.columns))
        msg = f"`grid` needs columns of the frame; got {name!r}. Known: {known}. Add the column to the frame."
        raise ValueError(msg)
    if isinstance(given, str) and given == "each":
        column = table[name].dropna()
        categories = getattr(column.dtype, "categories", None)
        found = column.unique()
        return list(np.sort(found)) if categories is None else [one for one in categories if one in set(found)]
    found = [given] if isinstance(given, str) or np.ndim(given) == 0 else list(given)
    if not found or isinstance(given, Mapping):
        msg = f"`{name}` must be values, or 'each'; got {given!r}. Pass a list such as [4.0, 5.0]."
        raise ValueError(msg)
    unknown = [one for one in found if isinstance(one, str) and one not in set(table[name])]
    if unknown:
        msg = f"`{name}` has no value {unknown[0]!r} in the frame. Pass values that occur, or 'each' for all of them."
        raise ValueError(msg)
    return found


def _typical(column: "pd.Series[Any]") -> Any:
    """Return the mean of numbers, and the most frequent of other values."""
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return column.mean()
    return column.mode().iloc[0]

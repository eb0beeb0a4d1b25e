"""Named arrays that share their rows."""

__all__ = ["ArrayDataset"]

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data import Table, named_columns, open_table, read_array, read_call


class ArrayDataset:
    """Named arrays in memory, one row per observation.

    What an :class:`ArrayLoader` cuts into batches.  For data that fit in no memory, a NumPy array may be a
    :class:`numpy.memmap`, of which only the rows asked for are read.

    Parameters
    ----------
    to_jax : bool, default False
        Whether to copy everything that is not a JAX array to JAX's default device now, in the dtype it has
        there.  If false, NumPy and JAX arrays are kept as they are supplied, in their dtype and place and without
        a copy: what is written into them later shows.  Anything else (a list, a data frame) becomes a NumPy array.
    **arrays : array_like of shape (n_obs, ...)
        Field name to array.

    Attributes
    ----------
    arrays

    Raises
    ------
    TypeError
        If an array is None, ragged or not numeric.
    ValueError
        If there are no arrays, if one is 0-d or has no rows, or if they differ in their number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.utils.data import ArrayDataset
    >>> dataset = ArrayDataset(X=np.arange(6).reshape(3, 2), y=[0.5, 1.5, 2.5])
    >>> len(dataset)
    3
    >>> dataset[0]["X"].tolist(), float(dataset[0]["y"])
    ([0, 1], 0.5)
    >>> dataset[1:]["y"].tolist()
    [1.5, 2.5]
    >>> dataset[[2, 0]]["y"].tolist()
    [2.5, 0.5]
    """

    def __init__(self, *, to_jax: bool = False, **arrays: Any) -> None:
        if not arrays:
            msg = "`ArrayDataset` must hold at least one array; got none. Name each: `ArrayDataset(X=X, y=y)`."
            raise ValueError(msg)
        tables = {name: open_table(value, name) for name, value in arrays.items()}
        self._columns = {name: table.names for name, table in tables.items() if table is not None}
        kept = {name: _as_supplied(_plain(value, tables[name], name), name) for name, value in arrays.items()}
        # Only shapes are left to check, so stand-ins of one element go through the door: the arrays themselves
        # would be read to the end and cast.
        stand_ins = {name: np.broadcast_to(np.False_, array.shape) for name, array in kept.items()}
        self._n_obs = read_call(stand_ins, {}).n_obs
        self._arrays = {name: _on_device(array, name) for name, array in kept.items()} if to_jax else kept

    @property
    def arrays(self) -> dict[str, np.ndarray | jax.Array]:
        """Field name to array of shape ``(n_obs, ...)``: a new dictionary of the arrays held, not of copies."""
        return dict(self._arrays)

    @property
    def labelled(self) -> dict[str, Any]:
        """The same, with the columns of those that were data frames."""
        return {n: named_columns(a, self._columns[n], n) if n in self._columns else a for n, a in self._arrays.items()}

    def __len__(self) -> int:
        return self._n_obs

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Return the rows asked for, field by field.

        Parameters
        ----------
        index : int, slice, or array_like of int
            What NumPy takes for the first axis.  A slice of a NumPy array is a view.

        Returns
        -------
        dict of str to array
            Field name to ``array[index]``.

        Raises
        ------
        IndexError
            If there is no such row.
        TypeError
            If ``index`` is none of these.
        """
        rows = index if isinstance(index, slice) else self._read_index(index)
        return {name: _rows_of(array, rows) for name, array in self._arrays.items()}

    def __repr__(self) -> str:
        fields = (f"{name}={array.dtype}[{','.join(map(str, array.shape))}]" for name, array in self._arrays.items())
        return f"ArrayDataset({', '.join(fields)})"

    def _read_index(self, index: Any) -> int | np.ndarray:
        """Return an integer or an array of integers, none outside: JAX would move those to the last row."""
        rows = np.asarray(index)
        if rows.size == 0 and rows.ndim:
            rows = rows.astype(np.intp)  # NumPy makes an empty list one of floats
        # A tuple would mean one index per axis to NumPy.
        if rows.dtype.kind not in "iu" or isinstance(index, tuple):
            msg = (
                f"An index of `ArrayDataset` must be an integer, a slice or an array of integers; got {index!r}. "
                "Turn a mask into integers with `numpy.flatnonzero(mask)`."
            )
            raise TypeError(msg)
        if rows.size and (rows.min() < -self._n_obs or rows.max() >= self._n_obs):
            outside = rows.max() if rows.max() >= self._n_obs else rows.min()
            msg = f"An index of `ArrayDataset` must be less than the number of rows, {self._n_obs}; got {outside}."
            raise IndexError(msg)
        if rows.ndim == 0:
            return operator.index(rows[()])
        rows = rows.astype(np.intp, copy=False)  # a narrow type has no room for the sum
        return np.where(rows < 0, rows + self._n_obs, rows)


def _plain(value: Any, table: Table | None, name: str) -> Any:
    """Return the columns of a table as one array, and anything else as it is."""
    return value if table is None else np.asarray(table.matrix(table.names, name))


def _as_supplied(value: Any, name: str) -> np.ndarray | jax.Array:
    """Return ``value`` itself if it is an array, else a NumPy array of it, unless no device could take it."""
    if value is None:
        msg = f"`{name}` must be an array; got None."
        raise TypeError(msg)
    if isinstance(value, np.ndarray | jax.Array):
        # No rows, so that the dtype is judged and nothing is cast.
        read_array(value[:0] if value.ndim else value, name)
        return value
    read_array(value, name)
    return np.asarray(value)


def _on_device(array: np.ndarray | jax.Array, name: str) -> jax.Array:
    """Return a JAX array, with memory of its own if ``array`` is NumPy's."""
    return array if isinstance(array, jax.Array) else jnp.array(read_array(array, name))


def _rows_of(array: np.ndarray | jax.Array, rows: int | slice | np.ndarray) -> Any:
    """Return ``array[rows]``; indices in an array are not negative."""
    if isinstance(array, jax.Array) and isinstance(rows, np.ndarray):
        return jnp.take(array, rows, axis=0)  # one compiled call; brackets make about ten
    return array[rows]

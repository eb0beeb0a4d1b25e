"""Named arrays that share their rows."""

__all__ = ["ArrayDataset"]

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data import (
    axis_labels,
    check_array,
    fill_masked,
    named_columns,
    open_table,
    read_call,
    warn_if_rounded,
    with_axis_labels,
)


class ArrayDataset:
    """Named arrays in memory, one row per observation.

    An :class:`ArrayLoader` yields it in batches.  Pass a :class:`numpy.memmap` for data larger than memory; only the
    rows that are indexed are read.

    Parameters
    ----------
    to_jax : bool, default False
        Whether to copy everything that is not a JAX array to JAX's default device, in the dtype it has there.
        Otherwise, NumPy and JAX arrays are kept as they are, without a copy, so that later changes to them are
        visible.  Anything else (a list, a data frame) becomes a NumPy array.
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
        If there are no arrays, if an array is 0-d or has no rows, or if numbers of rows differ.

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
        self._axes = {name: axes for name, value in arrays.items() if (axes := axis_labels(value))}
        self._columns = {name: table.names for name, table in tables.items() if table is not None}
        with warn_if_rounded():
            matrices = {n: np.asarray(table.matrix(table.names)) for n, table in tables.items() if table is not None}
        kept = {name: _as_supplied(value, name) for name, value in {**arrays, **matrices}.items()}
        # Only shapes are left to check.  Views of one element avoid reading and casting the arrays.
        shapes = {name: np.broadcast_to(np.False_, array.shape) for name, array in kept.items()}
        self._n_obs = read_call(shapes, {}).n_obs
        with warn_if_rounded():
            self._arrays = {name: _on_device(array, name) for name, array in kept.items()} if to_jax else kept

    @property
    def arrays(self) -> dict[str, np.ndarray | jax.Array]:
        """Field name to array of shape ``(n_obs, ...)``: a new dictionary, without copies of the arrays."""
        return dict(self._arrays)

    @property
    def labelled(self) -> dict[str, Any]:
        """Arrays by field name, as tables with named columns where they were data frames."""
        found: dict[str, Any] = {}
        for name, array in self._arrays.items():
            found[name] = named_columns(name, array, self._columns[name]) if name in self._columns else array
            if name in self._axes and name not in self._columns:
                found[name] = with_axis_labels(np.asarray(array), self._axes[name])
        return found

    def __len__(self) -> int:
        return self._n_obs

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Return some rows of each field.

        Parameters
        ----------
        index : int, slice, or array_like of int
            Index along the first axis.  A slice of a NumPy array is a view.

        Returns
        -------
        dict of str to array
            Field name to ``array[index]``.

        Raises
        ------
        IndexError
            If a row does not exist.
        TypeError
            If ``index`` has another type.
        """
        rows = index if isinstance(index, slice) else self._read_index(index)
        return {name: _rows_of(array, rows) for name, array in self._arrays.items()}

    def __repr__(self) -> str:
        fields = (f"{name}={array.dtype}[{','.join(map(str, array.shape))}]" for name, array in self._arrays.items())
        return f"ArrayDataset({', '.join(fields)})"

    def _read_index(self, index: Any) -> int | np.ndarray:
        """Return an integer or an array of integers; raise if one is out of range, which JAX would clip."""
        rows = np.asarray(index)
        if rows.size == 0 and rows.ndim:
            rows = rows.astype(np.intp)  # an empty list is an array of floats
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
        rows = rows.astype(np.intp, copy=False)  # the sum may overflow a narrow type
        return np.where(rows < 0, rows + self._n_obs, rows)


def _as_supplied(value: Any, name: str) -> np.ndarray | jax.Array:
    """Return an array itself, and anything else as a NumPy array; raise if no device can hold it."""
    if value is None:
        msg = f"`{name}` must be an array; got None. Leave it out, or pass an array."
        raise TypeError(msg)
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, np.ma.MaskedArray):
        # Without rows, the dtype is checked and nothing is cast.
        check_array(value[:0] if value.ndim else value, name)
        return value
    check_array(value, name)
    return fill_masked(np.asanyarray(value), name)


def _on_device(array: np.ndarray | jax.Array, name: str) -> jax.Array:
    """Return a JAX array; a copy if ``array`` is a NumPy array."""
    return array if isinstance(array, jax.Array) else jnp.array(check_array(array, name))


def _rows_of(array: np.ndarray | jax.Array, rows: int | slice | np.ndarray) -> Any:
    """Return ``array[rows]``, for non-negative indices."""
    if isinstance(array, jax.Array) and isinstance(rows, np.ndarray):
        return jnp.take(array, rows, axis=0)  # one compiled call; indexing compiles about ten
    return array[rows]

"""Columns of a table as a matrix, read some rows at a time."""

__all__ = ["Matrix"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil
from typing import Any, override

import jax.numpy as jnp
import numpy as np

from aimz.data.array_sources import ArraySource, InMemorySource, dask_array_of, source_of
from aimz.data.arrays import check_array
from aimz.data.dataframes import check_integers_fit


@dataclass(frozen=True, eq=False)
class Matrix(ArraySource):
    """Columns of shape ``(n_obs,)`` or columns of one matrix, as an array of shape ``(n_obs, n_columns)``."""

    columns: tuple[str, ...]
    """Names of the columns."""
    stored: tuple[Any, ...]
    """Arrays or sources of the columns, or the one matrix that has all of them."""
    places: tuple[int, ...] | None
    """Positions of the columns in the one matrix; None if each column is an array of its own."""
    name: str
    """Name of the argument in error messages."""
    shape: tuple[int, ...]
    dtype: Any
    index: Any = None
    """Labels of the rows, a :class:`pandas.Index`; None without labels."""

    @staticmethod
    def of_columns(columns: Mapping[str, Any], name: str, index: Any = None) -> "Matrix":
        """Combine arrays of shape ``(n_obs,)``; raise ``ValueError`` if their lengths differ."""
        if not columns:
            msg = f"`{name}` must have at least one column; got none. Pass a table with columns."
            raise ValueError(msg)
        lengths = {column: int(array.shape[0]) for column, array in columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{column!r}: {length}" for column, length in lengths.items())
            msg = f"The columns of `{name}` must have the same number of rows; got {listed}. Drop the others."
            raise ValueError(msg)
        kinds = [_checked(array[0:0], name, column).dtype for column, array in columns.items()]
        dtype = np.dtype(reduce(jnp.promote_types, kinds))
        shape = next(iter(lengths.values())), len(columns)
        return Matrix(tuple(columns), tuple(columns.values()), None, name, shape, dtype, index)

    @staticmethod
    def of_matrix(matrix: Any, columns: Mapping[str, int], name: str, index: Any = None) -> "Matrix":
        """Select columns of one matrix by their positions."""
        shape, places = (int(matrix.shape[0]), len(columns)), tuple(columns.values())
        return Matrix(tuple(columns), (matrix,), places, name, shape, np.dtype(matrix.dtype), index)

    def __getitem__(self, rows: slice) -> np.ndarray:
        given = [array[rows] for array in self.stored]
        if self.places is not None:
            part: np.ndarray = np.asanyarray(given[0])
            return part if self.places == tuple(range(part.shape[1])) else part[:, list(self.places)]
        if any(hasattr(part, "__dask_graph__") for part in given):
            from dask.base import compute

            given = compute(*given)  # together, since they may share tasks
        parts = [_checked(part, self.name, column) for column, part in zip(self.columns, given, strict=True)]
        matrix = np.empty((len(parts[0]), len(parts)), self.dtype)
        for i, part in enumerate(parts):
            matrix[:, i] = part
            if part.dtype.kind in "iu" and self.dtype.kind == "f":
                check_integers_fit(part, self.dtype, f"The column {self.columns[i]!r} of `{self.name}`")
        return matrix

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @override
    def arrays(self) -> Sequence[Any]:
        return self.stored

    @override
    def source(self) -> ArraySource | None:
        matrix = None if self.places is None else dask_array_of(self.stored[0])
        if matrix is not None:  # Dask computes the picked columns only
            every = self.places == tuple(range(matrix.shape[1]))
            return source_of(matrix if every else matrix[:, list(self.places or ())])
        sources = [source_of(array) for array in self.stored]
        if all(source is None for source in sources):
            return None
        # Columns in memory are sent along with references to the others.
        stored = (s or InMemorySource.of(np.asarray(array)) for s, array in zip(sources, self.stored, strict=True))
        return replace(self, stored=tuple(stored), index=None)

    @property
    def key(self) -> str | None:
        """Keys of all stored arrays, if each has one."""
        keys = [array.key for array in self.stored]
        return None if None in keys else "\n".join([*map(str, keys), str(self.places)])

    @property
    def uses_dask(self) -> bool:
        """Whether Dask computes the rows of a column."""
        return any(array.uses_dask for array in self.stored)

    @override
    def cut(self, start: int, stop: int) -> "Matrix":
        # Columns are read together, as many rows of each as the longest chunk of a column has.
        each = max(array.chunk_rows for array in self.stored)
        start, stop = start // each * each, min(ceil(stop / each) * each, self.shape[0])
        return replace(self, stored=tuple(array.cut(start, stop) for array in self.stored))


def _checked(part: Any, name: str, column: str) -> np.ndarray:
    return np.asarray(check_array(np.asanyarray(part), f"{name}[{column!r}]"))

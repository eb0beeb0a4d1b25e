"""What another process gets of an argument: some of its rows, or where it can read them."""

__all__ = ["RowSlice", "slice_for_worker"]

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import jax
import numpy as np

from aimz.data.array_sources import ArraySource, InMemorySource
from aimz.data.lazy_arrays import BatchField, LazyArray, StackedArrays


@dataclass(frozen=True, eq=False)
class RowSlice:
    """Rows ``start:stop`` of an argument, under the numbers they have in the whole.

    It can be pickled, and is read like the whole as far as its rows reach.  A data class, so that Dask finds a Dask
    array in it: ``dask.delayed(function)(share)`` hands ``function`` a share with the rows of that array in memory.
    """

    rows: Any
    """An array, or an :class:`Origin`."""
    axis: int
    """The axis of the rows."""
    start: int
    stop: int
    shape: tuple[int, ...]
    """Of the whole."""
    dtype: np.dtype
    name: str = ""
    """What to call it in an error."""
    function: Callable[[Any], Any] | None = None
    """Applied to the rows as they are read."""
    is_constant_over_rows: bool = False
    """Whether all rows are the same, so that one is kept."""
    by_reference: bool = False
    """Whether the rows come from where they lie, and not through the process that made the call."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        """Return rows; ``index`` is a slice of the row axis if that is the first, or one for each axis up to it."""
        across = index if isinstance(index, tuple) else (index,)
        start, stop, _ = across[self.axis].indices(self.shape[self.axis])
        before, after = across[: self.axis], across[self.axis + 1 :]
        if self.is_constant_over_rows:
            one = self.rows[(*before, slice(None), *after)]
            return np.broadcast_to(one, (*one.shape[: self.axis], max(0, stop - start), *one.shape[self.axis + 1 :]))
        if start < stop and (start < self.start or stop > self.stop):
            msg = f"Rows {start} to {stop} of `{self.name}` were asked for; this share has {self.start} to {self.stop}."
            raise IndexError(msg)
        if isinstance(self.rows, ArraySource):
            return self._opened[start:stop][(slice(None), *after)]
        start, stop = (start - self.start, stop - self.start) if start < stop else (0, 0)
        return np.asarray(self.rows[(*before, slice(start, stop), *after)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 (NumPy's protocol)
        """Refuse: the whole is not here."""
        msg = f"Of `{self.name}` there are rows {self.start} to {self.stop} only. Take them by their numbers."
        raise TypeError(msg)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was opened: it is to be looked for where this arrives."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def _opened(self) -> LazyArray:
        return LazyArray(self.rows.opened(self.name), self.name, self.function)


def slice_for_worker(array: Any, axis: int, start: int, stop: int) -> Any:
    """Return what another process needs to read rows ``start:stop`` of an argument.

    Nothing but rows that are in this process goes along: of a Dask array the part that makes these rows, of a Zarr
    array where it is stored.

    Parameters
    ----------
    array : array_like
        An array, :class:`LazyArray`, or :class:`StackedArrays` of them; a :class:`BatchField` stays as it is.
    axis : int
        The axis of the rows.
    start, stop : int
        The rows.

    Returns
    -------
    Share, Stacked or Field
    """
    if isinstance(array, BatchField):
        return array
    if isinstance(array, StackedArrays):
        return StackedArrays(tuple(slice_for_worker(part, axis, start, stop) for part in array.parts))
    if isinstance(array, LazyArray):
        return _of_rows(array, start, stop)
    host = np.asarray(array)
    shape, same = tuple(host.shape), not isinstance(array, jax.Array) and host.strides[axis] == 0
    taken = host[(slice(None),) * axis + (slice(0, 1) if same else slice(start, stop),)]
    return RowSlice(taken, axis, start, stop, shape, host.dtype, is_constant_over_rows=same)


def _of_rows(array: LazyArray, start: int, stop: int) -> RowSlice:
    rows: Any
    if array.origin is not None:
        rows = array.origin.cut(start, stop)
    elif array.function is not None:
        rows = InMemorySource(array.given(slice(start, stop)), start, stop, array.shape[0])
    else:
        rows = array[start:stop]
    return RowSlice(
        rows, 0, start, stop, array.shape, array.dtype, array.name, array.function, by_reference=array.by_reference
    )

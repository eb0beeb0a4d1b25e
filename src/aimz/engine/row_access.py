"""Rows of arrays, blocks of rows, and what each device holds."""

__all__ = ["in_blocks", "is_constant_over_rows", "is_read_lazily", "rows_of", "shards_of"]

from typing import Any

import jax
import numpy as np

from aimz.data import LazyArray, RowSlice, StackedArrays


def shards_of(array: jax.Array, axis: int) -> list[np.ndarray]:
    """Return what each device holds, in the order of ``axis``; a view where the device is the host."""
    if len(array.devices()) == 1:
        return [np.asarray(array)]
    found = sorted(array.addressable_shards, key=lambda shard: shard.index[axis].start or 0)
    return [np.asarray(shard.data) for shard in found]


def is_constant_over_rows(array: Any, axis: int) -> bool:
    """Whether an array shows that its rows are all the same, by taking no memory for them."""
    if isinstance(array, StackedArrays):
        return all(is_constant_over_rows(part, axis) for part in array.parts)
    if isinstance(array, RowSlice):
        return array.is_constant_over_rows
    return isinstance(array, np.ndarray) and array.strides[axis] == 0


def is_read_lazily(array: Any) -> bool:
    """Whether rows of an array are read from where they lie, each time at the price of reading them."""
    if isinstance(array, StackedArrays):
        return any(is_read_lazily(part) for part in array.parts)
    return isinstance(array, LazyArray | RowSlice) and array.by_reference


def rows_of(array: Any, axis: int, start: int, stop: int) -> Any:
    """Return some rows; of one that is the same in all rows, as many as are asked for."""
    if isinstance(array, StackedArrays):
        return np.stack([rows_of(part, axis, start, stop) for part in array.parts], axis=-1)
    if isinstance(array, jax.Array):
        array = np.asarray(array)
    if is_constant_over_rows(array, axis):
        shape = (*array.shape[:axis], stop - start, *array.shape[axis + 1 :])
        return np.broadcast_to(array[(slice(None),) * axis + (slice(0, 1),)], shape)
    return array[(slice(None),) * axis + (slice(start, stop),)] if axis else array[start:stop]


def in_blocks(array: np.ndarray, axis: int, n_blocks: int, block: int) -> np.ndarray:
    """Cut one axis into blocks, ``(..., n_blocks, block, ...)``, repeating the last row as often as it takes."""
    short = n_blocks * block - array.shape[axis]
    if short:
        array = np.pad(array, [(0, short if i == axis else 0) for i in range(array.ndim)], mode="edge")
    return array.reshape(*array.shape[:axis], n_blocks, block, *array.shape[axis + 1 :])

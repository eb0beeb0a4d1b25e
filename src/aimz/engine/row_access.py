"""Blocks of rows, and the part of an array that each device holds."""

__all__ = ["in_blocks", "shards_of"]

import jax
import numpy as np


def shards_of(array: jax.Array, axis: int) -> list[np.ndarray]:
    """Return the part on each device, in the order of ``axis``; a view if the device is the host."""
    if len(array.devices()) == 1:
        return [np.asarray(array)]
    found = sorted(array.addressable_shards, key=lambda shard: shard.index[axis].start or 0)
    return [np.asarray(shard.data) for shard in found]


def in_blocks(array: np.ndarray, axis: int, n_blocks: int, block: int) -> np.ndarray:
    """Split one axis into blocks, ``(..., n_blocks, block, ...)``, padded with copies of the last row."""
    short = n_blocks * block - array.shape[axis]
    if short:
        array = np.pad(array, [(0, short if i == axis else 0) for i in range(array.ndim)], mode="edge")
    return array.reshape(*array.shape[:axis], n_blocks, block, *array.shape[axis + 1 :])

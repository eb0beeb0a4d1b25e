"""Chunks of arrays that are stored uncompressed."""

__all__ = ["cut_chunks", "is_plain"]

import sys
from collections.abc import Iterator, Mapping
from itertools import product
from math import ceil
from typing import Any

import numpy as np


def is_plain(dtype: np.dtype) -> bool:
    """Return whether a chunk of this type is stored as its bytes in memory: see :mod:`aimz.store.zarr_metadata`."""
    return dtype.kind in "fc" and sys.byteorder == "little"


def cut_chunks(
    document: Mapping[str, Any], where: tuple[slice, ...], piece: np.ndarray
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield the grid position and the bytes of each chunk of a piece that covers whole chunks.

    ``document`` is the metadata of the array, and ``where`` the position of the piece in it. Chunks at the end of an
    axis are padded with NaN, the fill value. A chunk that is contiguous in the piece is not copied.
    """
    shape = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    starts = [index.start or 0 for index in where]
    spans = zip(starts, piece.shape, shape, strict=True)
    for position in product(*(range(start // chunk, ceil((start + size) / chunk)) for start, size, chunk in spans)):
        firsts = [p * chunk - start for p, chunk, start in zip(position, shape, starts, strict=True)]
        part = piece[tuple(slice(first, first + chunk) for first, chunk in zip(firsts, shape, strict=True))]
        if part.shape != shape:
            padded = np.full(shape, np.nan, piece.dtype)
            padded[tuple(map(slice, part.shape))] = part
            part = padded
        yield position, np.ascontiguousarray(part).reshape(-1).view(np.uint8)

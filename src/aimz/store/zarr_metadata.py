"""Metadata of groups and arrays, and the files of small arrays.

zarr writes metadata through an event loop, which takes milliseconds for each array, and a small result has a dozen.
Metadata are therefore created in memory, once for each kind of array, and written as files.

Until a result is complete, the metadata of its groups and streamed arrays have one more field, ``UNFINISHED``.  By the
Zarr specification, a reader that does not know it must not open the node, and no library does.  Since the file exists,
no library creates another.
"""

__all__ = [
    "SMALL_BYTES",
    "UNFINISHED",
    "array_document",
    "encode_document",
    "group_document",
    "open_chunks",
    "small_files",
    "zarr_settings",
]

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore, StorePath

from aimz.store.base import Variable
from aimz.store.checksums import ChunkChecksums, chunk_number, grid_of, tail_checksum

UNFINISHED = "aimz_unfinished"
"""Field of the metadata of a group or an array that is not complete."""
SMALL_BYTES = 2**18
"""Size up to which the files of an array are cached, such as a posterior that many calls store."""

_lock = threading.RLock()


@contextmanager
def zarr_settings() -> Iterator[None]:
    """Set zarr's global configuration while arrays are opened; an open array keeps the configuration."""
    settings = {
        "codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline",
        "array.read_missing_chunks": False,
        "array.write_empty_chunks": True,
    }
    with _lock, zarr.config.set(settings):
        yield


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def encode_document(document: Mapping[str, Any], *, finished: bool = True, **more: str) -> bytes:
    """Return metadata as the content of a file, which no reader opens unless ``finished``."""
    if not finished:
        document = {**document, UNFINISHED: {"name": UNFINISHED, "must_understand": True, **more}}
    return json.dumps(document, indent=2).encode()


def array_document(variable: Variable, attrs: str = "{}") -> dict[str, Any]:
    """Return the metadata of an array; axes of unknown length have length 0."""
    shape = tuple(0 if size is None else size for size in variable.shape)
    template = _template(shape, variable.chunks, variable.dtype, variable.dims, attrs)
    document: dict[str, Any] = json.loads(_files(template)["zarr.json"])
    return document


def open_chunks(path: StorePath, document: Mapping[str, Any]) -> Any:
    """Return the array with these metadata, whose file is not read."""
    with zarr_settings():
        return zarr.Array(zarr.AsyncArray(metadata=dict(document), store_path=path))  # type: ignore[call-overload]


@lru_cache(maxsize=64)
def small_files(
    content: bytes, shape: Any, chunks: Any, dtype: np.dtype, dims: Any, attrs: str
) -> tuple[dict[str, bytes], ChunkChecksums, int]:
    """Return the files that zarr writes for an array, its metadata last, and checksums and number of its chunks."""
    array = _create(shape, chunks, dtype, dims, attrs)
    array[...] = np.frombuffer(content, dtype).reshape(shape)
    files = _files(array)
    document, checksums = files.pop("zarr.json"), ChunkChecksums()
    grid = grid_of(json.loads(document))
    for file, chunk in files.items():
        checksums.set(chunk_number(tuple(map(int, file.split("/")[1:])), grid), tail_checksum(chunk))
    return {**files, "zarr.json": document}, checksums, prod(grid)


@lru_cache(maxsize=64)
def _template(shape: Any, chunks: Any, dtype: np.dtype, dims: Any, attrs: str) -> Any:
    """Return an array without chunks whose metadata every array of its kind shares."""
    return _create(shape, chunks, dtype, dims, attrs)


def _create(shape: Any, chunks: Any, dtype: np.dtype, dims: Any, attrs: str) -> Any:
    """Create an array in memory: integers are compressed, floats are not, and every chunk has a checksum.

    Noise does not compress, while counts and flags of a likelihood do.  The fill value does not occur in results, and
    chunks equal to it are written all the same, so that a missing chunk is always recognised.
    """
    kind = dtype.kind
    text = kind == "O"
    compressed = [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")] if kind in "iub" else []
    fill: Any = np.nan if kind in "fc" else np.iinfo(dtype).min if kind in "iu" else "" if text else False
    with zarr_settings():
        return zarr.create_array(
            MemoryStore(),
            shape=shape,
            chunks=tuple(max(1, chunk) for chunk in chunks),
            dtype=str if text else dtype,
            compressors=[*compressed, Crc32cCodec()],
            fill_value=fill,
            dimension_names=dims,
            attributes=json.loads(attrs),
        )


def _files(array: Any) -> dict[str, bytes]:
    """Return the files of an array in memory."""
    store = array.store_path.store._store_dict  # noqa: SLF001, RUF100 (there is no synchronous way to list it)
    return {name: buffer.to_bytes() for name, buffer in store.items()}

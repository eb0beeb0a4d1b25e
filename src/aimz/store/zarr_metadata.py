"""Arrays as files: what zarr makes of them, with what it makes again and again kept.

zarr writes metadata through an event loop, which takes milliseconds for each array; a small result has a dozen.  So
its metadata are made in memory, once for each kind of array, and put where they belong as files.
"""

__all__ = ["new_array", "put_whole", "zarr_settings"]

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from aimz.store.base import Variable
from aimz.store.location import Location

_SMALL = 2**18
"""Bytes up to which the files of a whole array are kept: the posterior of many calls, the numbers of its draws."""


_LOCK = threading.RLock()


@contextmanager
def zarr_settings() -> Iterator[None]:
    """Hold the settings arrays are to be opened under; zarr's are global, an open array keeps what it was given."""
    settings = {
        "codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline",
        "array.read_missing_chunks": False,
        "array.write_empty_chunks": True,
    }
    with _LOCK, zarr.config.set(settings):
        yield


def new_array(location: Location, name: str, variable: Variable, attrs: str = "{}") -> tuple[Any, dict[str, Any]]:
    """Make an array without chunks; return it, and its metadata."""
    shape = tuple(0 if size is None else size for size in variable.shape)
    template = _template(shape, variable.chunks, variable.dtype, variable.dims, attrs)
    document = _document(template)
    location.put(f"{name}/zarr.json", document)
    array = zarr.AsyncArray(
        metadata=template.metadata,
        store_path=location.store_path(name),
        config=template.async_array.config,
    )
    return zarr.Array(array), json.loads(document)


def put_whole(
    location: Location, name: str, variable: Variable, values: np.ndarray, attrs: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Write an array with all its values; return its metadata and the number of its chunks."""
    described = json.dumps(dict(attrs))
    if values.dtype.kind == "O" or values.nbytes > _SMALL:
        array, document = new_array(location, name, variable, described)
        array[...] = values
        return document, int(array.nchunks)
    files = _small_files(values.tobytes(), variable.shape, variable.chunks, variable.dtype, variable.dims, described)
    for file, content in files.items():
        location.put(f"{name}/{file}", content)
    return json.loads(files["zarr.json"]), len(files) - 1


@lru_cache(maxsize=64)
def _small_files(content: bytes, shape: Any, chunks: Any, dtype: np.dtype, dims: Any, attrs: str) -> dict[str, bytes]:
    """Return the files of a whole array, as zarr would write them."""
    array = _made(shape, chunks, dtype, dims, attrs)
    array[...] = np.frombuffer(content, dtype).reshape(shape)
    return {name: buffer.to_bytes() for name, buffer in _contents(array).items()}


@lru_cache(maxsize=64)
def _template(shape: Any, chunks: Any, dtype: np.dtype, dims: Any, attrs: str) -> Any:
    """Return an array without chunks whose metadata are those of every array of its kind."""
    return _made(shape, chunks, dtype, dims, attrs)


def _made(shape: Any, chunks: Any, dtype: np.dtype, dims: Any, attrs: str) -> Any:
    """Make an array in memory: floats as they are, whole numbers packed, and a checksum on every chunk.

    Noise does not compress; the counts and flags of a likelihood do.  The fill value is one that no result has by
    chance, and chunks equal to it are written all the same, so that a missing chunk is known for what it is.
    """
    kind = dtype.kind
    text = kind == "O"
    packed = [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")] if kind in "iub" else []
    fill: Any = np.nan if kind in "fc" else np.iinfo(dtype).min if kind in "iu" else "" if text else False
    with zarr_settings():
        return zarr.create_array(
            MemoryStore(),
            shape=shape,
            chunks=tuple(max(1, chunk) for chunk in chunks),
            dtype=str if text else dtype,
            compressors=[*packed, Crc32cCodec()],
            fill_value=fill,
            dimension_names=dims,
            attributes=json.loads(attrs),
        )


def _contents(array: Any) -> Mapping[str, Any]:
    store: Mapping[str, Any] = array.store_path.store._store_dict  # noqa: SLF001, RUF100 (there is no synchronous way to list it)
    return store


def _document(array: Any) -> bytes:
    document: bytes = _contents(array)["zarr.json"].to_bytes()
    return document

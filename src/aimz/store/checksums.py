"""Checksums of chunks by position, and a store that records and compares them."""

__all__ = ["TAIL", "ChunkChecksums", "ChunkStore", "chunk_number", "grid_of", "tail_checksum"]

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from math import ceil, prod
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

_CHUNK = re.compile(r"(.+)/c((?:/\d+)*)")
TAIL = 4
"""Length of the CRC-32C at the end of each chunk."""


class ChunkChecksums:
    """The CRC-32C of each chunk of an array, by the number of the chunk in C order; -1 if unknown."""

    def __init__(self, values: Any = ()) -> None:
        self._values = np.array(values, np.int64)
        self._length = len(self._values)

    def __len__(self) -> int:
        return self._length

    def get(self, number: int) -> int:
        """Return the checksum of a chunk, or -1."""
        return int(self._values[number]) if number < self._length else -1

    def set(self, number: int, checksum: int) -> None:
        """Set the checksum of a chunk."""
        if number >= len(self._values):
            self._values = np.concatenate([self._values, np.full(number + 1, -1)])
        self._length = max(self._length, number + 1)
        self._values[number] = checksum

    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the numbers and checksums of the chunks of a range whose checksums are known."""
        values = self._values[: self._length][start:stop]
        for i in np.flatnonzero(values >= 0):
            yield start + int(i), int(values[i])

    def first(self, length: int) -> "ChunkChecksums":
        """Return the checksums of the first chunks."""
        return ChunkChecksums(self._values[: min(length, self._length)])

    def encode(self) -> str:
        """Return all checksums as text, four bytes for each."""
        return base64.b64encode(self._values[: self._length].astype("<u4").tobytes()).decode()

    @staticmethod
    def decode(text: str) -> "ChunkChecksums":
        """Return the checksums of a text."""
        return ChunkChecksums(np.frombuffer(base64.b64decode(text, validate=True), "<u4"))


def grid_of(document: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the number of chunks along each axis of an array, from its metadata."""
    chunks = document["chunk_grid"]["configuration"]["chunk_shape"]
    return tuple(ceil(size / chunk) for size, chunk in zip(document["shape"], chunks, strict=True))


def chunk_number(position: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """Return the number of a chunk in C order.

    An array that grows has chunks along one axis only, so that numbers do not change when it grows.
    """
    return sum(p * prod(grid[axis + 1 :]) for axis, p in enumerate(position))


def tail_checksum(content: bytes) -> int:
    """Return the checksum at the end of a chunk."""
    return int.from_bytes(content[-TAIL:], "little")


class ChunkStore(WrapperStore[Store]):
    """Store that passes the checksum of each chunk on: before the chunk is written, and after it was read.

    Parameters
    ----------
    store
        Store of the files.
    prefix
        Prefix of the keys of the result in the store, without a slash at its end.
    grids
        Path of each array in the result to the number of its chunks along each axis.
    on_write, on_read
        Receive the path of the array, the number of the chunk and its checksum.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        grids: Mapping[str, tuple[int, ...]],
        *,
        on_write: Callable[[str, int, int], None],
        on_read: Callable[[str, int, int], None],
    ) -> None:
        super().__init__(store)
        self._prefix = f"{prefix}/" if prefix else ""
        self._grids = grids
        self._on_write, self._on_read = on_write, on_read

    @property
    def _supports_sync_io(self) -> bool:
        """Whether zarr may read and write without its event loop; a store of the user may have no such operations."""
        return isinstance(self._store, LocalStore)

    def _send(self, receive: Callable[[str, int, int], None], key: str, value: Buffer) -> None:
        """Send the checksum of a chunk to a receiver."""
        found = _CHUNK.fullmatch(key.removeprefix(self._prefix))
        if found is not None and found[1] in self._grids:
            position = tuple(map(int, found[2].split("/")[1:]))
            number = chunk_number(position, self._grids[found[1]])
            receive(found[1], number, tail_checksum(value[-TAIL:].to_bytes()))

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value."""
        self._send(self._on_write, key, value)
        await super().set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Store a value."""
        self._send(self._on_write, key, value)
        super().set_sync(key, value)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a value, or None if it does not exist."""
        found = await super().get(key, prototype, byte_range)
        if found is not None:
            self._send(self._on_read, key, found)
        return found

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a value, or None if it does not exist."""
        found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        if found is not None:
            self._send(self._on_read, key, found)
        return found

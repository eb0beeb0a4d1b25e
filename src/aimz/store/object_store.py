"""Location in a Zarr store: object stores, memory, and any other store class of zarr."""

__all__ = ["ObjectStoreLocation"]

import asyncio
import re
from collections import Counter
from collections.abc import Buffer, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from zarr.abc.store import Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, ManagedMemoryStore, MemoryStore, StorePath, WrapperStore

from aimz.store.location import JOURNAL, Location
from aimz.store.zarr_metadata import encode_document, group_document

_CHUNK = re.compile(r"(.*)/c((?:/\d+)*)")


def _wait[T](work: Coroutine[Any, Any, T]) -> T:
    """Run an asynchronous operation of a store, and wait for its result.

    zarr has no public bridge.  A separate event loop would share connections with zarr's, which the clients of object
    stores forbid.
    """
    return sync(work)


@dataclass(frozen=True)
class ObjectStoreLocation(Location):
    """Keys of a store under a common prefix.

    A store can neither rename nor append, but a value that is put is stored as a whole or not at all.
    """

    store: Store
    path: str = ""
    """Prefix, without a slash at either end."""
    url: str = ""
    """URL that the user passed, or "" for a store object."""

    local = False
    max_writers = 8
    read_errors = (ValueError, RuntimeError)

    def __str__(self) -> str:
        return self.url or str(StorePath(self.store, self.path))

    def __getstate__(self) -> dict[str, Any]:
        """Raise if the store is private memory, of which another process would get a copy."""
        inner = self.store
        while isinstance(inner, WrapperStore):
            inner = inner._store  # noqa: SLF001, RUF100 (it has no other name)
        if isinstance(inner, MemoryStore) and not isinstance(inner, ManagedMemoryStore):
            msg = (
                f"The result in {self} is stored in the memory of this process, and cannot be sent to another. Store "
                "it where both can read, in a directory or at a URL such as 's3://bucket/results'."
            )
            raise TypeError(msg)
        return self.__dict__

    @property
    def parent(self) -> "ObjectStoreLocation":
        """Location one level up."""
        return ObjectStoreLocation(self.store, self.path.rpartition("/")[0], self.url.rpartition("/")[0])

    @property
    def resume(self) -> str:
        """Arguments that resume the call stored here."""
        name = self.path.rpartition("/")[2]
        return f"`resume={self.url!r}`" if self.url else f"the same `output_dir` and `resume={name!r}`"

    def check(self, argument: str) -> None:
        """List the location, which needs a bucket, its server and valid credentials."""
        try:
            self.list_dir("")
        except Exception as error:
            reason = " ".join(str(error).partition("\n\nDebug")[0].split())[:400]
            msg = (
                f"`{argument}` must be a place that can be listed and written; got {str(self)!r}, where listing raises "
                f"{type(error).__name__}: {reason}. Make the bucket, or set the variables of its server and your keys "
                "(`AWS_REGION`, `AWS_ACCESS_KEY_ID` and so on), and call again."
            )
            raise (PermissionError if isinstance(error, PermissionError) else OSError)(msg) from error

    def __truediv__(self, name: str) -> "ObjectStoreLocation":
        return ObjectStoreLocation(self.store, self._key(name), f"{self.url.rstrip('/')}/{name}" if self.url else "")

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.path, name) if part)

    def put_all(self, files: Mapping[str, Iterable[Buffer]]) -> None:
        """Store values."""
        for name, parts in files.items():
            _wait(self.store.set(self._key(name), default_buffer_prototype().buffer.from_bytes(b"".join(parts))))

    def get(self, name: str) -> bytes | None:
        """Return a value, or None if it does not exist."""
        found = _wait(self.store.get(self._key(name), default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def get_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Return several values, requested concurrently."""
        prototype, wanted = default_buffer_prototype(), list(names)

        async def get_each() -> list[Any]:
            return await asyncio.gather(*(self.store.get(self._key(name), prototype) for name in wanted))

        found = _wait(get_each())
        return {n: None if value is None else value.to_bytes() for n, value in zip(wanted, found, strict=True)}

    def tail(self, name: str, length: int) -> bytes:
        """Return the end of a value that exists."""
        found = _wait(self.store.get(self._key(name), default_buffer_prototype(), SuffixByteRequest(length)))
        return b"" if found is None else found.to_bytes()

    def delete(self, name: str) -> None:
        """Delete a value if it exists."""
        _wait(self.store.delete(self._key(name)))

    def list_dir(self, name: str) -> list[str]:
        """Return the next parts of the keys under a prefix."""

        async def children() -> list[str]:
            with suppress(FileNotFoundError):  # raised by some stores for an empty prefix
                return [child async for child in self.store.list_dir(self._key(name))]
            return []

        self._forget_listings()
        return _wait(children())

    def _forget_listings(self) -> None:
        """Drop fsspec's cached listings, since other processes write too."""
        if isinstance(self.store, FsspecStore):
            self.store.fs.invalidate_cache()

    def exists(self) -> bool:
        """Return whether there is any key under the prefix."""
        return bool(self.list_dir(""))

    def claim(self, journal: bytes | None = None) -> bool:
        """Store a unique root unless there is one, then the journal; return whether the stored root is ours."""
        mine = encode_document(group_document({}), finished=False, claim=uuid4().hex)
        key, value = self._key("zarr.json"), default_buffer_prototype().buffer.from_bytes(mine)
        _wait(self.store.set_if_not_exists(key, value))
        is_ours = self.get("zarr.json") == mine
        if is_ours and journal is not None:
            self.put(f"{JOURNAL}/head", journal)
        return is_ours

    def remove(self) -> None:
        """Delete all keys under the prefix on a best-effort basis."""
        with suppress(Exception):
            _wait(self.store.delete_dir(self.path))

    def count_chunks(self, names: Iterable[str]) -> dict[str, int]:
        """Return the number of stored chunks of each array, from one listing of all keys."""
        prefix = f"{self.path}/" if self.path else ""

        async def count() -> Counter[str]:
            found: Counter[str] = Counter()
            with suppress(FileNotFoundError):
                async for key in self.store.list_prefix(prefix):
                    match = _CHUNK.fullmatch(key.removeprefix(prefix))
                    if match:
                        found[match[1]] += 1
            return found

        self._forget_listings()
        found = _wait(count())
        return {name: found[name] for name in names}

    def store_path(self, name: str, *, read_only: bool = False) -> StorePath:
        """Return the path under which zarr opens an array or a group."""
        store = self.store
        if read_only and not store.read_only:
            with suppress(NotImplementedError):
                store = store.with_read_only(read_only=True)
        return StorePath(store, self._key(name))

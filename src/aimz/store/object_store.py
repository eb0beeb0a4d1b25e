"""Results in a store of zarr's: object stores, and whatever else there is a class for."""

__all__ = ["ObjectStoreLocation"]

import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, ManagedMemoryStore, MemoryStore, StorePath, WrapperStore

from aimz.store.location import OWNER, Location

_CHUNK = re.compile(r"(.*)/c((?:/\d+)*)")


def _wait[T](work: Coroutine[Any, Any, T]) -> T:
    """Do what a store does asynchronously, and wait for it.

    The one place where zarr's own bridge is used: it has no public one, and a loop of ours would share connections
    with zarr's, which clients of object stores forbid.
    """
    return sync(work)


@dataclass(frozen=True)
class ObjectStoreLocation(Location):
    """Keys of a store that begin alike.

    There is no rename and no way to append; but a value that is put is there as a whole or not at all.
    """

    store: Store
    path: str = ""
    """No slash at either end."""
    url: str = ""
    """What users call it; "" for a store that they made themselves."""

    local = False
    writers = 8
    damage = (ValueError, RuntimeError)

    def __str__(self) -> str:
        return self.url or str(StorePath(self.store, self.path))

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to take a store along that would be another one elsewhere."""
        inner = self.store
        while isinstance(inner, WrapperStore):
            inner = inner._store  # noqa: SLF001, RUF100 (it has no other name)
        if isinstance(inner, MemoryStore) and not isinstance(inner, ManagedMemoryStore):
            msg = (
                f"The result in {self} lies in the memory of this process, and cannot be sent to another. Store it "
                "where both can read, in a directory or at a URL such as 's3://bucket/results'."
            )
            raise TypeError(msg)
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectStoreLocation":
        """What it lies in."""
        return ObjectStoreLocation(self.store, self.path.rpartition("/")[0], self.url.rpartition("/")[0])

    @property
    def resume(self) -> str:
        """The arguments that finish the call that lies here."""
        return f"`resume={self.url!r}`" if self.url else f"the same `output_dir` and `resume={self.name!r}`"

    def check(self, argument: str) -> None:
        """List what is here: a bucket, its server and the keys to it are all needed for that."""

        async def look() -> None:
            with suppress(FileNotFoundError):  # nothing there yet
                async for _ in self.store.list_dir(self.path):
                    return

        try:
            _wait(look())
        except Exception as error:
            said = " ".join(str(error).partition("\n\nDebug")[0].split())[:400]
            msg = (
                f"`{argument}` must be a place that can be listed and written; got {str(self)!r}, where listing raises "
                f"{type(error).__name__}: {said}. Make the bucket, or set what names its server and your keys "
                "(`AWS_REGION`, `AWS_ACCESS_KEY_ID` and so on), and call again."
            )
            raise (PermissionError if isinstance(error, PermissionError) else OSError)(msg) from error

    def __truediv__(self, name: str) -> "ObjectStoreLocation":
        return ObjectStoreLocation(self.store, self._key(name), f"{self.url.rstrip('/')}/{name}" if self.url else "")

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.path, name) if part)

    def put(self, name: str, content: bytes, *, lasting: bool = False) -> None:  # noqa: ARG002 (a put is)
        """Put a value."""
        _wait(self.store.set(self._key(name), default_buffer_prototype().buffer.from_bytes(content)))

    def get(self, name: str) -> bytes | None:
        """Return a value, or None if it is not there."""
        found = _wait(self.store.get(self._key(name), default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def has(self, name: str) -> bool:
        """Return whether a value is there."""
        return _wait(self.store.exists(self._key(name)))

    def delete(self, name: str) -> None:
        """Remove a value, if it is there."""
        _wait(self.store.delete(self._key(name)))

    def exists(self) -> bool:
        """Return whether there is a key that begins so."""

        async def look() -> bool:
            async for _ in self._keys():
                return True
            return False

        return _wait(look())

    async def _keys(self, name: str = "") -> AsyncIterator[str]:
        """Yield the keys below, as names."""
        above = f"{self.path}/" if self.path else ""
        inside = self._key(name)
        if isinstance(self.store, FsspecStore):  # it remembers listings, and others write here
            self.store.fs.invalidate_cache()
        with suppress(FileNotFoundError):  # some say so where there is nothing
            async for key in self.store.list_prefix(f"{inside}/" if inside else ""):
                yield key.removeprefix(above)

    def claim(self) -> bool:
        """Put a value of our own, unless there is one; return whether it is ours that is there."""
        mine = uuid4().hex.encode()
        key, value = self._key(OWNER), default_buffer_prototype().buffer.from_bytes(mine)
        _wait(self.store.set_if_not_exists(key, value))
        return self.get(OWNER) == mine

    def remove(self) -> None:
        """Remove everything here, as far as possible."""
        with suppress(Exception):
            _wait(self.store.delete_dir(self.path))

    def sweep(self) -> None:
        """Do nothing: a put leaves no drafts."""

    def children(self, name: str) -> list[str]:
        """Return the names, in a group, of what may be arrays."""

        async def look() -> list[str]:
            return [child async for child in self.store.list_dir(self._key(name)) if child != "zarr.json"]

        return _wait(look())

    def count_chunks(self, names: Iterable[str]) -> dict[str, int]:
        """Return how many chunks of arrays there are, by one listing of everything here."""

        async def count() -> Counter[str]:
            found: Counter[str] = Counter()
            async for key in self._keys():
                match = _CHUNK.fullmatch(key)
                if match:
                    found[match[1]] += 1
            return found

        found = _wait(count())
        return {name: found[name] for name in names}

    def check_sizes(self, name: str, grid: Iterable[tuple[int, ...]], size: int | None) -> None:
        """Do nothing: a value is whole or not there, and those that are there are counted."""

    @property
    def tree(self) -> StorePath:
        """What xarray opens as a tree."""
        return self.store_path("", read_only=True)

    def store_path(self, name: str, *, read_only: bool = False) -> StorePath:
        """Return where zarr finds an array."""
        store = self.store
        if read_only and not store.read_only:
            with suppress(NotImplementedError):
                store = store.with_read_only(read_only=True)
        return StorePath(store, self._key(name))

    def begin_log(self, name: str, content: bytes) -> None:
        """Put the first lines of a log."""
        self.put(f"{name}/head", content)

    def append_log(self, name: str, content: bytes, key: str) -> None:
        """Put lines of a log as a value of their own."""
        self.put(f"{name}/lines-{key}", content)

    def read_log(self, name: str) -> bytes | None:
        """Return all lines of a log, or None if there is none."""

        async def read() -> bytes | None:
            parts = []
            for key in sorted([key async for key in self._keys(name)]):  # "head" comes before "lines"
                found = await self.store.get(self._key(key), default_buffer_prototype())
                parts.append(b"" if found is None else found.to_bytes())
            return b"".join(parts) if parts else None

        return _wait(read())

    def cut_log(self, name: str, length: int) -> None:
        """Do nothing: no line can be torn."""

    def end_log(self, name: str) -> None:
        """Remove a log, if there is one."""

        async def remove() -> None:
            for key in [key async for key in self._keys(name)]:
                await self.store.delete(self._key(key))

        _wait(remove())

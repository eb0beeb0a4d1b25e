"""Locations from paths, URLs and zarr stores."""

__all__ = ["read_location"]

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, LocalStore, ObjectStore, StorePath

from aimz.store.location import Directory, Location
from aimz.store.object_store import ObjectStoreLocation

_OBSTORE = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
"""URL schemes opened by obstore; fsspec opens all others."""


class _SinglePut(ObjectStore[Any]):
    """Store that puts a value in one request; obstore's multipart uploads take four, and leave parts if interrupted."""

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value."""
        self._check_writable()
        await self.store.put_async(key, value.as_buffer_like(), use_multipart=False)


def read_location(given: Any, argument: str, *, call: bool = False) -> Location:
    """Return the location that a user passed.

    Parameters
    ----------
    given
        URL, store, path in a store, or local path.
    argument
        Name of the argument, for errors.
    call
        Whether the location belongs to one call, rather than to a directory of calls.

    Raises
    ------
    TypeError
        If ``given`` has another type.
    ValueError
        If the scheme of the URL is unknown, or the store lacks an operation.
    ImportError
        If a package for the URL is not installed.
    """
    if isinstance(given, StorePath | Store):
        store, path = (given, "") if isinstance(given, Store) else (given.store, given.path)
        if isinstance(store, LocalStore):
            return Directory(store.root.expanduser().absolute() / path)
        if type(store) is ObjectStore:
            store = _SinglePut(store.store, read_only=store.read_only)
        return ObjectStoreLocation(_checked(store, argument, writes=not call), path)
    if not isinstance(given, str | os.PathLike):
        msg = (
            f"`{argument}` must be a path, a URL or a zarr store; got {given!r}. Pass a string, a `pathlib.Path` "
            "or a `zarr.abc.store.Store`."
        )
        raise TypeError(msg)
    url = str(given).rstrip("/")
    if "://" not in url:
        return Directory(Path(url).expanduser().absolute())
    if urlsplit(url).scheme == "file":
        return Directory(Path(unquote(urlsplit(url).path)))
    top, _, name = url.rpartition("/")
    if call and not top.endswith("/"):
        return ObjectStoreLocation(_open(top, argument), "", top) / name
    return ObjectStoreLocation(_open(url, argument), "", url)


def _open(url: str, argument: str) -> Store:
    """Return a store whose keys are relative to the URL."""
    scheme = urlsplit(url).scheme.lower()
    if scheme in _OBSTORE:
        try:
            from obstore.store import from_url
        except ImportError as error:
            msg = (
                f"`{argument}` is {url!r}, which needs obstore, which is not installed. Run `pip install "
                "obstore`, and call again."
            )
            raise ImportError(msg) from error
        return _SinglePut(from_url(url))
    try:
        return FsspecStore.from_url(url)
    except ImportError as error:
        msg = f"`{argument}` is {url!r}, for which fsspec needs another package: {error}. Then call again."
        raise ImportError(msg) from error
    except ValueError as error:
        known = ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "az", "memory", "file"))
        msg = (
            f"`{argument}` must be a URL that obstore or fsspec can open; got {url!r} ({error}). Pass a local "
            f"directory, or a URL such as {known}."
        )
        raise ValueError(msg) from error


def _checked(store: Store, argument: str, *, writes: bool) -> Store:
    able = store.supports_listing and (
        not writes or (store.supports_writes and store.supports_deletes and not store.read_only)
    )
    if not able:
        needed = "that can be listed, written and deleted from" if writes else "that can be listed"
        msg = (
            f"`{argument}` must be a store {needed}; got {store!r}. Pass one that is not read-only, a local directory, "
            "or a URL such as 's3://bucket/results'."
        )
        raise ValueError(msg)
    return store

"""Locations of stored results: a local directory, or a prefix in a Zarr store."""

__all__ = ["JOURNAL", "OWNER", "Directory", "Location", "as_location", "new_call_location"]

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Buffer, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from zarr.storage import LocalStore, StorePath

from aimz.data import read_output_dir
from aimz.persistence import put_file, sync
from aimz.store.zarr_metadata import encode_document, group_document

JOURNAL = ".aimz-journal.jsonl"
"""Name of the journal: a file, or in an object store, a prefix with one value for each write."""
OWNER = ".aimz-owner"
"""Name of the file with the identifier of the run that may write; deleted once the result is complete."""


class Location(ABC):
    """Files of one call, or of many calls, under relative names with slashes.

    Can be pickled; ``str`` returns the path or URL.
    """

    local: ClassVar[bool]
    """Whether the location is a directory on this machine."""
    max_writers: ClassVar[int]
    """Number of concurrent writes beyond which throughput no longer grows."""
    read_errors: ClassVar[tuple[type[Exception], ...]]
    """Exceptions raised for a missing, truncated or altered chunk; any other means that the storage itself failed."""

    @property
    @abstractmethod
    def parent(self) -> "Location":
        """Enclosing location."""

    @property
    @abstractmethod
    def resume(self) -> str:
        """Arguments that resume the call stored here, as printed in errors."""

    @property
    def resume_advice(self) -> str:
        """Sentence on how to resume a failed call, for its error."""
        return f"The result in {self} is incomplete. Finished parts are kept: repeat the call with {self.resume}."

    @abstractmethod
    def check(self, argument: str) -> None:
        """Check, before any work, that results can be stored here; ``argument`` is named in the error.

        Raises
        ------
        OSError
            If the location cannot be listed or written.
        """

    @abstractmethod
    def __truediv__(self, name: str) -> "Location":
        """Return a location inside this one."""

    def put(self, name: str, *parts: Buffer) -> None:
        """Write a file of consecutive parts atomically."""
        self.put_all({name: parts})

    @abstractmethod
    def put_all(self, files: Mapping[str, Iterable[Buffer]]) -> None:
        """Write files of consecutive parts one after another, each atomically."""

    def put_durably(self, name: str, content: bytes) -> None:
        """Write a file atomically so that it survives a power failure."""
        self.put(name, content)

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""

    def get_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Return the contents of several files, by name."""
        return {name: self.get(name) for name in names}

    @abstractmethod
    def tail(self, name: str, length: int) -> bytes:
        """Return the end of a file that exists."""

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.get(name) is not None

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file if it exists."""

    @abstractmethod
    def list_dir(self, name: str) -> list[str]:
        """Return the names of the files and directories in a directory; empty if it does not exist."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether the location exists."""

    @abstractmethod
    def claim(self, journal: bytes | None = None) -> bool:
        """Create the location with an unfinished root and a journal; return False if it exists already."""

    @abstractmethod
    def remove(self) -> None:
        """Delete all files on a best-effort basis."""

    @abstractmethod
    def count_chunks(self, names: Iterable[str]) -> dict[str, int]:
        """Return the number of stored chunks of each array."""

    @abstractmethod
    def store_path(self, name: str, *, read_only: bool = False) -> StorePath:
        """Return the path under which zarr opens an array or a group."""


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Directory(Location):
    """A local directory; files are written under a draft name and renamed once complete."""

    path: Path

    local = True
    max_writers = 1
    read_errors = (ValueError, RuntimeError, OSError)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def parent(self) -> "Directory":
        """Parent directory."""
        return Directory(self.path.parent)

    @property
    def resume(self) -> str:
        """Arguments that resume the call stored here."""
        return f"`resume={str(self.path)!r}`"

    def check(self, argument: str) -> None:
        """Check that the directory can be created and written."""
        read_output_dir(self.path, argument)

    def __truediv__(self, name: str) -> "Directory":
        return Directory(self.path / name)

    def put_all(self, files: Mapping[str, Iterable[Buffer]]) -> None:
        """Write a draft of each file, without copying its parts, and rename it."""
        end = f".{uuid4().hex}.partial"
        for name, parts in files.items():  # a small result has dozens of files, so paths are plain text
            path = f"{self.path}/{name}"
            draft = path + end
            try:
                try:
                    file = os.open(draft, _NEW_FILE)
                except FileNotFoundError:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    file = os.open(draft, _NEW_FILE)
                try:
                    for part in parts:
                        view = memoryview(part)
                        while view.nbytes:  # Linux writes at most 2 GiB at once
                            view = view[os.write(file, view) :]
                finally:
                    os.close(file)
                os.replace(draft, path)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise

    def put_durably(self, name: str, content: bytes) -> None:
        """Write a file and flush it, and its directory, to the disk."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        put_file(path, content)
        sync(path.parent)

    def get(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def tail(self, name: str, length: int) -> bytes:
        """Return the end of a file that exists."""
        with (self.path / name).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - length))
            return file.read()

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def list_dir(self, name: str) -> list[str]:
        """Return the names of the entries of a directory; empty if it does not exist."""
        path = self.path / name
        return os.listdir(path) if path.is_dir() else []

    def exists(self) -> bool:
        """Return whether the directory exists."""
        return self.path.is_dir()

    def claim(self, journal: bytes | None = None) -> bool:
        """Create the directory under a draft name and rename it; return False if it exists already."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{uuid4().hex}.partial")
        try:
            draft.mkdir()
            (draft / "zarr.json").write_bytes(encode_document(group_document({}), finished=False))
            if journal is not None:
                (draft / JOURNAL).write_bytes(journal)
            draft.rename(self.path)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        return True

    def remove(self) -> None:
        """Delete the directory on a best-effort basis."""
        shutil.rmtree(self.path, ignore_errors=True)

    def count_chunks(self, names: Iterable[str]) -> dict[str, int]:
        """Return the number of stored chunks of each array; a 0-d array has one, the file ``c``."""
        found = {}
        for name in names:
            path = f"{self.path}/{name}/c"
            chunks = sum(not file.endswith(".partial") for _, _, files in os.walk(path) for file in files)
            found[name] = chunks or int(os.path.isfile(path))
        return found

    def store_path(self, name: str, *, read_only: bool = False) -> StorePath:
        """Return the path under which zarr opens an array or a group."""
        return StorePath(LocalStore(self.path / name, read_only=read_only))


def as_location(place: Location | Path) -> Location:
    """Return a location; a path becomes a :class:`Directory`."""
    return Directory(place) if isinstance(place, Path) else place


def new_call_location(top: Location, method: str, journal: bytes | None = None) -> Location:
    """Create the location of one call, ``<UTC time>_<method>``, under a name no other process has taken."""
    while True:
        place = top / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}_{method}"
        if place.claim(journal):
            return place
        # Another process created a call in the same microsecond.

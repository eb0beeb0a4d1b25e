"""Where the result of a call lies: a directory, or keys below a prefix in a store."""

__all__ = ["OWNER", "Directory", "Location", "as_location", "new_call_location"]

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from zarr.storage import LocalStore, StorePath

OWNER = ".aimz-owner"
"""Name of the file that says which run may write; it is gone once the result is complete."""


class Location(ABC):
    """A place for the files of one call, or of many; names are relative, with slashes.

    It can be pickled; ``str`` gives the path or URL that users know it by.
    """

    local: ClassVar[bool]
    """Whether it is a directory of this machine."""
    writers: ClassVar[int]
    """How many writes are worth having under way at once."""
    damage: ClassVar[tuple[type[Exception], ...]]
    """What reading raises where a chunk is missing, truncated, or not what was written; else the place itself fails."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Last part of the path."""

    @property
    @abstractmethod
    def parent(self) -> "Location":
        """What it lies in."""

    @property
    @abstractmethod
    def resume(self) -> str:
        """The arguments that finish the call that lies here, as an error is to name them."""

    @property
    def resume_advice(self) -> str:
        """Sentence for the error of a call that failed, on how it is resumed."""
        return (
            f"The result in {self} is incomplete. What is finished is kept: make the same call again with "
            f"{self.resume}."
        )

    @abstractmethod
    def check(self, argument: str) -> None:
        """Refuse a place that cannot be reached, before any work.

        Raises
        ------
        OSError
            If it cannot.
        """

    @abstractmethod
    def __truediv__(self, name: str) -> "Location":
        """Return a location inside."""

    @abstractmethod
    def put(self, name: str, content: bytes, *, lasting: bool = False) -> None:
        """Write a file that appears under its name only when whole; ``lasting`` if it is to outlive a power cut."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it is not there."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return whether a file is there."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is anything here."""

    @abstractmethod
    def claim(self) -> bool:
        """Make it, for this call alone; return False if someone else did."""

    @abstractmethod
    def remove(self) -> None:
        """Remove everything here, as far as possible."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove drafts that writers left behind when they were killed."""

    @abstractmethod
    def children(self, name: str) -> list[str]:
        """Return the names, in a group, of what may be arrays."""

    @abstractmethod
    def count_chunks(self, names: Iterable[str]) -> dict[str, int]:
        """Return how many chunks of arrays there are."""

    @abstractmethod
    def check_sizes(self, name: str, grid: Iterable[tuple[int, ...]], size: int | None) -> None:
        """Refuse an array of which a chunk is cut short, where a write can be; chunks are of ``size``, if it is known.

        Raises
        ------
        OSError
            If one is.
        """

    @property
    @abstractmethod
    def tree(self) -> Any:
        """What xarray opens as a tree."""

    @abstractmethod
    def store_path(self, name: str, *, read_only: bool = False) -> StorePath:
        """Return where zarr finds an array."""

    # ------------------------------------------------------------------------------------------------ journal

    @abstractmethod
    def begin_log(self, name: str, content: bytes) -> None:
        """Write the first lines of a log."""

    @abstractmethod
    def append_log(self, name: str, content: bytes, key: str) -> None:
        """Add lines to a log; ``key`` is a name that sorts after those before, and is the same for the same lines."""

    @abstractmethod
    def read_log(self, name: str) -> bytes | None:
        """Return all lines of a log, or None if there is none."""

    @abstractmethod
    def cut_log(self, name: str, length: int) -> None:
        """Drop what follows after so many bytes, where a line can be torn."""

    @abstractmethod
    def end_log(self, name: str) -> None:
        """Remove a log, if there is one."""


@dataclass(frozen=True)
class Directory(Location):
    """A directory of this machine: a file gets its name when it is whole."""

    path: Path

    local = True
    writers = 1
    damage = (ValueError, RuntimeError, OSError)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.name

    @property
    def parent(self) -> "Directory":
        """The directory around."""
        return Directory(self.path.parent)

    @property
    def resume(self) -> str:
        """The arguments that finish the call that lies here."""
        return f"`resume={str(self.path)!r}`"

    def check(self, argument: str) -> None:
        """Do nothing: a path is checked where it is read."""

    def __truediv__(self, name: str) -> "Directory":
        return Directory(self.path / name)

    def put(self, name: str, content: bytes, *, lasting: bool = False) -> None:
        """Write a draft and rename it."""
        path = self.path / name
        draft = path.with_name(f"{path.name}.partial")
        try:
            _write(draft, content, lasting=lasting)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(draft, content, lasting=lasting)
        draft.replace(path)
        if lasting:
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def get(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it is not there."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return (self.path / name).is_file()

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def exists(self) -> bool:
        """Return whether it is a directory."""
        return self.path.is_dir()

    def claim(self) -> bool:
        """Make the directory; return False if there is one."""
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            return False
        return True

    def remove(self) -> None:
        """Remove everything here, as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    def sweep(self) -> None:
        """Remove drafts that writers left behind when they were killed."""
        for draft in self.path.rglob("*.partial"):
            draft.unlink(missing_ok=True)

    def children(self, name: str) -> list[str]:
        """Return the names of the arrays in a group."""
        return [file.parent.name for file in (self.path / name).glob("*/zarr.json")]

    def count_chunks(self, names: Iterable[str]) -> dict[str, int]:
        """Return how many chunks of arrays there are; that of a single number is a file of its own."""
        return {name: _count_files(self.path / name / "c") for name in names}

    def check_sizes(self, name: str, grid: Iterable[tuple[int, ...]], size: int | None) -> None:
        """Look at each chunk."""
        for position in grid:
            file = self.path.joinpath(name, "c", *map(str, position))
            actual = file.stat().st_size if file.is_file() else 0
            if actual == 0 or (size is not None and actual != size):
                msg = (
                    f"Chunk {file} was written and is not there any more, or not whole. Is something else writing "
                    "there?"
                )
                raise OSError(msg)

    @property
    def tree(self) -> Path:
        """What xarray opens as a tree."""
        return self.path

    def store_path(self, name: str, *, read_only: bool = False) -> StorePath:
        """Return where zarr finds an array."""
        return StorePath(LocalStore(self.path / name, read_only=read_only))

    def begin_log(self, name: str, content: bytes) -> None:
        """Write the first lines of a log."""
        (self.path / name).write_bytes(content)

    def append_log(self, name: str, content: bytes, key: str) -> None:  # noqa: ARG002 (lines lie in order)
        """Add lines to the end of a file."""
        with (self.path / name).open("ab") as file:
            file.write(content)

    def read_log(self, name: str) -> bytes | None:
        """Return all lines of a log, or None if there is none."""
        return self.get(name)

    def cut_log(self, name: str, length: int) -> None:
        """Drop what follows after so many bytes."""
        with (self.path / name).open("r+b") as file:
            file.truncate(length)

    def end_log(self, name: str) -> None:
        """Remove a log, if there is one."""
        self.delete(name)


def _write(path: Path, content: bytes, *, lasting: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        if lasting:
            file.flush()
            os.fsync(file.fileno())


def _count_files(chunks: Path) -> int:
    if not chunks.is_dir():
        return int(chunks.is_file())
    return sum(1 for file in chunks.rglob("*") if file.suffix != ".partial" and file.is_file())


def as_location(place: Location | Path) -> Location:
    """Return where something lies; a path is a directory."""
    return Directory(place) if isinstance(place, Path) else place


def new_call_location(top: Location, method: str) -> Location:
    """Make the place of one call, ``<UTC time>_<method>``, which no other process has."""
    while True:
        place = top / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}_{method}"
        if place.claim():
            return place
        # The same microsecond, in another process.

"""Journal of an unfinished result: fingerprint of its call, digests of its rows, and checksums of its chunks."""

__all__ = ["Journal"]

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import uuid4

from aimz.store.checksums import ChunkChecksums
from aimz.store.location import JOURNAL, Directory, Location

FORMAT = 2
"""Format of the journal; lines of format 1 have no checksums, and it does not record chunks."""
_OTHERS = ".aimz-journal-"
"""Start of the names of the files in which other processes record the chunks that they write."""
_AT_ONCE = 32
"""Number of chunks recorded with one request to an object store."""


@dataclass
class Journal:
    """Lines of JSON with checksums: the fingerprint of the call, then row ranges and chunks.

    The digests of row ranges identify rows that can be read only once and therefore are not part of the fingerprint.
    In a directory, a chunk is recorded before it is written, and counts only if it is recorded. An object store would
    need a request for each chunk: several chunks are recorded together, and a chunk that is not recorded counts.
    """

    location: Location
    fingerprint: Mapping[str, str]
    created_at: str = ""
    rows: dict[int, str] = field(default_factory=dict)
    """First row of each recorded range to the digest of its data."""
    chunks: dict[str, ChunkChecksums] | None = field(default_factory=dict, compare=False)
    """Path of an array to the checksums of its chunks; None if they were not recorded (format 1)."""
    lengths: dict[str, int] = field(default_factory=dict, compare=False)
    """Path of an array to the length of its streamed axis when its last chunk was written."""
    file: str = field(default=JOURNAL, compare=False)
    """Name of the file that this process appends to."""
    _pending: list[str] = field(default_factory=list, compare=False, repr=False)
    """Lines to be written to an object store."""

    @staticmethod
    def for_chunks(location: Location) -> "Journal":
        """Return a journal for the chunks that another process than that of the call writes into a directory."""
        return Journal(location, {}, file=f"{_OTHERS}{_process_name(os.getpid())}.jsonl")

    @property
    def digest(self) -> str:
        """Digest of all recorded rows, or "" if none were recorded."""
        return hashlib.sha256(json.dumps(sorted(self.rows.items())).encode()).hexdigest() if self.rows else ""

    @property
    def head(self) -> bytes:
        """The first line, with which the location of the call is created."""
        head = {"fingerprint": dict(self.fingerprint), "created_at": self.created_at, "format": FORMAT}
        return _line(head).encode()

    def record_all(self, digests: Iterable[tuple[int, str]]) -> int | None:
        """Record digests of row ranges in one write; return the first row whose data differ from an earlier run."""
        lines: list[str] = []
        differing, first = None, 0
        for start, digest in digests:
            if self.rows.setdefault(start, digest) != digest:
                differing = start
                break
            first = first if lines else start
            lines.append(_line([start, digest]))
        if lines and isinstance(self.location, Directory):
            self._append("".join(lines))
        elif lines:
            # Equal names have equal content: as many lines from the same row on. Names sort in the order of the rows.
            self.location.put(f"{JOURNAL}/lines-{first:020}-{len(lines):06}", "".join(lines).encode())
        return differing

    def record_chunk(self, path: str, number: int, checksum: int, length: int) -> None:
        """Record a chunk and the length of its array; in an object store, with the next call of :meth:`flush`."""
        line = _line([path, number, checksum, length])
        if isinstance(self.location, Directory):
            self._append(line)
        else:
            self._pending.append(line)

    def flush(self, least: int = _AT_ONCE) -> None:
        """Write the recorded chunks to an object store if there are enough of them."""
        if len(self._pending) >= least:
            lines, self._pending = self._pending, []
            self.location.put(f"{JOURNAL}/chunks-{uuid4().hex}", "".join(lines).encode())

    def _append(self, lines: str) -> None:
        assert isinstance(self.location, Directory)
        with (self.location.path / self.file).open("ab") as file:
            file.write(lines.encode())

    def end(self) -> None:
        """Delete the journal of a result that is complete."""
        for name in _files(self.location):
            self.location.delete(name)

    @staticmethod
    def exists(location: Location) -> bool:
        """Return whether a call has a journal, damaged or not."""
        return any(location.has(name) for name in _files(location))

    @staticmethod
    def read(location: Location) -> "Journal | None":
        """Return the journal of an unfinished result, or None if there is none or its first line is damaged.

        Damaged lines are left out: their rows and chunks are computed again.
        """
        contents = {name: location.get(name) or b"" for name in _files(location)}
        if isinstance(location, Directory):
            for name, content in contents.items():
                if content and not content.endswith(b"\n"):  # a torn line, to which the next would be appended
                    os.truncate(location.path / name, content.rfind(b"\n") + 1)
        lines = [_parse(line) for content in contents.values() for line in content.splitlines(keepends=True)]
        head = next((line for line in lines if isinstance(line, dict)), None)
        if head is None:
            return None
        journal = Journal(location, head["fingerprint"], head["created_at"])
        if head.get("format", 1) == 1:
            journal.chunks = None
        for line in lines:
            match line:
                case [int(start), str(digest)]:
                    journal.rows[start] = digest
                case [str(path), int(number), int(checksum), int(length)] if journal.chunks is not None:
                    journal.chunks.setdefault(path, ChunkChecksums()).set(number, checksum)
                    journal.lengths[path] = max(length, journal.lengths.get(path, 0))
        return journal


@cache
def _process_name(_pid: int) -> str:
    """Return a name for a process that no other process has, on any machine."""
    return uuid4().hex


def _line(content: Any) -> str:
    """Return a line of the journal with its checksum."""
    return f"{json.dumps([_checksum(content), content])}\n"


def _checksum(content: Any) -> str:
    return f"{zlib.crc32(json.dumps(content).encode()):08x}"


def _parse(line: bytes) -> Any:
    """Return the content of a line, or None if it is damaged."""
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n"):
        return None
    match read:
        case [str(checksum), content]:
            return content if checksum == _checksum(content) else None
        case {"fingerprint": dict(), "created_at": str()} | [int(), str()]:  # format 1
            return read
    return None


def _files(location: Location) -> list[str]:
    """Return the names of the files of the journal, that of the call first."""
    if location.local:
        return [JOURNAL, *sorted(name for name in location.list_dir("") if name.startswith(_OTHERS))]
    return [f"{JOURNAL}/{name}" for name in sorted(location.list_dir(JOURNAL))]

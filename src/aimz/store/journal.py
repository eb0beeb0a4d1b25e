"""Journal of an unfinished result: fingerprint of its call and digests of its rows."""

__all__ = ["JOURNAL", "Journal"]

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aimz.store.location import Directory, Location

JOURNAL = ".aimz-journal.jsonl"
"""Name of the journal: a file, or in an object store, a prefix with one value for each write."""


@dataclass
class Journal:
    """Lines of JSON: the fingerprint of the call, then the digest of each row range that was read.

    The digests identify rows that can be read only once and therefore are not part of the fingerprint.
    """

    location: Location
    fingerprint: Mapping[str, str]
    created_at: str = ""
    rows: dict[int, str] = field(default_factory=dict)
    """First row of each recorded range to the digest of its data."""

    @property
    def digest(self) -> str:
        """Digest of all recorded rows, or "" if none were recorded."""
        return hashlib.sha256(json.dumps(sorted(self.rows.items())).encode()).hexdigest() if self.rows else ""

    def begin(self) -> None:
        """Write the first line."""
        head = {"fingerprint": dict(self.fingerprint), "created_at": self.created_at}
        content = f"{json.dumps(head)}\n".encode()
        if isinstance(self.location, Directory):
            # One operation: a run that is killed after it can be resumed.
            (self.location.path / JOURNAL).write_bytes(content)
        else:
            self.location.put(f"{JOURNAL}/head", content)

    def record_all(self, digests: Iterable[tuple[int, str]]) -> int | None:
        """Record digests of row ranges in one write; return the first row whose data differ from an earlier run."""
        lines: list[str] = []
        differing, first = None, 0
        for start, digest in digests:
            if self.rows.setdefault(start, digest) != digest:
                differing = start
                break
            first = first if lines else start
            lines.append(f"{json.dumps([start, digest])}\n")
        content = "".join(lines).encode()
        if lines and isinstance(self.location, Directory):
            with (self.location.path / JOURNAL).open("ab") as file:
                file.write(content)
        elif lines:
            # Equal names have equal content: as many lines from the same row on. Names sort in the order of the rows.
            self.location.put(f"{JOURNAL}/lines-{first:020}-{len(lines):06}", content)
        return differing

    def end(self) -> None:
        """Delete the journal of a result that is complete."""
        for name in _files(self.location):
            self.location.delete(name)

    @staticmethod
    def read(location: Location) -> "Journal | None":
        """Return the journal of an unfinished result, or None if there is none; a torn last line is cut off."""
        content = b"".join(location.get(name) or b"" for name in _files(location))
        lines, n_bytes = [], 0
        for line in content.splitlines(keepends=True):
            try:
                parsed = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            lines.append(parsed)
            n_bytes += len(line)
        if not lines:
            return None
        if isinstance(location, Directory):
            os.truncate(location.path / JOURNAL, n_bytes)
        head, *rest = lines
        rows = {int(start): digest for start, digest in rest}
        return Journal(location, head["fingerprint"], head["created_at"], rows)


def _files(location: Location) -> list[str]:
    """Return the names of the files of the journal, in the order of their lines."""
    if location.local:
        return [JOURNAL]
    return [f"{JOURNAL}/{name}" for name in sorted(location.list_dir(JOURNAL))]

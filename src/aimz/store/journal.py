"""What an unfinished result knows of the call it belongs to."""

__all__ = ["JOURNAL", "Journal"]

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

JOURNAL = ".aimz-journal.jsonl"
"""Name of the file; it is gone once the result is complete."""


@dataclass
class Journal:
    """A first line with the fingerprint of the call, then a line for each stretch of rows whose data were seen.

    A stream whose rows cannot be read beforehand has no fingerprint of its data; the lines make up for it.
    """

    path: Path
    fingerprint: Mapping[str, str]
    created_at: str = ""
    rows: dict[int, str] = field(default_factory=dict)
    """First row of a stretch to the digest of its data."""

    @property
    def digest(self) -> str:
        """Digest of all rows that were seen, or "" if none were noted."""
        return hashlib.sha256(json.dumps(sorted(self.rows.items())).encode()).hexdigest() if self.rows else ""

    def begin(self) -> None:
        """Write the first line."""
        head = {"fingerprint": dict(self.fingerprint), "created_at": self.created_at}
        self.path.write_text(json.dumps(head) + "\n")

    def saw(self, start: int, digest: str) -> bool:
        """Note the data of a stretch; return whether they are those of an earlier run, if that had seen them."""
        known = self.rows.setdefault(start, digest)
        if known == digest:
            with self.path.open("a") as file:
                file.write(json.dumps([start, digest]) + "\n")
        return known == digest

    @staticmethod
    def read(directory: Path) -> "Journal | None":
        """Return the journal of an unfinished result, or None if there is none; a torn last line is not there."""
        path = directory / JOURNAL
        if not path.is_file():
            return None
        lines, whole = [], 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
            if not line.endswith(b"\n"):
                lines.pop()
                break
            whole += len(line)
        if not lines:
            return None
        with path.open("r+b") as file:
            file.truncate(whole)
        head, *rest = lines
        return Journal(path, head["fingerprint"], head["created_at"], {int(start): digest for start, digest in rest})

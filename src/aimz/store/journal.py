"""What an unfinished result knows of the call it belongs to."""

__all__ = ["JOURNAL", "Journal"]

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aimz.store.location import Location

JOURNAL = ".aimz-journal.jsonl"
"""Name of the file; it is gone once the result is complete."""


@dataclass
class Journal:
    """A first line with the fingerprint of the call, then a line for each stretch of rows whose data were seen.

    A stream whose rows cannot be read beforehand has no fingerprint of its data; the lines make up for it.
    """

    location: Location
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
        self.location.begin_log(JOURNAL, f"{json.dumps(head)}\n".encode())

    def saw(self, start: int, digest: str) -> bool:
        """Note the data of a stretch; return whether they are those of an earlier run, if that had seen them."""
        return self.record_all([(start, digest)]) is None

    def record_all(self, notes: Iterable[tuple[int, str]]) -> int | None:
        """Note the data of stretches, in one write; return the first one whose data an earlier run saw otherwise."""
        lines: list[str] = []
        unlike, first = None, 0
        for start, digest in notes:
            if self.rows.setdefault(start, digest) != digest:
                unlike = start
                break
            first = first if lines else start
            lines.append(f"{json.dumps([start, digest])}\n")
        if lines:
            # As many lines from the same row on are the same lines, so nothing that was noted is lost.
            self.location.append_log(JOURNAL, "".join(lines).encode(), f"{first:020}-{len(lines):06}")
        return unlike

    def end(self) -> None:
        """Remove it: the result is complete."""
        self.location.end_log(JOURNAL)

    @staticmethod
    def read(location: Location) -> "Journal | None":
        """Return the journal of an unfinished result, or None if there is none; a torn last line is not there."""
        content = location.read_log(JOURNAL)
        if content is None:
            return None
        lines, whole = [], 0
        for line in content.splitlines(keepends=True):
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
        location.cut_log(JOURNAL, whole)
        head, *rest = lines
        return Journal(
            location, head["fingerprint"], head["created_at"], {int(start): digest for start, digest in rest}
        )

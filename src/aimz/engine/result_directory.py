"""Directory of one stored call: created or resumed, its journal, and the groups next to the streamed one."""

__all__ = ["CallLocation", "ResultDirectory"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aimz
from aimz.engine.fingerprint import check_resumable
from aimz.engine.options import StreamingOptions

if TYPE_CHECKING:
    from aimz.store import Journal, Location, TemporaryDirectory


@dataclass(frozen=True)
class CallLocation:
    """Location of a stored call and the attributes that record it; the same in every process of the call."""

    location: "Location"
    attrs: dict[str, Any]
    """Attributes of each group."""
    root_attrs: dict[str, Any]


class ResultDirectory:
    """Directory of a call that this process stores.

    Parameters
    ----------
    options
        Options of the call.
    method, group
        Names of the method and of the streamed group.
    fingerprint
        Identity of the call, which a later call must have to resume it.
    home
        Temporary directory for a call without ``output_dir``.
    """

    def __init__(
        self,
        options: StreamingOptions,
        method: str,
        group: str,
        fingerprint: Mapping[str, str],
        home: "TemporaryDirectory | None",
    ) -> None:
        self._journal: Journal | None = None
        if options.output_dir is None:
            assert home is not None
            top: aimz.store.Location = aimz.store.Directory(home.path)
            location = aimz.store.new_call_location(top, method)
        else:
            top = aimz.store.as_location(options.output_dir)
            if options.resume is not None:
                location, self._journal = options.resume.location, options.resume.journal
                check_resumable(fingerprint, self._journal.fingerprint, location)
            else:
                location, self._journal = _create(top, method, fingerprint)
        path = str(location)
        attrs = {"output_dir": path, "artifact_path": path}
        root_attrs = aimz.output.attributes(output_dir=str(top), artifact_path=path)
        if self._journal is not None and self._journal.created_at:
            # A resumed call keeps the time at which it began.
            attrs["created_at"] = root_attrs["created_at"] = self._journal.created_at
        self.where = CallLocation(location, attrs, root_attrs)
        self.store = aimz.store.ZarrStore(
            location,
            group,
            root_attrs=root_attrs,
            journal=self._journal,
            home=None if options.output_dir else home,
        )

    def record(self, digests: list[tuple[int, str]]) -> None:
        """Write digests of rows to the journal; raise if the interrupted run recorded others."""
        if self._journal is None or not digests:
            return
        start = self._journal.record_all(digests)
        if start is not None:
            msg = (
                f"The call in {self.where.location} cannot be resumed by this one: the data from row {start} on "
                "differ from the data of the interrupted run. Repeat the interrupted call, or predict again without "
                "`resume`."
            )
            raise ValueError(msg)

    def restore(self, digests: list[tuple[int, str]]) -> None:
        """Add digests of rows of a complete call to the journal in memory."""
        assert self._journal is not None
        self._journal.rows.update(digests)

    def check_same_rows(self, digest: str) -> None:
        """Raise if the rows that were read differ from the rows of the complete call."""
        assert self._journal is not None
        if self._journal.digest != digest:
            msg = (
                f"The call in {self.where.location} is complete, and its data were others. Open it with "
                f"`aimz.open_result({str(self.where.location)!r})`, or predict again without `resume`."
            )
            raise ValueError(msg)

    def check_end(self, length: int) -> None:
        """Raise if an iterable ended before rows that the interrupted run had read."""
        beyond = [] if self._journal is None else [start for start in self._journal.rows if start >= length]
        if beyond:
            msg = (
                f"The call in {self.where.location} cannot be resumed by this one: its iterable ended at {length} "
                f"rows, and the interrupted run read row {beyond[0]}. Repeat the interrupted call, or predict again "
                "without `resume`."
            )
            raise ValueError(msg)

    def discard(self) -> None:
        """Remove the directory of a failed call that cannot be resumed."""
        if self._journal is None:
            self.where.location.remove()


def _create(top: "Location", method: str, fingerprint: Mapping[str, str]) -> "tuple[Location, Journal]":
    """Create the directory of a call with its journal, or neither."""
    journal = aimz.store.Journal(top, fingerprint, datetime.now(UTC).isoformat())
    try:
        location = aimz.store.new_call_location(top, method, journal.head)
    except Exception as error:
        advice = "Nothing was written; free some space and call again, or pass another `output_dir`"
        if isinstance(error, OSError) and error.errno is not None and top.local:
            raise OSError(error.errno, f"{error.strerror}. {advice}", str(top)) from error
        error.add_note(f"This was in {top}. {advice}.")
        raise
    return location, replace(journal, location=location)

"""The place of one stored call: where it is, what it is known by, what of it is done."""

__all__ = ["ResultDirectory", "noted_before"]

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aimz.engine.fingerprint import check_resumable
from aimz.engine.options import StreamingOptions
from aimz.engine.outputs import missing_steps
from aimz.engine.row_digests import RowDigests

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import Journal, Location, TemporaryDirectory, Variable
    from aimz.stream import Plan


class ResultDirectory:
    """One call that is stored.

    Parameters
    ----------
    streaming
        Options of the call.
    method, group
        Names of the method and of the streamed group.
    fingerprint
        What the call is known by; asked for only if it can be resumed.
    plan
        How it is cut.
    home
        The temporary directory, for a call that names none.
    """

    def __init__(
        self,
        streaming: StreamingOptions,
        method: str,
        group: str,
        fingerprint: Callable[[], dict[str, str]],
        plan: "Plan",
        home: "TemporaryDirectory | None",
    ) -> None:
        from aimz.output import attributes
        from aimz.store import Directory, Location, ZarrStore, as_location, new_call_location

        self._plan = plan
        self._journal: Journal | None = streaming.journal
        self.resumed = streaming.resume is not None
        self._home = home
        if streaming.output_dir is None:
            assert home is not None
            top: Location = Directory(home.path)
            self.location = new_call_location(top, method)
        else:
            known = fingerprint()
            top = as_location(streaming.output_dir)
            if streaming.resume is not None and self._journal is not None:
                check_resumable(known, self._journal.fingerprint, streaming.resume)
                self.location = streaming.resume
            else:
                self.location, self._journal = _begin(top, method, known)
        self.attrs = {"output_dir": str(self.location), "artifact_path": str(self.location)}
        self.root_attrs = attributes(output_dir=str(top), artifact_path=str(self.location))
        if self._journal is not None and self._journal.created_at:
            # When the call began, also if another run of it ends it.
            self.attrs["created_at"] = self.root_attrs["created_at"] = self._journal.created_at
        self.sink = ZarrStore(
            self.location,
            group,
            root_attrs=self.root_attrs,
            journal=self._journal,
            home=None if streaming.output_dir else home,
        )

    def write_beside(self, groups: "Mapping[str, xr.Dataset]") -> None:
        """Write the groups that stand beside the streamed one."""
        from aimz.output import as_group

        for name, dataset in groups.items():
            self.sink.write_group(name, *as_group(dataset.assign_attrs(self.attrs)))

    def wanted(self, variables: "Mapping[str, Variable]", notes: RowDigests | None) -> Callable[[int, int], bool]:
        """Return which steps have something to compute: all, unless an earlier run did some."""
        if not self.resumed:
            return lambda _start, _stop: True
        return missing_steps(self._plan, variables, self.sink, seen=self.seen(notes))

    def note(self, notes: list[tuple[int, str]]) -> None:
        """Keep digests of rows that came by, and refuse rows that are not those of the interrupted run."""
        if self._journal is not None and notes:
            start = self._journal.record_all(notes)
            if start is not None:
                msg = (
                    f"The call in {self.location} cannot be resumed by this one: the data from row {start} on "
                    "are not those of the interrupted run. Make the call that was interrupted, or predict anew."
                )
                raise ValueError(msg)

    def seen(self, notes: RowDigests | None) -> Mapping[int, str] | None:
        """Return what an earlier run noted of stretches, by first row; None if all that it made counts."""
        return noted_before(self._journal if self.resumed else None, notes)

    def look(self, skip: Callable[[int, int], bool], notes: RowDigests) -> None:
        """Read all rows of a complete call, and keep what was noted."""
        for start, stop in self._plan.steps():
            if not skip(start, stop):
                break
            self.restore(notes.take())

    def restore(self, notes: list[tuple[int, str]]) -> None:
        """Keep what was noted of rows of a complete call."""
        assert self._journal is not None
        self._journal.rows.update(notes)

    def check_same_rows(self, known: str) -> None:
        """Refuse rows that were noted as they were read, and are not those of a complete call."""
        assert self._journal is not None
        if self._journal.digest != known:
            msg = (
                f"The call in {self.location} is complete, and its data were others. Open it with "
                f"`aimz.open_result({str(self.location)!r})`, or predict anew."
            )
            raise ValueError(msg)

    def check_end(self, length: int) -> None:
        """Refuse an iterable that ended before rows the interrupted run had seen."""
        beyond = [] if self._journal is None else [start for start in self._journal.rows if start >= length]
        if beyond:
            msg = (
                f"The call in {self.location} cannot be resumed by this one: its iterable ended at {length} rows, and "
                f"the interrupted run saw row {beyond[0]}. Make the call that was interrupted, or predict anew."
            )
            raise ValueError(msg)

    def leave(self) -> None:
        """After a failure: remove what nobody can resume."""
        if self._journal is None:
            self.location.remove()


def _begin(top: "Location", method: str, fingerprint: dict[str, str]) -> "tuple[Location, Journal]":
    """Make the place of a call, with its journal; without that the place is of no use."""
    from aimz.store import Journal, new_call_location

    location = top
    advice = "Nothing was written; call again when there is room, or with another `output_dir`"
    try:
        location = new_call_location(top, method)
        journal = Journal(location, fingerprint, datetime.now(UTC).isoformat())
        journal.begin()
    except Exception as error:
        if location is not top:
            location.remove()
        if isinstance(error, OSError) and error.errno is not None and top.local:
            raise OSError(error.errno, f"{error.strerror}. {advice}", str(location)) from error
        error.add_note(f"This was in {location}. {advice}.")
        raise
    return location, journal


def noted_before(journal: "Journal | None", notes: RowDigests | None) -> Mapping[int, str] | None:
    """Return what an earlier run noted of stretches, by first row; None if there was none, or all it made counts.

    What was made of rows that nobody has noted does not count, unless the data were known beforehand: a run that was
    killed may have written it before it could tell, and of other data.
    """
    if journal is None or notes is None or all(f"data of `{name}`" in journal.fingerprint for name in notes.names):
        return None
    return journal.rows

"""The place of one stored call: where it is, what it is known by, what of it is done."""

__all__ = ["Place"]

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aimz.model.filling import missing_steps
from aimz.model.options import Streaming
from aimz.model.resume import check_same_call

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import Home, Journal, Variable
    from aimz.stream import Plan


class Place:
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
        streaming: Streaming,
        method: str,
        group: str,
        fingerprint: Callable[[], dict[str, str]],
        plan: "Plan",
        home: "Home | None",
    ) -> None:
        from aimz.output import attributes
        from aimz.store import Directory, Journal, Location, ZarrSink, new_call

        self._plan = plan
        self._journal: Journal | None = streaming.journal
        self.resumed = streaming.resume is not None
        self._home = home
        if streaming.output_dir is None:
            assert home is not None
            top: Location = Directory(home.path)
            self.location = new_call(top, method)
        else:
            known = fingerprint()
            top = streaming.output_dir
            if streaming.resume is not None and self._journal is not None:
                check_same_call(known, self._journal.fingerprint, streaming.resume)
                self.location = streaming.resume
            else:
                self.location = new_call(top, method)
                self._journal = Journal(self.location, known, datetime.now(UTC).isoformat())
                self._begin(self._journal)
        self.attrs = {"output_dir": str(self.location), "artifact_path": str(self.location)}
        self.root_attrs = attributes(output_dir=str(top), artifact_path=str(self.location))
        if self._journal is not None and self._journal.created_at:
            # When the call began, also if another run of it ends it.
            self.attrs["created_at"] = self.root_attrs["created_at"] = self._journal.created_at
        self.sink = ZarrSink(
            self.location,
            group,
            root_attrs=self.root_attrs,
            journal=self._journal,
            home=None if streaming.output_dir else home,
        )

    def _begin(self, journal: "Journal") -> None:
        """Write the journal; without it the directory is of no use."""
        try:
            journal.begin()
        except OSError as error:
            self.location.remove()
            advice = "Nothing was written; call again when there is room, or with another `output_dir`"
            raise OSError(error.errno, f"{error.strerror}. {advice}", str(self.location)) from error

    def write_beside(self, groups: "Mapping[str, xr.Dataset]") -> None:
        """Write the groups that stand beside the streamed one."""
        from aimz.output import as_group

        for name, dataset in groups.items():
            self.sink.beside(name, *as_group(dataset.assign_attrs(self.attrs)))

    def wanted(self, variables: "Mapping[str, Variable]") -> Callable[[int, int], bool]:
        """Return which steps have something to compute: all, unless an earlier run did some."""
        if not self.resumed:
            return lambda _start, _stop: True
        return missing_steps(self._plan, variables, self.sink)

    def note(self, digests: list[tuple[int, str]]) -> None:
        """Keep the digests of rows that came by, and refuse rows that are not those of the interrupted run."""
        notes, digests[:] = list(digests), []
        if self._journal is not None and notes:
            start = self._journal.saw_all(notes)
            if start is not None:
                msg = (
                    f"The call in {self.location} cannot be resumed by this one: the data from row {start} on "
                    "are not those of the interrupted run. Make the call that was interrupted, or predict anew."
                )
                raise ValueError(msg)

    def seen(self, start: int, stop: int) -> frozenset[int]:
        """Return the first rows of the blocks, of those from ``start`` to ``stop``, that the interrupted run noted."""
        assert self._journal is not None
        block = self._plan.block or 1
        return frozenset(at for at in range(start, stop, block) if at in self._journal.rows)

    def look(self, skip: Callable[[int, int], bool], digests: list[tuple[int, str]]) -> None:
        """Read all rows of a complete call, and keep what was noted."""
        for start, stop in self._plan.steps():
            if not skip(start, stop):
                break
            self.recall(digests)

    def recall(self, digests: list[tuple[int, str]]) -> None:
        """Keep what was noted of rows of a complete call."""
        assert self._journal is not None
        self._journal.rows.update(digests)
        digests.clear()

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

"""Computes a range of rows into a store or a part of one: the loop that all executors share."""

__all__ = ["Executor", "LocalExecutor", "RangeDigests", "RunOptions", "compute_range"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import aimz
import aimz.stream
from aimz.engine.outputs import OutputSpec, missing_steps
from aimz.engine.runner import StepRunner

if TYPE_CHECKING:
    from aimz.store import ResultStore, StorePart, Variable, ZarrStore

type Digests = list[tuple[int, str]]
"""First row and digest of ranges of rows."""


def compute_range(
    runner: StepRunner,
    output: OutputSpec,
    target: "ResultStore | StorePart",
    start: int = 0,
    stop: int | None = None,
    *,
    is_missing: Callable[[int, int], bool] | None = None,
    on_rows_read: Callable[[], None],
    progress: str | None = None,
) -> int:
    """Compute the steps from row ``start`` to ``stop`` and write their outputs; return the row that was reached.

    Parameters
    ----------
    runner, output, target
        The steps, the selection of their outputs, and the store or the part of a store that they are written to.
    start, stop
        Rows, or draws if draws are split; ends of chunks.  By default all of them.
    is_missing
        Predicate for the steps still to compute; None for all.
    on_rows_read
        Called after the rows of a step were read and before its outputs are written.
    progress
        Title of the progress bar; None for no bar.
    """
    request = aimz.stream.StreamRequest(
        plan=runner.plan,
        axes=output.axes,
        read=runner.read,
        begin=runner.begin,
        fetch=runner.fetch,
        once=runner.sites_without_rows,
        select=output.select,
        wanted=is_missing,
        skip=runner.skip,
        on_rows_read=on_rows_read,
        progress=progress,
        n_threads=runner.n_threads,
    )
    return aimz.stream.run(request, target, start, stop)


@dataclass
class RangeDigests:
    """Collects the digests of a range and checks them against an interrupted run, before each write."""

    runner: StepRunner
    known: Mapping[int, str]
    """Digests that the interrupted run recorded, by first row."""
    collected: Digests = field(default_factory=list)

    def check(self) -> None:
        """Raise if the rows read since the last check differ from the data of the interrupted run.

        Raises
        ------
        ValueError
            Naming the first row that differs.
        """
        found = [] if self.runner.feed.digests is None else self.runner.feed.digests.take()
        self.collected.extend(found)
        other = next((start for start, digest in found if self.known.get(start, digest) != digest), None)
        if other is not None:
            msg = (
                f"The call cannot be resumed by this one: the data from row {other} on differ from the data of "
                "the interrupted run. Repeat the interrupted call, or predict again without `resume`."
            )
            raise ValueError(msg)


@dataclass(frozen=True)
class RunOptions:
    """Options of an executor: resumed parts, digests of rows and progress."""

    record: Callable[[Digests], None] | None = None
    """Receives the digests of rows, if rows are digested."""
    resumed: "Mapping[str, Variable] | None" = None
    """Variables of an interrupted call, whose stored chunks are not computed again."""
    known: Mapping[int, str] | None = None
    """Digests of rows that the interrupted call recorded, by first row; None if every stored chunk counts."""
    verify_only: bool = False
    """Whether to read and digest the rows without computing anything."""
    progress: str | None = None
    """Title of the progress bar; None for no bar."""


class Executor(Protocol):
    """Computes all rows of a planned call, in this process or elsewhere."""

    @property
    def device(self) -> str | None:
        """Kind of device that computes, if it is not that of this process."""

    def run(self, store: "ResultStore | None", options: RunOptions) -> int:
        """Compute all rows into a store and return their number (of draws, if draws are split).

        ``store`` is open, or None if another process writes the result.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Computes a call in this process."""

    runner: StepRunner
    output: OutputSpec
    device: str | None = None

    def run(self, store: "ResultStore | None", options: RunOptions) -> int:
        """Compute all rows, as in :class:`Executor`."""
        runner, digests = self.runner, self.runner.feed.digests

        def record_digests() -> None:
            if options.record is not None and digests is not None:
                options.record(digests.take())

        if options.verify_only:
            for start, stop in runner.plan.steps():
                if not runner.skip(start, stop):
                    break
                record_digests()
            return 0
        is_missing = None
        if options.resumed is not None and store is not None:
            stored: ZarrStore = store  # type: ignore[assignment]  # only stored calls are resumed
            is_missing = missing_steps(runner.plan, options.resumed, stored, digested=options.known)
        length = compute_range(
            runner,
            self.output,
            store or aimz.store.NullPart(),
            is_missing=is_missing,
            on_rows_read=record_digests,
            progress=options.progress,
        )
        runner.warn_about_rows(runner.feed.findings)
        if runner.plan.axis == "obs":
            runner.check_length(length)
        return length

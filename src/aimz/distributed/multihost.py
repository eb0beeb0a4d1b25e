"""A call that several processes make together, one on each host: which rows each computes, and how they become one."""

__all__ = [
    "Guest",
    "MultiHostExecutor",
    "await_others",
    "check_can_be_divided",
    "check_same_call",
    "choose_executor",
    "place_for_all",
]

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax

from aimz.data import BatchReader, KernelArguments, differences, fingerprint
from aimz.distributed.collectives import process_group
from aimz.distributed.dask_client import DaskExecutor, dask_executor_for
from aimz.distributed.dask_worker import settings
from aimz.engine import (
    Given,
    KernelEngine,
    OutputSpec,
    ResultDirectory,
    RowDigests,
    StepRunner,
    missing_steps,
    noted_before,
)
from aimz.errors import warn
from aimz.progress import ProgressBar

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import Journal, Location, ResultStore, StorePart, Variable
    from aimz.stream import Plan

_ENDS = 64
"""Rows at both ends of an array in a file that are compared."""


class _Options(Protocol):
    @property
    def client(self) -> Any: ...

    @property
    def batch_size(self) -> int | None: ...


def check_can_be_divided(client: Any, *, stored_at_home: bool = False) -> None:
    """Refuse what several processes cannot do together.

    Raises
    ------
    ValueError
        If a Dask cluster was asked for as well, or the result would lie in a temporary directory.
    """
    if process_group.is_single_process:
        return
    if client:
        msg = (
            f"`client` hands rows to a Dask cluster, and {process_group.count} processes of `jax.distributed` share "
            "them already. Leave `client` out, or start one process."
        )
        raise ValueError(msg)
    if stored_at_home:
        msg = (
            f"The result would lie in a temporary directory, of which each of the {process_group.count} processes has "
            "another. Pass an `output_dir` that all of them reach under one name, or `store='memory'`."
        )
        raise ValueError(msg)


def choose_executor(
    engine: KernelEngine, options: _Options, runner: StepRunner, plan: "Plan", landing: OutputSpec, given: Given
) -> "DaskExecutor | MultiHostExecutor | None":
    """Return how to compute a call elsewhere too, on several hosts or a cluster; None to compute all of it here.

    Raises
    ------
    TypeError
        If there are several processes, and nobody knows how many rows there are to divide.

    Warns
    -----
    UserWarning
        If there are several processes, and all rows have to be computed together.
    """
    if process_group.is_single_process:
        return dask_executor_for(engine, options, runner, plan, landing, given)
    if plan.axis != "obs":
        # A process that waited for another to do all of it could wait for longer than a collective does.
        warn(f"All rows have to be computed together, so each of the {process_group.count} processes computes all.")
        return None
    if plan.n_obs is None:
        msg = (
            f"{process_group.count} processes share the rows, and this iterable does not say how many it has. Pass an "
            "array, or `pyarrow.dataset.dataset(path)`; or start one process."
        )
        raise TypeError(msg)
    return MultiHostExecutor(runner, plan, landing, given)


def check_same_call(
    known: Callable[[], Mapping[str, str]], calls: Iterable[KernelArguments], reader: BatchReader | None
) -> str | None:
    """Make sure that all processes make the same call; return when it began, None if there is but one.

    ``known`` returns what the call is known by; of arrays in ``calls`` that are too large to be read for that the ends
    are compared, and of what ``reader`` reads the first batch.

    Raises
    ------
    ClusterError
        If something differs; it is named, in all processes.
    """
    if process_group.is_single_process:
        return None
    here = {
        **known(),
        **{f"data of `{name}`": text for call in calls for name, text in _ends(call).items()},
        "settings of JAX": json.dumps(settings(), default=str),
        "kind of device": jax.local_devices()[0].device_kind,
        "number of devices": str(jax.local_device_count()),
    }
    if reader is not None:
        here["first batch"] = fingerprint(array for _, array in sorted((reader.first or {}).items()))
    began = datetime.now(UTC).isoformat()
    sent = [
        json.loads(content) for content in process_group.all("what is computed", json.dumps([here, began]).encode())
    ]
    first, began = sent[0]
    for number, (there, _) in enumerate(sent):
        unlike = differences(first, there)
        if unlike:
            told = "; ".join(f"{name}: {first.get(name)} and {there.get(name)}" for name in unlike if name in _READABLE)
            process_group.refuse(
                f"Process {number} does not make the call of process 0: {', '.join(unlike)} differ(s)"
                f"{f' ({told})' if told else ''}. Let every process run the same script, with the same versions, data, "
                "key and posterior (`ImpactModel.load` gives all of them one), or do without `jax.distributed`."
            )
    return str(began)


_READABLE = ("versions", "method", "number of rows", "device", "kind of device", "number of devices", "output_dir")
"""What can be shown as it is."""


def _ends(call: KernelArguments) -> dict[str, str]:
    """Return what arrays are known by that lie elsewhere, where all of them would have to be read to know them."""
    found = {}
    for name, array in call.rows.items():
        if array.by_reference:
            n_obs = array.shape[0]
            ends = [array.read(0, min(_ENDS, n_obs)), array.read(max(0, n_obs - _ENDS), n_obs)]
            found[name] = f"{array.shape} {array.dtype} {fingerprint(ends)}"
    return found


def await_others(stage: str) -> None:
    """Wait until every process has come so far."""
    if not process_group.is_single_process:
        process_group.all(stage)


class Guest:
    """The place of a call that another process stores; what this one has to say of it is said there.

    Parameters
    ----------
    location
        Where the call lies.
    group
        Name of the streamed group.
    attrs, root_attrs
        Attributes of the groups and of the root.
    journal
        What an earlier run left behind, if one did some of it.
    """

    def __init__(
        self,
        location: "Location",
        group: str,
        attrs: dict[str, Any],
        root_attrs: dict[str, Any],
        journal: "Journal | None",
    ) -> None:
        from aimz.store import GuestSink

        self.location = location
        self.attrs = attrs
        self.root_attrs = root_attrs
        self.resumed = journal is not None
        self._journal = journal
        self.sink = GuestSink(location, group)

    def write_beside(self, groups: "Mapping[str, xr.Dataset]") -> None:
        """Do nothing."""

    def wanted(self, variables: "Mapping[str, Variable]", notes: RowDigests | None) -> Callable[[int, int], bool]:  # noqa: ARG002 (as a place)
        """Return that every step is to be computed, though another process keeps it."""
        return lambda _start, _stop: True

    def note(self, notes: list[tuple[int, str]]) -> None:
        """Do nothing."""

    def seen(self, notes: RowDigests | None) -> Mapping[int, str] | None:
        """Return the stretches, by first row, that an earlier run noted, as a place does."""
        return noted_before(self._journal, notes)

    def look(self, skip: Callable[[int, int], bool], notes: RowDigests) -> None:
        """Do nothing."""

    def restore(self, notes: list[tuple[int, str]]) -> None:
        """Do nothing."""

    def check_same_rows(self, known: str) -> None:
        """Do nothing."""

    def check_end(self, length: int) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""


def place_for_all(
    make: Callable[[], ResultDirectory | None], group: str, journal: "Journal | None"
) -> ResultDirectory | Guest | None:
    """Return where a call is stored, made by one process for all; ``journal`` is that of the call to be finished."""
    if process_group.is_single_process:
        return make()
    place = make() if process_group.is_coordinator else None
    about = None if place is None else (place.location, place.attrs, place.root_attrs)
    sent = pickle.loads(process_group.all("where the result lies", pickle.dumps(about))[0])
    if place is not None or sent is None:
        return place
    location, attrs, root_attrs = sent
    return Guest(location, group, attrs, root_attrs, journal)


class _Message(NamedTuple):
    """What a process says after some of its rows."""

    rows: int
    notes: list[tuple[int, str]]
    payload: Any


@dataclass(frozen=True)
class MultiHostExecutor:
    """A call that is cut along its rows, ready to be computed by all processes."""

    runner: StepRunner
    plan: "Plan"
    landing: OutputSpec
    given: Given
    device = None
    """What kind others compute on: the same as here."""

    def run(
        self,
        sink: "ResultStore",
        *,
        note: Callable[[list[tuple[int, str]]], None] | None = None,
        variables: "Mapping[str, Variable] | None" = None,
        seen: Mapping[int, str] | None = None,
        look: bool = False,
        progress: str | None = None,
    ) -> int:
        """Compute the rows of this process; take what the others found of theirs; return how many there are in all.

        ``note`` takes digests of the rows, if they are to be known again; ``variables`` are those of which parts may be
        there already, and ``seen`` are the stretches, by first row, that were noted with them; ``look`` says that
        nothing is to be computed.
        """
        from aimz.distributed.row_partition import partition_rows

        n_obs = self.plan.n_obs
        assert n_obs is not None
        # Sums are sent once; of rows that are kept in memory, some at a time.
        summed = self.runner.task.layout.groups is not None
        sent = not (sink.whole_chunks or summed)
        stretches = partition_rows(
            self.plan, process_group.index, process_group.count, stored=sink.whole_chunks, sent=sent
        )
        first, last = stretches[0][0], stretches[-1][1]
        runner = self._starting(*stretches[0])
        part = None if look else self._part(sink, first, last)
        hidden = progress is None or not process_group.is_coordinator
        with ProgressBar(total=n_obs, unit=" rows", desc=progress, disable=hidden, delay=0.5) as bar:
            for number, (start, stop) in enumerate(stretches, 1):
                taken: list[tuple[int, str]] = []
                if sent and not look:
                    part = sink.part(start, stop)
                if part is None:
                    for begin, end in self.plan.steps(start, stop):
                        runner.skip(begin, end)
                elif start < stop:
                    stored: Any = part  # a writer of chunks, which can say what is there
                    wanted = missing_steps(self.plan, variables, stored, start, stop, seen) if variables else None
                    self._compute(runner, part, start, stop, wanted, _same_as(runner, seen or {}, taken))
                # The first step was looked at by every process, and is noted by one.
                taken += [] if runner.notes is None else runner.notes.take()
                notes = [(at, digest) for at, digest in taken if start <= at < stop]
                due = part is not None and (not summed or number == len(stretches))
                mine = _Message(stop - start, notes, part.payload() if part is not None and due else None)
                for process, content in enumerate(process_group.all("rows", pickle.dumps(mine, protocol=5))):
                    told: _Message = mine if process == process_group.index else pickle.loads(content)
                    if note is not None and told.notes:
                        note(told.notes)
                    if told.payload is not None:
                        sink.add(told.payload)
                    bar.update(told.rows)
        runner.check_rows(n_obs)
        return n_obs

    def _compute(
        self,
        runner: StepRunner,
        part: "StorePart",
        start: int,
        stop: int,
        wanted: Callable[[int, int], bool] | None,
        noting: Callable[[], None],
    ) -> None:
        """Compute some rows."""
        from aimz.stream import run

        request = self.landing.request(self.plan, runner, wanted=wanted, once=start == 0, noting=noting)
        reached = run(request, part, start, stop)
        if reached != stop:
            msg = (
                f"The rows must be {self.plan.n_obs}, as when the call began; now they end at row {reached}. Call "
                "again when nothing writes to them."
            )
            raise ValueError(msg)

    def _starting(self, start: int, stop: int) -> StepRunner:
        """Return what computes the rows from one on; what lies before is read only where it has to be."""
        pieces, reader, n_obs = self.given.pieces, self.given.reader, self.plan.n_obs
        if start == 0 and stop >= next(self.plan.steps())[1]:
            return self.runner
        # The first step was looked at, and has rows that others compute.
        if pieces is not None and reader is not None and 0 < start < (n_obs or 0):
            reader = BatchReader(pieces.starting(start), reader.parameters, first_row=start, types=reader.types)
        elif reader is not None:
            reader.rewind()
        if self.runner.notes is not None:
            self.runner.notes.take()
        return self.runner.reading(reader)

    def _part(self, sink: "ResultStore", start: int, stop: int) -> "StorePart":
        """Return what takes the rows of this process."""
        if not sink.whole_chunks:
            return sink.part(start, stop)
        from aimz.store import GuestSink

        content = pickle.dumps(sink.part(start, stop)) if process_group.is_coordinator else b""
        sent = process_group.all("who writes", content)
        if isinstance(sink, GuestSink):
            sink.receive(pickle.loads(sent[0]))
        return sink.part(start, stop)


def _same_as(runner: StepRunner, seen: Mapping[int, str], taken: list[tuple[int, str]]) -> Callable[[], None]:
    """Return what makes sure, before a step is written, that its rows are those an interrupted run had."""

    def note() -> None:
        found = [] if runner.notes is None else runner.notes.take()
        taken.extend(found)
        other = next((start for start, digest in found if seen.get(start, digest) != digest), None)
        if other is not None:
            msg = (
                f"The call cannot be resumed by this one: the data from row {other} on are not those of the "
                "interrupted run. Make the call that was interrupted, or predict anew."
            )
            raise ValueError(msg)

    return note

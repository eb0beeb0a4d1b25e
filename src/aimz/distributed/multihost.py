"""A call in several processes of `jax.distributed`, each on its own host: every process computes some rows."""

__all__ = ["MultiHostExecutor", "check_same_call", "share_location"]

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from aimz.data import BatchReader, KernelArguments, RowFindings, fingerprint
from aimz.data import differences as differing_names
from aimz.distributed.collectives import process_group
from aimz.distributed.row_partition import partition_rows
from aimz.distributed.settings import jax_settings
from aimz.engine import (
    CallLocation,
    OutputSpec,
    PredictionRequest,
    RangeDigests,
    RunOptions,
    StepRunner,
    compute_range,
    missing_steps,
)
from aimz.progress import ProgressBar

if TYPE_CHECKING:
    from aimz.store import ChunkWriter, ResultStore, StorePart

_ENDS = 64
"""Rows at both ends of a lazily read array that are compared."""
_READABLE = ("versions", "method", "number of rows", "device", "kind of device", "number of devices", "output_dir")
"""Names of compared texts that an error message can show as they are."""


def check_same_call(known: Mapping[str, str], request: PredictionRequest) -> str:
    """Check that all processes make the same call; return the time at which it began.

    ``known`` is the identity of the call in this process.  Of lazily read arrays the ends are compared, and of an
    iterable the first batch.

    Raises
    ------
    ClusterError
        In all processes, naming the inputs that differ.
    """
    here = {
        **known,
        **{f"data of `{name}`": text for one in request.scenarios.values() for name, text in _ends(one.call).items()},
        "settings of JAX": json.dumps(jax_settings(), default=str),
        "kind of device": jax.local_devices()[0].device_kind,
        "number of devices": str(jax.local_device_count()),
    }
    if request.source.reader is not None:
        first = request.source.reader.first or {}
        here["first batch"] = fingerprint(array for _, array in sorted(first.items()))
    began = datetime.now(UTC).isoformat()
    content = json.dumps([here, began]).encode()
    calls = [json.loads(sent) for sent in process_group.allgather("comparison of the calls", content)]
    coordinator, began = calls[0]
    for number, (there, _) in enumerate(calls):
        unlike = differing_names(coordinator, there)
        if unlike:
            shown = "; ".join(f"{n}: {coordinator.get(n)} and {there.get(n)}" for n in unlike if n in _READABLE)
            process_group.fail(
                f"Process {number} does not make the call of process 0: {', '.join(unlike)} differ(s)"
                f"{f' ({shown})' if shown else ''}. Let every process run the same script, with the same versions, "
                "data, key and posterior (`ImpactModel.load` gives all of them one), or do without `jax.distributed`."
            )
    return str(began)


def _ends(call: KernelArguments) -> dict[str, str]:
    """Return the identity of lazily read arrays: shape, dtype and a digest of both ends."""
    found = {}
    for name, array in call.rows.items():
        if array.by_reference:
            n_obs = array.shape[0]
            ends = [array.read(0, min(_ENDS, n_obs)), array.read(max(0, n_obs - _ENDS), n_obs)]
            found[name] = f"{array.shape} {array.dtype} {fingerprint(ends)}"
    return found


def share_location(where: CallLocation | None) -> CallLocation | None:
    """Return the coordinator's location of the call, in every process."""
    sent = process_group.allgather("location of the result", pickle.dumps(where))
    shared: CallLocation | None = pickle.loads(sent[0])
    return shared


class _Progress(NamedTuple):
    """Message of a process after some of its rows."""

    rows: int
    digests: list[tuple[int, str]]
    payload: Any
    findings: RowFindings | None = None
    """NaN and lost digits in the rows of the process; None before its last range."""


@dataclass(frozen=True)
class MultiHostExecutor:
    """Computes a call in all processes; each writes or sends its rows."""

    runner: StepRunner
    output: OutputSpec
    request: PredictionRequest
    device: str | None = None

    def run(self, store: "ResultStore | None", options: RunOptions) -> int:
        """Compute the rows of this process and receive the rows of the others, as in `aimz.engine.Executor`."""
        plan, n_obs = self.runner.plan, self.runner.plan.n_obs
        assert n_obs is not None
        stored = self.request.options.store == "persistent"
        # Sums are sent once, at the end; rows that are kept in memory are sent in short ranges.
        summed = self.runner.spec.layout.groups is not None
        sent = not (stored or summed)
        ranges = partition_rows(plan, process_group.index, process_group.count, stored=stored, sent=sent)
        first, last, findings = ranges[0][0], ranges[-1][1], RowFindings()
        runner = self._runner_from(*ranges[0])
        part = None
        if not options.verify_only:
            part = _shared_writer(store, n_obs) if stored else _part(store, first, last)
        hidden = options.progress is None or not process_group.is_coordinator
        with ProgressBar(total=n_obs, unit=" rows", desc=options.progress, disable=hidden) as bar:
            for number, (start, stop) in enumerate(ranges, 1):
                digests = RangeDigests(runner, options.known or {})
                if sent and not options.verify_only:
                    part = _part(store, start, stop)
                if part is None:
                    for begin, end in plan.steps(start, stop):
                        runner.skip(begin, end)
                elif start < stop:
                    self._compute(runner, part, start, stop, digests, options)
                # Every process reads the first step to test it; the process whose rows these are records its digest.
                digests.collected.extend([] if runner.feed.digests is None else runner.feed.digests.take())
                own = [(at, digest) for at, digest in digests.collected if start <= at < stop]
                due = part is not None and (not summed or number == len(ranges))
                payload = part.payload() if part is not None and due else None
                mine = _Progress(stop - start, own, payload, runner.feed.findings if number == len(ranges) else None)
                for process, content in enumerate(process_group.allgather("rows", pickle.dumps(mine, protocol=5))):
                    theirs: _Progress = mine if process == process_group.index else pickle.loads(content)
                    if options.record is not None and theirs.digests:
                        options.record(theirs.digests)
                    if theirs.payload is not None and store is not None:
                        store.add(theirs.payload)
                    if theirs.findings is not None:
                        findings.merge(theirs.findings)
                    bar.update(theirs.rows)
        if not options.verify_only:
            self.runner.warn_about_rows(findings)
        runner.check_length(n_obs)
        return n_obs

    def _compute(
        self,
        runner: StepRunner,
        part: "StorePart",
        start: int,
        stop: int,
        digests: RangeDigests,
        options: RunOptions,
    ) -> None:
        """Compute a range of rows."""
        is_missing = None
        if options.resumed is not None:
            written: ChunkWriter = part  # type: ignore[assignment]  # only stored calls are resumed
            is_missing = missing_steps(runner.plan, options.resumed, written, start, stop, options.known)
        reached = compute_range(
            runner, self.output, part, start, stop, is_missing=is_missing, on_rows_read=digests.check
        )
        if reached != stop:
            msg = (
                f"The rows must be {runner.plan.n_obs}, as when the call began; now they end at row {reached}. Call "
                "again when nothing writes to them."
            )
            raise ValueError(msg)

    def _runner_from(self, start: int, stop: int) -> StepRunner:
        """Return a runner that reads rows from ``start`` on; earlier rows are read only if the source requires it."""
        source, plan = self.request.source, self.runner.plan
        table, reader = source.chunked_table, source.reader
        if start == 0 and stop >= next(plan.steps())[1]:
            return self.runner
        # The first step was tested in every process, and its rows belong to another one.
        if table is not None and reader is not None and 0 < start < (plan.n_obs or 0):
            reader = BatchReader(table.starting(start), reader.parameters, first_row=start, types=reader.types)
        elif reader is not None:
            reader.rewind()
        if self.runner.feed.digests is not None:
            self.runner.feed.digests.take()
        return self.runner.with_reader(reader)


def _part(store: "ResultStore | None", start: int, stop: int) -> "StorePart":
    """Return the part of a store in memory that receives some rows."""
    assert store is not None
    return store.part(start, stop)


def _shared_writer(store: "ResultStore | None", n_obs: int) -> "StorePart":
    """Return the coordinator's chunk writer, sent to every process."""
    content = b"" if store is None else pickle.dumps(store.part(0, n_obs))
    writer: StorePart = pickle.loads(process_group.allgather("chunk writer", content)[0])
    return writer

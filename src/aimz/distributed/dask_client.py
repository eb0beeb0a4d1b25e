"""A call on a Dask cluster: sends the job and the ranges to the workers, and collects what they computed."""

__all__ = ["DaskExecutor", "check_workers", "dask_executor_for"]

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import cloudpickle
import jax
from dask.delayed import delayed
from distributed import Client, Future, WorkerPlugin

from aimz.data import RowFindings, RowReader, key_to_text
from aimz.distributed.dask_ranges import AdaptiveRanges, run_on_cluster
from aimz.distributed.dask_worker import (
    JobSpec,
    RowRange,
    SerializedJob,
    check_worker,
    compute_rows,
    forget_job,
    hold_job,
    serialize_job,
    without_rows,
)
from aimz.distributed.settings import jax_settings
from aimz.engine import (
    InputLayout,
    OutputSpec,
    PredictionRequest,
    RunOptions,
    StepRunner,
    versions,
)
from aimz.errors import ClusterError
from aimz.kernel import digest_program
from aimz.types import Kernel

if TYPE_CHECKING:
    from aimz.store import ResultStore, Variable

_LARGE_KERNEL = 2**20
"""Bytes of a pickled kernel that is not sent to be checked beforehand."""
_SENT_BYTES = 2**23
"""Bytes of rows sent with a range from the memory of the client; Dask warns of more than 10 MB."""
_FETCHED_BYTES = 2**27
"""Bytes of rows of a range that a worker fetches from other workers."""
_FIRST_NUMBERS = 2**26
"""Numbers in the first ranges, before their speed is known."""
_PREFIX = "aimz-job"
_START_SECONDS = 30.0
"""Time to wait for the first worker: an adaptive cluster starts workers when there is work."""


class JobPlugin(WorkerPlugin):  # type: ignore[misc,unused-ignore]
    """Keeps a job in each worker process, including workers that join later, until the plugin is removed.

    The scheduler sends a plugin once to each worker.  Scattered data would be kept by one worker only and lost with it.
    """

    def __init__(self, serialized: SerializedJob) -> None:
        self._serialized = serialized

    def setup(self, worker: Any) -> None:  # noqa: ARG002 (Dask's protocol)
        """Store the job until its ranges arrive."""
        hold_job(self._serialized)

    async def teardown(self, worker: Any) -> None:  # noqa: ARG002 (Dask's protocol)
        """Drop the job."""
        await forget_job(self._serialized.token)


def _plugin_name(client: Client, serialized: SerializedJob) -> str:
    """Return the name of a job's plugin."""
    return f"{_PREFIX} {client.id} {serialized.token}"


def _remove_orphaned_jobs(client: Client) -> None:
    """Remove the jobs of clients that have disconnected."""

    def list_plugins(dask_scheduler: Any) -> tuple[list[str], list[str]]:
        return list(dask_scheduler.worker_plugins), list(dask_scheduler.clients)

    names, clients = client.run_on_scheduler(list_plugins)
    for name in names:
        if name.startswith(_PREFIX) and name.split(" ")[1] not in clients:
            client.unregister_worker_plugin(name)


def check_workers(client: Client, kernel: Kernel) -> str:
    """Return the kind of device of all workers.

    Raises
    ------
    ClusterError
        If there are no workers, or one has other versions, cannot import the kernel, or has another kind of device.
    """
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=_START_SECONDS)
    if not client.nthreads():
        msg = "The cluster of `client` has no workers. Start some (`cluster.scale(2)`), and call again."
        raise ClusterError(msg)
    advice = "Install the same versions on all machines, or compute here (`client=False`)."
    here = platform.python_version().rpartition(".")[0]
    machines: Any = client.get_versions()
    for address, there in machines["workers"].items():
        python = str(there["host"]["python"]).split(".")
        if ".".join(python[:2]) != here:
            msg = f"Worker {address} has Python {'.'.join(python[:2])}, and the client {here}. {advice}"
            raise ClusterError(msg)
    for address, there in client.run(_version_reader(versions())).items():
        if there != versions():
            msg = f"Worker {address} has {there}, and the client {versions()}: their numbers could differ. {advice}"
            raise ClusterError(msg)
    content = cloudpickle.dumps(kernel)
    kinds = client.run(check_worker, content if len(content) < _LARGE_KERNEL else b"", jax_settings())
    if len(set(kinds.values())) > 1:
        msg = f"All workers must have one kind of device; got {kinds}. Use workers of one kind for one call."
        raise ClusterError(msg)
    return str(next(iter(kinds.values())))


def _version_reader(known: str) -> Callable[[], str]:
    """Return a function that reads versions in a process that may lack this package."""
    names = [part.partition(" ")[0] for part in known.split(", ")]

    def read() -> str:
        found = []
        for name in names:
            try:
                # The distribution of this package has another name, and a distribution `aimz` is another package.
                found.append(f"{name} {import_module(name).__version__ if name == 'aimz' else version(name)}")
            except (ImportError, PackageNotFoundError):
                found.append(f"no {name}")
        return ", ".join(found)

    return read


def dask_executor_for(
    client: Client, kernel: Kernel, runner: StepRunner, output: OutputSpec, request: PredictionRequest
) -> "DaskExecutor":
    """Return an executor on a cluster whose workers have been checked."""
    return DaskExecutor(client, check_workers(client, kernel), kernel, runner, output, request)


@dataclass(frozen=True)
class DaskExecutor:
    """Computes a call on the workers of a Dask cluster."""

    client: Client
    device: str | None
    kernel: Kernel
    runner: StepRunner
    output: OutputSpec
    request: PredictionRequest

    def run(self, store: "ResultStore | None", options: RunOptions) -> int:
        """Compute all rows on the workers, as in `aimz.engine.Executor`."""
        assert store is not None
        known, record = options.known, options.record
        client, plan, layout = self.client, self.runner.plan, self.runner.spec.layout
        serialized = serialize_job(self._job(options.resumed), self.device or "")
        name = _plugin_name(client, serialized)
        renew = partial(client.register_plugin, JobPlugin(serialized), name=name)
        with_dask = any(rows.uses_dask for rows in _readers(layout))

        def begin(start: int, stop: int) -> "Future[Any]":
            digests = None if known is None else {at: known[at] for at in range(start, stop, plan.note) if at in known}
            part = None if options.verify_only else store.part(start, stop)
            rows = RowRange(start, stop, _slices(layout, start, stop), part, digests)
            if with_dask:
                future: Future[Any] = client.compute(delayed(compute_rows, pure=False)(serialized.token, rows))
            else:
                future = client.submit(compute_rows, serialized.token, rows, pure=False)
            return future

        # Digests of new rows are recorded once the rows of the interrupted call are known to be the same: a call with
        # other data must leave no digests behind.
        unverified: set[int] = set(known or {})
        digested: list[tuple[int, str]] = []
        findings = RowFindings()

        def receive(found: Any) -> None:
            payload, digests, in_rows = found
            findings.merge(in_rows)
            digested.extend(digests)
            unverified.difference_update(at for at, _ in digests)
            if record is not None and digested and not unverified:
                record(digested)
                digested.clear()
            if not options.verify_only:
                store.add(payload)

        _remove_orphaned_jobs(client)
        renew()
        try:
            run_on_cluster(
                client, self._ranges(store), begin=begin, receive=receive, renew=renew, progress=options.progress
            )
        finally:
            # A job that cannot be removed costs memory only; results and errors are not affected.
            with suppress(Exception):
                if client.status == "running":
                    client.unregister_worker_plugin(name)
        assert plan.n_obs is not None
        self.runner.warn_about_rows(findings)
        return plan.n_obs

    def _job(self, resumed: "Mapping[str, Variable] | None") -> JobSpec:
        """Return the job that workers receive once."""
        spec, reader = self.runner.spec, self.request.source.reader
        return JobSpec(
            kernel=cloudpickle.dumps(self.kernel),
            digest=digest_program(self.runner.step.traced.jaxpr),
            spec=replace(spec, layout=without_rows(spec.layout), key=None),
            key=None if spec.key is None else key_to_text(spec.key),
            plan=self.runner.plan,
            batch_size=self.request.options.batch_size,
            output=self.output,
            resumed=resumed,
            digested=self.runner.feed.digests is not None,
            table=self.request.source.chunked_table,
            parameters=None if reader is None else reader.parameters,
            types=None if reader is None else reader.types,
        )

    def _ranges(self, store: "ResultStore") -> AdaptiveRanges:
        """Return how rows are divided, by the bytes that a range moves."""
        plan, layout = self.runner.plan, self.runner.spec.layout
        assert plan.n_obs is not None
        assert plan.block is not None
        unit = max(plan.chunk, plan.note) if store.whole_chunks else plan.block
        sent, fetched, chunk = 0, 0, 0
        for rows in _readers(layout):
            if rows.uses_dask:
                fetched += rows.row_bytes
                chunk = max(chunk, rows.longest_chunk or 0)
            elif rows.n_rows is not None and not rows.by_reference:
                sent += rows.row_bytes
        if not store.whole_chunks and layout.groups is None and self.output.statistics is None:
            fetched += 4 * plan.n_draws * len(self.output.names)  # draws that are sent back
        most = min(_SENT_BYTES // sent if sent else plan.n_obs, _FETCHED_BYTES // fetched if fetched else plan.n_obs)
        most = max(unit, most // unit * unit)
        return AdaptiveRanges(plan.n_obs, unit, min(most, max(unit, _FIRST_NUMBERS // plan.n_draws, chunk)), most)


def _readers(layout: InputLayout) -> Iterator[RowReader]:
    """Yield a reader of each array that has rows."""
    for _, rows in layout.row_inputs():
        yield from rows.leaves()


def _slices(layout: InputLayout, start: int, stop: int) -> dict[str, Any]:
    """Return readers of some rows for a worker, by field of the layout."""
    fields = {field: getattr(layout, field) for field in ("row_arrays", "row_draws", "row_values", "groups")}
    found: dict[str, Any] = jax.tree.map(lambda rows: rows.slice_for_worker(start, stop), fields)
    return found

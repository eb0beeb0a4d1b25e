"""A call on a Dask cluster, from the side of the client: what the workers get, and what becomes of what they find."""

__all__ = ["DaskExecutor", "check_can_be_spread", "dask_executor_for"]

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import jax

from aimz.data import RowReader, key_to_text
from aimz.distributed.dask_worker import JobSpec, RowRange, can_do, pack, settings, without_rows, work
from aimz.engine import (
    Given,
    InputLayout,
    KernelEngine,
    OutputSpec,
    StepRunner,
    StepSpec,
    versions,
)
from aimz.errors import ClusterError, warn
from aimz.kernel import digest_program
from aimz.types import Kernel

if TYPE_CHECKING:
    from aimz.store import ResultStore, Variable
    from aimz.stream import Plan
    from distributed import Client, Future

_LARGE = 2**20
"""Bytes of a kernel that is not sent beforehand to be tried."""
_SENT = 2**23
"""Bytes of rows that go with a range, where the client has them; Dask warns of more than 10 MB."""
_HELD = 2**27
"""Bytes of rows of a range that a worker gets from other workers."""
_NUMBERS = 2**26
"""Numbers in the first ranges, before it is known how long they take."""


class _Options(Protocol):
    @property
    def client(self) -> Any: ...

    @property
    def batch_size(self) -> int | None: ...


def check_can_be_spread(client: Any, given: Given) -> None:
    """Refuse a cluster for rows that its workers could not read.

    Raises
    ------
    TypeError
        If they come from an iterable, which only this process can read, and in order.
    """
    if not client or given.reader is None or given.pieces is not None:
        return
    msg = (
        "`client` needs rows that workers can look up; got an iterable of batches. Pass an array (Dask, Zarr), or "
        "`pyarrow.dataset.dataset(path)`; or leave `client` out."
    )
    raise TypeError(msg)


def dask_executor_for(
    engine: KernelEngine, options: _Options, runner: StepRunner, plan: "Plan", landing: OutputSpec, given: Given
) -> "DaskExecutor | None":
    """Return how to compute a call on a cluster, which has been looked at; None to compute it here.

    Warns
    -----
    UserWarning
        If a cluster was asked for, and all rows have to be computed together.
    """
    client = _client_for(options.client, runner.task.layout)
    if client is None or (given.reader is not None and given.pieces is None):
        return None  # or only this process can read the rows
    if plan.axis != "obs":
        if options.client:
            warn("All rows have to be computed together, and that is done here: the workers of `client` are not used.")
        return None
    device = _check(client, engine.kernel)
    return DaskExecutor(
        client,
        device,
        engine.kernel,
        digest_program(runner.step.traced.jaxpr),
        runner.task,
        plan,
        options.batch_size,
        landing,
        runner.notes is not None,
        given,
    )


def _client_for(client: Any, layout: InputLayout) -> "Client | None":
    """Return the client asked for, or where inputs are Dask arrays the active one, if any."""
    if client is not None:
        return client or None
    if "distributed" not in sys.modules or not any(rows.uses_dask for rows in _readers(layout)):
        return None
    from distributed import Client

    try:
        active = Client.current()
    except ValueError:
        return None
    return None if active.asynchronous else active


def _check(client: "Client", kernel: Kernel) -> str:
    """Return what kind of device the workers have; refuse a cluster of which one cannot take part.

    Raises
    ------
    ClusterError
        If there are no workers, or one has other versions, cannot import the kernel, or has another kind of device.
    """
    import cloudpickle

    with suppress(TimeoutError):  # one that adapts starts workers when there is work
        client.wait_for_workers(1, timeout=30)
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
    found = client.run(_by_value(versions()))
    for address, there in found.items():
        if there != versions():
            msg = f"Worker {address} has {there}, and the client {versions()}: their numbers could differ. {advice}"
            raise ClusterError(msg)
    content = cloudpickle.dumps(kernel)
    kinds = client.run(can_do, content if len(content) < _LARGE else b"", settings())
    if len(set(kinds.values())) > 1:
        msg = f"All workers must have one kind of device; got {kinds}. Use workers of one kind for one call."
        raise ClusterError(msg)
    return str(next(iter(kinds.values())))


def _by_value(known: str) -> Callable[[], str]:
    """Return a function that says which versions there are; one that a process without this package can run."""
    names = [part.partition(" ")[0] for part in known.split(", ")]

    def look() -> str:
        from importlib.metadata import PackageNotFoundError, version

        found = []
        for name in names:
            try:
                found.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                found.append(f"no {name}")
        return ", ".join(found)

    return look


@dataclass(frozen=True)
class DaskExecutor:
    """A call that is cut along its rows, ready to be handed out."""

    client: "Client"
    device: str
    """What kind the workers compute on."""
    kernel: Kernel
    digest: str
    """What one pass of it is known by."""
    task: StepSpec
    plan: "Plan"
    batch_size: int | None
    landing: OutputSpec
    noted: bool
    """Whether rows are to be known again."""
    given: Given
    """What was passed: a table that is read from any row, or arrays."""

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
        """Let the workers compute all rows; return how many there are.

        ``note`` takes digests of the rows, if they are to be known again; ``variables`` are those of which parts may be
        there already, and ``seen`` the digests, by first row, that were noted with them; ``look`` says that
        nothing is to be computed.
        """
        from dask.delayed import delayed

        from aimz.distributed.dask_plugin import JobPlugin, name_of, tidy_up
        from aimz.distributed.dask_ranges import run_on_cluster

        client, task = self.client, self.task
        packed = pack(self._job(variables or {}), self.device)
        name = name_of(client, packed)
        renew = partial(client.register_plugin, JobPlugin(packed), name=name)
        uses_dask = any(rows.uses_dask for rows in _readers(task.layout))

        def begin(start: int, stop: int) -> "Future[Any]":
            noted = None if seen is None else {at: seen[at] for at in range(start, stop, self.plan.note) if at in seen}
            one = RowRange(
                start, stop, _shares(task.layout, start, stop), None if look else sink.part(start, stop), noted
            )
            if uses_dask:
                found: Future[Any] = client.compute(delayed(work, pure=False)(packed.token, one))
            else:
                found = client.submit(work, packed.token, one, pure=False)
            return found

        def land(found: Any) -> None:
            payload, notes = found
            if note is not None and notes:
                note(notes)
            if not look:
                sink.add(payload)

        tidy_up(client)
        renew()
        try:
            run_on_cluster(client, self._ranges(sink), begin=begin, land=land, renew=renew, progress=progress)
        finally:
            # Where that fails something is kept that is of no more use; what was found, or raised, is not touched.
            with suppress(Exception):
                if client.status == "running":
                    client.unregister_worker_plugin(name)
        assert self.plan.n_obs is not None
        return self.plan.n_obs

    def _job(self, variables: "Mapping[str, Variable]") -> JobSpec:
        """Return what workers get beside the rows."""
        import cloudpickle

        task = self.task
        return JobSpec(
            kernel=cloudpickle.dumps(self.kernel),
            digest=self.digest,
            kind=task.kind,
            plan=task.plan,
            layout=without_rows(task.layout),
            key=None if task.key is None else key_to_text(task.key),
            use=task.use,
            alone=task.alone,
            cut=self.plan,
            batch_size=self.batch_size,
            landing=self.landing,
            variables=variables,
            noted=self.noted,
            pieces=self.given.pieces,
            parameters=None if self.given.reader is None else self.given.reader.parameters,
            types=None if self.given.reader is None else self.given.reader.types,
        )

    def _ranges(self, sink: "ResultStore") -> Any:
        from aimz.distributed.dask_ranges import AdaptiveRanges

        plan, layout = self.plan, self.task.layout
        assert plan.n_obs is not None
        assert plan.block is not None
        unit = max(plan.chunk, plan.note) if sink.whole_chunks else plan.block
        sent, held, chunk = 0, 0, 0
        for rows in _readers(layout):
            if rows.uses_dask:
                held += rows.row_bytes
                chunk = max(chunk, rows.longest_chunk or 0)
            elif rows.n_rows is not None and not rows.by_reference:
                sent += rows.row_bytes
        if not sink.whole_chunks and layout.groups is None and self.landing.statistics is None:
            held += 4 * plan.n_draws * len(self.landing.names)  # draws that come back
        most = min(_SENT // sent if sent else plan.n_obs, _HELD // held if held else plan.n_obs)
        most = max(unit, most // unit * unit)
        return AdaptiveRanges(plan.n_obs, unit, min(most, max(unit, _NUMBERS // plan.n_draws, chunk)), most)


def _readers(layout: InputLayout) -> Iterator[RowReader]:
    """Yield a reader of every array that has rows."""
    for _, rows in layout.row_inputs():
        yield from rows.leaves()


def _shares(layout: InputLayout, start: int, stop: int) -> dict[str, Any]:
    """Return the readers of some rows that a worker gets, by field of the layout."""
    fields = {field: getattr(layout, field) for field in ("row_arrays", "row_draws", "row_values", "groups")}
    found: dict[str, Any] = jax.tree.map(lambda rows: rows.slice_for_worker(start, stop), fields)
    return found

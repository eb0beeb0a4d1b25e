"""A call as a worker of a cluster needs it, and how it computes a range of its rows.

The job has everything but the rows and travels once to each worker, where it stays until the call has ended.  What
depends on the kernel alone, its compiled programs, stays longer.
"""

__all__ = [
    "JobSpec",
    "RowRange",
    "SerializedJob",
    "can_do",
    "forget_job",
    "hold_job",
    "pack",
    "settings",
    "without_rows",
    "work",
]

import asyncio
import hashlib
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aimz.data import BatchReader, ChunkedTable, KernelParameters, key_from_text
from aimz.distributed.allocator import give_back, keep_freed
from aimz.distributed.device import own_device
from aimz.engine import (
    InputLayout,
    OutputSpec,
    RowFeed,
    StepRunner,
    StepSpec,
    blocks_per_device,
    digests_for,
    local_mesh,
    missing_steps,
    n_devices,
    versions,
)
from aimz.errors import ClusterError
from aimz.forward import CompiledProgram, CompiledPrograms, JointPass, PassSpec, StreamAxis, TracedStep
from aimz.kernel import LRUCache, RowUse, digest_program

if TYPE_CHECKING:
    from aimz.distributed.dask_ranges import RangeResult
    from aimz.store import StorePart, Variable
    from aimz.stream import Plan

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)
"""Of JAX, on which the numbers depend."""


@dataclass(frozen=True)
class JobSpec:
    """Everything but the rows."""

    kernel: bytes
    """The kernel, pickled: programs are kept for as long as the same comes again."""
    digest: str
    """What one pass is known by, as the client traced it."""
    kind: str
    plan: PassSpec | JointPass
    layout: InputLayout
    """Without what has rows."""
    key: str | None
    use: RowUse
    alone: bool
    cut: "Plan"
    """How the call is cut; how many rows are computed at once is the worker's own affair."""
    batch_size: int | None
    landing: OutputSpec
    variables: "Mapping[str, Variable]" = field(default_factory=dict)
    """What is stored, if it may be there already in part."""
    noted: bool = False
    """Whether rows are to be known again."""
    pieces: ChunkedTable | None = None
    """The table that the rows are read from, where they do not come with each range."""
    parameters: KernelParameters | None = None
    """Those of the kernel, to match its columns with."""
    types: Mapping[str, Any] | None = None
    """What types its columns have."""


@dataclass(frozen=True)
class SerializedJob:
    """A job on its way; what it was made with can be read before it is opened."""

    token: str
    versions: str
    settings: Mapping[str, Any]
    device: str
    """What kind the workers compute on."""
    job: bytes


@dataclass(frozen=True)
class RowRange:
    """Some rows, and where what is made of them goes."""

    start: int
    stop: int
    rows: Mapping[str, Any]
    """Fields of a layout to their arrays, of which these rows can be read."""
    part: "StorePart | None"
    """None where they are only looked at."""
    seen: Mapping[int, str] | None = None
    """What an interrupted run has noted of them, by first row; None if all that is there counts."""


@dataclass(frozen=True)
class LoadedJob:
    """A job that was opened."""

    job: JobSpec
    programs: CompiledPrograms
    made: dict[Mesh | None, tuple[TracedStep, CompiledProgram]] = field(default_factory=dict)
    """Its program; found again by the kernel's arguments, an object among them would be another one each time."""


def settings() -> dict[str, Any]:
    """Return the settings of JAX on which numbers depend."""
    return {name: getattr(jax.config, name) for name in _SETTINGS if hasattr(jax.config, name)}


@contextmanager
def _under(given: Mapping[str, Any]) -> Iterator[None]:
    """Compute under settings of JAX, and leave those there were."""
    before = {name: getattr(jax.config, name) for name in given}
    changed = [name for name, value in given.items() if before[name] != value]
    for name in changed:
        jax.config.update(name, given[name])
    try:
        yield
    finally:
        for name in changed:
            jax.config.update(name, before[name])


def pack(job: JobSpec, device: str) -> SerializedJob:
    """Pickle a job, functions by value where no module has them."""
    import cloudpickle

    return SerializedJob(uuid4().hex, versions(), settings(), device, cloudpickle.dumps(job))


_PACKED = LRUCache[SerializedJob](16)
_READY = LRUCache[LoadedJob](16)
"""Of calls that are at work at the same time, and of those whose client was lost."""
_PROGRAMS = LRUCache[CompiledPrograms](16)
_AT_WORK: set[str] = set()
"""The job of the range that is computed."""
_PATIENCE = 30.0
"""Seconds to wait for the end of a step."""
_ONE = threading.Lock()
"""One range at a time in a process: each takes all cores there are, or the device."""


def hold_job(packed: SerializedJob) -> None:
    """Keep a job until ranges of it come."""
    _PACKED.get(packed.token, lambda: packed)


async def forget_job(token: str) -> None:
    """Let go of a job, and of the posterior with it; a range that is at work ends with its step, and is waited for.

    It would otherwise write into a directory that is gone, or that another run has taken up.
    """
    _PACKED.drop(token)
    _READY.drop(token)
    end = monotonic() + _PATIENCE
    while token in _AT_WORK and monotonic() < end:
        await asyncio.sleep(0.01)
    give_back()


def can_do(kernel: bytes, given: Mapping[str, Any]) -> str:
    """Make sure that this process can compute for others, under settings of JAX; return the kind of its device.

    A kernel that is large is left out: it comes with the job.

    Raises
    ------
    ClusterError
        If it cannot: the kernel cannot be imported, or it was forked from a process that uses JAX.
    """
    own_device()
    # One that is at work has shown what it can; and this runs in the worker's event loop, which must not wait.
    if kernel and _ONE.acquire(blocking=False):
        try:
            with _under(given):
                _open_kernel(kernel)
        finally:
            _ONE.release()
    return str(jax.default_backend())


def _open_kernel(content: bytes) -> CompiledPrograms:
    """Return the programs of a kernel, kept from call to call."""
    import cloudpickle

    if os.getpid() != _PROCESS:
        msg = (
            "A worker was forked from a process that had JAX, which then stands still or dies. Let Dask start workers "
            "anew: `dask.config.set({'distributed.worker.multiprocessing-method': 'spawn'})`, as is its default."
        )
        raise ClusterError(msg)

    def make() -> CompiledPrograms:
        try:
            return CompiledPrograms(cloudpickle.loads(content))
        except (ImportError, AttributeError) as error:
            msg = (
                f"A worker cannot import the kernel ({error}). Install its module on the workers (`client.upload_file` "
                "takes a single one), or define the kernel in the script itself."
            )
            raise ClusterError(msg) from error

    # Programs, and arrays that a kernel closes over, are made under the settings there are.
    return _PROGRAMS.get((hashlib.sha256(content).hexdigest(), *settings().items()), make)


_PROCESS = os.getpid()
"""The process that has imported JAX."""


def _held(token: str) -> SerializedJob:
    """Return a job that this process has.

    Raises
    ------
    LostJobError
        If it does not have it (any more).
    ClusterError
        If it cannot do it.
    """
    from aimz.distributed.dask_ranges import LostJobError

    def missing() -> SerializedJob:
        msg = "this worker does not have the job"
        raise LostJobError(msg)

    packed = _PACKED.get(token, missing)
    if packed.versions != versions():
        msg = (
            f"A worker has {versions()}, and the client {packed.versions}: their numbers could differ. Install the "
            "same versions on all machines."
        )
        raise ClusterError(msg)
    own_device()
    if packed.device != jax.default_backend():
        msg = (
            f"A worker computes on {jax.default_backend()}, and those that were there when the call began on "
            f"{packed.device}: the last bits would differ. Use workers of one kind for one call."
        )
        raise ClusterError(msg)
    keep_freed()
    return packed


def _opened(packed: SerializedJob) -> LoadedJob:
    """Return a job, unpickled once."""

    def make() -> LoadedJob:
        import cloudpickle

        job: JobSpec = cloudpickle.loads(packed.job)
        on_device = {n: jax.tree.map(jnp.asarray, getattr(job.layout, n)) for n in ("draws", "values", "arrays")}
        return LoadedJob(replace(job, layout=replace(job.layout, **on_device)), _open_kernel(job.kernel))

    return _READY.get(packed.token, make)


def work(token: str, part: RowRange) -> "RangeResult":
    """Compute some rows of a job; runs on a worker."""
    with _ONE:
        packed = _held(token)
        _AT_WORK.add(token)
        try:
            with _under(packed.settings):
                fresh, began = token not in _READY, monotonic()
                done = _work(_opened(packed), part, token)
        except Exception as error:
            other = _that_travels(error)
            if other is None:
                raise
            raise other from None
        finally:
            _AT_WORK.discard(token)
        return done._replace(seconds=None if fresh or done.seconds is None else monotonic() - began)


def _work(ready: LoadedJob, part: RowRange, token: str) -> "RangeResult":
    """Compute some rows, or look at them."""
    from aimz.distributed.dask_ranges import LostJobError, RangeResult
    from aimz.stream import run

    job, sink = ready.job, part.part
    runner, cut = _runner(ready, part)
    taken: list[tuple[int, str]] = []

    def note() -> None:
        """Before a step is written: make sure that its rows are those an interrupted run had, and are still wanted."""
        taken.extend([] if runner.notes is None else runner.notes.take())
        if any((part.seen or {}).get(start, digest) != digest for start, digest in taken):
            raise _OtherRowsError
        if token not in _READY:
            msg = "the call is over"
            raise LostJobError(msg)

    if sink is None:
        for start, stop in cut.steps(part.start, part.stop):
            runner.skip(start, stop)
            note()
        return RangeResult(None, (None, taken))
    request = job.landing.request(cut, runner, noting=note, wanted=_wanted(job, cut, part), once=part.start == 0)
    try:
        reached = run(request, sink, part.start, part.stop)
    except _OtherRowsError:
        return RangeResult(None, (None, taken))  # the client refuses them in its own words
    if reached != part.stop:
        msg = (
            f"The table must have {cut.n_obs} rows, as it had when the call began; now it ends at row {reached}. "
            "Call again when nothing writes to it."
        )
        raise ValueError(msg)
    return RangeResult(0.0, (sink.payload(), taken))


class _OtherRowsError(Exception):
    """Rows are not those an interrupted run had."""


def _that_travels(error: Exception) -> Exception | None:
    """Return an exception that tells of one that cannot be pickled; None for one that can."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001, RUF100 (whatever a class of errors does when it is pickled)
        text = "".join(traceback.format_exception(error))
        return RuntimeError(f"{type(error).__name__}: {error}\n\nOn the worker, where it could not be pickled:\n{text}")
    return None


def _wanted(job: JobSpec, cut: "Plan", part: RowRange) -> Callable[[int, int], bool] | None:
    """Return which steps of a range are not there yet, or were made of rows that nobody has noted; None for all."""
    if not job.variables:
        return None
    stored: Any = part.part  # a writer of chunks, which can say what is there
    return missing_steps(cut, job.variables, stored, part.start, part.stop, part.seen)


def _runner(ready: LoadedJob, part: RowRange) -> "tuple[StepRunner, Plan]":
    """Return what computes the steps of a range, and how they are cut here."""
    from aimz.stream import step_rows

    job, mesh = ready.job, local_mesh()
    block = job.cut.block
    assert block is not None  # rows are cut
    step_length = step_rows(block, job.cut.n_obs, n_devices(mesh), blocks_per_device(), job.batch_size)
    cut = replace(job.cut, step=step_length)
    layout = replace(job.layout, **part.rows)
    key = None if job.key is None else key_from_text(job.key)
    task = StepSpec(job.kind, job.plan, layout, key, job.use, job.alone and mesh is None)
    if mesh not in ready.made:
        step = task.traced(ready.programs, block)
        if task.alone == job.alone and digest_program(step.traced.jaxpr) != job.digest:
            msg = (
                "A worker finds another kernel under the name of the client's: its arithmetic differs. Give all of "
                "them the same files, and let workers with an older one start again (`client.restart()`)."
            )
            raise ClusterError(msg)
        ready.made[mesh] = step, ready.programs.compiled(step, group=step.group, cut=StreamAxis.ROWS, mesh=mesh)
    step, program = ready.made[mesh]
    reader = None
    if job.pieces is not None:
        assert job.parameters is not None
        reader = BatchReader(job.pieces.starting(part.start), job.parameters, first_row=part.start, types=job.types)
    feed = RowFeed(
        layout.row_arrays, cut.n_obs, reader, digests_for(layout.row_arrays, reader, cut) if job.noted else None
    )
    return StepRunner(task, step, program, feed, cut, mesh=mesh), cut


def without_rows(layout: InputLayout) -> InputLayout:
    """Return a layout that can be pickled: arrays on the host, and none that has rows."""
    values, draws, arrays = (
        {name: jax.tree.map(_on_host, value) for name, value in given.items()}
        for given in (layout.values, layout.draws, layout.arrays)
    )
    none: Any = {"row_draws": {}, "row_values": {}, "row_arrays": {}, "groups": None}
    return replace(layout, draws=draws, values=values, arrays=arrays, **none)


def _on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf

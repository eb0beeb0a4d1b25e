"""A call on a worker of a Dask cluster: receives the job once, then computes ranges of rows.

A job holds everything but the rows.  Compiled programs depend on the kernel alone and are kept between jobs.
"""

__all__ = [
    "JobSpec",
    "RowRange",
    "SerializedJob",
    "check_worker",
    "compute_rows",
    "forget_job",
    "hold_job",
    "serialize_job",
    "without_rows",
]

import asyncio
import hashlib
import os
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import aimz.stream
from aimz.data import BatchReader, ChunkedTable, KernelParameters, RowFindings, key_from_text
from aimz.distributed.allocator import give_back, keep_freed
from aimz.distributed.dask_ranges import LostJobError, RangeResult
from aimz.distributed.settings import jax_settings, use_jax_settings
from aimz.engine import (
    InputLayout,
    OutputSpec,
    RangeDigests,
    RowFeed,
    StepRunner,
    StepSpec,
    blocks_per_device,
    compute_range,
    digests_for,
    local_mesh,
    missing_steps,
    versions,
)
from aimz.errors import ClusterError
from aimz.forward import CompiledProgram, CompiledPrograms, StreamAxis, TracedStep
from aimz.kernel import LRUCache, digest_program

if TYPE_CHECKING:
    from aimz.store import ChunkWriter, StorePart, Variable
    from aimz.stream import Plan


@dataclass(frozen=True)
class JobSpec:
    """A call without its rows."""

    kernel: bytes
    """The pickled kernel; compiled programs are kept by its digest."""
    digest: str
    """Digest of the step, as the client traced it."""
    spec: StepSpec
    """Description of the step, without inputs that have rows and without the key."""
    key: str | None
    plan: "Plan"
    """Plan of the client; each worker chooses the length of its steps."""
    batch_size: int | None
    output: OutputSpec
    resumed: "Mapping[str, Variable] | None" = None
    """Variables of the interrupted call that this one resumes."""
    digested: bool = False
    """Whether rows are digested."""
    table: ChunkedTable | None = None
    """Table that the rows are read from, if they are not sent with each range."""
    parameters: KernelParameters | None = None
    """Parameters of the kernel, for matching columns of the table."""
    types: Mapping[str, Any] | None = None
    """Dtypes of the columns of the table."""


@dataclass(frozen=True)
class SerializedJob:
    """A pickled job, and what a worker checks before it unpickles the job."""

    token: str
    versions: str
    settings: Mapping[str, Any]
    """Settings of JAX in the client."""
    device: str
    """Kind of device of all workers."""
    job: bytes


@dataclass(frozen=True)
class RowRange:
    """Rows to compute, and the part of the store that receives their outputs."""

    start: int
    stop: int
    rows: Mapping[str, Any]
    """Field of the layout to its arrays, from which these rows can be read."""
    part: "StorePart | None"
    """None to digest the rows without computing anything."""
    known: Mapping[int, str] | None = None
    """Digests that an interrupted run recorded, by first row; None if every stored chunk counts."""


@dataclass(frozen=True)
class LoadedJob:
    """An unpickled job with its programs."""

    job: JobSpec
    programs: CompiledPrograms
    compiled: dict[Mesh | None, tuple[TracedStep, CompiledProgram]] = field(default_factory=dict)


_SERIALIZED = LRUCache[SerializedJob](16)
_LOADED = LRUCache[LoadedJob](16)
"""Jobs of calls that run at the same time, and of clients that were lost."""
_PROGRAMS = LRUCache[CompiledPrograms](16)
_RUNNING: set[str] = set()
"""Token of the job whose range is being computed."""
_STEP_TIMEOUT = 30.0
"""Seconds to wait for the end of a step."""
_LOCK = threading.Lock()
"""Held while a range is computed: one range uses all cores, or the device."""
_PROCESS = os.getpid()
"""Process that imported JAX."""


def serialize_job(job: JobSpec, device: str) -> SerializedJob:
    """Pickle a job; functions that no module has are pickled by value."""
    return SerializedJob(uuid4().hex, versions(), jax_settings(), device, cloudpickle.dumps(job))


def hold_job(serialized: SerializedJob) -> None:
    """Store a job until its ranges arrive."""
    _SERIALIZED.get(serialized.token, lambda: serialized)


async def forget_job(token: str) -> None:
    """Drop a job and its posterior.  A range being computed finishes its current step first; we wait for it.

    Otherwise it would write into a directory that is removed, or that another run resumes.
    """
    _SERIALIZED.drop(token)
    _LOADED.drop(token)
    end = monotonic() + _STEP_TIMEOUT
    while token in _RUNNING and monotonic() < end:
        await asyncio.sleep(0.01)
    give_back()


def check_worker(kernel: bytes, settings: Mapping[str, Any]) -> str:
    """Check that this process can load the kernel, under settings of JAX; return the kind of its device.

    A large kernel is passed as empty bytes: it is loaded with the job.

    Raises
    ------
    ClusterError
        If the kernel cannot be imported, or the process was forked from a process that uses JAX.
    """
    # A worker that is computing has shown that it can; this runs in its event loop, which must not wait.
    if kernel and _LOCK.acquire(blocking=False):
        try:
            with use_jax_settings(settings):
                _load_kernel(kernel)
        finally:
            _LOCK.release()
    return str(jax.default_backend())


def _load_kernel(content: bytes) -> CompiledPrograms:
    """Return the programs of a kernel, kept between calls."""
    if os.getpid() != _PROCESS:
        msg = (
            "A worker was forked from a process that had imported JAX, which can then deadlock or crash. Let Dask "
            "spawn its workers, as is its default: `dask.config.set({'distributed.worker.multiprocessing-method': "
            "'spawn'})`."
        )
        raise ClusterError(msg)

    def load() -> CompiledPrograms:
        try:
            return CompiledPrograms(cloudpickle.loads(content))
        except (ImportError, AttributeError) as error:
            msg = (
                f"A worker cannot import the kernel ({error}). Install its module on the workers (`client.upload_file` "
                "sends a single file), or define the kernel in the script itself."
            )
            raise ClusterError(msg) from error

    # Programs, and arrays that a kernel closes over, depend on the settings.
    return _PROGRAMS.get((hashlib.sha256(content).hexdigest(), *jax_settings().items()), load)


def _held_job(token: str) -> SerializedJob:
    """Return a job of this process, checked against its versions and its device.

    Raises
    ------
    LostJobError
        If the process does not have the job.
    ClusterError
        If it cannot compute the job.
    """

    def missing() -> SerializedJob:
        msg = "This worker does not have the job."
        raise LostJobError(msg)

    serialized = _SERIALIZED.get(token, missing)
    if serialized.versions != versions():
        msg = (
            f"A worker has {versions()}, and the client {serialized.versions}: their numbers could differ. Install the "
            "same versions on all machines."
        )
        raise ClusterError(msg)
    if serialized.device != jax.default_backend():
        msg = (
            f"A worker computes on {jax.default_backend()}, and the workers that were checked when the call began on "
            f"{serialized.device}: the last bits would differ. Use workers of one kind for one call."
        )
        raise ClusterError(msg)
    keep_freed()
    return serialized


def _load_job(serialized: SerializedJob) -> LoadedJob:
    """Return a job, unpickled once."""

    def load() -> LoadedJob:
        job: JobSpec = cloudpickle.loads(serialized.job)
        layout = job.spec.layout
        on_device = {n: jax.tree.map(jnp.asarray, getattr(layout, n)) for n in ("draws", "values", "arrays")}
        job = replace(job, spec=replace(job.spec, layout=replace(layout, **on_device)))
        return LoadedJob(job, _load_kernel(job.kernel))

    return _LOADED.get(serialized.token, load)


def compute_rows(token: str, rows: RowRange) -> RangeResult:
    """Compute a range of rows of a job; runs on a worker."""
    with _LOCK:
        serialized = _held_job(token)
        _RUNNING.add(token)
        try:
            with use_jax_settings(serialized.settings):
                fresh, began = token not in _LOADED, monotonic()
                found = _compute(_load_job(serialized), rows, token)
        except Exception as error:
            other = _picklable(error)
            if other is error:
                raise
            raise other from None
        finally:
            _RUNNING.discard(token)
        # Compilation, or a range that was only digested, does not predict the time of the next range.
        seconds = None if fresh or rows.part is None else monotonic() - began
        return RangeResult(seconds, found)


def _compute(loaded: LoadedJob, rows: RowRange, token: str) -> tuple[Any, list[tuple[int, str]], RowFindings]:
    """Compute a range of rows, or only digest them; return the payload for the store, the digests and the findings."""
    job = loaded.job
    runner = _runner(loaded, rows)
    digests = RangeDigests(runner, rows.known or {})

    def check() -> None:
        digests.check()
        if token not in _LOADED:
            msg = "The call has ended."
            raise LostJobError(msg)

    if rows.part is None:
        for start, stop in runner.plan.steps(rows.start, rows.stop):
            runner.skip(start, stop)
            check()
        return None, digests.collected, RowFindings()
    is_missing = None
    if job.resumed is not None:
        written: ChunkWriter = rows.part  # type: ignore[assignment]  # only stored calls are resumed
        is_missing = missing_steps(runner.plan, job.resumed, written, rows.start, rows.stop, rows.known)
    reached = compute_range(
        runner, job.output, rows.part, rows.start, rows.stop, is_missing=is_missing, on_rows_read=check
    )
    if reached != rows.stop:
        msg = (
            f"The table must have {runner.plan.n_obs} rows, as it had when the call began; now it ends at row "
            f"{reached}. Call again when nothing writes to it."
        )
        raise ValueError(msg)
    return rows.part.payload(), digests.collected, runner.feed.findings


def _picklable(error: Exception) -> Exception:
    """Return an exception, or one with its text if it cannot be pickled."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001, RUF100 (whatever a class of errors does when it is pickled)
        text = "".join(traceback.format_exception(error))
        return RuntimeError(f"{type(error).__name__}: {error}\n\nOn the worker, where it could not be pickled:\n{text}")
    return error


def _runner(loaded: LoadedJob, rows: RowRange) -> StepRunner:
    """Return a runner of the steps of a range."""
    job, mesh = loaded.job, local_mesh()
    block, n_obs = job.plan.block, job.plan.n_obs
    assert block is not None  # only rows are distributed
    plan = replace(
        job.plan,
        step=aimz.stream.step_rows(block, n_obs, jax.local_device_count(), blocks_per_device(), job.batch_size),
    )
    spec = replace(
        job.spec,
        layout=replace(job.spec.layout, **rows.rows),
        key=None if job.key is None else key_from_text(job.key),
        alone=job.spec.alone and mesh is None,
    )
    if mesh not in loaded.compiled:
        step = spec.trace(loaded.programs, block)
        if spec.alone == job.spec.alone and digest_program(step.traced.jaxpr) != job.digest:
            msg = (
                "A worker finds another kernel under the name of the client's: its arithmetic differs. Give all of "
                "them the same files, and restart workers that imported an older one (`client.restart()`)."
            )
            raise ClusterError(msg)
        program = loaded.programs.compiled(step, group=step.group, cut=StreamAxis.ROWS, mesh=mesh)
        loaded.compiled[mesh] = step, program
    step, program = loaded.compiled[mesh]
    reader = None
    if job.table is not None:
        assert job.parameters is not None
        reader = BatchReader(job.table.starting(rows.start), job.parameters, first_row=rows.start, types=job.types)
    arrays = spec.layout.row_arrays
    digests = digests_for(arrays, reader, plan) if job.digested else None
    feed = RowFeed(arrays, n_obs, reader, digests, support=spec.support_recorder())
    checks = spec.checks(loaded.programs, plan)
    return StepRunner(spec, step, program, feed, plan, mesh, checks)


def without_rows(layout: InputLayout) -> InputLayout:
    """Return a layout that can be pickled: arrays on the host, and no inputs with rows."""
    values, draws, arrays = (
        {name: jax.tree.map(_on_host, value) for name, value in given.items()}
        for given in (layout.values, layout.draws, layout.arrays)
    )
    empty: Any = {"row_draws": {}, "row_values": {}, "row_arrays": {}, "groups": None}
    return replace(layout, draws=draws, values=values, arrays=arrays, **empty)


def _on_host(leaf: Any) -> Any:
    """Return an array of JAX as NumPy's."""
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf

"""A call as a worker of a cluster needs it, and how it computes a range of its rows.

The job has everything but the rows and travels once to each worker, where it stays until the call has ended.  What
depends on the kernel alone, its compiled programs, stays longer.
"""

__all__ = ["Job", "Packed", "Range", "can_do", "forget_job", "hold_job", "pack", "without_rows", "work"]

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data import BatchReader, Parameters, Pieces
from aimz.errors import ClusterError
from aimz.forward import Cut, Joint, Pass, Programs
from aimz.kernel import Recent, RowUse
from aimz.model.allocator import give_back, keep_freed
from aimz.model.cutting import blocks_per_device, local_mesh, n_devices
from aimz.model.device import own_device
from aimz.model.filling import Landing, missing_steps
from aimz.model.keys import parse_key
from aimz.model.notes import noted_of
from aimz.model.resume import versions
from aimz.model.steps import Feed, Layout, Runner, Task

if TYPE_CHECKING:
    from aimz.store import SinkPart, Variable
    from aimz.stream import Done, Plan

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)
"""Of JAX, on which the numbers depend."""


@dataclass(frozen=True)
class Job:
    """Everything but the rows."""

    kernel: bytes
    """The kernel, pickled: programs are kept for as long as the same comes again."""
    kind: str
    plan: Pass | Joint
    layout: Layout
    """Without what has rows."""
    key: str | None
    use: RowUse
    alone: bool
    cut: "Plan"
    """How the call is cut; how many rows are computed at once is the worker's own affair."""
    batch_size: int | None
    landing: Landing
    variables: "Mapping[str, Variable]" = field(default_factory=dict)
    """What is stored, if it may be there already in part."""
    noted: bool = False
    """Whether rows are to be known again."""
    pieces: Pieces | None = None
    """The table that the rows are read from, where they do not come with each range."""
    parameters: Parameters | None = None
    """Those of the kernel, to match its columns with."""
    types: Mapping[str, Any] | None = None
    """What types its columns have."""


@dataclass(frozen=True)
class Packed:
    """A job on its way; what it was made with can be read before it is opened."""

    token: str
    versions: str
    settings: Mapping[str, Any]
    job: bytes


@dataclass(frozen=True)
class Range:
    """Some rows, and where what is made of them goes."""

    start: int
    stop: int
    rows: Mapping[str, Mapping[str, Any]]
    """Fields of a layout to their arrays, of which these rows can be read."""
    part: "SinkPart | None"
    """None where they are only looked at."""
    seen: frozenset[int] | None = None
    """First rows of the stretches whose data an interrupted run has noted; None if all that is there counts."""


@dataclass(frozen=True)
class _Ready:
    """A job that was opened."""

    job: Job
    programs: Programs


def _settings() -> dict[str, Any]:
    """Return the settings of JAX on which numbers depend."""
    return {name: getattr(jax.config, name) for name in _SETTINGS if hasattr(jax.config, name)}


def pack(job: Job) -> Packed:
    """Pickle a job, functions by value where no module has them."""
    import cloudpickle

    content = cloudpickle.dumps(job)
    return Packed(hashlib.sha256(content).hexdigest(), versions(), _settings(), content)


_PACKED = Recent[Packed](16)
_READY = Recent[_Ready](16)
"""Of calls that are at work at the same time, and of those whose client was lost."""
_PROGRAMS = Recent[Programs](16)
_AT_WORK: set[str] = set()
"""The job of the range that is computed."""
_PATIENCE = 30.0
"""Seconds to wait for the end of a step."""
_ONE = threading.Lock()
"""One range at a time in a process: each takes all cores there are, or the device."""


def hold_job(packed: Packed) -> None:
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


def can_do(kernel: bytes) -> str:
    """Make sure that this process can compute for others; return the kind of its device.

    Raises
    ------
    ClusterError
        If it cannot: the kernel cannot be imported, or it was forked from a process that uses JAX.
    """
    own_device()
    _open_kernel(kernel)
    return str(jax.default_backend())


def _open_kernel(content: bytes) -> Programs:
    """Return the programs of a kernel, kept from call to call."""
    import cloudpickle

    if os.getpid() != _PROCESS:
        msg = (
            "A worker was forked from a process that had JAX, which then stands still or dies. Let Dask start workers "
            "anew: `dask.config.set({'distributed.worker.multiprocessing-method': 'spawn'})`, as is its default."
        )
        raise ClusterError(msg)

    def make() -> Programs:
        try:
            return Programs(cloudpickle.loads(content))
        except (ImportError, AttributeError) as error:
            msg = (
                f"A worker cannot import the kernel ({error}). Install its module on the workers (`client.upload_file` "
                "takes a single one), or define the kernel in the script itself."
            )
            raise ClusterError(msg) from error

    return _PROGRAMS.get(hashlib.sha256(content).hexdigest(), make)


_PROCESS = os.getpid()
"""The process that has imported JAX."""


def _opened(token: str) -> _Ready:
    """Return a job that this process has.

    Raises
    ------
    LostJobError
        If it does not have it (any more).
    ClusterError
        If it cannot do it.
    """
    from aimz.stream import LostJobError

    def missing() -> Packed:
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
    keep_freed()
    for name, value in packed.settings.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)

    def make() -> _Ready:
        import cloudpickle

        job: Job = cloudpickle.loads(packed.job)
        on_device = {n: jax.tree.map(jnp.asarray, getattr(job.layout, n)) for n in ("draws", "values", "arrays")}
        return _Ready(replace(job, layout=replace(job.layout, **on_device)), _open_kernel(job.kernel))

    return _READY.get(token, make)


def work(token: str, part: Range) -> "Done":
    """Compute some rows of a job; runs on a worker."""
    with _ONE:
        _AT_WORK.add(token)
        try:
            return _compute(token, part)
        finally:
            _AT_WORK.discard(token)


def _compute(token: str, part: Range) -> "Done":
    from aimz.stream import Done, LostJobError, run

    fresh = token not in _READY
    ready = _opened(token)
    began = monotonic()
    job, sink = ready.job, part.part
    runner, cut = _runner(ready, part)
    notes = runner.notes
    if sink is None:
        for start, stop in cut.steps(part.start, part.stop):
            runner.skip(start, stop)
        return Done(None, (None, notes.take() if notes else []))
    missing, once = _wanted(job, cut, part), part.start == 0

    def wanted(start: int, stop: int) -> bool:
        if token not in _PACKED:
            msg = "the call has ended"
            raise LostJobError(msg)
        return missing is None or missing(start, stop)

    reached = run(job.landing.request(cut, runner, wanted=wanted, once=once), sink, part.start, part.stop)
    if reached != part.stop:
        msg = (
            f"The table must have {cut.n_obs} rows, as it had when the call began; now it ends at row {reached}. "
            "Call again when nothing writes to it."
        )
        raise ValueError(msg)
    return Done(None if fresh else monotonic() - began, (sink.parcel(), notes.take() if notes else []))


def _wanted(job: Job, cut: "Plan", part: Range) -> Callable[[int, int], bool] | None:
    """Return which steps of a range are not there yet, or were made of rows that nobody has noted; None for all."""
    from aimz.store import ChunkWriter

    if not job.variables:
        return None
    assert isinstance(part.part, ChunkWriter)
    missing, seen, block = (
        missing_steps(cut, job.variables, part.part, part.start, part.stop),
        part.seen,
        cut.block or 1,
    )
    if seen is None:
        return missing
    return lambda start, stop: missing(start, stop) or any(at not in seen for at in range(start, stop, block))


def _runner(ready: _Ready, part: Range) -> "tuple[Runner, Plan]":
    """Return what computes the steps of a range, and how they are cut here."""
    from aimz.stream import step_rows

    job, mesh = ready.job, local_mesh()
    block = job.cut.block
    assert block is not None  # rows are cut
    step_length = step_rows(block, job.cut.n_obs, n_devices(mesh), blocks_per_device(), job.batch_size)
    cut = replace(job.cut, step=step_length)
    rows: Mapping[str, Any] = part.rows
    layout = replace(job.layout, **rows)
    key = None if job.key is None else parse_key(job.key)
    task = Task(job.kind, job.plan, layout, key, job.use, job.alone and mesh is None)
    step = task.traced(ready.programs, block)
    program = ready.programs.compiled(step, group=step.group, cut=Cut.ROWS, mesh=mesh)
    reader = None
    if job.pieces is not None:
        assert job.parameters is not None
        reader = BatchReader(job.pieces.starting(part.start), job.parameters, first_row=part.start, types=job.types)
    feed = Feed(layout.row_arrays, cut.n_obs, reader, noted_of(layout.row_arrays, reader, cut) if job.noted else None)
    return Runner(task, step, program, feed, cut, mesh=mesh), cut


def without_rows(layout: Layout) -> Layout:
    """Return a layout that can be pickled: arrays on the host, and none that has rows."""
    values, draws, arrays = (
        {name: jax.tree.map(_on_host, value) for name, value in given.items()}
        for given in (layout.values, layout.draws, layout.arrays)
    )
    return replace(layout, draws=draws, values=values, arrays=arrays, row_draws={}, row_values={}, row_arrays={})


def _on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf

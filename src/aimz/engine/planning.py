"""How a call is cut: along its rows if no row sees another, else along its draws."""

__all__ = [
    "block_of",
    "blocks_per_device",
    "check_row_split",
    "local_mesh",
    "n_chains",
    "n_devices",
    "plan_by_draws",
    "plan_by_rows",
    "plan_step_by_draws",
    "probe_first_step",
    "shapes_of",
]

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aimz.engine.kernel_engine import KernelEngine, PreparedCall
from aimz.engine.request import Order
from aimz.engine.row_digests import digests_for
from aimz.engine.runner import InputLayout, RowFeed, StepRunner, StepSpec
from aimz.forward import CompiledProgram, PassSpec, StreamAxis, TracedStep
from aimz.kernel import RowUse, ValueSource, site_obstacle

if TYPE_CHECKING:
    from aimz.stream import Plan

_BLOCKS_PER_DEVICE = {"cpu": 2}
"""Blocks a device computes at once: enough to be worth a dispatch, few enough to stay in the cache of a CPU."""


def local_mesh() -> Mesh | None:
    """Return all local devices in a row, or None if there is but one."""
    devices = jax.local_devices()
    return None if len(devices) == 1 else Mesh(np.array(devices), ("share",))


def blocks_per_device() -> int:
    """Return how many blocks a device computes at once."""
    return _BLOCKS_PER_DEVICE.get(jax.default_backend(), 16)


def n_devices(mesh: Mesh | None) -> int:
    """Return how many devices share a step."""
    return 1 if mesh is None else mesh.size


def _bytes_by_row(prepared: PreparedCall) -> int:
    """Return what one draw of all sites takes for one row; the same for whatever is returned of them."""
    n_obs = prepared.call.n_obs
    return sum(
        prod(site.traced_shape) // n_obs * jnp.dtype(site.dtype).itemsize
        for site in prepared.spec.sites
        if site.row_axes and site.dtype and (site.is_sample or site.name in prepared.spec.deterministic_sites)
    )


@dataclass(frozen=True)
class RowSplit:
    """What is known of a pass over one block before anything is computed."""

    step: TracedStep
    use: RowUse
    plan: PassSpec
    """The pass over a block."""


def check_row_split(
    engine: KernelEngine,
    prepared: PreparedCall,
    layout: InputLayout,
    block: int,
    n_obs: int | None,
    *,
    kind: str,
    alone: bool,
) -> RowSplit | str:
    """Return a pass over one block and what it does with rows, or why it must not be one of many.

    ``n_obs`` is None where it is not known; ``alone`` says that there is one block and no other.
    """
    obstacle = site_obstacle(
        prepared.spec,
        drawn=frozenset(prepared.substitution.sites_from(*_DRAWN)),
        returned=prepared.plan.return_sites,
        scored=kind == "log_density",
    )
    if obstacle is not None:
        return obstacle
    by_block = replace(prepared.plan, n_obs=block)
    try:
        step = engine.programs.step(kind, by_block, layout.one_block(block, alone=alone))
        use = RowUse()
        if n_obs != block:  # else the kernel sees all its rows
            # Beside all the rows, since a kernel may do something else for many than for few.
            other = n_obs or 2 * block
            one, two = (layout.one_block(rows, alone=False) for rows in (block, other))
            use = engine.programs.use(kind, by_block, one, two, other)
    except Exception as error:  # noqa: BLE001, RUF100 (a user's kernel may raise anything at a size of our choosing)
        return f"for {block} rows it raises {type(error).__name__}"
    return RowSplit(step, use, by_block) if use.obstacle is None else use.obstacle


def block_of(prepared: PreparedCall, n_obs: int | None) -> int:
    """Return how many rows a block has."""
    from aimz.stream import block_rows

    return block_rows(_bytes_by_row(prepared), prepared.plan.n_draws, n_obs)


def plan_by_rows(
    engine: KernelEngine, order: Order, layout: InputLayout
) -> "tuple[Plan, StepRunner, TracedStep] | str":
    """Return how to compute a call block by block, or why that cannot be done."""
    prepared = order.prepared
    n_obs, mesh = prepared.call.n_obs if order.n_obs_known else None, local_mesh()
    block = block_of(prepared, n_obs)
    alone = mesh is None and n_obs is not None and n_obs <= block
    judged = check_row_split(engine, prepared, layout, block, n_obs, kind=order.kind, alone=alone)
    if isinstance(judged, str):
        return judged
    step = judged.step
    plan, group = _plan_blocks(order, step, block, n_obs, mesh)
    program = engine.programs.compiled(step, group=group, cut=StreamAxis(plan.axis), mesh=mesh)
    noted = order.streaming.output_dir is not None and order.streaming.shard_axis == "obs"
    notes = digests_for(layout.row_arrays, order.reader, plan) if noted else None
    feed = RowFeed(layout.row_arrays, n_obs, order.reader, notes)
    task = StepSpec(order.kind, judged.plan, layout, order.key, judged.use, alone)
    runner = StepRunner(task, step, program, feed, plan, mesh=mesh)
    seen = probe_first_step(engine, step, runner, feed, plan)
    return (plan, runner, step) if seen is None else seen


def probe_first_step(
    engine: KernelEngine, step: TracedStep, runner: StepRunner, feed: RowFeed, plan: "Plan"
) -> str | None:
    """Return why a step must not be one of many, going by what it computes for the first rows, or None."""
    if feed.n_obs == plan.block or runner.task.use.rejection_sampler:
        return None

    def apart(program: CompiledProgram, inputs: tuple[Any, ...], n_obs: int) -> str | None:
        return engine.programs.interacting_site(step, program, inputs, n_obs, runner.task.layout.row_axes)

    seen = runner.try_first(apart, next(plan.steps())[1])
    if seen is not None and feed.reader is not None:
        feed.reader.rewind()
    return None if seen is None else f"a row of site `{seen}` changes with other rows"


_DRAWN = (
    ValueSource.PRIOR,
    ValueSource.PRIOR_MISSING,
    ValueSource.RESAMPLED_NEW_ROWS,
    ValueSource.RESAMPLED_DOWNSTREAM,
    ValueSource.DRAWN,
    ValueSource.DATA,
)
"""Where a value comes from if it is, or may be, drawn."""


def _plan_blocks(
    order: Order, step: TracedStep, block: int, n_obs: int | None, mesh: Mesh | None
) -> "tuple[Plan, int]":
    """Return the plan of a call that is computed block by block, and how many draws go side by side."""
    from aimz.stream import plan_draws, plan_rows

    prepared, options = order.prepared, order.streaming
    n_draws, sizes = prepared.plan.n_draws, _sizes(step, prepared)
    if options.shard_axis == "draw":
        assert n_obs is not None  # all rows are there
        group = _group_of_draws(step, n_draws)
        plan = plan_draws(
            block=block,
            n_obs=n_obs,
            n_draws=n_draws,
            n_chains=n_chains(prepared),
            group=group,
            draw_bytes=sum(sizes.values()),
            n_devices=n_devices(mesh),
            batch_size=options.batch_size,
        )
        return plan, group
    plan = plan_rows(
        block=block,
        n_obs=n_obs,
        n_draws=n_draws,
        n_chains=n_chains(prepared),
        row_bytes=max(_kept(order, size) // prepared.call.n_obs for size in sizes.values()) if sizes else 1,
        n_devices=n_devices(mesh),
        blocks_per_device=blocks_per_device(),
        batch_size=options.batch_size,
    )
    return plan, step.group


def _kept(order: Order, draw_bytes: int) -> int:
    """Return the bytes that are kept of a site of which one draw takes ``draw_bytes``."""
    statistics = order.streaming.statistics
    return draw_bytes * (order.prepared.plan.n_draws if statistics is None else 2 * len(statistics.labels))


def _group_of_draws(step: TracedStep, n_draws: int) -> int:
    """Return how many draws go side by side where draws are cut.

    At most an eighth of them, on however many devices, so that these do not show in the numbers.
    """
    return min(step.group, -(-n_draws // 8))


def plan_by_draws(engine: KernelEngine, order: Order, layout: InputLayout) -> "tuple[Plan, StepRunner, TracedStep]":
    """Return how to compute a call with all rows together, some draws at a time."""
    step = engine.programs.step(order.kind, order.prepared.plan, layout.one_pass())
    wanted = order.streaming.batch_size if order.streaming.shard_axis == "draw" else None
    task = StepSpec(order.kind, order.prepared.plan, layout, order.key)
    return *plan_step_by_draws(engine, task, step, order.prepared, wanted), step


def plan_step_by_draws(
    engine: KernelEngine, task: StepSpec, step: TracedStep, prepared: PreparedCall, batch_size: int | None
) -> "tuple[Plan, StepRunner]":
    """Return how to run a step over all rows, some draws at a time."""
    from aimz.stream import plan_draws

    mesh, group = local_mesh(), _group_of_draws(step, prepared.plan.n_draws)
    plan = plan_draws(
        block=None,
        n_obs=prepared.call.n_obs,
        n_draws=prepared.plan.n_draws,
        n_chains=n_chains(prepared),
        group=group,
        draw_bytes=sum(_sizes(step, prepared).values()),
        n_devices=n_devices(mesh),
        batch_size=batch_size,
    )
    program = engine.programs.compiled(step, group=group, cut=StreamAxis.DRAWS, mesh=mesh)
    feed = RowFeed(task.layout.row_arrays, prepared.call.n_obs)
    return plan, StepRunner(task, step, program, feed, plan, mesh=mesh)


def n_chains(prepared: PreparedCall) -> int:
    """Return in how many chains the draws are."""
    return 1 if prepared.posterior is None else prepared.posterior.num_chains


def shapes_of(step: TracedStep, prepared: PreparedCall, n_obs: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return the shape of one draw of each return site for ``n_obs`` rows, and the type it is stored as."""
    avals = jax.tree.unflatten(step.traced.outputs, step.traced.jaxpr.out_avals)
    axes = prepared.plan.row_axes if step.by_block else {}
    found = {}
    for name, aval in avals.items():
        shape = tuple(n_obs if axes.get(name) == i else size for i, size in enumerate(aval.shape))
        narrow = jnp.issubdtype(aval.dtype, jnp.floating) and aval.dtype.itemsize < 4
        found[name] = shape, np.dtype(np.float32) if narrow else np.dtype(aval.dtype)
    return found


def _sizes(step: TracedStep, prepared: PreparedCall) -> dict[str, int]:
    """Return the bytes of one draw of each return site."""
    shapes = shapes_of(step, prepared, prepared.call.n_obs)
    return {name: max(1, prod(shape)) * dtype.itemsize for name, (shape, dtype) in shapes.items()}

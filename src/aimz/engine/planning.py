"""Plans a call: by rows if no row depends on another, else by draws; traces, tests and compiles its step."""

__all__ = ["blocks_per_device", "local_mesh", "plan_request"]

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

import aimz.stream
from aimz.engine.fingerprint import digests_for
from aimz.engine.joint_inputs import joint_pass_of
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.layout import InputLayout, RowFeed
from aimz.engine.output_checks import OutputCheck
from aimz.engine.outputs import output_shapes
from aimz.engine.request import PredictionRequest
from aimz.engine.row_dependence import RowsInteractError, block_length, check_rows_independent
from aimz.engine.runner import StepRunner, StepSpec
from aimz.engine.support_recorder import SupportCheck
from aimz.errors import PerformanceWarning, warn
from aimz.forward import JointPass, StreamAxis, TracedStep
from aimz.kernel import RowUse

if TYPE_CHECKING:
    from aimz.stream import Plan

_BLOCKS_PER_DEVICE = {"cpu": 2}
"""Blocks a device computes at once: enough to outweigh a dispatch, few enough to stay in the cache of a CPU."""


def local_mesh() -> Mesh | None:
    """Return a mesh of all local devices, or None if there is only one."""
    devices = jax.local_devices()
    return None if len(devices) == 1 else Mesh(np.array(devices), ("share",))


def blocks_per_device() -> int:
    """Return how many blocks a device computes at once."""
    return _BLOCKS_PER_DEVICE.get(jax.default_backend(), 16)


def plan_request(engine: KernelEngine, request: PredictionRequest) -> tuple[PredictionRequest, StepRunner]:
    """Return how to compute a call, and the call with the rows that this takes.

    Warns
    -----
    PerformanceWarning
        If rows depend on one another, so that the rows of several blocks are computed together.
    """
    by_draws = request.options.shard_axis == "draw"
    if by_draws:
        request = request.with_all_rows(engine)
    histories = [one.plan.history for one in request.scenarios.values()]
    try:
        # Rows that are steps of time and continue known ones are computed together.
        if all(history is None or history.axis != 0 for history in histories):
            return request, _plan_by_rows(engine, request)
    except RowsInteractError as reason:
        if request.first.settings.with_output:
            msg = (
                f"Kernel `{engine.signature.kernel}` cannot be split along its rows ({reason}), so the noise of one "
                "row cannot be inferred from its own observation. Make the rows independent (pass what is computed "
                "from all rows as an argument), or compare rows in general with `compare_scenarios`."
            )
            raise ValueError(msg) from None
        if not _is_one_block(request):
            setting = "" if len(request.scenarios) > 1 else " (`shard_axis='draw'`)"
            warn(
                f"Kernel `{engine.signature.kernel}` cannot be split along its rows ({reason}), so all rows are "
                f"computed together, some draws at a time{setting}.",
                PerformanceWarning,
            )
    request = request.with_all_rows(engine)
    spec = _step_spec(request, None)
    step = spec.trace(engine.programs, None)
    batch_size = request.options.batch_size if by_draws else None
    return request, _runner(engine, request, spec, step, _plan_draws(request, step, None, batch_size), local_mesh())


def _is_one_block(request: PredictionRequest) -> bool:
    """Return whether all rows would be computed together in any case."""
    n_obs = request.n_obs
    return n_obs is not None and all(n_obs <= block_length(one, n_obs) for one in request.scenarios.values())


def _plan_by_rows(engine: KernelEngine, request: PredictionRequest) -> StepRunner:
    """Return a runner of row blocks; raise RowsInteractError if rows depend on one another."""
    n_obs, mesh, scenarios = request.n_obs, local_mesh(), list(request.scenarios.values())
    block = min(block_length(prepared, n_obs) for prepared in scenarios)
    # A kernel may do something else for many rows than for few, so the other size is that of the data.
    other, spec = n_obs or 2 * block, _step_spec(request, block)
    if isinstance(spec.passes, JointPass):
        firsts = [(scenarios[group.members[0]], group.plan) for group in spec.passes.scenario_groups]
        uses = [check_rows_independent(engine, one, plan, InputLayout.of(one), other) for one, plan in firsts]
    else:
        uses = [check_rows_independent(engine, request.first, spec.passes, spec.layout, other)]
    local, beyond = any(use.uses_local_index for use in uses), any(use.uses_global_index for use in uses)
    if len(uses) > 1 and local and beyond:
        reason = "row numbers are used within a block in one scenario, and across blocks in another"
        raise RowsInteractError(reason)
    use = uses[0] if len(uses) == 1 else RowUse(None, local, beyond, any(use.rejection_sampler for use in uses))
    alone = mesh is None and n_obs is not None and n_obs <= block
    spec = replace(spec, use=use, alone=alone)
    try:
        step = spec.trace(engine.programs, block)
    except Exception as error:  # noqa: BLE001, RUF100 (a user's kernel may raise anything at a size of our choosing)
        reason = f"for {block} rows it raises {type(error).__name__}"
        raise RowsInteractError(reason) from error
    runner = _runner(engine, request, spec, step, _plan_blocks(request, step, block, n_obs), mesh)
    if n_obs != block and not use.rejection_sampler:
        site = runner.interacting_site(engine.programs)
        if site is not None:
            reason = f"a row of site `{site}` changes with other rows"
            raise RowsInteractError(reason)
    return runner


def _step_spec(request: PredictionRequest, block: int | None) -> StepSpec:
    """Return what a step computes: a pass over a block, or over all rows if ``block`` is None."""
    if len(request.scenarios) > 1 or request.derivative is not None:
        joint, layout = joint_pass_of(request, request.first.call.n_obs, block)
        check = OutputCheck.while_read(request.first) if request.first.settings.with_output else None
        output = request.first.spec.param_output
        support = SupportCheck.of(request, joint, layout)
        return StepSpec("joint", joint, layout, request.key, output=output, output_check=check, support_check=support)
    prepared = request.first
    passes = prepared.plan if block is None else prepared.plan.for_rows(block)
    kind = "predictive" if request.scored is None else "log_density"
    output, layout = prepared.spec.param_output, InputLayout.of(prepared)
    scores_data = any(world.scored is not None for world in prepared.plan.worlds)
    is_used = request.scored is not None or prepared.settings.with_output or scores_data
    check = OutputCheck.while_read(prepared) if is_used else None
    support = None if request.scored is not None else SupportCheck.of(request, passes, layout)
    return StepSpec(kind, passes, layout, request.key, output=output, output_check=check, support_check=support)


def _runner(
    engine: KernelEngine, request: PredictionRequest, spec: StepSpec, step: TracedStep, plan: "Plan", mesh: Mesh | None
) -> StepRunner:
    """Compile a step and return its runner."""
    axis = StreamAxis(plan.axis)
    group = step.group if axis is StreamAxis.ROWS else _draws_side_by_side(step, plan.n_draws)
    program = engine.programs.compiled(step, group=group, cut=axis, mesh=mesh)
    rows, reader, options = spec.layout.row_arrays, request.source.reader, request.options
    digested = options.output_dir is not None and options.shard_axis == "obs" and plan.axis == "obs"
    digests = digests_for(rows, reader, plan) if digested else None
    feed = RowFeed(rows, plan.n_obs, reader, digests, support=spec.support_recorder())
    return StepRunner(spec, step, program, feed, plan, mesh, spec.checks(engine.programs, plan))


def _plan_blocks(request: PredictionRequest, step: TracedStep, block: int, n_obs: int | None) -> "Plan":
    """Return the plan of a call that is computed in row blocks."""
    if request.options.shard_axis == "draw":
        return _plan_draws(request, step, block, request.options.batch_size)
    return aimz.stream.plan_rows(
        block=block,
        n_obs=n_obs,
        n_draws=request.first.plan.n_draws,
        n_chains=request.first.n_chains,
        row_bytes=_stored_row_bytes(request, step),
        n_devices=jax.local_device_count(),
        blocks_per_device=blocks_per_device(),
        batch_size=request.options.batch_size,
    )


def _plan_draws(request: PredictionRequest, step: TracedStep, block: int | None, batch_size: int | None) -> "Plan":
    """Return the plan of a call that is computed some draws at a time."""
    prepared = request.first
    shapes = output_shapes(step, prepared, prepared.call.n_obs)
    return aimz.stream.plan_draws(
        block=block,
        n_obs=prepared.call.n_obs,
        n_draws=prepared.plan.n_draws,
        n_chains=prepared.n_chains,
        group=_draws_side_by_side(step, prepared.plan.n_draws),
        draw_bytes=sum(max(1, prod(shape)) * dtype.itemsize for shape, dtype in shapes.values()),
        n_devices=jax.local_device_count(),
        batch_size=batch_size,
    )


def _stored_row_bytes(request: PredictionRequest, step: TracedStep) -> int:
    """Return the bytes that the largest array of the result has per row."""
    if request.groups is not None:
        return 1  # sums over rows
    prepared, statistics = request.first, request.options.statistics
    n_obs = prepared.call.n_obs
    if len(request.scenarios) > 1:
        assert statistics is not None
        numbers = max(prod(prepared.spec[name].traced_shape) for name in prepared.plan.return_sites) // n_obs
        return max(1, numbers) * 8 * len(statistics.labels)
    copies = prepared.plan.n_draws if statistics is None else 2 * len(statistics.labels)
    shapes = output_shapes(step, prepared, n_obs).values()
    return max((max(1, prod(shape)) * dtype.itemsize * copies // n_obs for shape, dtype in shapes), default=1)


def _draws_side_by_side(step: TracedStep, n_draws: int) -> int:
    """Return how many draws are computed in one step if draws are split.

    At most an eighth of the draws, on any number of devices, so that the number of devices does not change the results.
    """
    return min(step.group, -(-n_draws // 8))

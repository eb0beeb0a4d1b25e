"""Scenarios side by side: computed in one pass, and added up over rows."""

__all__ = ["ScenarioSums", "compare", "cut_effect"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from aimz.data import fingerprint, key_to_text
from aimz.distributed import check_can_be_divided, check_can_be_spread, check_same_call, choose_executor, process_group
from aimz.engine import (
    InputLayout,
    KernelEngine,
    OutputSpec,
    PreparedCall,
    RowFeed,
    ScenarioRequest,
    StepRunner,
    StepSpec,
    block_of,
    blocks_per_device,
    check_row_split,
    digests_for,
    fingerprint_of,
    group_by_structure,
    joint_of,
    local_mesh,
    n_chains,
    n_devices,
    plan_step_by_draws,
    probe_first_step,
)
from aimz.errors import warn
from aimz.forward import TILE, JointPass, StreamAxis, TracedStep
from aimz.kernel import RowUse

if TYPE_CHECKING:
    from aimz.stream import Plan


@dataclass(frozen=True)
class ScenarioSums:
    """Averages over rows."""

    sums: Mapping[str, np.ndarray]
    """Site to ``(n_draws, n_scenarios, ..., n_cells)``; without the last axis for a site without rows."""
    with_rows: frozenset[str]
    """Sites that were added up over rows."""
    n_obs: int
    row_block: int


@dataclass(frozen=True)
class _Cut:
    """One pass over all scenarios, ready to run."""

    comparison: ScenarioRequest
    plan: "Plan"
    runner: StepRunner
    step: TracedStep
    joint: JointPass


def compare(engine: KernelEngine, comparison: ScenarioRequest, key: jax.Array) -> ScenarioSums:
    """Compute the sums of each site over the rows of each group, under each scenario, draw by draw."""
    check_can_be_spread(comparison.client, comparison.source)
    check_can_be_divided(comparison.client)
    return _added_up(engine, _cut(engine, comparison, key, row_bytes=1))


def cut_effect(
    engine: KernelEngine, comparison: ScenarioRequest, key: jax.Array, row_bytes: int
) -> "tuple[PreparedCall, Plan, StepRunner, TracedStep]":
    """Return how to compute what the second scenario changes, row by row, and the scenario with the rows it takes.

    ``row_bytes`` is what the largest array keeps of one row.
    """
    cut = _cut(engine, comparison, key, row_bytes=row_bytes)
    last = list(cut.comparison.prepared.values())[-1]
    return last, cut.plan, cut.runner, cut.step


def _cut(engine: KernelEngine, comparison: ScenarioRequest, key: jax.Array, *, row_bytes: int) -> _Cut:
    """Return how to compute all scenarios: block by block if no row sees another, else all rows together."""
    cut = _cut_rows(engine, comparison, key, row_bytes)
    if isinstance(cut, _Cut):
        return cut
    warn(
        f"Kernel `{engine.signature.kernel}` cannot be split along its rows ({cut}), so all rows are computed "
        "together, some draws at a time."
    )
    return _cut_draws(engine, _with_all_rows(comparison), key)


def _cut_rows(engine: KernelEngine, comparison: ScenarioRequest, key: jax.Array, row_bytes: int) -> _Cut | str:
    """Return how to compute all scenarios block by block, or why that cannot be done."""
    from aimz.stream import plan_rows

    n_obs, mesh, first = comparison.n_obs, local_mesh(), comparison.first
    scenarios = list(comparison.prepared.values())
    block = min(block_of(prepared, n_obs) for prepared in scenarios)
    uses: list[RowUse] = []
    for numbers in group_by_structure(comparison):
        prepared = scenarios[numbers[0]]
        judged = check_row_split(
            engine, prepared, InputLayout.of(prepared), block, n_obs, kind="predictive", alone=False
        )
        if isinstance(judged, str):
            return judged
        uses.append(judged.use)
    local, beyond = any(use.uses_local_index for use in uses), any(use.uses_global_index for use in uses)
    if local and beyond:
        return "row numbers are used within the rows at hand in one scenario, and beyond them in another"
    use = RowUse(None, local, beyond, any(use.rejection_sampler for use in uses))
    joint, layout = joint_of(comparison, first.call.n_obs, block)
    alone = mesh is None and n_obs is not None and n_obs <= block
    task = StepSpec("joint", joint, layout, key, use, alone)
    try:
        step = task.traced(engine.programs, block)
    except Exception as error:  # noqa: BLE001, RUF100 (a kernel may refuse what it is given side by side)
        return f"for {block} rows it raises {type(error).__name__}"
    plan = plan_rows(
        block=block,
        n_obs=n_obs,
        n_draws=first.plan.n_draws,
        n_chains=n_chains(first),
        row_bytes=row_bytes,
        n_devices=n_devices(mesh),
        blocks_per_device=blocks_per_device(),
        batch_size=comparison.batch_size,
    )
    program = engine.programs.compiled(step, group=step.group, cut=StreamAxis.ROWS, mesh=mesh)
    notes = digests_for(layout.row_arrays, comparison.reader, plan) if comparison.resumable else None
    feed = RowFeed(layout.row_arrays, n_obs, comparison.reader, notes)
    runner = StepRunner(task, step, program, feed, plan, mesh=mesh)
    seen = probe_first_step(engine, step, runner, feed, plan)
    return _Cut(comparison, plan, runner, step, joint) if seen is None else seen


def _cut_draws(engine: KernelEngine, comparison: ScenarioRequest, key: jax.Array) -> _Cut:
    """Return how to compute all scenarios with all rows together, some draws at a time."""
    joint, layout = joint_of(comparison, comparison.first.call.n_obs, None)
    task = StepSpec("joint", joint, layout, key)
    step = task.traced(engine.programs, None)
    plan, runner = plan_step_by_draws(engine, task, step, comparison.first, None)
    return _Cut(comparison, plan, runner, step, joint)


def _with_all_rows(comparison: ScenarioRequest) -> ScenarioRequest:
    """Return the same with the rows of an iterable in memory."""
    if comparison.reader is None:
        return comparison
    rows = comparison.reader.read(0, 1 << 62)
    prepared = {
        name: comparison.prepare[name](given.with_rows(rows), quiet=True) for name, given in comparison.given.items()
    }
    n_obs = len(next(iter(rows.values())))
    length = None if comparison.groups is None else comparison.groups.length
    if length not in (None, n_obs):
        msg = f"The iterable has {n_obs} rows, and `by` or `weights` has {length} values. Pass as many."
        raise ValueError(msg)
    return replace(comparison, prepared=prepared, reader=None, n_obs=n_obs)


def _fingerprint(cut: _Cut) -> dict[str, str]:
    """Return what a comparison is known by."""
    key, groups = cut.runner.task.key, cut.comparison.groups
    text = None if key is None else key_to_text(key)
    one = partial(
        fingerprint_of,
        plan=cut.plan,
        step=cut.step,
        method="compare_scenarios",
        group="",
        key=text,
        statistics=(),
        before={},
    )
    found: dict[str, str] = {}
    for name, prepared in cut.comparison.prepared.items():
        found |= {f"{about} ({name})": of for about, of in one(prepared).items()}
    found["names of scenarios"] = ", ".join(map(str, cut.comparison.prepared))
    if groups is not None:
        found["`by` and `weights`"] = fingerprint(a for a in (groups.codes, groups.weights) if a is not None)
    return found


def _added_up(engine: KernelEngine, cut: _Cut) -> ScenarioSums:
    """Stream the steps into sums."""
    from aimz.store import SumAccumulator
    from aimz.stream import run

    comparison, plan, runner, joint = cut.comparison, cut.plan, cut.runner, cut.joint
    groups = comparison.groups
    assert groups is not None
    assert joint.width is not None
    sums = SumAccumulator(
        n_draws=plan.n_draws,
        n_scenarios=joint.n_scenarios,
        n_cells=groups.n_cells,
        tile=plan.block or TILE,
        codes=groups.codes,
        width=joint.width,
        by_draws=plan.axis == "draw",
        same=set(joint.return_sites) - joint.row_axes.keys(),
    )
    sites = joint.return_sites
    landing = OutputSpec({name: name for name in sites}, dict.fromkeys(sites, 0))
    title = "compare_scenarios" if comparison.progress and process_group.is_coordinator else None
    check_same_call(partial(_fingerprint, cut), [one.call for one in comparison.prepared.values()], comparison.reader)
    spread = choose_executor(engine, comparison, runner, plan, landing, comparison.source)
    length = (
        run(landing.request(plan, runner, progress=title), sums) if spread is None else spread.run(sums, progress=title)
    )
    n_obs = length
    if plan.axis == "obs":
        if spread is None:
            runner.check_rows(length)
    else:
        n_obs = comparison.first.call.n_obs
    return ScenarioSums(
        sums={name: sums.read(name) for name in joint.return_sites},
        with_rows=frozenset(joint.row_axes),
        n_obs=n_obs,
        row_block=plan.block or 0,
    )

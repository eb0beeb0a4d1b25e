"""Compiled programs of one kernel, kept so that a second call of the same shape neither traces nor compiles."""

__all__ = ["CompiledPrograms", "TracedStep"]

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from aimz.forward.draw_batching import TracedFunction, group_size, trace
from aimz.forward.joint_scenarios import JointPass, joint_pass
from aimz.forward.predictive import (
    CompiledProgram,
    PassSpec,
    RowBlock,
    RowGroups,
    SingleDrawPass,
    one_pass,
    per_draw,
    whole,
)
from aimz.forward.readers import READERS
from aimz.forward.row_blocks import StreamAxis, blocked, rows_apart, sharded
from aimz.kernel import LRUCache, RowUse, freeze, row_use
from aimz.types import Kernel

type Inputs = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], RowBlock | RowGroups | None]
"""Abstract draws, values and arrays of one pass, and its block, or the groups of all rows."""


@dataclass(frozen=True, eq=False)
class TracedStep:
    """One pass, traced: what a stream needs to know of it before it runs."""

    traced: TracedFunction
    n_obs: int
    n_draws: int
    sites: tuple[str, ...]
    """Names of what it returns."""
    row_axes: Mapping[str, int]
    """The axis along which blocks of it are put end to end, where there is one."""
    group: int
    """Draws that fit the hardware side by side."""
    own_noise: bool
    """Whether the kernel draws with a key that belongs to no site."""
    by_block: bool
    sums_rows: bool = False
    """Whether rows are summed within each block."""


class CompiledPrograms:
    """The compiled programs of a kernel that were used last."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._programs = LRUCache[CompiledProgram]()
        self._steps = LRUCache[TracedStep]()
        self._uses = LRUCache[RowUse]()
        self._apart = LRUCache[str | None]()

    def run(
        self,
        kind: str,
        plan: PassSpec,
        key: jax.Array,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> dict[str, jax.Array]:
        """Run the program of ``kind`` ("predictive" or "log_density") that ``plan`` asks for, in one go."""
        program = self._programs.get(
            _handle(kind, plan), lambda: jax.jit(per_draw(one_pass(self._kernel, plan, READERS[kind])))
        )
        return program(key, np.arange(plan.n_draws, dtype=np.int32), dict(draws), dict(values), dict(arrays))

    def step(self, kind: str, plan: PassSpec, inputs: Inputs) -> TracedStep:
        """Trace one pass; over one block if there is one among the inputs."""
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))
        handle = (_handle(kind, plan), jax.tree.structure(inputs), shapes)

        def make() -> TracedStep:
            noticed: set[str] = set()
            one = one_pass(self._kernel, plan, READERS[kind], noticed)
            return _trace(one, plan, plan.return_sites, plan.row_axes, noticed, inputs)

        return self._steps.get(handle, make)

    def joint(self, joint: JointPass, inputs: Inputs) -> TracedStep:
        """Trace one pass over several scenarios, whose sites are added up over rows, or compared row by row."""
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))
        worlds = tuple(
            (
                _handle("joint", world.plan),
                world.members,
                world.mapped,
                *map(freeze, (world.draws, world.values, world.arrays)),
            )
            for world in joint.worlds
        )
        axes = tuple(sorted(joint.row_axes.items()))
        handle = (worlds, joint.baseline, joint.width, axes, jax.tree.structure(inputs), shapes)

        def make() -> TracedStep:
            noticed: set[str] = set()
            one = joint_pass(self._kernel, joint, READERS["predictive"], noticed)
            plan = joint.worlds[0].plan
            if joint.width is None:
                return _trace(one, plan, joint.return_sites, joint.row_axes, noticed, inputs)
            tiles = dict.fromkeys(joint.row_axes, 0)
            step = _trace(one, plan, joint.return_sites, tiles, noticed, inputs)
            return replace(step, sums_rows=True)

        return self._steps.get(handle, make)

    def use(self, kind: str, plan: PassSpec, inputs: Inputs, other: Inputs, n_other: int) -> RowUse:
        """Return whether a pass over a block may be one of many, by comparison with one over ``n_other`` rows."""
        step = self.step(kind, plan, inputs)
        return self._uses.get((step, n_other), lambda: self._compare(step, kind, plan, inputs, other, n_other))

    def _compare(
        self, step: TracedStep, kind: str, plan: PassSpec, inputs: Inputs, other: Inputs, n_other: int
    ) -> RowUse:
        if step.own_noise:
            return RowUse("it draws with a key of its own (`numpyro.prng_key`), apart from any site")
        traced = trace(one_pass(self._kernel, replace(plan, n_obs=n_other), READERS[kind]), _a_key(), *other)
        draws, values, arrays, block = inputs
        assert isinstance(block, RowBlock)
        # Leaves come in the order of the arguments: first of the block is its number, then those of the rows.
        number = len(jax.tree.leaves((_a_key(), draws, values, arrays)))
        rows = None if block.rows is None else number + 1
        return row_use(step.traced.jaxpr, traced.jaxpr, (step.n_obs, n_other), rows=rows, number=number)

    def compiled(self, step: TracedStep, *, group: int, cut: StreamAxis, mesh: Mesh | None) -> CompiledProgram:
        """Return the program ``f(key, numbers, draws, values, arrays, blocks)`` that runs ``step`` for many draws.

        ``blocks`` is None where the step is over all rows at once.
        """

        def make() -> CompiledProgram:
            axes = step.row_axes
            program = blocked(step.traced, axes, group) if step.by_block else whole(step.traced, group)
            if mesh is not None:
                about = {"by_block": step.by_block, "sums_rows": step.sums_rows}
                program = sharded(program, mesh, cut, axes, step.sites, **about)
            return jax.jit(program)

        return self._programs.get((step, group, cut, mesh), make)

    def apart(
        self,
        step: TracedStep,
        program: CompiledProgram,
        inputs: tuple[Any, ...],
        n_obs: int,
        row_axes: Mapping[str, int],
    ) -> str | None:
        """Return the site in which a row saw another, or None; found out once for a step.

        ``row_axes`` are those of the inputs, by site.
        """
        return self._apart.get(step, lambda: rows_apart(program, inputs, n_obs, row_axes, step.row_axes))


def _trace(
    one: SingleDrawPass,
    plan: PassSpec,
    sites: tuple[str, ...],
    row_axes: Mapping[str, int],
    noticed: set[str],
    inputs: Inputs,
) -> TracedStep:
    """Run the Python of a pass, which adds to ``noticed``, and see what it takes."""
    traced = trace(one, _a_key(), *inputs)
    group = group_size(traced.jaxpr, plan.n_draws, jax.default_backend())
    by_block = isinstance(inputs[-1], RowBlock)
    return TracedStep(traced, plan.n_obs, plan.n_draws, sites, row_axes, group, bool(noticed), by_block)


def _a_key() -> Any:
    """Return an abstract key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def _handle(kind: str, plan: PassSpec) -> Hashable:
    """Return what two passes share if one program serves both, apart from the shapes of their arrays."""
    return (
        kind,
        plan.n_obs,
        plan.n_draws,
        plan.return_sites,
        plan.unobserve,
        plan.row_plates,
        tuple(sorted(plan.row_axes.items())),
        tuple(plan.summed.items()),
        # The functions themselves: one that was dropped leaves its place in memory, and so its `id`, to another.
        freeze(plan.transforms),
        freeze(plan.static),
    )

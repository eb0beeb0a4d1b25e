"""Compiled programs of one kernel, kept so that a second call of the same shape neither traces nor compiles."""

__all__ = ["Programs", "Step"]

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from aimz.forward.blocks import Cut, blocked, rows_apart, sharded
from aimz.forward.predictive import Block, Pass, Program, one_pass, per_draw, whole
from aimz.forward.readers import READERS
from aimz.forward.vectorise import Traced, group_size, trace
from aimz.kernel import Recent, RowUse, freeze, size_obstacle
from aimz.types import Kernel

type Inputs = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], Block | None]
"""Abstract draws, values, arrays and block of one pass."""


@dataclass(frozen=True, eq=False)
class Step:
    """One pass, traced: what a stream needs to know of it before it runs."""

    traced: Traced
    plan: Pass
    group: int
    """Draws that fit the hardware side by side."""
    use: RowUse
    """What stands against computing it block by block; nothing where all rows are there at once."""
    by_block: bool


class Programs:
    """The compiled programs of a kernel that were used last."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._programs = Recent[Program]()
        self._steps = Recent[Step]()
        self._apart = Recent[str | None]()

    def run(
        self,
        kind: str,
        plan: Pass,
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

    def step(self, kind: str, plan: Pass, inputs: Inputs, larger: Inputs | None) -> Step:
        """Trace one pass; with ``larger``, the inputs of a block twice as long, also see whether it may be cut."""
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))
        handle = (_handle(kind, plan), jax.tree.structure(inputs), shapes)
        return self._steps.get(handle, lambda: self._trace(kind, plan, inputs, larger))

    def _trace(self, kind: str, plan: Pass, inputs: Inputs, larger: Inputs | None) -> Step:
        noticed: set[str] = set()
        key = jax.eval_shape(lambda: jax.random.key(0))
        draws, values, arrays, block = inputs
        traced = trace(one_pass(self._kernel, plan, READERS[kind], noticed), key, *inputs)
        group = group_size(traced.jaxpr, plan.n_draws, jax.default_backend())
        if larger is None or block is None:
            return Step(traced, plan, group, RowUse(), by_block=False)
        if noticed:
            use = RowUse("it draws with a key of its own (`numpyro.prng_key`), apart from any site")
        else:
            other = trace(one_pass(self._kernel, replace(plan, n_obs=2 * plan.n_obs), READERS[kind]), key, *larger)
            # Leaves come in the order of the arguments: the row numbers are the second field of the block.
            before = len(jax.tree.leaves((key, draws, values, arrays, block.number)))
            use = size_obstacle(traced.jaxpr, other.jaxpr, None if block.rows is None else before)
        return Step(traced, plan, group, use, by_block=True)

    def compiled(self, step: Step, *, group: int, cut: Cut, mesh: Mesh | None) -> Program:
        """Return the program ``f(key, numbers, draws, values, arrays, blocks)`` that runs ``step`` for many draws.

        ``blocks`` is None where the step is over all rows at once.
        """

        def make() -> Program:
            axes = step.plan.row_axes
            program = blocked(step.traced, axes, group) if step.by_block else whole(step.traced, group)
            return jax.jit(program if mesh is None else sharded(program, mesh, cut, axes, step.plan.return_sites))

        return self._programs.get((step, group, cut, mesh), make)

    def apart(self, step: Step, program: Program, inputs: tuple[Any, ...], n_obs: int) -> str | None:
        """Return the site in which a row saw another, or None; found out once for a step."""
        return self._apart.get(step, lambda: rows_apart(program, inputs, n_obs, step.plan.row_axes))


def _handle(kind: str, plan: Pass) -> Hashable:
    """Return what two passes share if one program serves both, apart from the shapes of their arrays."""
    return (
        kind,
        plan.n_obs,
        plan.n_draws,
        plan.return_sites,
        plan.unobserve,
        plan.row_plates,
        tuple(sorted(plan.row_axes.items())),
        tuple(sorted((name, id(function)) for name, function in plan.transforms.items())),
        freeze(plan.static),
    )

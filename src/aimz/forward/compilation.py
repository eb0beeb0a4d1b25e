"""Traced and compiled programs of one kernel, cached so that calls of the same shape reuse them."""

__all__ = ["CompiledPrograms", "TracedStep"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from aimz._imports import begin_imports
from aimz.compilation_cache import begin_caching
from aimz.data import GENERATOR
from aimz.forward.densities import READERS
from aimz.forward.derivatives import Derivative, Lever, moved_pass
from aimz.forward.draw_batching import TracedFunction, group_size, has_callbacks, largest_intermediate, trace
from aimz.forward.joint_scenarios import JointPass, joint_pass
from aimz.forward.pass_spec import PassSpec
from aimz.forward.predictive import (
    CompiledProgram,
    RowBlock,
    RowGroups,
    SingleDrawPass,
    one_pass,
    per_draw,
    unblocked,
)
from aimz.forward.row_blocks import StreamAxis, blocked, interacting_site, sharded
from aimz.kernel import (
    AbstractHandler,
    DerivativeCut,
    IndexChecks,
    LRUCache,
    RowUse,
    derivative_cuts,
    find_index_checks,
    freeze,
    row_use,
    within_support,
)
from aimz.types import Kernel

type Inputs = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], RowBlock | RowGroups | None]
"""Abstract draws, values and arrays of one pass, and its block, or the groups of all rows."""


@dataclass(frozen=True, eq=False)
class TracedStep:
    """A traced pass, with the properties needed to plan its steps."""

    traced: TracedFunction
    n_obs: int
    n_draws: int
    sites: tuple[str, ...]
    """Names of the return sites."""
    row_axes: Mapping[str, int]
    """Axis along which the blocks of a site are concatenated, by site, for sites that have one."""
    group: int
    """Number of draws to compute at once."""
    own_noise: bool
    """Whether the kernel draws noise that belongs to no site."""
    by_block: bool
    """Whether the pass is over one block of rows instead of all rows."""
    sums_rows: bool = False
    """Whether rows are summed within each block."""

    @cached_property
    def has_callbacks(self) -> bool:
        """Whether the program calls a function in Python."""
        return has_callbacks(self.traced.jaxpr.jaxpr)

    @cached_property
    def output_bytes(self) -> int:
        """Size of the outputs of one pass, for one draw."""
        return sum(aval.size * aval.dtype.itemsize for aval in self.traced.jaxpr.out_avals)

    @cached_property
    def working_bytes(self) -> int:
        """Estimated memory for the intermediates of one pass, for the draws that are computed at once."""
        return 4 * self.group * largest_intermediate(self.traced.jaxpr.jaxpr)


_CHECKED_ROWS = (2**7, 2**11, 2**14)
"""Numbers of rows whose indices are checked together; fewer rows are padded."""


class CompiledPrograms:
    """LRU cache of the traced and compiled programs of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        begin_imports()
        begin_caching()
        self._kernel = kernel
        self._programs = LRUCache[CompiledProgram]()
        self._steps = LRUCache[TracedStep]()
        self._uses = LRUCache[RowUse]()
        self._interacting = LRUCache[str | None]()
        self._index_checks = LRUCache[IndexChecks | Literal[False] | None]()
        self._cuts = LRUCache[dict[str, frozenset[DerivativeCut]]]()
        self.row_dependences = LRUCache[str | None]()
        """Dependence of rows on one another in words, or None, by kind of call."""
        self.changed_sites = LRUCache[str | None]()
        """A site that later steps change in the fitted ones, or None, by step of a forecast."""

    def run(
        self,
        kind: str,
        plan: PassSpec,
        key: jax.Array,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> dict[str, jax.Array]:
        """Run a pass of ``kind`` ("predictive" or "log_density") over all rows and draws at once."""
        program = self._programs.get(
            (kind, plan.key), lambda: jax.jit(per_draw(one_pass(self._kernel, plan, READERS[kind])))
        )
        return program(key, np.arange(plan.n_draws, dtype=np.int32), dict(draws), dict(values), dict(arrays))

    def within_support(self, site: str, plan: PassSpec, arrays: Mapping[str, Any]) -> np.ndarray:
        """Return for each observation whether it is in the support of the output's distribution, or masked."""

        def run(arrays: Mapping[str, Any]) -> Any:
            key = jax.random.key(0, impl=GENERATOR)
            handler = AbstractHandler(self._kernel, key, n_obs=plan.n_obs, row_plates=plan.row_plates)
            return {"valid": within_support(handler.run({**plan.static, **arrays})[site])}

        program = self._programs.get(("support", site, plan.key), lambda: jax.jit(run))
        return np.asarray(program(dict(arrays))["valid"])

    def step(self, kind: str, plan: PassSpec, inputs: Inputs) -> TracedStep:
        """Return one traced pass, over one block if the inputs contain a block, else over all rows."""
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))
        cache_key = (kind, plan.key, jax.tree.structure(inputs), shapes)

        def make() -> TracedStep:
            flags: set[str] = set()
            one = one_pass(self._kernel, plan, READERS[kind], flags)
            return _trace(one, plan, plan.outputs, plan.row_axes, flags, inputs)

        return self._steps.get(cache_key, make)

    def joint(self, joint: JointPass, inputs: Inputs) -> TracedStep:
        """Return one traced pass over several scenarios, whose sites are summed over rows or subtracted row by row."""
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))
        groups = tuple(
            (
                group.plan.key,
                group.members,
                group.mapped,
                *(frozenset(keys.items()) for keys in (group.draws, group.values, group.arrays)),
            )
            for group in joint.scenario_groups
        )
        axes = tuple(sorted(joint.row_axes.items()))
        panel = tuple(sorted(joint.panel_axes.items()))
        fixed = joint.baseline, joint.width, joint.tile, joint.derivative
        cache_key = (groups, *fixed, axes, panel, jax.tree.structure(inputs), shapes)

        def make() -> TracedStep:
            flags: set[str] = set()
            one = joint_pass(self._kernel, joint, READERS["predictive"], flags)
            plan = joint.scenario_groups[0].plan
            if joint.width is None:
                return _trace(one, plan, joint.return_sites, joint.row_axes, flags, inputs)
            tiles = dict.fromkeys(joint.row_axes, 0)
            step = _trace(one, plan, joint.return_sites, tiles, flags, inputs)
            return replace(step, sums_rows=True)

        return self._steps.get(cache_key, make)

    def derivative_cuts(
        self,
        plan: PassSpec,
        derivative: Derivative,
        lever: Lever,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> dict[str, frozenset[DerivativeCut]]:
        """Return for each return site the operations that cut its derivative by a lever, in a pass over all rows."""
        inputs = draws, values, arrays
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))
        cache_key = ("derivative", plan.key), derivative, lever, jax.tree.structure(inputs), shapes

        def make() -> dict[str, frozenset[DerivativeCut]]:
            run = moved_pass(self._kernel, plan, derivative, READERS["predictive"], None)
            shift = jax.ShapeDtypeStruct((), "float32")
            sites = plan.return_sites
            traced = trace(
                lambda shift, *given: [run(lever, shift, *given, None)[0][name] for name in sites],
                shift,
                _abstract_key(),
                *inputs,
            )
            return dict(zip(sites, derivative_cuts(traced.jaxpr), strict=True))

        return self._cuts.get(cache_key, make)

    def use(self, kind: str, plan: PassSpec, one_block: Callable[[int], Inputs], n_other: int) -> RowUse:
        """Return how a pass over a block uses its rows, from a comparison with a pass over ``n_other`` rows.

        ``one_block`` returns the inputs for a number of rows.
        """
        step = self.step(kind, plan, one_block(plan.n_obs))
        return self._uses.get((step, n_other), lambda: self._compare(step, kind, plan, one_block, n_other))

    def _compare(
        self, step: TracedStep, kind: str, plan: PassSpec, one_block: Callable[[int], Inputs], n_other: int
    ) -> RowUse:
        if step.own_noise:
            return RowUse("it draws with `numpyro.prng_key`, outside of any site")
        one = one_pass(self._kernel, plan.for_rows(n_other), READERS[kind])
        traced = trace(one, _abstract_key(), *one_block(n_other))
        draws, values, arrays, block = one_block(plan.n_obs)
        assert isinstance(block, RowBlock)
        # Leaves are in the order of the arguments; leaves of the block begin with its number and the row numbers.
        number = len(jax.tree.leaves((_abstract_key(), draws, values, arrays)))
        rows = None if block.rows is None else number + 1
        return row_use(step.traced.jaxpr, traced.jaxpr, (step.n_obs, n_other), rows=rows, number=number)

    def index_checks(
        self, plan: PassSpec, arrays: Mapping[str, Any], values: Mapping[str, Any], n_obs: int
    ) -> IndexChecks | None:
        """Return the checks of the indices that a pass computes from its arguments, or None if there are none.

        ``arrays`` are the arguments and ``values`` the values of sites, or both as shapes.
        """
        arrays, values = (
            {name: value for name, value in given.items() if name not in plan.foreign} for given in (arrays, values)
        )
        arrays |= plan.whole_arrays
        shapes = tuple((name, array.shape[1:], str(array.dtype)) for name, array in sorted(arrays.items()))
        leaves = tuple(
            (jax.tree.structure(value), *(() if name in plan.row_axes else map(np.shape, jax.tree.leaves(value))))
            for name, value in sorted(values.items())
        )
        # Other options do not change how sites are computed from the arguments.
        shared = freeze(plan.static), freeze(plan.transforms), plan.unobserve, plan.row_plates
        axes = tuple(sorted(plan.row_axes.items()))
        # One trace serves similar numbers of rows, unless the kernel accepts one number only.
        padded = next((size for size in _CHECKED_ROWS if n_obs <= size), _CHECKED_ROWS[-1])
        for n_rows in (padded, n_obs):
            cache_key = shared, axes, shapes, tuple(sorted(values)), leaves, n_rows
            found = self._index_checks.get(cache_key, partial(self._find_checks, plan, arrays, values, n_rows))
            if found is not False:
                return found
        return None

    def _find_checks(
        self, plan: PassSpec, arrays: Mapping[str, Any], values: Mapping[str, Any], n_rows: int
    ) -> IndexChecks | Literal[False] | None:
        """Return the checks, None if there are none, or False if the kernel rejects this number of rows."""
        try:
            return find_index_checks(
                self._kernel,
                arrays,
                values,
                row_axes=plan.row_axes,
                static=plan.static,
                transforms=plan.transforms,
                unobserve=plan.unobserve,
                row_plates=plan.row_plates,
                n_rows=n_rows,
            )
        except Exception:  # noqa: BLE001, RUF100 (a user's kernel may raise anything at a size of our choosing)
            return False

    def compiled(self, step: TracedStep, *, group: int, cut: StreamAxis, mesh: Mesh | None) -> CompiledProgram:
        """Return the program ``f(key, numbers, draws, values, arrays, blocks)`` that runs ``step`` for many draws.

        If the step is over all rows at once, ``blocks`` is None, or the groups of the rows if these are summed.
        """

        def make() -> CompiledProgram:
            axes = step.row_axes
            program = blocked(step.traced, axes, group) if step.by_block else unblocked(step.traced, group)
            if mesh is not None:
                program = sharded(
                    program, mesh, cut, axes, step.sites, by_block=step.by_block, sums_rows=step.sums_rows
                )
            return jax.jit(program)

        return self._programs.get((step, group, cut, mesh), make)

    def interacting_site(
        self,
        step: TracedStep,
        program: CompiledProgram,
        inputs: tuple[Any, ...],
        n_obs: int,
        row_axes: Mapping[str, int],
    ) -> str | None:
        """Return a site in which rows interact, or None; computed once for each step.

        ``row_axes`` are the row axes of the inputs by site.
        """
        return self._interacting.get(step, lambda: interacting_site(program, inputs, n_obs, row_axes, step.row_axes))


def _trace(
    one: SingleDrawPass,
    plan: PassSpec,
    sites: tuple[str, ...],
    row_axes: Mapping[str, int],
    flags: set[str],
    inputs: Inputs,
) -> TracedStep:
    """Trace a pass, which may add to ``flags``, and return it with the properties needed to plan its steps."""
    traced = trace(one, _abstract_key(), *inputs)
    group = group_size(traced.jaxpr, plan.n_draws, jax.default_backend())
    by_block = isinstance(inputs[-1], RowBlock)
    return TracedStep(traced, plan.n_obs, plan.n_draws, sites, row_axes, group, bool(flags), by_block)


def _abstract_key() -> Any:
    """Return an abstract random key."""
    return jax.eval_shape(lambda: jax.random.key(0, impl=GENERATOR))

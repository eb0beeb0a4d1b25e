"""Runs compiled steps: assembles the inputs of a step, starts it, and collects its outputs."""

__all__ = ["StepRunner", "StepSpec"]

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import aimz.stream
from aimz.data import GENERATOR, BatchReader, NanCounts, RowFindings, RowReader
from aimz.engine.index_checks import StepIndexChecks
from aimz.engine.layout import InputLayout, RowFeed, in_blocks, shards_of
from aimz.engine.output_checks import OutputCheck, StepOutputCheck
from aimz.engine.support_recorder import SupportCheck, SupportRecorder
from aimz.engine.warnings import warn_about_rows
from aimz.forward import (
    IMPOSSIBLE,
    CompiledProgram,
    CompiledPrograms,
    JointPass,
    PassSpec,
    RowBlock,
    RowGroups,
    StreamAxis,
    TracedStep,
)
from aimz.kernel import RowUse

if TYPE_CHECKING:
    from aimz.statistics import SupportCounts
    from aimz.stream import Plan

_MAX_BYTES = 2**28
"""Memory for the steps that are computed at the same time."""

type Part = tuple[int, int, dict[str, np.ndarray]]
"""Start, stop and outputs of some rows or draws."""


@dataclass(frozen=True)
class StepSpec:
    """Description of the computation of a step; the same in every process."""

    kind: str
    """"predictive", "log_density" or "joint"."""
    passes: PassSpec | JointPass
    layout: InputLayout
    key: jax.Array | None
    """None if nothing is drawn."""
    use: RowUse = RowUse()  # noqa: RUF009 (frozen)
    """Uses of row numbers by the kernel."""
    alone: bool = False
    """Whether the call has a single block."""
    output: str = ""
    """Name of the output."""
    output_check: OutputCheck | None = None
    """Check of the output's values while rows are read; None if they are not used, or were checked before."""
    support_check: SupportCheck | None = None
    """Check of the support of rows that are read once; None if no row is."""

    def trace(self, programs: CompiledPrograms, block: int | None) -> TracedStep:
        """Trace one pass over a block, or over all rows if ``block`` is None."""
        inputs = self.layout.one_pass() if block is None else self.layout.one_block(block, alone=self.alone)
        if isinstance(self.passes, JointPass):
            return programs.joint(self.passes, inputs)
        return programs.step(self.kind, self.passes, inputs)

    def support_recorder(self) -> SupportRecorder | None:
        """Return a recorder of the support of rows; None if it is not checked."""
        return None if self.support_check is None else self.support_check.recorder(self.layout)

    def checks(self, programs: CompiledPrograms, plan: "Plan") -> tuple[StepIndexChecks | StepOutputCheck, ...]:
        """Return the checks of the rows of a step."""
        n_rows = (plan.step if plan.axis == "obs" else plan.n_obs) or 1
        checks = StepIndexChecks.of(programs, self.passes, self.layout, n_rows)
        if self.output_check is None:
            return (checks,)
        group = None if isinstance(self.passes, PassSpec) else self.passes.scenario_groups[0]
        checked: Any = self.passes if group is None else group.plan
        keys: dict[str, Any] = {str(name): name for name in (*self.layout.arrays, *self.layout.row_arrays)}
        if checked.worlds:  # the data belong to the factual world
            factual = checked.worlds[0]
            keys = {name: key if group is None else group.arrays[key] for name, key in factual.arrays.items()}
            checked = factual.plan
        arrays = {name: self.layout.arrays[key] for name, key in keys.items() if key in self.layout.arrays}
        return checks, StepOutputCheck(self.output_check, programs, checked, arrays, n_rows, keys)


@dataclass(frozen=True)
class StepInputs:
    """Inputs of a step from row or draw ``start`` to ``stop``."""

    start: int
    stop: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class RunningStep:
    """A step that was started on the device."""

    start: int
    stop: int
    outputs: Mapping[str, jax.Array]


class StepRunner:
    """Starts the steps of one call and collects their outputs.

    Parameters
    ----------
    spec, step, program
        The computation, as described, traced and compiled.
    feed
        Reads the rows.
    plan
        Blocks, steps and chunks of the call.
    mesh
        Devices that share a step; None for one device.
    checks
        Checks of the rows that are read.
    """

    def __init__(
        self,
        spec: StepSpec,
        step: TracedStep,
        program: CompiledProgram,
        feed: RowFeed,
        plan: "Plan",
        mesh: Mesh | None,
        checks: tuple[StepIndexChecks | StepOutputCheck, ...],
    ) -> None:
        self.spec = spec
        self.step = step
        self.plan = plan
        self._program = program
        self.feed = feed
        self._mesh = mesh
        self._axis = StreamAxis(plan.axis)
        self._key = jax.random.key(0, impl=GENERATOR) if spec.key is None else spec.key
        self._tile = plan.block or 1 if step.sums_rows else 1
        self._prefetched: StepInputs | None = None
        self._checks = checks
        self.support: dict[Any, SupportCounts] = {}
        """Counts of the rows outside of the data of the fit, by scenario, once all rows were read."""

    def with_reader(self, reader: BatchReader | None) -> "StepRunner":
        """Return a runner of the same steps that reads rows from another reader."""
        other = copy(self)
        support = None if self.feed.support is None else self.feed.support.empty()
        other.feed, other._prefetched = replace(self.feed, reader=reader, nan=NanCounts(), support=support), None
        return other

    def warn_about_rows(self, findings: RowFindings) -> None:
        """Warn once about findings in rows, of this process or of all, and keep the counts of their support."""
        self.support = findings.support
        warn_about_rows(findings, self.feed.tables, self.spec.output)

    def _check(self, start: int, stop: int, rows: Mapping[str, np.ndarray]) -> None:
        """Check rows that were read."""
        for check in self._checks:
            check.check(start, stop, rows)

    # ------------------------------------------------------------------------------------------- inputs

    @cached_property
    def _fixed(self) -> tuple[Any, ...]:
        """Inputs that are the same in every step, on every device; if draws are split, including all rows."""
        layout, by_block = self.spec.layout, self.plan.block is not None
        all_values = {} if by_block else {name: np.asarray(value) for name, value in layout.row_values.items()}
        values = {**layout.values, **all_values}
        all_rows = {} if by_block else self.feed.read(0, self.feed.n_obs or 0, digest=False)
        if not by_block:
            self._check(0, self.feed.n_obs or 0, all_rows)
        arrays = {**layout.arrays, **all_rows}
        blocks: RowBlock | RowGroups | None = None if by_block else jax.tree.map(np.asarray, layout.groups)
        if by_block and self._axis is StreamAxis.DRAWS:
            blocks = self._blocks(0, self.feed.n_obs or 0)._replace(draws={})
        numbers, draws = self._draws if self._axis is StreamAxis.ROWS else (None, None)
        same = (self._key, numbers, draws, values, arrays, blocks)
        return same if self._mesh is None else jax.device_put(same, NamedSharding(self._mesh, P()))

    @cached_property
    def _draws(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Numbers and values of all draws, including sites with rows if all rows are computed together."""
        layout = self.spec.layout
        given = layout.draws if self.plan.block else {**layout.draws, **layout.row_draws}
        on_host = self._axis is StreamAxis.DRAWS
        draws = {name: np.asarray(value) if on_host else value for name, value in given.items()}
        return np.arange(self.plan.n_draws, dtype=np.int32), draws

    def _blocks(self, start: int, stop: int, rows: Mapping[str, np.ndarray] | None = None) -> RowBlock:
        """Return the inputs of the blocks from row ``start`` on; the last row is repeated to fill the last block."""
        layout, block = self.spec.layout, self.plan.block or 1
        # If draws are split, the data were fingerprinted beforehand.
        rows = self.feed.read(start, stop, digest=False) if rows is None else rows
        if rows:
            self._check(start, stop, rows)
        n_blocks = (self.plan.step if self._axis is StreamAxis.ROWS else -(-stop // block) * block) // block
        first = start // block
        numbers = np.arange(first, first + n_blocks, dtype=np.int32)
        index = None
        if layout.with_rows:
            local = np.tile(np.arange(block, dtype=np.int32), (n_blocks, 1))
            index = local
            if self.spec.use.uses_global_index:
                index = np.minimum(local + numbers[:, None] * block, stop - 1, dtype=np.int32)

        def cut(array: RowReader, to: int) -> np.ndarray:
            return np.moveaxis(in_blocks(array.read(start, stop), array.axis, n_blocks, block), array.axis, to)

        return RowBlock(
            None if self.spec.alone else numbers,
            index,
            {name: cut(value, 1) for name, value in layout.row_draws.items()},
            {name: cut(value, 0) for name, value in layout.row_values.items()},
            {name: in_blocks(value, 0, n_blocks, block) for name, value in rows.items()},
            None if layout.groups is None else np.clip(stop - numbers * block, 0, block).astype(np.int32),
            jax.tree.map(lambda rows: cut(rows, 0), layout.groups),
        )

    @cached_property
    def _row_blocks(self) -> Mapping[str, np.ndarray]:
        """Draws of sites with rows, split into blocks."""
        return self._blocks(0, self.feed.n_obs or 0, {}).draws

    def read(self, start: int, stop: int) -> StepInputs | None:
        """Read the rows of a step and return its inputs; None if there are no more rows."""
        if self._prefetched is not None and self._prefetched.start == start:
            prefetched, self._prefetched = self._prefetched, None
            return prefetched
        key, numbers, draws, values, arrays, blocks = self._fixed
        if self._axis is StreamAxis.DRAWS:
            # Every device gets whole groups of draws: the last draw is repeated.
            index = np.arange(start, start + self.plan.step).clip(max=stop - 1)
            numbers, draws = self._draws
            if self.plan.block is not None:
                blocks = blocks._replace(draws={name: value[index] for name, value in self._row_blocks.items()})
            taken = {name: value[index] for name, value in draws.items()}
            return StepInputs(start, stop, (key, numbers[index], taken, values, arrays, blocks))
        rows = self.feed.read(start, stop)
        if not rows:
            return None
        stop = start + len(next(iter(rows.values())))
        self.check_length(stop, ended=False)
        return StepInputs(start, stop, (key, numbers, draws, values, arrays, self._blocks(start, stop, rows)))

    def check_length(self, length: int, *, ended: bool = True) -> None:
        """Raise if an iterable has more rows, or at its end fewer, than inputs with one value per row.

        Raises
        ------
        ValueError
            If the numbers differ.
        """
        if self.feed.reader is None:
            return
        for name, rows in self.spec.layout.row_inputs():
            n_rows = rows.n_rows
            if n_rows is not None and (length > n_rows or (ended and length < n_rows)):
                msg = (
                    f"The iterable has {length} rows{'' if ended else ' or more'}, and `{name}` has {n_rows}. Pass as "
                    "many; for other than the fitted observations, `in_sample=False`."
                )
                raise ValueError(msg)

    def interacting_site(self, programs: CompiledPrograms) -> str | None:
        """Return a site whose rows depend on other rows, judged by the first step, or None.

        The inputs of the first step are kept, since rows may be expensive to read twice.
        """
        first = self.read(*next(self.plan.steps()))
        assert first is not None  # calls without rows are rejected earlier
        n_rows = first.stop if self._axis is StreamAxis.ROWS else self.feed.n_obs
        assert n_rows is not None  # all rows are in memory if draws are split
        site = programs.interacting_site(self.step, self._program, first.values, n_rows, self.spec.layout.row_axes)
        if site is None:
            self._prefetched = first
        elif self.feed.reader is not None:
            self.feed.reader.rewind()
        return site

    # ------------------------------------------------------------------------------------------ outputs

    @cached_property
    def n_threads(self) -> int:
        """Number of steps to compute at the same time, each in a thread: on a CPU, as many as cores and memory allow.

        A function of the user that the program calls back is not called by two threads at once.
        """
        if self._mesh is not None or jax.default_backend() != "cpu" or self.step.has_callbacks:
            return 1
        plan, by_rows = self.plan, self._axis is StreamAxis.ROWS
        n_cpus = aimz.stream.n_cpus()
        n_steps = n_cpus if plan.length is None else ceil(plan.length / plan.step)
        n_rows = plan.step if by_rows else plan.n_obs or 1
        n_blocks = ceil(n_rows / plan.block) if plan.block else 1
        n_draws = plan.n_draws if by_rows else plan.step
        step_bytes = n_blocks * (n_draws * self.step.output_bytes + self.step.working_bytes)
        return max(1, min(n_cpus, n_steps, _MAX_BYTES // step_bytes))

    def begin(self, inputs: StepInputs) -> RunningStep:
        """Start a step, without waiting for it."""
        return RunningStep(inputs.start, inputs.stop, self._program(*inputs.values))

    def skip(self, start: int, stop: int) -> bool:
        """Skip a step that is stored, reading rows that come in order or are digested; return whether it has rows."""
        if self._prefetched is not None and self._prefetched.start == start:
            self._prefetched = None
        elif self.feed.reader is not None or self.feed.digests is not None:
            return bool(self.feed.read(start, stop))
        return True

    def sites_without_rows(self, running: RunningStep) -> dict[str, np.ndarray]:
        """Return the sites without a row axis, if rows are split."""
        if self._axis is StreamAxis.DRAWS:
            return {}
        axes = self.step.row_axes
        return {name: shards_of(array, 1)[0][:, 0] for name, array in running.outputs.items() if name not in axes}

    def fetch(self, running: RunningStep) -> list[Part]:
        """Wait for a step; return one part per device, without padding and without copying."""
        axes = self.step.row_axes
        self._check_possible(running)
        if self._axis is StreamAxis.ROWS:
            shards = {n: shards_of(a, 1 + axes[n]) for n, a in running.outputs.items() if n in axes}
        else:
            shards = {n: shards_of(a, 0) for n, a in running.outputs.items()}
        shards.pop(IMPOSSIBLE, None)
        parts: list[Part] = []
        n_parts = len(next(iter(shards.values()))) if shards else 0
        each = self.plan.step // max(1, n_parts)
        for i in range(n_parts):
            start = running.start + i * each
            stop = min(start + each, running.stop)
            if start < stop:
                parts.append((start, stop, {n: self._trim(n, found[i], stop - start) for n, found in shards.items()}))
        for array in self.feed.arrays.values():  # pages of rows that were read from a file
            array.release(running.start, running.stop)
        return parts or [(running.start, running.stop, {})]

    def _check_possible(self, running: RunningStep) -> None:
        """Raise if the noise of rows cannot be inferred, since a value in them has density 0."""
        if IMPOSSIBLE not in running.outputs:
            return
        by_rows, found = self._axis is StreamAxis.ROWS, np.asarray(running.outputs[IMPOSSIBLE]) != 0
        start, stop = (running.start, running.stop) if by_rows else (0, self.feed.n_obs or 0)
        if self.step.sums_rows:
            rows, count = f"rows {start:,} to {stop - 1:,} include", "rows"
            is_bad = bool(found.any())
        else:
            bad = np.flatnonzero(found.any(axis=0)[: stop - start])
            is_bad, count = bool(bad.size), f"{bad.size:,} row(s)"
            rows = f"row {start + bad[0]:,} is the first of" if is_bad else ""
        if is_bad:
            msg = (
                f"The noise of rows cannot be inferred: {rows} {count} with a value that has density 0, or is beyond "
                "the precision of the distribution function, in some posterior draws. Check the data and that the "
                "posterior belongs to them, or leave these rows out."
            )
            raise ValueError(msg)

    def _trim(self, name: str, array: np.ndarray, length: int) -> np.ndarray:
        """Return an output without padding."""
        axis = self.step.row_axes.get(name)
        if self._axis is StreamAxis.ROWS:
            assert axis is not None
            return array[(slice(None),) * (1 + axis) + (slice(0, -(-length // self._tile)),)]
        array = array[:length]
        if self.plan.block is None:
            return array
        return array[:, 0] if axis is None else array[(slice(None),) * (1 + axis) + (slice(0, self.feed.n_obs),)]

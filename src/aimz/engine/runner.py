"""What goes into each step of a stream and what comes out: cutting, padding, stitching."""

__all__ = ["InputLayout", "RowFeed", "StepRunner", "StepSpec"]

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from aimz.data import BatchReader, RowReader, open_rows
from aimz.engine.kernel_engine import PreparedCall
from aimz.engine.row_access import in_blocks, shards_of
from aimz.engine.row_digests import RowDigests
from aimz.forward import (
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
    from aimz.stream import Plan

type Part = tuple[int, int, dict[str, np.ndarray]]


@dataclass(frozen=True)
class InputLayout:
    """The inputs of a call, sorted by what has a row axis and what has none."""

    draws: Mapping[str, Any]
    row_draws: Mapping[str, RowReader]
    values: Mapping[str, Any]
    row_values: Mapping[str, RowReader]
    arrays: Mapping[str, Any]
    """0-d arguments."""
    row_arrays: Mapping[str, RowReader]
    row_axes: Mapping[str, int]
    """Sites with a row axis, and which axis of one draw it is."""
    with_rows: bool
    """Whether a plate runs along the rows, so that their numbers are wanted."""
    groups: RowGroups | None = None
    """Readers of the weights and the groups of the rows; None unless rows are summed."""

    @staticmethod
    def of(prepared: PreparedCall) -> "InputLayout":
        """Sort the inputs of a call."""
        axes = prepared.plan.row_axes
        return InputLayout(
            draws={name: value for name, value in prepared.draws.items() if name not in axes},
            row_draws={n: open_rows(value, 1 + axes[n]) for n, value in prepared.draws.items() if n in axes},
            values={name: value for name, value in prepared.values.items() if name not in axes},
            row_values={n: open_rows(value, axes[n]) for n, value in prepared.values.items() if n in axes},
            arrays={name: value for name, value in prepared.call.arrays.items() if not value.ndim},
            row_arrays=prepared.call.rows,
            row_axes=axes,
            with_rows=bool(prepared.plan.row_plates),
        )

    def row_inputs(self) -> Iterator[tuple[object, RowReader]]:
        """Yield name and reader of each input that has rows."""
        # One scenario may set a site that keeps its draws in another, so that a name occurs twice.
        groups = {} if self.groups is None else dict(zip(("weights", "by"), self.groups, strict=True))
        for inputs in (self.row_draws, self.row_arrays, self.row_values, groups):
            yield from ((name, rows) for name, rows in inputs.items() if rows is not None)

    def one_block(self, block: int, *, alone: bool) -> tuple[Any, ...]:
        """Return abstract inputs of one pass over one block; ``alone`` says that there is no other."""
        return (
            _abstract(self.draws, lambda _, value: value.shape[1:]),
            _abstract(self.values, lambda _, value: np.shape(value)),
            _abstract(self.arrays, lambda _, value: value.shape),
            RowBlock(
                None if alone else jax.ShapeDtypeStruct((), "int32"),
                jax.ShapeDtypeStruct((block,), "int32") if self.with_rows else None,
                _abstract(self.row_draws, lambda name, value: _resized(value.shape[1:], self.row_axes[name], block)),
                _abstract(self.row_values, lambda name, value: _resized(value.shape, self.row_axes[name], block)),
                _abstract(self.row_arrays, lambda _, value: (block, *value.shape[1:])),
                None if self.groups is None else jax.ShapeDtypeStruct((), "int32"),
                jax.tree.map(lambda array: jax.ShapeDtypeStruct((block,), array.dtype), self.groups),
            ),
        )

    def one_pass(self) -> tuple[Any, ...]:
        """Return abstract inputs of one pass over all rows."""
        return (
            _abstract({**self.draws, **self.row_draws}, lambda _, value: value.shape[1:]),
            _abstract({**self.values, **self.row_values}, lambda _, value: np.shape(value)),
            _abstract({**self.arrays, **self.row_arrays}, lambda _, value: value.shape),
            jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), self.groups),
        )


def _abstract(given: Mapping[str, Any], shape: Callable[[str, Any], tuple[int, ...]]) -> dict[str, Any]:
    return {
        name: jax.tree.map(
            lambda leaf, name=name: jax.ShapeDtypeStruct(shape(name, leaf), jnp.result_type(leaf)), value
        )
        for name, value in given.items()
    }


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


@dataclass(frozen=True)
class RowFeed:
    """The rows of the arguments, wherever they come from."""

    arrays: Mapping[str, RowReader]
    """Arguments with a row axis."""
    n_obs: int | None
    reader: BatchReader | None = None
    notes: RowDigests | None = None
    """Takes what rows are to be known by, if they are."""

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the rows from ``start`` on, fewer at the end."""
        given = {} if self.reader is None else self.reader.read(start, stop)
        if self.reader is not None and not given:
            return {}
        end = start + len(next(iter(given.values()))) if given else stop
        found = {name: array.read(start, end, given) for name, array in self.arrays.items()}
        if self.notes is not None:
            self.notes.see(start, end, found)
        return found

    def release(self, start: int, stop: int) -> None:
        """Let go of the memory that reading these rows took."""
        for array in self.arrays.values():
            array.release(start, stop)


@dataclass(frozen=True)
class StepSpec:
    """What the steps of a call compute, wherever they do."""

    kind: str
    """"predictive", "log_density" or "joint"."""
    plan: PassSpec | JointPass
    layout: InputLayout
    key: jax.Array | None
    """None where nothing is drawn."""
    use: RowUse = RowUse()  # noqa: RUF009 (frozen)
    """What the kernel does with the numbers of rows."""
    alone: bool = False
    """Whether there is one block and no other."""

    def traced(self, programs: CompiledPrograms, block: int | None) -> TracedStep:
        """Return one pass over a block, or over all rows, traced."""
        inputs = self.layout.one_pass() if block is None else self.layout.one_block(block, alone=self.alone)
        if isinstance(self.plan, JointPass):
            return programs.joint(self.plan, inputs)
        return programs.step(self.kind, self.plan, inputs)


@dataclass(frozen=True)
class _Handle:
    """A step on the device."""

    start: int
    stop: int
    outputs: Mapping[str, jax.Array]


class StepRunner:
    """Starts steps and fetches what they made; one object for one call.

    Parameters
    ----------
    task
        What is computed.
    step, program
        The same, traced and compiled.
    feed
        The rows.
    plan
        How the call is cut.
    mesh
        The devices that share a step; None for one device.
    """

    def __init__(
        self,
        task: StepSpec,
        step: TracedStep,
        program: CompiledProgram,
        feed: RowFeed,
        plan: "Plan",
        *,
        mesh: Mesh | None,
    ) -> None:
        self.task = task
        self.step = step
        self._program = program
        self._axes = step.row_axes
        self._tile = plan.block or 1 if step.sums_rows else 1
        self._use = task.use
        self._layout = task.layout
        self._feed = feed
        self._key = jax.random.key(0) if task.key is None else task.key
        self._n_draws = plan.n_draws
        self._span = plan.step
        self._block = plan.block
        self._cut = StreamAxis(plan.axis)
        self._mesh = mesh
        self._alone = task.alone
        self._first: tuple[int, tuple[Any, ...]] | None = None

    def reading(self, reader: BatchReader | None) -> "StepRunner":
        """Return the same with rows from another reader."""
        other = copy(self)
        other._feed, other._first = replace(self._feed, reader=reader), None
        return other

    @property
    def notes(self) -> RowDigests | None:
        """What rows are to be known by, as they are read; None if they are known otherwise."""
        return self._feed.notes

    # ------------------------------------------------------------------------------------------- inputs

    @cached_property
    def _fixed(self) -> tuple[Any, ...]:
        """Inputs that are the same in every step, on every device; where draws are cut, those of all rows."""
        layout, blocked = self._layout, self._block is not None
        all_values = {} if blocked else {name: np.asarray(value) for name, value in layout.row_values.items()}
        values = {**layout.values, **all_values}
        all_rows = {} if blocked else {name: np.asarray(array) for name, array in layout.row_arrays.items()}
        arrays = {**layout.arrays, **all_rows}
        whole = None if blocked else jax.tree.map(np.asarray, layout.groups)
        blocks = self._blocks(0, self._feed.n_obs or 0)._replace(draws={}) if self._all_blocks else whole
        numbers, draws = self._draws if self._cut is StreamAxis.ROWS else (None, None)
        same = (self._key, numbers, draws, values, arrays, blocks)
        return same if self._mesh is None else jax.device_put(same, NamedSharding(self._mesh, P()))

    @property
    def _all_blocks(self) -> bool:
        """Whether each step has the blocks of all rows."""
        return self._cut is StreamAxis.DRAWS and self._block is not None

    @cached_property
    def _draws(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Numbers and values of all draws; those of sites with rows are among them where all rows are seen at once."""
        given = self._layout.draws if self._block else {**self._layout.draws, **self._layout.row_draws}
        on_host = self._cut is StreamAxis.DRAWS
        draws = {name: np.asarray(value) if on_host else value for name, value in given.items()}
        return np.arange(self._n_draws, dtype=np.int32), draws

    def _blocks(self, start: int, stop: int, rows: Mapping[str, np.ndarray] | None = None) -> RowBlock:
        """Return the inputs of the blocks from row ``start`` on, padded to whole blocks by repeating the last row."""
        block = self._block or 1
        # All rows of a call that is cut along its draws were looked at before.
        rows = replace(self._feed, notes=None).read(start, stop) if rows is None else rows
        n_blocks = (self._span if self._cut is StreamAxis.ROWS else -(-stop // block) * block) // block
        first = start // block
        numbers = np.arange(first, first + n_blocks, dtype=np.int32)
        at = None
        if self._layout.with_rows:
            within = np.tile(np.arange(block, dtype=np.int32), (n_blocks, 1))
            beyond = self._use.uses_global_index
            at = np.minimum(within + numbers[:, None] * block, stop - 1, dtype=np.int32) if beyond else within
        groups = self._layout.groups

        def cut(array: RowReader, to: int) -> np.ndarray:
            return np.moveaxis(in_blocks(array.read(start, stop), array.axis, n_blocks, block), array.axis, to)

        return RowBlock(
            None if self._alone else numbers,
            at,
            {name: cut(value, 1) for name, value in self._layout.row_draws.items()},
            {name: cut(value, 0) for name, value in self._layout.row_values.items()},
            {name: in_blocks(value, 0, n_blocks, block) for name, value in rows.items()},
            None if groups is None else np.clip(stop - numbers * block, 0, block).astype(np.int32),
            jax.tree.map(lambda rows: cut(rows, 0), groups),
        )

    @cached_property
    def _row_blocks(self) -> Mapping[str, np.ndarray]:
        """Draws of sites with rows, cut into blocks."""
        return self._blocks(0, self._feed.n_obs or 0, {}).draws

    def inputs(self, start: int, stop: int) -> tuple[int, tuple[Any, ...]] | None:
        """Return how far a step reaches and what it computes from, or None if there are no more rows."""
        if self._first is not None and start == 0:
            first, self._first = self._first, None
            return first
        key, numbers, draws, values, arrays, blocks = self._fixed
        if self._cut is StreamAxis.DRAWS:
            # Whole groups on every device: the last draw is repeated.
            index = np.arange(start, start + self._span).clip(max=stop - 1)
            numbers, draws = self._draws
            if self._all_blocks:
                blocks = blocks._replace(draws={name: value[index] for name, value in self._row_blocks.items()})
            taken = {name: value[index] for name, value in draws.items()}
            return stop, (key, numbers[index], taken, values, arrays, blocks)
        rows = self._feed.read(start, stop)
        if not rows:
            return None
        stop = start + len(next(iter(rows.values())))
        self.check_rows(stop, ended=False)
        return stop, (key, numbers, draws, values, arrays, self._blocks(start, stop, rows))

    def check_rows(self, length: int, *, ended: bool = True) -> None:
        """Refuse an iterable with more rows, or in the end with fewer, than what goes with it row by row.

        Raises
        ------
        ValueError
            If their numbers differ.
        """
        if self._feed.reader is None:
            return
        for name, rows in self._layout.row_inputs():
            n_rows = rows.n_rows
            if n_rows is not None and (length > n_rows or (ended and length < n_rows)):
                msg = (
                    f"The iterable has {length} rows{'' if ended else ' or more'}, and `{name}` has {n_rows}. Pass as "
                    "many; for other than the fitted observations, `in_sample=False`."
                )
                raise ValueError(msg)

    def try_first(self, judge: Callable[[CompiledProgram, tuple[Any, ...], int], str | None], stop: int) -> str | None:
        """Let ``judge`` look at the first step; its inputs are kept."""
        found = self.inputs(0, stop)
        assert found is not None  # a call without a row was refused
        self._first = found
        return judge(self._program, found[1], found[0])

    # ------------------------------------------------------------------------------------------ outputs

    def begin(self, start: int, stop: int) -> _Handle | None:
        """Start a step; None if there are no more rows."""
        found = self.inputs(start, stop)
        if found is None:
            return None
        end, inputs = found
        return _Handle(start, end, self._program(*inputs))

    def skip(self, start: int, stop: int) -> bool:
        """Pass over a step that is done; rows that come in order, or are noted, are read; return whether it has any."""
        if self._first is not None and start == 0:
            self._first = None  # they were read to be looked at
        elif self._feed.reader is not None or self.notes is not None:
            return bool(self._feed.read(start, stop))
        return True

    def once(self, handle: _Handle) -> dict[str, np.ndarray]:
        """Return the sites without rows, where rows are cut."""
        if self._cut is StreamAxis.DRAWS:
            return {}
        return {name: shards_of(array, 1)[0][:, 0] for name, array in handle.outputs.items() if name not in self._axes}

    def fetch(self, handle: _Handle) -> list[Part]:
        """Wait for a step; return a part for each device, without padding, its arrays not copied."""
        axes = self._axes
        if self._cut is StreamAxis.ROWS:
            shards = {n: shards_of(a, 1 + axes[n]) for n, a in handle.outputs.items() if n in axes}
        else:
            shards = {n: shards_of(a, 0) for n, a in handle.outputs.items()}
        parts: list[Part] = []
        n_parts = len(next(iter(shards.values()))) if shards else 0
        each = self._span // max(1, n_parts)
        for i in range(n_parts):
            start = handle.start + i * each
            stop = min(start + each, handle.stop)
            if start < stop:
                parts.append((start, stop, {n: self._trim(n, found[i], stop - start) for n, found in shards.items()}))
        self._feed.release(handle.start, handle.stop)
        return parts or [(handle.start, handle.stop, {})]

    def _trim(self, name: str, array: np.ndarray, length: int) -> np.ndarray:
        axis = self._axes.get(name)
        if self._cut is StreamAxis.ROWS:
            assert axis is not None
            return array[(slice(None),) * (1 + axis) + (slice(0, -(-length // self._tile)),)]
        array = array[:length]
        if self._block is None:
            return array
        return array[:, 0] if axis is None else array[(slice(None),) * (1 + axis) + (slice(0, self._feed.n_obs),)]

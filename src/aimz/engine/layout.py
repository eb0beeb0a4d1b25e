"""Inputs of the compiled steps: which have a row axis, how rows are read, and how they are split into blocks."""

__all__ = ["InputLayout", "RowFeed", "in_blocks", "shards_of"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data import BatchReader, NanCounts, RowFindings, RowReader, open_rows
from aimz.engine.fingerprint import RowDigests
from aimz.engine.prepared_call import PreparedCall
from aimz.forward import RowBlock, RowGroups


@dataclass(frozen=True)
class InputLayout:
    """Inputs of a call, split by whether they have a row axis."""

    draws: Mapping[str, Any]
    row_draws: Mapping[str, RowReader]
    values: Mapping[str, Any]
    row_values: Mapping[str, RowReader]
    arrays: Mapping[str, Any]
    """0-d arguments."""
    row_arrays: Mapping[str, RowReader]
    row_axes: Mapping[str, int]
    """Site to the row axis of one draw."""
    with_rows: bool
    """Whether the kernel has a plate over rows, so that blocks need row numbers."""
    groups: RowGroups | None = None
    """Readers of the weights and the groups of the rows; None unless rows are summed."""

    @staticmethod
    def of(prepared: PreparedCall) -> "InputLayout":
        """Return the layout of one prepared call."""
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

    @cached_property
    def _without_rows(self) -> tuple[Any, ...]:
        """Abstract inputs without a row axis."""
        return _abstract(self.draws, 1), _abstract(self.values), _abstract(self.arrays)

    def one_block(self, block: int, *, alone: bool = False) -> tuple[Any, ...]:
        """Return abstract inputs of a pass over one block; ``alone`` if the call has no other block."""
        axes = self.row_axes
        return (
            *self._without_rows,
            RowBlock(
                None if alone else jax.ShapeDtypeStruct((), "int32"),
                jax.ShapeDtypeStruct((block,), "int32") if self.with_rows else None,
                {n: _abstract_rows(rows.shape[1:], rows.dtype, axes[n], block) for n, rows in self.row_draws.items()},
                {n: _abstract_rows(rows.shape, rows.dtype, axes[n], block) for n, rows in self.row_values.items()},
                {n: _abstract_rows(rows.shape, rows.dtype, 0, block) for n, rows in self.row_arrays.items()},
                None if self.groups is None else jax.ShapeDtypeStruct((), "int32"),
                jax.tree.map(lambda array: jax.ShapeDtypeStruct((block, *array.shape[1:]), array.dtype), self.groups),
            ),
        )

    def one_pass(self) -> tuple[Any, ...]:
        """Return abstract inputs of one pass over all rows."""
        return (
            _abstract({**self.draws, **self.row_draws}, 1),
            _abstract({**self.values, **self.row_values}),
            _abstract({**self.arrays, **self.row_arrays}),
            jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), self.groups),
        )

    def row_inputs(self) -> Iterator[tuple[object, RowReader]]:
        """Yield name and reader of each input that has rows."""
        # One scenario may set a site that keeps its draws in another, so that a name occurs twice.
        groups = {} if self.groups is None else dict(zip(("weights", "by"), self.groups, strict=True))
        for inputs in (self.row_draws, self.row_arrays, self.row_values, groups):
            yield from ((name, rows) for name, rows in inputs.items() if rows is not None)


def _abstract(given: Mapping[str, Any], first_axis: int = 0) -> dict[str, Any]:
    """Return abstract arrays in place of the leaves of each input, without their axes before ``first_axis``."""
    leaves, structure = jax.tree.flatten(dict(given))
    abstract = [jax.ShapeDtypeStruct(np.shape(leaf)[first_axis:], jnp.result_type(leaf)) for leaf in leaves]
    found: dict[str, Any] = jax.tree.unflatten(structure, abstract)
    return found


def _abstract_rows(shape: tuple[int, ...], dtype: Any, axis: int, size: int) -> jax.ShapeDtypeStruct:
    """Return an abstract array with another length of one axis."""
    return jax.ShapeDtypeStruct((*shape[:axis], size, *shape[axis + 1 :]), jnp.result_type(dtype))


@dataclass(frozen=True)
class RowFeed:
    """Reads rows of the arguments, from arrays or from a batch reader."""

    arrays: Mapping[str, RowReader]
    """Arguments with a row axis."""
    n_obs: int | None
    reader: BatchReader | None = None
    digests: RowDigests | None = None
    """Records a digest of each row range; None if rows are not digested."""
    nan: NanCounts = field(default_factory=NanCounts)
    """Counts of NaN in rows that are read lazily; rows in memory are counted before."""
    support: Any = None
    """Recorder of the support of rows that are read once; None if it is not checked."""

    def read(self, start: int, stop: int, *, digest: bool = True) -> dict[str, np.ndarray]:
        """Return the rows from ``start`` on, fewer at the end of the data."""
        batch = {} if self.reader is None else self.reader.read(start, stop)
        if self.reader is not None and not batch:
            return {}
        end = start + len(next(iter(batch.values()))) if batch else stop

        found = {name: array.read(start, end, batch) for name, array in self.arrays.items()}
        if digest and self.digests is not None:
            self.digests.add(start, end, found)
        for name, reader in self.arrays.items():
            if reader.is_lazy:  # in any of several scenarios
                rows = found[name].max(axis=-1) if len(reader.leaves()) > 1 else found[name]
                self.nan.add(str(name), rows, start)
        if self.support is not None and found:
            self.support.add(found, start)
        return found

    @property
    def findings(self) -> RowFindings:
        """NaN, equal values after rounding, and support, of the rows that were read lazily."""
        found = RowFindings(self.nan, support={} if self.support is None else dict(self.support.finish()))
        recorded = [leaf.rounding for array in self.arrays.values() for leaf in array.leaves() if leaf.is_lazy]
        for rounding in (*recorded, None if self.reader is None else self.reader.rounding):
            if rounding is not None:
                found.rounding.merge(rounding)
        return found

    @property
    def tables(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of each argument that is a table."""
        return {str(name): leaf.columns for name, array in self.arrays.items() for leaf in array.leaves()}


def shards_of(array: jax.Array, axis: int) -> list[np.ndarray]:
    """Return the part on each device, in the order of ``axis``; a view if the device is the host."""
    if len(array.devices()) == 1:
        return [np.asarray(array)]
    found = sorted(array.addressable_shards, key=lambda shard: shard.index[axis].start or 0)
    return [np.asarray(shard.data) for shard in found]


def in_blocks(array: np.ndarray, axis: int, n_blocks: int, block: int) -> np.ndarray:
    """Split one axis into blocks, ``(..., n_blocks, block, ...)``, padded with copies of the last row."""
    short = n_blocks * block - array.shape[axis]
    if short:
        array = np.pad(array, [(0, short if i == axis else 0) for i in range(array.ndim)], mode="edge")
    return array.reshape(*array.shape[:axis], n_blocks, block, *array.shape[axis + 1 :])

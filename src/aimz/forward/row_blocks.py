"""Programs over several blocks of rows and many draws, which compute one step of a stream.

Draws are the outer axis and blocks the inner one, so that blocks are concatenated by a reshape. On several devices
either axis may be sharded: each device then runs the same program on its shard, without communication.
"""

__all__ = ["StreamAxis", "blocked", "interacting_site", "sharded"]

from collections.abc import Mapping
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from aimz.forward.draw_batching import TracedFunction, map_draws
from aimz.forward.predictive import CompiledProgram, RowBlock, draw_keys


class StreamAxis(Enum):
    """The axis that is divided into steps, and sharded among devices."""

    ROWS = "obs"
    DRAWS = "draw"


def _concatenate(value: jax.Array, axis: int | None) -> jax.Array:
    """Reshape ``(n_draws, n_blocks, ..., block, ...)`` into ``(n_draws, ..., n_blocks * block, ...)``."""
    if axis is None:
        return value[:, :1]  # the same in every block; one is kept for each device
    moved = jnp.moveaxis(value, 1, 1 + axis)
    return moved.reshape(*moved.shape[: 1 + axis], -1, *moved.shape[3 + axis :])


def blocked(traced: TracedFunction, row_axes: Mapping[str, int], group: int) -> CompiledProgram:
    """Return ``f(key, numbers, draws, values, arrays, blocks) -> {site: array}`` for many blocks.

    ``traced`` is a pass over one block, and ``row_axes`` the axis of each output along which blocks are concatenated.
    The blocks are the leading axis of each leaf of ``blocks``, and the second axis, after the draws, of each leaf of
    ``blocks.draws``. Outputs with rows have shape ``(n_draws, ..., n_blocks * block, ...)``, others ``(n_draws, 1,
    ...)``.
    """

    def run(
        key: jax.Array,
        numbers: Any,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        blocks: RowBlock,
    ) -> dict[str, jax.Array]:
        same, own = blocks._replace(draws={}), dict(blocks.draws)

        def one_draw(draw: tuple[jax.Array, Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any]:
            draw_key, latents, row_latents = draw

            def one_block(block: RowBlock, row_latents: Mapping[str, Any]) -> Any:
                return traced(draw_key, latents, values, arrays, block._replace(draws=row_latents))

            return dict(jax.vmap(one_block)(same, row_latents))

        per_draw = (draw_keys(key, numbers), dict(draws), own)
        found = map_draws(one_draw, per_draw, len(numbers), group)
        return {name: _concatenate(value, row_axes.get(name)) for name, value in found.items()}

    return run


def sharded(
    program: CompiledProgram,
    mesh: Mesh,
    cut: StreamAxis,
    row_axes: Mapping[str, int],
    sites: tuple[str, ...],
    *,
    by_block: bool,
    sums_rows: bool,
) -> CompiledProgram:
    """Return ``program`` with its blocks or its draws sharded over the devices of ``mesh``.

    A program over all rows at once (not ``by_block``) has its draws sharded. ``sums_rows`` is whether the rows of each
    block are summed.
    """
    axis = mesh.axis_names[0]
    draws: Any = P(axis)
    if cut is StreamAxis.ROWS:
        rows: Any = P(axis)
        draws = P(None, axis)
        blocks = RowBlock(rows, rows, draws, rows, rows, *(rows, rows) if sums_rows else ())
        inputs = (P(), P(), P(), P(), P(), blocks)
        outputs = {name: P(*[None] * (1 + row_axes.get(name, 0)), axis) for name in sites}
    else:
        same: Any = P()
        blocks = RowBlock(same, same, draws, same, same, *(same, same) if sums_rows else ()) if by_block else same
        inputs = (P(), P(axis), P(axis), P(), P(), blocks)
        outputs = dict.fromkeys(sites, P(axis))
    return jax.shard_map(program, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def interacting_site(
    program: CompiledProgram,
    inputs: tuple[Any, ...],
    n_obs: int,
    row_axes: Mapping[str, int],
    output_axes: Mapping[str, int],
) -> str | None:
    """Return a site in which a row depends on other rows, or None.

    The program runs twice on the rows of ``inputs``: as they are, and with most rows changed in all inputs that have
    rows. The rows that did not change, chosen at random, must keep their bits. Changed rows get the values of other
    rows, so that the kernel is run only on values that occur. ``row_axes`` are the row axes of the inputs by site. If
    rows are summed, only rows that did not change have a weight.
    """
    given: RowBlock = inputs[-1]
    n_blocks, size = np.shape(next(iter(given.arrays.values())))[:2]
    rng = np.random.default_rng(0)
    before: dict[str, jax.Array] = program(*inputs) if given.row_groups is None else {}
    for _ in range(2):
        kept = np.sort(rng.permutation(n_obs)[: max(1, n_obs // 8)])
        blocks = given
        if given.row_groups is not None:
            weights = given.row_groups.weights
            counting = np.isin(np.arange(n_blocks * size), kept).astype(np.float32).reshape(n_blocks, size)
            counting = np.broadcast_to(counting.reshape(n_blocks, size, *[1] * (weights.ndim - 2)), weights.shape)
            blocks = given._replace(row_groups=given.row_groups._replace(weights=counting))
            before = program(*inputs[:-1], blocks)
        rows = rng.permutation(n_blocks * size)
        rows[kept] = kept
        changed = blocks._replace(
            draws={
                name: _exchange_rows(value, 1, row_axes[name] + 2, rows, kept) for name, value in blocks.draws.items()
            },
            values={
                name: _exchange_rows(value, 0, row_axes[name] + 1, rows, kept) for name, value in blocks.values.items()
            },
            arrays={name: _exchange_rows(value, 0, 1, rows, kept) for name, value in blocks.arrays.items()},
        )
        after = program(*inputs[:-1], changed)
        for name, value in before.items():
            one, other = np.asarray(value), np.asarray(after[name])
            if name in output_axes and given.row_groups is None:
                one, other = (array.take(kept, 1 + output_axes[name]) for array in (one, other))
            if not np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"):
                return name
    return None


def _exchange_rows(value: Any, blocks: int, axis: int, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Replace each row, over all blocks, by the row ``rows[i]``; shift values that would not change."""
    array = np.moveaxis(np.asarray(value), (blocks, axis), (0, 1))
    flat = array.reshape(-1, *array.shape[2:])
    new = flat[rows]
    shifted = new + np.asarray(1, new.dtype) / 16 if new.dtype.kind in "fc" else new
    same = (new == flat) & ~np.isin(np.arange(len(flat)), kept).reshape(-1, *[1] * (flat.ndim - 1))
    new = np.where(same, shifted, new).astype(new.dtype)
    return np.moveaxis(new.reshape(array.shape), (0, 1), (blocks, axis))

"""Many blocks of rows, many draws: the program a stream runs step by step.

Draws are the outer axis and blocks the inner one, so that stitching blocks together is a reshape.  On several devices
either axis may be cut: each device then runs the same program on its share, and none waits for another.
"""

__all__ = ["StreamAxis", "blocked", "rows_apart", "sharded"]

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
    """What is cut into steps, and on several devices into shares."""

    ROWS = "obs"
    DRAWS = "draw"


def _stitch(value: jax.Array, axis: int | None) -> jax.Array:
    """Turn ``(n_draws, n_blocks, ..., block, ...)`` into ``(n_draws, ..., n_blocks * block, ...)``."""
    if axis is None:
        return value[:, :1]  # the same in every block; one stays, for each device to hand back
    moved = jnp.moveaxis(value, 1, 1 + axis)
    return moved.reshape(*moved.shape[: 1 + axis], -1, *moved.shape[3 + axis :])


def blocked(traced: TracedFunction, row_axes: Mapping[str, int], group: int) -> CompiledProgram:
    """Return ``f(key, numbers, draws, values, arrays, blocks) -> {site: array}`` for many blocks.

    ``traced`` is one pass over one block, ``row_axes`` the axis of each of its outputs along which blocks are put end
    to end.  Each leaf of ``blocks`` has the blocks as its leading axis, those of ``blocks.draws`` as the one after the
    draws.  Arrays come back as ``(n_draws, ..., n_blocks * block, ...)``, others as ``(n_draws, 1, ...)``.
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
        return {name: _stitch(value, row_axes.get(name)) for name, value in found.items()}

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
    """Return ``program`` with the blocks, or the draws, shared out among the devices of ``mesh``.

    ``by_block`` says that it has blocks; one that sees all rows at once has none, and its draws are shared out.
    ``sums_rows`` says that the rows of each block are summed.
    """
    axis = mesh.axis_names[0]
    draws: Any = P(axis)
    if cut is StreamAxis.ROWS:
        share: Any = P(axis)
        draws = P(None, axis)
        blocks = RowBlock(share, share, draws, share, share, *(share, share) if sums_rows else ())
        inputs = (P(), P(), P(), P(), P(), blocks)
        outputs = {name: P(*[None] * (1 + row_axes.get(name, 0)), axis) for name in sites}
    else:
        same: Any = P()
        blocks = RowBlock(same, same, draws, same, same, *(same, same) if sums_rows else ()) if by_block else same
        inputs = (P(), P(axis), P(axis), P(), P(), blocks)
        outputs = dict.fromkeys(sites, P(axis))
    return jax.shard_map(program, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def rows_apart(
    program: CompiledProgram,
    inputs: tuple[Any, ...],
    n_obs: int,
    row_axes: Mapping[str, int],
    output_axes: Mapping[str, int],
) -> str | None:
    """Return the site in which a row saw another, or None.

    The program runs on the rows at hand and on the same with most rows changed, in the arguments and in whatever else
    has rows; those left alone, chosen by chance, must keep their bits.  Rows get the values of others, so that whatever
    the kernel computes of them it could have had to compute.  ``row_axes`` are those of the inputs, by site.  Where
    rows are summed, only those left alone have a weight.
    """
    given: RowBlock = inputs[-1]
    n_blocks, size = np.shape(next(iter(given.arrays.values())))[:2]
    chance = np.random.default_rng(0)
    before: dict[str, jax.Array] = program(*inputs) if given.groups is None else {}
    for _ in range(2):
        kept = np.sort(chance.permutation(n_obs)[: max(1, n_obs // 8)])
        blocks = given
        if given.groups is not None:
            counting = np.isin(np.arange(n_blocks * size), kept).astype(np.float32).reshape(n_blocks, size)
            blocks = given._replace(groups=given.groups._replace(weights=counting))
            before = program(*inputs[:-1], blocks)
        rows = chance.permutation(n_blocks * size)
        rows[kept] = kept
        changed = blocks._replace(
            draws={name: _exchanged(value, 1, row_axes[name] + 2, rows, kept) for name, value in blocks.draws.items()},
            values={
                name: _exchanged(value, 0, row_axes[name] + 1, rows, kept) for name, value in blocks.values.items()
            },
            arrays={name: _exchanged(value, 0, 1, rows, kept) for name, value in blocks.arrays.items()},
        )
        after = program(*inputs[:-1], changed)
        for name, value in before.items():
            one, other = np.asarray(value), np.asarray(after[name])
            if name in output_axes and given.groups is None:
                one, other = (array.take(kept, 1 + output_axes[name]) for array in (one, other))
            if not np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"):
                return name
    return None


def _exchanged(value: Any, blocks: int, axis: int, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Give each row, of all blocks, the values of the row ``rows`` names; those that would not change are moved."""
    array = np.moveaxis(np.asarray(value), (blocks, axis), (0, 1))
    flat = array.reshape(-1, *array.shape[2:])
    new = flat[rows]
    moved = new + np.asarray(1, new.dtype) / 16 if new.dtype.kind in "fc" else new
    same = (new == flat) & ~np.isin(np.arange(len(flat)), kept).reshape(-1, *[1] * (flat.ndim - 1))
    new = np.where(same, moved, new).astype(new.dtype)
    return np.moveaxis(new.reshape(array.shape), (0, 1), (blocks, axis))

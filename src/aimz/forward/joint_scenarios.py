"""Several scenarios in one pass, summed over rows, so that results are not stored row by row.

Scenarios that differ only in values are mapped over an axis, with the key outside of it, so that their noise is drawn
once. Scenarios of another structure have their own pass, with the same keys.
"""

__all__ = ["InputKey", "JointPass", "ScenarioGroup", "joint_pass", "tile_rows"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aimz.forward.derivatives import Derivative, derivative_pass
from aimz.forward.pass_spec import PassSpec
from aimz.forward.predictive import RowBlock, RowGroups, SingleDrawPass, one_pass
from aimz.forward.worlds import effect_of
from aimz.kernel import Message
from aimz.statistics import missing_code
from aimz.types import Kernel

_TILE = 1024
"""Number of values per partial sum in a pass over all rows at once."""


def tile_rows(panel: tuple[int, ...]) -> int:
    """Return the number of rows per partial sum in a pass over all rows at once; ``panel`` is the shape of a row."""
    return max(1, _TILE // prod(panel))


class InputKey(NamedTuple):
    """Key of one input of a joint pass. Scenario groups that share a value share its key."""

    name: str
    version: int = 0
    """0 for the first value of that name, else the number of the scenario group that has another value."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ScenarioGroup:
    """Scenarios that differ only in values."""

    plan: PassSpec
    members: tuple[int, ...]
    """Numbers of the scenarios."""
    draws: Mapping[str, InputKey]
    """Key of the draws of each site among the inputs of all scenarios."""
    values: Mapping[str, InputKey]
    """Key of the value of each site that is the same in all draws."""
    arrays: Mapping[str, InputKey]
    """Key of each argument."""
    mapped: frozenset[InputKey] = frozenset()
    """Keys of the inputs whose last axis is the scenarios."""


@dataclass(frozen=True)
class JointPass:
    """The static part of a joint pass."""

    scenario_groups: tuple[ScenarioGroup, ...]
    n_scenarios: int
    baseline: int
    """Number of the scenario that the others are compared with."""
    width: int | None
    """Largest number of row groups in a block; None if rows are not summed, and the result is the second of two
    scenarios minus the baseline, row by row."""
    return_sites: tuple[str, ...]
    row_axes: Mapping[str, int] = field(default_factory=dict)
    """Row axis of one draw, by return site, of the sites that have one."""
    panel_axes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Axes of one draw that are summed over together with the rows; None if a site has the same value along one."""
    tile: int = 0
    """Number of rows per partial sum."""
    derivative: Derivative | None = None
    """Derivatives that are computed instead of scenarios; there is then one scenario group."""


def joint_pass(
    kernel: Kernel, joint: JointPass, read: Callable[[Message], Any], flags: set[str] | None = None
) -> SingleDrawPass:
    """Return ``f(draw_key, draws, values, arrays, rows) -> {site: sums, or differences}`` for one draw.

    ``rows`` is a block, or the groups and weights of all rows.

    Sums over rows have shape ``(n_tiles, 1 + n_scenarios, ..., width)``: first the sums of the baseline, without its
    infinite values, then the sums of each scenario's difference from it. A block is one tile. Summing differences keeps
    an effect from being lost in the rounding of two large sums. A site without rows has shape ``(n_scenarios, ...)``.
    """
    missing = {name for group in joint.scenario_groups for name in group.plan.discrete_sources}
    if joint.derivative is None:
        passes = [one_pass(kernel, group.plan, read, flags) for group in joint.scenario_groups]
    else:
        plan = joint.scenario_groups[0].plan
        passes = [derivative_pass(kernel, plan, joint.derivative, joint.row_axes, read, flags)]

    def run(
        draw_key: jax.Array,
        draws: Mapping[InputKey, Any],
        values: Mapping[InputKey, Any],
        arrays: Mapping[InputKey, Any],
        rows: RowBlock | RowGroups | None = None,
    ) -> dict[str, Any]:
        block = rows if isinstance(rows, RowBlock) else None
        row_groups = rows.row_groups if isinstance(rows, RowBlock) else rows
        order = [member for group in joint.scenario_groups for member in group.members]
        parts: dict[str, list[jax.Array]] = {name: [] for name in joint.return_sites}
        for group, one in zip(joint.scenario_groups, passes, strict=True):
            outputs = _run_group(group, one, draw_key, draws, values, arrays, block, joint.derivative)
            for name, value in outputs.items():
                parts[name].append(value)
        found = {}
        for name, given in parts.items():
            value = given[0] if len(given) == 1 else jnp.concatenate(given)
            if order != sorted(order):
                value = value[jnp.argsort(jnp.asarray(order))]
            if row_groups is None:
                found[name] = effect_of(
                    value[1 - joint.baseline], value[joint.baseline], may_be_missing=name in missing
                )
                continue
            value = _with_nan(value) if name in missing else value
            weighted = row_groups if block is None else _without_padding(row_groups, block.n_rows)
            if name not in joint.row_axes:
                found[name] = value.astype(jnp.promote_types(value.dtype, jnp.float32))
                continue
            axes = (joint.row_axes[name], *joint.panel_axes.get(name, ()))
            found[name] = _sum_rows(value, axes, weighted, joint, tiled=block is None)
        return found

    return run


def _run_group(
    group: ScenarioGroup,
    one: SingleDrawPass,
    draw_key: jax.Array,
    draws: Any,
    values: Any,
    arrays: Any,
    block: RowBlock | None,
    derivative: Derivative | None,
) -> dict[str, Any]:
    """Return the sites of one scenario group, of shape ``(n_members, ...)``, or ``(n_values, ...)`` of derivatives."""

    def own(given: Mapping[InputKey, Any], keys: Mapping[str, InputKey]) -> dict[str, Any]:
        return {name: given[key] for name, key in keys.items() if key in given}

    def axes(given: Mapping[InputKey, Any], keys: Mapping[str, InputKey]) -> dict[str, Any]:
        return {name: -1 if key in group.mapped else None for name, key in keys.items() if key in given}

    def inputs(pick: Callable[[Any, Mapping[str, InputKey]], dict[str, Any]]) -> tuple[Any, Any, Any]:
        cut = None
        if block is not None:
            number, numbers = (None, None) if pick is axes else (block.number, block.rows)
            rows = [pick(block.draws, group.draws), pick(block.values, group.values), pick(block.arrays, group.arrays)]
            cut = RowBlock(number, numbers, rows[0], rows[1], rows[2])
        return pick(values, group.values), pick(arrays, group.arrays), cut

    mine = own(draws, group.draws)
    if not group.mapped:
        found = one(draw_key, mine, *inputs(own))
        if derivative is not None:
            return found
        shape = (len(group.members),)
        return {name: jnp.broadcast_to(value, shape + jnp.shape(value)) for name, value in found.items()}
    mapped: dict[str, Any] = jax.vmap(one, in_axes=(None, None, *inputs(axes)))(draw_key, mine, *inputs(own))
    return mapped


def _with_nan(value: jax.Array) -> jax.Array:
    """Return floats with NaN for the missing code of integers."""
    code, floats = missing_code(value.dtype), value.astype(jnp.promote_types(value.dtype, jnp.float32))
    return floats if code is None else jnp.where(value == code, jnp.nan, floats)


def _without_padding(groups: RowGroups, n_rows: Any) -> RowGroups:
    """Return the same groups with a weight of 0 for the rows that pad a block."""
    inside = jnp.arange(len(groups.weights)).reshape(-1, *[1] * (groups.weights.ndim - 1)) < n_rows
    return groups._replace(weights=jnp.where(inside, groups.weights, 0))


def _rows_last(value: jax.Array, axes: tuple[int | None, ...], shape: tuple[int, ...]) -> jax.Array:
    """Return a site ``(n_scenarios, ...)`` with the rows and the panel, of ``shape``, as one last axis."""
    own = [axis for axis in axes if axis is not None]
    value = jnp.moveaxis(value, [1 + axis for axis in own], range(-len(own), 0))
    sizes = tuple(1 if axis is None else size for axis, size in zip(axes, shape, strict=True))
    rest = value.shape[: value.ndim - len(own)]
    return jnp.broadcast_to(value.reshape(rest + sizes), rest + shape).reshape(*rest, -1)


def _sum_rows(
    found: jax.Array, axes: tuple[int | None, ...], groups: RowGroups, joint: JointPass, *, tiled: bool
) -> jax.Array:
    """Sum a site of shape ``(n_scenarios, ...)`` over the rows of each group; ``tiled`` splits all rows into tiles.

    ``axes`` run along the rows and the panel.
    """
    assert joint.width is not None
    shape, entries, width = groups.weights.shape, jax.tree.map(jnp.ravel, groups), joint.width
    tile = joint.tile * prod(shape[1:]) if tiled else None
    found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
    # Both sums below use these values; without a barrier the compiler would compute, and draw, them twice.
    found = jax.lax.optimization_barrier(found)
    base = found[joint.baseline]
    shared = jnp.where(jnp.isfinite(base), base, 0)
    parts = [_sums(_rows_last(part, axes, shape), entries, width, tile) for part in (shared[None], found - shared)]
    return jnp.concatenate(parts, axis=1)


def _sums(values: jax.Array, groups: RowGroups, width: int, size: int | None) -> jax.Array:
    """Return the weighted sums of ``(..., n_rows)`` over the rows of each group: ``(n_tiles, ..., width)``."""
    if size is None:
        return _sum(values, groups, width)[None]
    short = -values.shape[-1] % size

    def tiles(array: Any) -> jax.Array:
        padded = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, short)])
        return jnp.moveaxis(padded.reshape(*array.shape[:-1], -1, size), -2, 0)

    return jax.vmap(lambda tile, own: _sum(tile, own, width))(tiles(values), jax.tree.map(tiles, groups))


def _sum(values: jax.Array, groups: RowGroups, width: int) -> jax.Array:
    """Return the weighted sums of one tile."""
    weights, codes = groups
    # A value of weight 0 must not turn a sum into NaN.
    weighed = jnp.where(weights > 0, values * weights, 0)
    if codes is None:
        return weighed.sum(-1, keepdims=True)
    by_row = jnp.moveaxis(weighed, -1, 0)
    return jnp.moveaxis(jax.ops.segment_sum(by_row, codes, num_segments=width), 0, -1)

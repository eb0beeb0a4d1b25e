"""Scenarios that are compared: which differ in values only, and what goes into one pass over all of them."""

__all__ = ["ScenarioRequest", "group_by_structure", "joint_of"]

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from aimz.data import BatchReader, RowReader, StackedArrays, open_rows
from aimz.engine.inputs import Given
from aimz.engine.kernel_engine import PreparedCall
from aimz.engine.runner import InputLayout
from aimz.forward import TILE, InputKey, JointPass, RowGroups, ScenarioGroup
from aimz.kernel import freeze
from aimz.statistics import Groups, local_codes


@dataclass(frozen=True)
class ScenarioRequest:
    """Scenarios that were checked and prepared; nothing has been computed yet."""

    prepared: Mapping[str, PreparedCall]
    baseline: str
    groups: Groups | None
    """None where the effect is wanted row by row."""
    reader: BatchReader | None
    """Where the rows come from, if not from arrays."""
    n_obs: int | None
    """None where it is known only when the rows have ended."""
    batch_size: int | None = None
    progress: bool = False
    client: Any = None
    """Of the cluster to compute on."""
    resumable: bool = False
    """Whether rows of an iterable are to be known again."""
    given: Mapping[str, Given] = field(default_factory=dict)
    """What each scenario was given, where that is an iterable."""
    prepare: Mapping[str, Callable[..., PreparedCall]] = field(default_factory=dict)
    """Prepares each scenario with other arrays."""

    @property
    def source(self) -> Given:
        """Where the rows of all scenarios come from."""
        return self.given[self.baseline]

    @property
    def first(self) -> PreparedCall:
        """The baseline; what all scenarios share can be read off it."""
        return self.prepared[self.baseline]


def _alike(prepared: PreparedCall, frozen: dict[int, Hashable]) -> Hashable:
    """Return what two scenarios share if they differ in the values of arrays only."""
    plan = prepared.plan

    def shapes(arrays: Mapping[str, Any]) -> Hashable:
        return tuple(
            sorted(
                (name, tuple((np.shape(leaf), str(_dtype(leaf))) for leaf in jax.tree.leaves(value)))
                for name, value in arrays.items()
            )
        )

    # An object that cannot be compared is still the same as itself.
    static = [(name, frozen.setdefault(id(value), freeze(value))) for name, value in sorted(plan.static.items())]
    return (
        tuple(static),
        tuple(sorted((name, id(function)) for name, function in plan.transforms.items())),
        plan.unobserve,
        plan.row_plates,
        tuple(sorted(plan.row_axes.items())),
        tuple(sorted(prepared.draws)),
        shapes(prepared.values),
        shapes(prepared.call.arrays),
    )


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None) or np.asarray(leaf).dtype


def group_by_structure(comparison: ScenarioRequest) -> list[list[int]]:
    """Return the scenarios, by number, in lists of those that differ in values only."""
    frozen: dict[int, Hashable] = {}
    worlds: dict[Hashable, list[int]] = {}
    for i, prepared in enumerate(comparison.prepared.values()):
        worlds.setdefault(_alike(prepared, frozen), []).append(i)
    return list(worlds.values())


class _Inputs:
    """Inputs of all worlds, under keys of their own where they differ."""

    def __init__(self, n_worlds: int) -> None:
        self.given: dict[Any, Any] = {}
        self.keys: list[dict[str, InputKey]] = [{} for _ in range(n_worlds)]
        """Key of each input of each world, by the name that the kernel uses."""
        self.mapped: list[set[InputKey]] = [set() for _ in range(n_worlds)]
        """Of each world: keys of inputs with an axis of scenarios."""
        self.row_axes: dict[Any, int] = {}

    def add(self, world: int, name: str, parts: list[Any], row_axis: int | None) -> None:
        """Take one input of a world, in the versions its scenarios have."""
        same = all(_same(part, parts[0]) for part in parts)
        if same:
            value = parts[0]
        else:
            value = (
                StackedArrays([open_rows(part, row_axis) for part in parts])
                if row_axis is not None
                else np.stack([np.asarray(part) for part in parts], axis=-1)
            )
        key = InputKey(name)
        if key in self.given and not _same(self.given[key], value):
            key = InputKey(name, world)
        self.given[key] = value
        self.keys[world][name] = key
        if row_axis is not None:
            self.row_axes[key] = row_axis
        if not same:
            self.mapped[world].add(key)

    def without_rows(self) -> dict[Any, Any]:
        """Return the inputs without a row axis."""
        return {key: value for key, value in self.given.items() if key not in self.row_axes}

    def with_rows(self, *, drawn: bool = False) -> dict[Any, RowReader]:
        """Return readers of the inputs with a row axis; the first axis of draws is that of the draws."""
        return {key: open_rows(self.given[key], axis + drawn) for key, axis in self.row_axes.items()}


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return bool(leaves) and len(leaves) == len(others) and all(a is b for a, b in zip(leaves, others, strict=True))


def joint_of(comparison: ScenarioRequest, n_obs: int, block: int | None) -> tuple[JointPass, InputLayout]:
    """Return one pass over all scenarios, and its inputs; over all rows at once if ``block`` is None."""
    scenarios = list(comparison.prepared.values())
    members = group_by_structure(comparison)
    draws, values, arrays = (_Inputs(len(members)) for _ in range(3))
    worlds = []
    for world, numbers in enumerate(members):
        own = [scenarios[i] for i in numbers]
        plan = own[0].plan
        for inputs, kind in ((draws, "draws"), (values, "values")):
            for name in getattr(own[0], kind):
                inputs.add(world, name, [getattr(one, kind)[name] for one in own], plan.row_axes.get(name))
        for name, array in own[0].call.arrays.items():
            arrays.add(world, name, [one.call.arrays[name] for one in own], 0 if array.ndim else None)
        worlds.append(
            ScenarioGroup(
                plan=plan if block is None else replace(plan, n_obs=block),
                members=tuple(numbers),
                draws=draws.keys[world],
                values=values.keys[world],
                arrays=arrays.keys[world],
                mapped=frozenset(values.mapped[world] | arrays.mapped[world]),
            )
        )
    width, row_groups = _row_groups(comparison.groups, n_obs, block or TILE)
    layout = InputLayout(
        draws=draws.without_rows(),
        row_draws=draws.with_rows(drawn=True),
        values=values.without_rows(),
        row_values=values.with_rows(),
        arrays=arrays.without_rows(),
        row_arrays=arrays.with_rows(),
        row_axes={**draws.row_axes, **values.row_axes},
        with_rows=any(one.plan.row_plates for one in scenarios),
        groups=jax.tree.map(open_rows, row_groups),
    )
    first = comparison.first.plan
    returned = {name: first.row_axes[name] for name in first.return_sites if name in first.row_axes}
    baseline = list(comparison.prepared).index(comparison.baseline)
    return JointPass(tuple(worlds), len(scenarios), baseline, width, first.return_sites, returned), layout


def _row_groups(groups: Groups | None, n_obs: int, tile: int) -> tuple[int | None, RowGroups | None]:
    """Return the largest number of sums of a tile, and the weight and the group of each row."""
    if groups is None:
        return None, None
    weights = np.broadcast_to(np.float32(1), (n_obs,)) if groups.weights is None else groups.weights
    width = min(groups.n_cells, tile)
    if groups.codes is None or width == 1:
        return 1, RowGroups(weights)
    codes = groups.codes.astype(np.int32) if width == groups.n_cells else local_codes(groups.codes, tile)
    return width, RowGroups(weights, codes)

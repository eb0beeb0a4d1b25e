"""Inputs of one pass over several scenarios; scenarios that differ only in values of arrays share one `vmap`."""

__all__ = ["joint_pass_of"]

from collections.abc import Hashable, Sequence
from math import prod
from typing import Any

import jax
import numpy as np

from aimz.data import RowReader, StackedArrays, open_rows
from aimz.engine.layout import InputLayout
from aimz.engine.prepared_call import PreparedCall
from aimz.engine.request import PredictionRequest
from aimz.engine.worlds import is_same
from aimz.forward import InputKey, JointPass, RowGroups, ScenarioGroup, tile_rows
from aimz.kernel import freeze
from aimz.statistics import Groups, local_codes


def _structure(prepared: PreparedCall, frozen: dict[int, Hashable]) -> Hashable:
    """Return a key that is equal for two scenarios that differ only in values of arrays."""
    plan = prepared.plan
    leaves = {name: jax.tree.leaves(value) for name, value in sorted(prepared.values.items())}
    arrays = sorted(prepared.call.arrays.items())
    # An object that cannot be compared still equals itself.
    static = [(name, frozen.setdefault(id(value), freeze(value))) for name, value in sorted(plan.static.items())]
    return (
        tuple(static),
        tuple(sorted((name, id(function)) for name, function in plan.transforms.items())),
        plan.unobserve,
        plan.row_plates,
        plan.expected,
        plan.grown,
        plan.worlds_key,
        None if plan.history is None else plan.history.key,
        tuple(sorted(plan.row_axes.items())),
        # Draws of the posterior are one object in all scenarios; values of an intervention by draw are not.
        tuple(sorted((name, id(value)) for name, value in prepared.draws.items())),
        tuple((name, *((np.shape(leaf), str(_dtype(leaf))) for leaf in own)) for name, own in leaves.items()),
        tuple((name, array.shape, str(array.dtype)) for name, array in arrays),
    )


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None) or np.asarray(leaf).dtype


def _group_by_structure(scenarios: Sequence[PreparedCall]) -> list[list[int]]:
    """Return lists of the numbers of scenarios that differ only in values of arrays."""
    if len(scenarios) == 1:
        return [[0]]
    frozen: dict[int, Hashable] = {}
    groups: dict[Hashable, list[int]] = {}
    for i, prepared in enumerate(scenarios):
        groups.setdefault(_structure(prepared, frozen), []).append(i)
    return list(groups.values())


class _Inputs:
    """Inputs of all scenario groups; groups whose values differ have keys of their own."""

    def __init__(self, n_groups: int) -> None:
        self.given: dict[Any, Any] = {}
        self.keys: list[dict[str, InputKey]] = [{} for _ in range(n_groups)]
        """Key of each input of each group, by the name that the kernel uses."""
        self.mapped: list[set[InputKey]] = [set() for _ in range(n_groups)]
        """Keys of the inputs of each group that have an axis of scenarios."""
        self.row_axes: dict[Any, int] = {}

    def add(self, group: int, name: str, parts: list[Any], row_axis: int | None) -> None:
        """Add one input of a group, with its value in each scenario."""
        same = all(is_same(part, parts[0]) for part in parts[1:])
        if same:
            value = parts[0]
        elif row_axis is not None:
            value = StackedArrays([open_rows(part, row_axis) for part in parts])
        else:
            value = np.stack([np.asarray(part) for part in parts], axis=-1)
        key = InputKey(name)
        if key in self.given and not is_same(self.given[key], value):
            key = InputKey(name, group)
        self.given[key] = value
        self.keys[group][name] = key
        if row_axis is not None:
            self.row_axes[key] = row_axis
        if not same:
            self.mapped[group].add(key)

    def without_rows(self) -> dict[Any, Any]:
        """Return the inputs without a row axis."""
        return {key: value for key, value in self.given.items() if key not in self.row_axes}

    def with_rows(self, *, drawn: bool = False) -> dict[Any, RowReader]:
        """Return readers of the inputs with a row axis; the first axis of draws is that of the draws."""
        return {key: open_rows(self.given[key], axis + drawn) for key, axis in self.row_axes.items()}


def joint_pass_of(request: PredictionRequest, n_obs: int, block: int | None) -> tuple[JointPass, InputLayout]:
    """Return one pass over all scenarios and its inputs; over all rows together if ``block`` is None."""
    scenarios = list(request.scenarios.values())
    members = _group_by_structure(scenarios)
    draws, values, arrays = (_Inputs(len(members)) for _ in range(3))
    groups = []
    for number, numbers in enumerate(members):
        own = [scenarios[i] for i in numbers]
        plan = own[0].plan
        for inputs, kind in ((draws, "draws"), (values, "values")):
            for name in getattr(own[0], kind):
                inputs.add(number, name, [getattr(one, kind)[name] for one in own], plan.row_axes.get(name))
        for name, array in own[0].call.arrays.items():
            arrays.add(number, name, [one.call.arrays[name] for one in own], 0 if array.ndim else None)
        groups.append(
            ScenarioGroup(
                plan=plan if block is None else plan.for_rows(block),
                members=tuple(numbers),
                draws=draws.keys[number],
                values=values.keys[number],
                arrays=arrays.keys[number],
                mapped=frozenset(values.mapped[number] | arrays.mapped[number]),
            )
        )
    tile = block or tile_rows(request.groups.row_shape if request.groups else ())
    width, row_groups = _row_groups(request.groups, n_obs, tile)
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
    first = request.first.plan
    returned = {name: first.row_axes[name] for name in first.outputs if name in first.row_axes}
    none = (None,) * len(request.groups.row_shape if request.groups else ())
    baseline = list(request.scenarios).index(request.baseline)
    joint = JointPass(
        scenario_groups=tuple(groups),
        n_scenarios=len(scenarios) if request.derivative is None else request.derivative.n_values,
        derivative=request.derivative,
        baseline=baseline,
        width=width,
        tile=tile,
        return_sites=first.outputs,
        row_axes=returned,
        panel_axes={**request.panel_axes, **dict.fromkeys(set(first.outputs) - set(first.return_sites), none)},
    )
    return joint, layout


def _row_groups(groups: Groups | None, n_obs: int, tile: int) -> tuple[int | None, RowGroups | None]:
    """Return the largest number of sums of a tile, and the weight and the group of each row."""
    if groups is None:
        return None, None
    shape = (n_obs, *groups.row_shape)
    weights = np.broadcast_to(np.float32(1), shape) if groups.weights is None else groups.weights
    width = min(groups.n_cells, tile * prod(groups.row_shape))
    if groups.codes is None or width == 1:
        return 1, RowGroups(weights)
    codes = groups.codes.astype(np.int32) if width == groups.n_cells else local_codes(groups.codes, tile)
    return width, RowGroups(weights, codes)

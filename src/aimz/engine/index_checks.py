"""Check the indices that a kernel computes from rows of data, before or while they are streamed."""

__all__ = ["StepIndexChecks", "check_call_indices", "check_indices"]

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.data import KernelArguments
from aimz.engine.fingerprint import without_copies
from aimz.engine.layout import InputLayout
from aimz.forward import CompiledPrograms, JointPass, PassSpec
from aimz.kernel import BadIndices, DrawnArgument, IndexCheck, IndexChecks, ResolvedIntervention


def check_indices(
    programs: CompiledPrograms,
    plan: PassSpec,
    call: KernelArguments,
    values: Mapping[str, Any] | None = None,
    *,
    first_row: int | None = None,
    read_lazy: bool = False,
) -> None:
    """Check all rows of a call; without ``read_lazy``, not if an index is computed from an argument outside memory.

    ``values`` are the values of sites that are set.

    Raises
    ------
    ValueError
        If an index is outside of its table.
    """
    checks = programs.index_checks(plan, call.arrays, values or {}, call.n_obs)
    if checks is None:
        return
    inputs = {**plan.whole_arrays, **(values or {}), **call.arrays}
    if read_lazy or not any(getattr(inputs[name], "is_lazy", False) for name in checks.names):
        n_obs, first = call.n_obs, first_row or 0
        rows = f"{n_obs:,} rows" if first_row is None else f"rows {first:,} to {first + n_obs - 1:,}"
        _raise_faults(checks.faults(inputs, 0, n_obs, first), rows, call.tables)


def check_call_indices(
    programs: CompiledPrograms,
    plan: PassSpec,
    call: KernelArguments,
    values: Mapping[str, Any],
    acts: ResolvedIntervention,
) -> None:
    """Check all rows of a call, for each distinct value if the intervention has values that differ between draws.

    Raises
    ------
    ValueError
        If an index is outside of its table.
    """
    check_indices(programs, plan, call, values)
    checks = programs.index_checks(plan, call.arrays, values, call.n_obs) if acts.draws else None
    sources = frozenset().union(*(check.sources for check in checks.checks)) if checks else frozenset()
    arguments = {one.key: one for one in acts.drawn}
    for key, draws in acts.draws.items():
        one = arguments.get(key, DrawnArgument(key, key))
        columns = {column for name, column in sources if name == one.argument}
        if not columns or (one.column is not None and columns.isdisjoint({None, one.column})):
            continue
        for number in np.unique(without_copies(draws).reshape(len(draws), -1), axis=0, return_index=True)[1]:
            if key not in arguments:
                check_indices(programs, plan, call, {**values, key: draws[number]})
                continue
            given = {**call.arrays, **plan.whole_arrays}[one.argument]
            new = np.asarray(one.set(np.asarray(given), draws[number]))
            if one.argument in call.arrays:
                check_indices(programs, plan, replace(call, arrays={**call.arrays, one.argument: new}), values)
            else:
                static = {**plan.static, one.argument: jax.numpy.asarray(new)}
                check_indices(programs, replace(plan, static=static), call, values)


type _Place = tuple[Any, int | None]
"""Key of an input in a layout, and its position along the axis of scenarios if it has one."""
type _Places = dict[str, _Place]
type _Scenario = tuple[IndexChecks, _Places, dict[str, jax.Array]]
"""Checks of a scenario, the places of its inputs in the layout, and its arguments without a row axis."""


@dataclass(frozen=True)
class StepIndexChecks:
    """Checks of the rows of the steps of a call, for arguments that are read lazily."""

    scenarios: tuple[_Scenario, ...]
    layout: InputLayout

    @staticmethod
    def of(
        programs: CompiledPrograms, passes: PassSpec | JointPass, layout: InputLayout, n_rows: int
    ) -> "StepIndexChecks":
        """Return the checks of a pass over a layout with ``n_rows`` rows, about."""
        lazy = {key for key, rows in layout.row_arrays.items() if rows.is_lazy}
        found: list[_Scenario] = []
        given = {**layout.values, **layout.row_values}, {**layout.arrays, **layout.row_arrays}
        for plan, values, arrays in _scenarios(passes, layout) if lazy else ():
            shapes = [
                {name: _shape(each[key], member) for name, (key, member) in places.items() if key in each}
                for each, places in zip(given, (values, arrays), strict=True)
            ]
            checks = programs.index_checks(plan, shapes[1], shapes[0], n_rows)
            places = {**values, **arrays}
            if checks is not None and any(name in places and places[name][0] in lazy for name in checks.names):
                found.append((checks, places, plan.whole_arrays))
        return StepIndexChecks(tuple(found), layout)

    def check(self, start: int, stop: int, rows: Mapping[Any, np.ndarray]) -> None:
        """Check rows of the arguments that were read.

        Raises
        ------
        ValueError
            If an index is outside of its table.
        """
        for checks, places, whole in self.scenarios:
            given = {name: self._rows(*places[name], start, stop, rows) for name in checks.names - whole.keys()}
            faults = checks.faults({**whole, **given}, 0, stop - start, first_row=start)
            if faults:
                columns = {str(key): reader.columns for key, reader in self.layout.row_arrays.items()}
                _raise_faults(faults, f"rows {start:,} to {stop - 1:,}", columns)

    def _rows(self, key: Any, member: int | None, start: int, stop: int, rows: Mapping[Any, np.ndarray]) -> Any:
        """Return rows of one input in one scenario."""
        layout = self.layout
        if key in rows:
            value: Any = rows[key]
        elif key in layout.row_values:
            value = layout.row_values[key].read(start, stop)
        else:
            value = layout.values[key] if key in layout.values else layout.arrays[key]
        return value if member is None else value[..., member]


def _scenarios(passes: PassSpec | JointPass, layout: InputLayout) -> Iterator[tuple[PassSpec, _Places, _Places]]:
    """Yield the pass of each scenario, and the places of its values and arrays."""
    if isinstance(passes, PassSpec):
        names = [*layout.values, *layout.row_values], [*layout.arrays, *layout.row_arrays]
        yield passes, {name: (name, None) for name in names[0]}, {name: (name, None) for name in names[1]}
        return
    for group in passes.scenario_groups:
        for i in range(len(group.members)):
            values, arrays = (
                {name: (key, i if key in group.mapped else None) for name, key in keys.items()}
                for keys in (group.values, group.arrays)
            )
            yield group.plan, values, arrays


def _shape(value: Any, member: int | None) -> Any:
    """Return the shape and dtype of an input in one scenario; a tree is returned as it is."""
    if not hasattr(value, "dtype"):
        return value
    return jax.ShapeDtypeStruct(tuple(value.shape if member is None else value.shape[:-1]), value.dtype)


def _raise_faults(faults: Mapping[IndexCheck, BadIndices], rows: str, columns: Mapping[str, Any]) -> None:
    """Raise if rows have an index outside of a table; ``rows`` describes the rows that were checked."""
    if not faults:
        return
    check, bad = next(iter(faults.items()))
    plate = "" if check.plate is None else f" along plate `{check.plate}`"
    # NumPy converts NaN to the smallest integer.
    value = "NaN" if bad.value == np.iinfo(np.int32).min else bad.value
    index = " and ".join(sorted(_name(source, columns) for source in check.sources)) or "a number in the kernel"
    msg = (
        f"{bad.n_rows:,} of {rows} have an index outside of {check.table}, which has {check.last + 1:,} "
        f"entries{plate}; the first is row {bad.first_row:,} with {value}, computed from {index}. Valid are 0 to "
        f"{check.last:,}. Correct the rows (pandas codes an unseen category as -1). To predict a new group, pass the "
        "kernel a larger number of groups: the new entries of its plate are then drawn given their parents."
    )
    raise ValueError(msg)


def _name(source: tuple[str, int | None], columns: Mapping[str, Collection[str]]) -> str:
    """Return the name of an input, or of the column that is used."""
    name, column = source
    if column is None:
        return f"`{name}`"
    known = list(columns.get(name, ()))
    return f"column `{known[column]}`" if known else f"`{name}[:, {column}]`"

"""Find the tables that a kernel indexes with its arguments.

JAX clamps, wraps or fills an index outside of an array silently. The jaxpr of a kernel shows which indices depend on
its arguments alone, so that they can be evaluated for rows of data without running the kernel.
"""

__all__ = ["find_index_checks"]

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from aimz.kernel.flat_jaxpr import FlatJaxpr, Step, flatten
from aimz.kernel.index_checks import IndexCheck, IndexChecks, Source
from aimz.kernel.tracing import AbstractHandler
from aimz.types import Kernel

type _Leaf = tuple[str | None, int | None]
"""Name and row axis of an input; no name for an input that is no index."""


def find_index_checks(
    kernel: Kernel,
    arrays: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    row_axes: Mapping[str, int],
    static: Mapping[str, object],
    transforms: Mapping[str, Callable[[Any], Any]],
    unobserve: frozenset[str],
    row_plates: frozenset[str],
    n_rows: int,
) -> IndexChecks | None:
    """Return the checks of a kernel, traced at ``n_rows`` rows, or None if it indexes nothing with its arguments.

    ``values`` are the values of sites, and ``row_axes`` their row axes.
    """
    # Arrays without a row axis are static arguments.
    axes = {name: 0 if array.ndim and name not in static else None for name, array in arrays.items()}
    plates: dict[str, dict[str, int]] = {}
    sites: list[str] = []

    def trace(n: int) -> FlatJaxpr:
        def run(arrays: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
            handler = AbstractHandler(
                kernel,
                random.key(0),
                n_obs=n,
                values=values,
                transforms=transforms,
                unobserve=unobserve,
                row_plates=row_plates,
            )
            messages = handler.run({**static, **arrays})
            found = {name: m["value"] for name, m in messages.items() if hasattr(m["value"], "dtype")}
            sites[:] = found
            plates.update({k: {f.name: f.size for f in m.get("cond_indep_stack", ())} for k, m in messages.items()})
            return list(found.values())

        given = {name: _resized(array, axes[name], n) for name, array in arrays.items()}
        fixed = {
            name: jax.tree.map(partial(_resized, axis=row_axes.get(name), size=n), value)
            for name, value in values.items()
        }
        return flatten(jax.make_jaxpr(run)(given, fixed))

    flat = trace(n_rows)
    if not any(_tables(flat, step) for step in flat.steps):
        return None
    names = list(sites)
    try:
        other: FlatJaxpr | None = trace(n_rows + 1)
    except Exception:  # noqa: BLE001, RUF100 (a kernel may accept one number of rows only)
        other = None
    if other is not None and [s.name for s in other.steps] != [s.name for s in flat.steps]:
        other = None
    leaves: list[_Leaf] = [(name, axes[name]) for name in sorted(arrays)]
    for name in sorted(values):  # a tree of parameters is no index
        plain = hasattr(values[name], "dtype")
        leaves += [(name if plain else None, row_axes.get(name)) for _ in jax.tree.leaves(values[name])]
    return _Finder(flat, leaves, plates, names).checks(other, n_rows)


def _resized(leaf: Any, axis: int | None, size: int) -> jax.ShapeDtypeStruct:
    shape = list(np.shape(leaf))
    if axis is not None:
        shape[axis] = size
    return jax.ShapeDtypeStruct(tuple(shape), jnp.result_type(leaf))


def _tables(flat: FlatJaxpr, step: Step) -> list[tuple[int, int, int | None, int, int, int]]:
    """Return table, index, column of the index, axis of the table, and the smallest and largest valid index."""
    name, ins, params = step.name, step.ins, step.params
    if name == "one_hot":
        return [(ins[0], ins[0], None, -1, -(2**31), params["shape"][-1] - 1)]
    shape = flat.shape(ins[0]) if ins else ()
    if name == "gather":
        sizes, axes = params["slice_sizes"], params["dimension_numbers"].start_index_map
        return [(ins[0], ins[1], k, axis, 0, shape[axis] - sizes[axis]) for k, axis in enumerate(axes)]
    if name.startswith("scatter"):
        numbers = params["dimension_numbers"]
        axes = numbers.scatter_dims_to_operand_dims
        return [
            (ins[0], ins[1], k, axis, 0, shape[axis] - 1)
            for k, axis in enumerate(axes)
            if axis in numbers.inserted_window_dims
        ]
    if name in ("dynamic_slice", "dynamic_update_slice"):
        sizes, first = (params["slice_sizes"], 1) if name == "dynamic_slice" else (flat.shape(ins[1]), 2)
        pairs = enumerate(ins[first:])
        return [(ins[0], at, None, axis, 0, shape[axis] - sizes[axis]) for axis, at in pairs if axis < len(shape)]
    return []


_SHAPE_ONLY = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "copy"})


class _Finder:
    """Finds the checks in a flat jaxpr."""

    def __init__(
        self,
        flat: FlatJaxpr,
        leaves: Sequence[_Leaf],
        plates: Mapping[str, Mapping[str, int]],
        sites: Sequence[str],
    ) -> None:
        self.flat = flat
        self.leaves = leaves
        self.plates = plates
        self.made = {out: step for step in flat.steps for out in step.outs}
        self.used: dict[int, list[Step]] = {}
        for step in flat.steps:
            for i in step.ins:
                self.used.setdefault(i, []).append(step)
        self.sites = {number: name for number, name in zip(flat.outputs, sites, strict=True) if number in self.made}
        self.sources = self._sources()
        self.unwrapped: dict[int, int] = {}
        """Numbers of indices after and before jnp adds the length of the table to negative ones."""

    def _sources(self) -> dict[int, frozenset[Source]]:
        """Return the inputs of each value that is computed from inputs and constants, without random numbers."""
        flat = self.flat
        found: dict[int, frozenset[Source]] = {
            number: frozenset({(name, None)})
            for number, (name, _) in zip(flat.inputs, self.leaves, strict=True)
            if name is not None
        }
        found |= {number: frozenset() for number in flat.constants}
        for step in flat.steps:
            values = (*step.ins, *step.outs)
            if any(i not in found for i in step.ins) or any(_is_key(flat.avals[i]) for i in values):
                continue
            if step.name.startswith(("random_", "threefry", "platform_index")):
                continue
            sources = frozenset[Source]().union(*(found[i] for i in step.ins))
            if step.name == "slice" and step.ins[0] in flat.inputs and len(flat.shape(step.ins[0])) == 2:
                start, limit = step.params["start_indices"][1], step.params["limit_indices"][1]
                if limit == start + 1:
                    sources = frozenset((name, start) for name, _ in sources)
            found |= dict.fromkeys(step.outs, sources)
        return found

    def checks(self, other: FlatJaxpr | None, n_rows: int) -> IndexChecks | None:
        """Return all checks; ``other`` is a trace at another number of rows, if the kernel accepts it."""
        flat = self.flat

        def rows_of(number: int) -> int | None:
            """Return the row axis of a value."""
            if other is None:
                return next((i for i, size in enumerate(flat.shape(number)) if size == n_rows), None)
            pairs = zip(flat.shape(number), other.shape(number), strict=False)
            return next((i for i, (here, there) in enumerate(pairs) if here != there), None)

        found: list[IndexCheck] = []
        for step in flat.steps:
            if not all(self._is_provable(*condition, rows_of) for condition in step.conditions):
                continue  # an index in a branch that is not taken is no error
            for table, index, column, axis, first, last in _tables(flat, step):
                if rows_of(table) == axis and axis >= 0:
                    continue  # other rows are looked up, not a table
                number, column = self._one_column(index, column)
                if number not in self.sources:
                    continue
                size = last + 1 if axis < 0 else flat.shape(table)[axis]
                base = self._unwrap(number, size)
                if prod(flat.shape(base)) == prod(flat.shape(number)) and (
                    column is None or flat.shape(number)[-1] == 1
                ):
                    number, column = base, None
                sources, row_axis = self.sources[number], rows_of(number)
                by_row = any(self._row_axis(name) is not None for name, _ in sources)
                if (row_axis is None) == by_row:
                    continue  # a number computed from all rows together, or a count of the rows
                if not sources and not _is_same_constant(base, flat, other):
                    continue
                text, plate = self._describe(table, axis, size)
                first = first if sources or axis < 0 else -size  # a kernel may count a constant from the end
                guards = self._guards(step)
                check = IndexCheck(number, column, first, last, text, plate, sources, row_axis, guards, step.conditions)
                if check not in found:
                    found.append(check)
        wanted = [check.index for check in found]
        wanted += [number for check in found for number, _ in (*check.guards, *check.conditions)]
        steps = tuple(self._needed(wanted))
        used = {i for step in steps for i in step.ins} | set(wanted)
        numbered = zip(self.leaves, flat.inputs, strict=True)
        leaves = tuple((name, number, axis) for (name, axis), number in numbered if name is not None and number in used)
        checks = IndexChecks(flat, tuple(found), steps, leaves, n_rows)
        return checks if found else None

    def _is_provable(self, predicate: int, wanted: int, rows_of: Callable[[int], int | None]) -> bool:
        """Return whether some rows can prove that a condition is met, by each row or by all of them.

        A number that is computed from all rows must be whether any of them has a property.
        """
        shape = self.flat.shape(predicate)
        if predicate not in self.sources or len(shape) > 1 or (shape and rows_of(predicate) is None):
            return False
        if shape:
            return True
        while (step := self.made.get(predicate)) is not None and step.name in _SHAPE_ONLY:
            predicate = step.ins[0]
        by_row = any(self._row_axis(name) is not None for name, _ in self.sources[predicate])
        return not by_row or (wanted == 1 and step is not None and step.name == "reduce_or")

    def _row_axis(self, name: str) -> int | None:
        return next(axis for other, axis in self.leaves if other == name)

    def _one_column(self, index: int, column: int | None) -> tuple[int, int | None]:
        """Return the value that is one column of an index of several, if they are concatenated from single columns."""
        step = self.made.get(index)
        if column is None or step is None or step.name != "concatenate":
            return index, column
        last = len(self.flat.shape(index)) - 1
        single = step.params["dimension"] == last and all(self.flat.shape(i)[-1] == 1 for i in step.ins)
        return (step.ins[column], 0) if single else (index, column)

    def _unwrap(self, index: int, size: int) -> int:
        """Return the index before ``size`` is added to negative ones, and record that it is checked in their place."""
        step = self.made.get(index)
        while step is not None and step.name in _SHAPE_ONLY and self.flat.avals[step.ins[0]].dtype.kind != "f":
            index = step.ins[0]
            step = self.made.get(index)
        if step is None or step.name != "select_n" or len(step.ins) != 3:
            return index
        negative, plain, wrapped = (self.made.get(step.ins[0]), step.ins[1], self.made.get(step.ins[2]))
        if negative is None or wrapped is None or negative.name != "lt" or wrapped.name != "add":
            return index
        added = self.flat.constants.get(wrapped.ins[1])
        same = all(self._equal(plain, one.ins[0]) for one in (negative, wrapped))
        if same and added is not None and np.all(added == size):
            self.unwrapped[step.outs[0]] = plain
            return plain
        return index

    def _equal(self, one: int, other: int) -> bool:
        """Return whether two values are the same value or equal constants."""
        known = self.flat.constants
        return one == other or (one in known and other in known and np.array_equal(known[one], known[other]))

    def _needed(self, wanted: Sequence[int]) -> Iterator[Step]:
        """Yield the steps that compute some values, without the wrapping of indices."""
        needed = set(wanted)
        kept = []
        for step in reversed(self.flat.steps):
            if needed.isdisjoint(step.outs):
                continue
            if step.outs[0] in self.unwrapped:
                step = replace(step, name="copy", ins=(self.unwrapped[step.outs[0]],))
            kept.append(step)
            needed.update(step.ins)
        yield from reversed(kept)

    def _describe(self, table: int, axis: int, size: int) -> tuple[str, str | None]:
        """Return a description of a table by the site that it is computed from, and the plate along the axis."""
        if axis < 0:
            return "`jax.nn.one_hot`", None
        queue, seen = deque([table]), {table}
        while queue:
            number = queue.popleft()
            if number in self.sites:
                name = self.sites[number]
                plates = [plate for plate, length in self.plates.get(name, {}).items() if length == size]
                text = f"site `{name}`" if number == table else f"an array computed from site `{name}`"
                return text, plates[0] if len(plates) == 1 else None
            step = self.made.get(number)
            new = [] if step is None else [i for i in step.ins if i not in seen]
            seen.update(new)
            queue.extend(new)
        return "an array in the kernel", None

    def _guards(self, step: Step) -> tuple[tuple[int, int], ...]:
        """Return where an entry is used, if every use selects entries by a predicate of the arguments (`jnp.where`)."""
        guards: list[tuple[int, int]] = []
        queue, seen = list(step.outs), set(step.outs)
        while queue:
            number = queue.pop()
            if number in self.flat.outputs:
                return ()
            for user in self.used.get(number, ()):
                if user.name == "select_n" and user.ins[0] in self.sources and number != user.ins[0]:
                    guards.append((user.ins[0], user.ins.index(number, 1) - 1))
                    continue
                if not user.outs:
                    return ()
                new = [out for out in user.outs if out not in seen]
                seen.update(new)
                queue.extend(new)
            if number not in self.used:
                return ()
        return tuple(dict.fromkeys(guards))


def _is_same_constant(number: int, flat: FlatJaxpr, other: FlatJaxpr | None) -> bool:
    """Return whether a value is a constant of the kernel that does not depend on the number of rows."""
    if other is None or number not in flat.constants or number not in other.constants:
        return False
    return np.array_equal(np.asarray(flat.constants[number]), np.asarray(other.constants[number]))


def _is_key(aval: Any) -> bool:
    return bool(jnp.issubdtype(getattr(aval, "dtype", np.float32), jax.dtypes.prng_key))

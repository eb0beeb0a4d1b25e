"""Check that a program moves nothing across rows, by comparing two jaxprs of it at two numbers of rows.

In any value, the axis whose length differs between the traces is the row axis. Rows do not interact if

- every value has at most one such axis, exactly as long as the rows: ``X @ X.T`` and ``X[:-1]`` violate this;
- no value with a row axis is turned into one without: no sums, maxima, ``X[0]``;
- nothing moves along that axis: no cumulative sum, no sorting, no look-up of other rows;
- every value with a row axis is computed from the rows or from the noise of this block, or is the same in all rows:
  ``jnp.ones``, but neither ``jnp.arange`` nor the noise of a key that is the same in every block;
- apart from shapes, the two traces are equal: the number of rows is not used in any computation.
"""

__all__ = ["RowUse", "row_use"]

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from aimz.kernel.jaxpr_primitives import (
    SubJaxpr,
    carries,
    is_sampler,
    keys_of,
    live_equations,
    moves_along_axis,
    subjaxprs,
)

type Label = frozenset[str]
"""Properties of a value that may be an index: see `_JaxprComparison.labels`."""


@dataclass(frozen=True)
class RowUse:
    """Uses of rows by a program, found by comparing traces at two numbers of rows."""

    obstacle: str | None = None
    """Reason why all rows must be computed together, or None."""
    uses_local_index: bool = False
    """True if row numbers index arrays of the rows in the block, so that they must count from 0."""
    uses_global_index: bool = False
    """True if row numbers are used otherwise, so that they must be the numbers in the whole data set."""
    rejection_sampler: bool = False
    """True if the program contains a rejection sampler of NumPyro (von Mises, ...). Its while-loop runs until every row
    accepts, so the draw of a row, but not its distribution, depends on the other rows in its block."""


class RowsInteract(Exception):  # noqa: N818 (not an error)
    """Raised with the reason why the rows must be computed together."""


def row_use(small: Any, large: Any, sizes: tuple[int, int], *, rows: int | None, number: int | None) -> RowUse:
    """Compare two closed jaxprs of one program, traced at the two numbers of rows in ``sizes``.

    ``rows`` and ``number`` are the positions of the row numbers and of the number of the block among the inputs.
    """
    comparison = _JaxprComparison(sizes)
    inputs = small.jaxpr.invars
    if rows is not None:
        comparison.labels[inputs[rows]] = frozenset({"number"})
    if number is not None:
        comparison.block_dependent.add(inputs[number])
    try:
        for here, there in zip(small.consts, large.consts, strict=True):
            comparison.check_constant(here, there)
        comparison.jaxpr(small.jaxpr, large.jaxpr)
        for here, there in zip(small.jaxpr.outvars, large.jaxpr.outvars, strict=True):
            comparison.record_use(comparison.result(here, there))
    except RowsInteract as reason:
        return RowUse(str(reason))
    except ValueError:  # one jaxpr has more inputs or constants than the other
        return RowUse(_DEPENDS_ON_ROW_COUNT)
    if comparison.uses_local_index and comparison.uses_global_index:
        return RowUse("it uses row numbers both as indices of the rows in a block and as numbers in the data set")
    return RowUse(None, comparison.uses_local_index, comparison.uses_global_index, comparison.rejection_sampler)


_USES_ROW_COUNT = "it computes with the number of rows"
_DEPENDS_ON_ROW_COUNT = "its program depends on the number of rows"
_KEEPS_INDEX = frozenset(
    {"lt", "add", "select_n", "clamp", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "concatenate"}
)
"""Primitives whose result is still an index if their input is one."""


class _JaxprComparison:
    """Compares two jaxprs of one program, equation by equation."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.sizes = sizes
        self.uses_local_index = False
        self.uses_global_index = False
        self.rejection_sampler = False
        self._sampling = False
        self._loops_until_all_done = False
        self.labels: dict[Any, Label] = {}
        """Labels of indices: "number" or "count" (row numbers, of the data set or counted by the kernel), "moved" (an
        offset was added), "wrapped" (the number of rows was added, as jnp does to negative indices), "size" (the value
        is the number of rows)."""
        self.block_dependent: set[Any] = set()
        """Values that depend on the number of the block."""

    def depends_on_block(self, atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and atom in self.block_dependent

    def label(self, atom: Any) -> Label:
        return frozenset() if isinstance(atom, core.Literal) else self.labels.get(atom, frozenset())

    def result(self, here: Any, there: Any) -> Label:
        """Return the labels of an output, which may be a literal."""
        plain = isinstance(here, core.Literal), isinstance(there, core.Literal)
        if any(plain) and not (all(plain) and _equal(here.val, there.val)):
            return frozenset({"size"})
        return self.label(here)

    def axis(self, here: Any, there: Any) -> int | None:
        """Return the row axis of a value, given the value in both traces, or None."""
        one, other = (
            np.shape(here) if not hasattr(here, "aval") else here.aval.shape,
            getattr(there, "aval", there).shape,
        )
        if len(one) != len(other):
            raise RowsInteract(_DEPENDS_ON_ROW_COUNT)
        axes = [i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
        if len(axes) > 1:
            raise RowsInteract("it compares rows with rows")
        if axes and (one[axes[0]], other[axes[0]]) != self.sizes:
            raise RowsInteract("it selects, splits or extends its rows")
        return axes[0] if axes else None

    def check_constant(self, here: Any, there: Any) -> None:
        """Raise if a constant changes with the number of rows, unless it is the same in all rows."""
        if jnp.issubdtype(getattr(here, "dtype", np.float32), jax.dtypes.prng_key):
            return
        axis = self.axis(np.asarray(here), np.asarray(there))
        one, other = (
            np.asarray(value) if axis is None else np.moveaxis(np.asarray(value), axis, 0) for value in (here, there)
        )
        if axis is not None:
            one, other = (one[:1], other[:1]) if (one == one[:1]).all() and (other == other[:1]).all() else (one, other)
        if one.shape != other.shape or not np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"):
            raise RowsInteract("it makes an array that depends on the number of rows")

    def jaxpr(self, small: Any, large: Any, *, loop: bool = False) -> None:
        small_equations, large_equations = list(live_equations(small)), list(live_equations(large))
        if [e.primitive.name for e in small_equations] != [e.primitive.name for e in large_equations]:
            raise RowsInteract(_DEPENDS_ON_ROW_COUNT)
        for here, there in zip(small_equations, large_equations, strict=True):
            self.equation(here, there, loop=loop)

    def equation(self, here: Any, there: Any, *, loop: bool) -> None:
        name = here.primitive.name
        labels = frozenset[str]().union(*map(self.label, here.invars)) | self._check_literals(here, there, loop=loop)
        self._check_parameters(here, there)
        ins = [self.axis(a, b) for a, b in zip(here.invars, there.invars, strict=True)]
        outs = [self.axis(a, b) for a, b in zip(here.outvars, there.outvars, strict=True)]
        if any(self.depends_on_block(atom) for atom in here.invars):
            self.block_dependent.update(here.outvars)
        insides = list(subjaxprs(name, here, there))
        if insides:
            outside = self._sampling, self._loops_until_all_done
            self._sampling, self._loops_until_all_done = self._sampling or is_sampler(here.params.get("name")), False
            for inside in insides:
                self._compare_inside(inside, here, labels)
            if self._loops_until_all_done and not self._finished_rows_stay(here, there):
                raise RowsInteract("it loops until all rows are done")
            self._sampling, self._loops_until_all_done = outside
            return
        # The condition of a loop whose rows need different numbers of iterations is reduced over the rows.
        ends_loop = loop and name in ("reduce_or", "reduce_and")
        if ends_loop and None in outs:
            self.rejection_sampler |= self._sampling
            self._loops_until_all_done |= not self._sampling
        by_row = any(axis is not None for axis in ins)
        if any(axis is not None for axis in outs):
            self._check_noise(name, here, ins)
        if by_row:
            if None in outs and not ends_loop:
                raise RowsInteract(f"it reduces over rows (`{name}`)")
            _check_moves(name, here, ins)
        elif any(axis is not None for axis in outs):
            self._check_new_row_axis(name, here, outs)
        if name in ("gather", "dynamic_slice") or name.startswith("scatter"):
            self._check_lookup(name, here, ins, labels)
        elif labels and name in _KEEPS_INDEX:
            moved = name == "add" and "wrapped" not in labels
            self.labels |= dict.fromkeys(here.outvars, labels | ({"moved"} if moved else frozenset()))
        else:
            self.record_use(labels)

    def record_use(self, labels: Label) -> None:
        """Record that row numbers are used as values; raise if the number of rows is."""
        if "count" in labels:
            raise RowsInteract("it counts the rows (as `jnp.arange(X.shape[0])` does)")
        if "size" in labels or labels == {"wrapped"}:
            raise RowsInteract(_USES_ROW_COUNT)
        self.uses_global_index |= "number" in labels

    def _compare_inside(self, inside: SubJaxpr, here: Any, labels: Label) -> None:
        """Compare a jaxpr inside an equation, with the labels of its inputs."""
        for one, other in zip(inside.consts[0], inside.consts[1], strict=True):
            self.check_constant(one, other)
        # A function may be called twice; the labels of its values in the first call do not hold in the second.
        for var in (*inside.small.invars, *(v for equation in inside.small.eqns for v in equation.outvars)):
            self.labels.pop(var, None)
            self.block_dependent.discard(var)
        if inside.operands is None:
            self.record_use(labels)
        else:
            for var, atom in zip(inside.small.invars, inside.operands, strict=True):
                if self.label(atom):
                    self.labels[var] = self.label(atom)
                if self.depends_on_block(atom):
                    self.block_dependent.add(var)
        self.jaxpr(inside.small, inside.large, loop=inside.is_condition)
        if not inside.is_condition:
            results = map(self.result, inside.small.outvars, inside.large.outvars)
            for var, label in zip(here.outvars, results, strict=False):
                if label:
                    self.labels[var] = self.label(var) | label

    def _finished_rows_stay(self, here: Any, there: Any) -> bool:
        """Return whether finished rows of a loop keep their values until it ends, as under `jax.vmap`."""
        body, other = here.params["body_jaxpr"].jaxpr, there.params["body_jaxpr"].jaxpr
        made = {var: equation for equation in body.eqns for var in equation.outvars}
        first = here.params["body_nconsts"]
        for before, there_, after in zip(body.invars[first:], other.invars[first:], body.outvars, strict=True):
            if before is after or self.axis(before, there_) is None:
                continue
            chosen = made.get(after) if not isinstance(after, core.Literal) else None
            if chosen is None or before not in [a for a in chosen.invars[1:] if not isinstance(a, core.Literal)]:
                return False
            if chosen.primitive.name != "select_n" and chosen.params.get("name") != "_where":
                return False
        return True

    def _check_literals(self, here: Any, there: Any, *, loop: bool) -> Label:
        """Raise if a literal changes with the number of rows, except where jnp wraps negative indices."""
        found: Label = frozenset()
        for one, other in zip(here.invars, there.invars, strict=True):
            if isinstance(one, core.Literal) != isinstance(other, core.Literal):
                raise RowsInteract(_USES_ROW_COUNT)
            if isinstance(one, core.Literal) and not _equal(one.val, other.val):
                if np.ndim(one.val):
                    self.check_constant(one.val, other.val)
                elif np.asarray(one.val).dtype.kind in "iu" and not loop and here.primitive.name in ("add", "clamp"):
                    found = frozenset({"wrapped"})
                else:
                    raise RowsInteract(_USES_ROW_COUNT)
        return found

    def _check_parameters(self, here: Any, there: Any) -> None:
        by_row = here.primitive.name == "scan" and here.params["length"] != there.params["length"]
        if by_row and carries(here):
            raise RowsInteract("it loops over the rows")
        for key, value in here.params.items():
            if key == "length":
                continue
            plain = isinstance(value, bool | int | float | str) or key in ("start_indices", "strides")
            if plain and not _equal(value, there.params.get(key)):
                raise RowsInteract(_USES_ROW_COUNT)

    def _check_new_row_axis(self, name: str, here: Any, outs: list[int | None]) -> None:
        """Raise if a row axis is made from inputs without one, except by `iota`, broadcasting or drawing."""
        if name == "iota":
            if here.params["dimension"] == outs[0]:
                self.labels[here.outvars[0]] = frozenset({"count"})
            return
        if name != "broadcast_in_dim" and not keys_of(name, here):
            raise RowsInteract(f"it makes a row axis from values without one (`{name}`)")

    def _check_noise(self, name: str, here: Any, ins: list[int | None]) -> None:
        """Raise if rows are drawn with a key that does not depend on the block; keys of rows were checked when made."""
        keys = keys_of(name, here)
        if name == "random_fold_in" and ins[1] is not None:
            return  # a key for each row, derived from the row
        if keys and not any(self.depends_on_block(here.invars[i]) for i in keys) and all(ins[i] is None for i in keys):
            raise RowsInteract("it draws with its own key, which would be the same for every block of rows")

    def _check_lookup(self, name: str, here: Any, ins: list[int | None], labels: Label) -> None:
        """Raise if an index into a value with rows may select another row."""
        axis = ins[0]
        if axis is None:
            self.record_use(labels - {"wrapped"})
            return
        self.record_use(self.label(here.invars[0]))
        if name == "dynamic_slice":
            if here.params["slice_sizes"][axis] != self.sizes[0]:
                raise RowsInteract("it looks up other rows")
            return
        numbers = here.params["dimension_numbers"]
        batching = numbers.operand_batching_dims
        indexed = numbers.start_index_map if name == "gather" else numbers.scatter_dims_to_operand_dims
        if axis in batching or axis not in indexed:
            return
        index = self.label(here.invars[1])
        itself = index & {"number", "count"} and not index & {"moved", "size"}
        if name != "gather" or not itself:
            raise RowsInteract("it looks up other rows")
        self.uses_local_index |= "number" in index


def _check_moves(name: str, here: Any, ins: list[int | None]) -> None:
    """Raise if an equation moves values along the row axis."""
    for place, axis in enumerate(ins):
        if axis is not None and moves_along_axis(name, here, place, axis, ins):
            raise RowsInteract(f"it moves values between rows (`{name}`)")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, str) or other is None:
        return bool(one == other)
    if np.shape(one) != np.shape(other):
        return False
    return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc"))

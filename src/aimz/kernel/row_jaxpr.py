"""Does a program carry anything across rows?  Read off two traces of it, at two numbers of rows.

In any value, the axis that is longer in the longer trace is that of the rows.  A program keeps rows apart if

- every value has one such axis at most, exactly as long as the rows: ``X @ X.T`` and ``X[:-1]`` have not;
- what has rows is never made into something that has none: sums, maxima, ``X[0]``;
- nothing moves along that axis: no cumulative sum, no sorting, no look-up of other rows;
- what has rows comes from the rows, from the noise of this block, or is the same in all of them: ``jnp.ones``, but
  neither ``jnp.arange`` nor the noise of a key that is the same in every block;
- apart from shapes, the two traces are the same: the number of rows enters nowhere.
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
"""What is known of a value that may be an index: see `_Walk.labels`."""


@dataclass(frozen=True)
class RowUse:
    """What two traces at two numbers of rows say of a program."""

    obstacle: str | None = None
    """Why it must see all rows at once, or None."""
    local: bool = False
    """Whether row numbers are used to look into arrays of the rows at hand, so that they must count from 0."""
    beyond: bool = False
    """Whether they are used for anything else, so that they must be those of the data set."""
    waits: bool = False
    """Whether a sampler goes on until the last row has its draw.  JAX's for the Poisson then draws for the others once
    more, so that a row's noise, though not its distribution, depends on the rows beside it in its block."""


class RowsInteract(Exception):  # noqa: N818 (it is an answer)
    """The rows have to be computed together; the text says why."""


def row_use(small: Any, large: Any, sizes: tuple[int, int], *, rows: int | None, number: int | None) -> RowUse:
    """Compare one program traced at two numbers of rows, ``sizes``.

    ``rows`` and ``number`` are the places of the row numbers and of the number of the block among the inputs.
    """
    walk = _JaxprComparison(sizes)
    inputs = small.jaxpr.invars
    if rows is not None:
        walk.labels[inputs[rows]] = frozenset({"number"})
    if number is not None:
        walk.fresh.add(inputs[number])
    try:
        for here, there in zip(small.consts, large.consts, strict=True):
            walk.constant(here, there)
        walk.jaxpr(small.jaxpr, large.jaxpr)
        for here, there in zip(small.jaxpr.outvars, large.jaxpr.outvars, strict=True):
            walk.used(walk.result(here, there))
    except RowsInteract as reason:
        return RowUse(str(reason))
    except ValueError:  # one program has more inputs or constants than the other
        return RowUse("its program depends on how many rows there are")
    if walk.local and walk.beyond:
        return RowUse("it uses row numbers both within the rows at hand and beyond them")
    return RowUse(None, walk.local, walk.beyond, walk.waits)


_NUMBER = "the number of rows enters its arithmetic"
_CARRIES = frozenset(
    {"lt", "add", "select_n", "clamp", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "concatenate"}
)
"""What leaves an index an index."""


class _JaxprComparison:
    """Two programs, walked side by side."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.sizes = sizes
        self.local = False
        self.beyond = False
        self.waits = False
        self._sampling = False
        self._ended = False
        self.labels: dict[Any, Label] = {}
        """Of indices: "number" or "count" (numbers of rows, those of the data set or counted by the kernel), "moved"
        (by an offset), "wrapped" (the number of rows was added, as jnp does to negative ones), "size" (it is the number
        of rows)."""
        self.fresh: set[Any] = set()
        """Values that differ from block to block, since the number of the block is in them."""

    def is_fresh(self, atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and atom in self.fresh

    def label(self, atom: Any) -> Label:
        return frozenset() if isinstance(atom, core.Literal) else self.labels.get(atom, frozenset())

    def result(self, here: Any, there: Any) -> Label:
        """Return the label of what a program returns, which may be a plain number."""
        plain = isinstance(here, core.Literal), isinstance(there, core.Literal)
        if any(plain) and not (all(plain) and _same(here.val, there.val)):
            return frozenset({"size"})
        return self.label(here)

    def axis(self, here: Any, there: Any) -> int | None:
        """Return the row axis of a value, given what it is in either trace."""
        one, other = (
            np.shape(here) if not hasattr(here, "aval") else here.aval.shape,
            getattr(there, "aval", there).shape,
        )
        if len(one) != len(other):
            raise RowsInteract("its program depends on how many rows there are")
        axes = [i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
        if len(axes) > 1:
            raise RowsInteract("it compares rows with rows")
        if axes and (one[axes[0]], other[axes[0]]) != self.sizes:
            raise RowsInteract("it takes its rows apart, or adds to them")
        return axes[0] if axes else None

    def constant(self, here: Any, there: Any) -> None:
        """Refuse what is closed over and changes with the number of rows, unless it is the same in all of them."""
        if jnp.issubdtype(getattr(here, "dtype", np.float32), jax.dtypes.prng_key):
            return
        axis = self.axis(np.asarray(here), np.asarray(there))
        one, other = (
            np.asarray(value) if axis is None else np.moveaxis(np.asarray(value), axis, 0) for value in (here, there)
        )
        if axis is not None:
            one, other = (one[:1], other[:1]) if (one == one[:1]).all() and (other == other[:1]).all() else (one, other)
        if one.shape != other.shape or not np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"):
            raise RowsInteract("it makes an array as long as the rows, or a number of how many they are")

    def jaxpr(self, small: Any, large: Any, *, loop: bool = False) -> None:
        ours, theirs = list(live_equations(small)), list(live_equations(large))
        if [e.primitive.name for e in ours] != [e.primitive.name for e in theirs]:
            raise RowsInteract("its program depends on how many rows there are")
        for here, there in zip(ours, theirs, strict=True):
            self.equation(here, there, loop=loop)

    def equation(self, here: Any, there: Any, *, loop: bool) -> None:
        name = here.primitive.name
        labels = frozenset[str]().union(*map(self.label, here.invars)) | self._numbers(here, there, loop=loop)
        self._parameters(here, there)
        ins = [self.axis(a, b) for a, b in zip(here.invars, there.invars, strict=True)]
        outs = [self.axis(a, b) for a, b in zip(here.outvars, there.outvars, strict=True)]
        if any(self.is_fresh(atom) for atom in here.invars):
            self.fresh.update(here.outvars)
        insides = list(subjaxprs(name, here, there))
        if insides:
            outside = self._sampling, self._ended
            self._sampling, self._ended = self._sampling or is_sampler(here.params.get("name")), False
            for inside in insides:
                self._enter(inside, here, labels)
            if self._ended and not self._stands_still(here, there):
                raise RowsInteract("its loop goes on until all rows are done")
            self._sampling, self._ended = outside
            return
        # A loop over rows that go on for different times ends when none wants to.
        ends_loop = loop and name in ("reduce_or", "reduce_and")
        if ends_loop and None in outs:
            self.waits |= self._sampling
            self._ended |= not self._sampling
        by_row = any(axis is not None for axis in ins)
        if any(axis is not None for axis in outs):
            self._drawn(name, here, ins)
        if by_row:
            if None in outs and not ends_loop:
                raise RowsInteract(f"it makes one of all rows (`{name}`)")
            _check_moves(name, here, ins)
        elif any(axis is not None for axis in outs):
            self._made(name, here, outs)
        if name in ("gather", "dynamic_slice") or name.startswith("scatter"):
            self._looked_up(name, here, ins, labels)
        elif labels and name in _CARRIES:
            moved = name == "add" and "wrapped" not in labels
            self.labels |= dict.fromkeys(here.outvars, labels | ({"moved"} if moved else frozenset()))
        else:
            self.used(labels)

    def used(self, labels: Label) -> None:
        """Take note of row numbers, and refuse numbers of rows, that are used for what they are."""
        if "count" in labels:
            raise RowsInteract("it counts the rows (`jnp.arange(X.shape[0])`, for one)")
        if "size" in labels or labels == {"wrapped"}:
            raise RowsInteract(_NUMBER)
        self.beyond |= "number" in labels

    def _enter(self, inside: SubJaxpr, here: Any, labels: Label) -> None:
        """Walk a program inside an equation, with what is known of its inputs."""
        for one, other in zip(inside.consts[0], inside.consts[1], strict=True):
            self.constant(one, other)
        # One function may be called twice, and what was known of its values in the first call is not true of the next.
        for var in (*inside.small.invars, *(v for equation in inside.small.eqns for v in equation.outvars)):
            self.labels.pop(var, None)
            self.fresh.discard(var)
        if inside.taken is None:
            self.used(labels)
        else:
            for var, atom in zip(inside.small.invars, inside.taken, strict=True):
                if self.label(atom):
                    self.labels[var] = self.label(atom)
                if self.is_fresh(atom):
                    self.fresh.add(var)
        self.jaxpr(inside.small, inside.large, loop=inside.is_condition)
        if not inside.is_condition:
            results = map(self.result, inside.small.outvars, inside.large.outvars)
            for var, label in zip(here.outvars, results, strict=False):
                if label:
                    self.labels[var] = self.label(var) | label

    def _stands_still(self, here: Any, there: Any) -> bool:
        """Whether the rows a loop is done with stay as they are until it ends, as those of `jax.vmap` do."""
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

    def _numbers(self, here: Any, there: Any, *, loop: bool) -> Label:
        """Refuse numbers in the program that change with the number of rows, but where jnp wraps an index."""
        found: Label = frozenset()
        for one, other in zip(here.invars, there.invars, strict=True):
            if isinstance(one, core.Literal) != isinstance(other, core.Literal):
                raise RowsInteract(_NUMBER)
            if isinstance(one, core.Literal) and not _same(one.val, other.val):
                if np.ndim(one.val):
                    self.constant(one.val, other.val)
                elif np.asarray(one.val).dtype.kind in "iu" and not loop and here.primitive.name in ("add", "clamp"):
                    found = frozenset({"wrapped"})
                else:
                    raise RowsInteract(_NUMBER)
        return found

    def _parameters(self, here: Any, there: Any) -> None:
        by_row = here.primitive.name == "scan" and here.params["length"] != there.params["length"]
        if by_row and carries(here):
            raise RowsInteract("it loops over the rows")
        for key, value in here.params.items():
            if key == "length":
                continue
            plain = isinstance(value, bool | int | float | str) or key in ("start_indices", "strides")
            if plain and not _same(value, there.params.get(key)):
                raise RowsInteract(_NUMBER)

    def _made(self, name: str, here: Any, outs: list[int | None]) -> None:
        """Say where an axis of rows may come from, if not from the rows."""
        if name == "iota":
            if here.params["dimension"] == outs[0]:
                self.labels[here.outvars[0]] = frozenset({"count"})
            return
        if name != "broadcast_in_dim" and not keys_of(name, here):
            raise RowsInteract(f"it takes as many of something as there are rows (`{name}`)")

    def _drawn(self, name: str, here: Any, ins: list[int | None]) -> None:
        """Refuse noise for rows whose key is not that of the block; a key for each row was judged where it was made."""
        keys = keys_of(name, here)
        if name == "random_fold_in" and ins[1] is not None:
            return  # a key for each row, and of what is in it
        if keys and not any(self.is_fresh(here.invars[i]) for i in keys) and all(ins[i] is None for i in keys):
            raise RowsInteract("it draws with a key of its own, which would be the same for every block of rows")

    def _looked_up(self, name: str, here: Any, ins: list[int | None], labels: Label) -> None:
        """Judge a look-up: in a value with rows each must find itself."""
        axis = ins[0]
        if axis is None:
            self.used(labels - {"wrapped"})
            return
        self.used(self.label(here.invars[0]))
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
        self.local |= "number" in index


def _check_moves(name: str, here: Any, ins: list[int | None]) -> None:
    """Refuse what keeps the rows' axis and yet moves something along it."""
    for place, axis in enumerate(ins):
        if axis is not None and moves_along_axis(name, here, place, axis, ins):
            raise RowsInteract(f"it carries something from row to row (`{name}`)")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or other is None:
        return bool(one == other)
    if np.shape(one) != np.shape(other):
        return False
    return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc"))

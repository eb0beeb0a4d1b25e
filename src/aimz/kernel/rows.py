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

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

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


class _Together(Exception):  # noqa: N818 (it is an answer)
    """The rows have to be computed together; the text says why."""


def row_use(small: Any, large: Any, sizes: tuple[int, int], *, rows: int | None, number: int | None) -> RowUse:
    """Compare one program traced at two numbers of rows, ``sizes``.

    ``rows`` and ``number`` are the places of the row numbers and of the number of the block among the inputs.
    """
    walk = _Walk(sizes)
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
            walk.used(walk.label(here))
            if isinstance(here, core.Literal) and not _same(here.val, there.val):
                raise _Together(_NUMBER)
    except _Together as reason:
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
_MATRICES = frozenset(
    {"cholesky", "lu", "eigh", "eig", "qr", "svd", "triangular_solve", "householder_product", "schur"}
)
_INSIDE = {"while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",), "scan": ("jaxpr",)}


class _Walk:
    """Two programs, walked side by side."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.sizes = sizes
        self.local = False
        self.beyond = False
        self.waits = False
        self._sampling = False
        self.labels: dict[Any, Label] = {}
        """Of indices: "number" or "count" (numbers of rows, those of the data set or counted by the kernel), "moved"
        (by an offset), "wrapped" (the number of rows was added, as jnp does to negative ones)."""
        self.fresh: set[Any] = set()
        """Values that differ from block to block, since the number of the block is in them."""

    def label(self, atom: Any) -> Label:
        return frozenset() if isinstance(atom, core.Literal) else self.labels.get(atom, frozenset())

    def axis(self, here: Any, there: Any) -> int | None:
        """Return the row axis of a value, given what it is in either trace."""
        one, other = (
            np.shape(here) if not hasattr(here, "aval") else here.aval.shape,
            getattr(there, "aval", there).shape,
        )
        if len(one) != len(other):
            raise _Together("its program depends on how many rows there are")
        axes = [i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
        if len(axes) > 1:
            raise _Together("it compares rows with rows")
        if axes and (one[axes[0]], other[axes[0]]) != self.sizes:
            raise _Together("it takes its rows apart, or adds to them")
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
            raise _Together("it makes an array as long as the rows, or a number of how many they are")

    def jaxpr(self, small: Any, large: Any, *, loop: bool = False) -> None:
        ours, theirs = list(_live(small)), list(_live(large))
        if [e.primitive.name for e in ours] != [e.primitive.name for e in theirs]:
            raise _Together("its program depends on how many rows there are")
        for here, there in zip(ours, theirs, strict=True):
            self.equation(here, there, loop=loop)

    def equation(self, here: Any, there: Any, *, loop: bool) -> None:
        name = here.primitive.name
        labels = frozenset[str]().union(*map(self.label, here.invars)) | self._numbers(here, there, loop=loop)
        self._parameters(here, there)
        ins = [self.axis(a, b) for a, b in zip(here.invars, there.invars, strict=True)]
        outs = [self.axis(a, b) for a, b in zip(here.outvars, there.outvars, strict=True)]
        if any(not isinstance(atom, core.Literal) and atom in self.fresh for atom in here.invars):
            self.fresh.update(here.outvars)
        inner = _called(here.params)
        if name in _INSIDE or inner is not None:
            outside, self._sampling = self._sampling, self._sampling or _is_sampler(here.params.get("name"))
            self._enter(name, here, there)
            self._sampling = outside
            return
        # A loop over rows that go on for different times ends when none wants to; whether it does so row by row is
        # left to the numbers.
        ends_loop = loop and name in ("reduce_or", "reduce_and")
        self.waits |= ends_loop and self._sampling and None in outs
        if any(axis is not None for axis in ins):
            if None in outs and not ends_loop:
                raise _Together(f"it makes one of all rows (`{name}`)")
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
        """Take note of row numbers that are used for what they are."""
        if "count" in labels:
            raise _Together("it counts the rows (`jnp.arange(X.shape[0])`, for one)")
        if "number" in labels:
            self.beyond = True
        elif "wrapped" in labels:
            raise _Together(_NUMBER)

    def _enter(self, name: str, here: Any, there: Any) -> None:
        """Walk the programs inside an equation, with what is known of their inputs."""
        for one, other, offset, is_condition in _insides(name, here, there):
            taken = here.invars[len(here.invars) - len(one.invars) :] if offset is None else offset
            for var, atom in zip(one.invars, taken, strict=True):
                if not isinstance(atom, core.Literal):
                    if atom in self.labels:
                        self.labels[var] = self.labels[atom]
                    if atom in self.fresh:
                        self.fresh.add(var)
            self.jaxpr(one, other, loop=is_condition)
            for var, atom in zip(here.outvars, one.outvars, strict=False):
                if not is_condition and self.label(atom):
                    self.labels[var] = self.label(var) | self.label(atom)

    def _numbers(self, here: Any, there: Any, *, loop: bool) -> Label:
        """Refuse numbers in the program that change with the number of rows, but where jnp wraps an index."""
        found: Label = frozenset()
        for one, other in zip(here.invars, there.invars, strict=True):
            if isinstance(one, core.Literal) != isinstance(other, core.Literal):
                raise _Together(_NUMBER)
            if isinstance(one, core.Literal) and not _same(one.val, other.val):
                if np.ndim(one.val):
                    self.constant(one.val, other.val)
                elif np.asarray(one.val).dtype.kind in "iu" and not loop and here.primitive.name in ("add", "clamp"):
                    found = frozenset({"wrapped"})
                else:
                    raise _Together(_NUMBER)
        return found

    def _parameters(self, here: Any, there: Any) -> None:
        by_row = here.primitive.name == "scan" and here.params["length"] != there.params["length"]
        if by_row and _carries(here):
            raise _Together("it loops over the rows")
        for key, value in here.params.items():
            if key == "length":
                continue
            plain = isinstance(value, bool | int | float | str) or key in ("start_indices", "strides")
            if plain and not _same(value, there.params.get(key)):
                raise _Together(_NUMBER)

    def _made(self, name: str, here: Any, outs: list[int | None]) -> None:
        """Say where an axis of rows may come from, if not from the rows."""
        if name == "iota":
            if here.params["dimension"] == outs[0]:
                self.labels[here.outvars[0]] = frozenset({"count"})
            return
        keys = [atom for atom in here.invars if jnp.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)]
        if keys or name == "threefry2x32":
            if not any(atom in self.fresh for atom in here.invars if not isinstance(atom, core.Literal)):
                raise _Together("it draws with a key of its own, which would be the same for every block of rows")
        elif name != "broadcast_in_dim":
            raise _Together(f"it takes as many of something as there are rows (`{name}`)")

    def _looked_up(self, name: str, here: Any, ins: list[int | None], labels: Label) -> None:
        """Judge a look-up: in a value with rows each must find itself."""
        axis = ins[0]
        if axis is None:
            self.used(labels - {"wrapped"})
            return
        if name == "dynamic_slice":
            if here.params["slice_sizes"][axis] != self.sizes[0]:
                raise _Together("it looks up other rows")
            return
        numbers = here.params["dimension_numbers"]
        batching = numbers.operand_batching_dims
        indexed = numbers.start_index_map if name == "gather" else numbers.scatter_dims_to_operand_dims
        if axis in batching or axis not in indexed:
            return
        itself = labels & {"number", "count"} and "moved" not in labels
        if name != "gather" or not itself:
            raise _Together("it looks up other rows")
        self.local |= "number" in labels


def _check_moves(name: str, here: Any, ins: list[int | None]) -> None:
    """Refuse what keeps the rows' axis and yet moves something along it."""
    for place, axis in enumerate(ins):
        if axis is not None and _moves(name, here, place, axis, ins):
            raise _Together(f"it carries something from row to row (`{name}`)")


def _moves(name: str, here: Any, place: int, axis: int, ins: list[int | None]) -> bool:
    params, shape = here.params, here.invars[place].aval.shape
    match name:
        case "sort" | "concatenate":
            moved = params["dimension"] == axis
        case "rev":
            moved = axis in params["dimensions"]
        case "pad":
            moved = tuple(params["padding_config"][axis]) != (0, 0, 0)
        case "fft":
            moved = axis >= len(shape) - len(params["fft_lengths"])
        case "conv_general_dilated":
            moved = axis != params["dimension_numbers"].lhs_spec[0]
        case "dynamic_update_slice":
            moved = ins[1] is None
        case "reshape":
            moved = _folded(shape, here.outvars[0].aval.shape, axis)
        case _ if name in _MATRICES:
            moved = axis >= len(shape) - 2
        case _ if name.startswith(("reduce_window", "select_and")):
            moved = params["window_dimensions"][axis] != 1
        case _:
            moved = name.startswith("cum") and params.get("axis") == axis
    return bool(moved)


def _folded(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> bool:
    """Whether a reshape folds the axis of the rows into others."""
    ahead, size = int(np.prod(before[:axis])), before[axis]
    return not any(after[i] == size and int(np.prod(after[:i])) == ahead for i in range(len(after)))


def _is_sampler(name: Any) -> bool:
    """Whether a function inside a program is one of JAX's or NumPyro's that draw by rejection."""
    return isinstance(name, str) and any(kind in name for kind in ("poisson", "binomial", "von_mises", "gamma"))


def _carries(scan: Any) -> bool:
    """Whether a loop hands anything on from turn to turn; one that does not is a map."""
    inner = getattr(scan.params["jaxpr"], "jaxpr", scan.params["jaxpr"])
    # What is carried comes out as it is inside; what is not is stacked.
    pairs = zip(scan.outvars, inner.outvars, strict=True)
    return any(len(outer.aval.shape) == len(within.aval.shape) for outer, within in pairs)


def _called(params: Mapping[str, Any]) -> Any:
    """Return the one program an equation merely calls, if it does."""
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)  # closed or open
    return inner if isinstance(inner, core.Jaxpr) and "length" not in params else None


def _insides(name: str, here: Any, there: Any) -> Iterator[tuple[Any, Any, Any, bool]]:
    """Yield pairs of programs inside an equation, the values they begin with, and whether they end a loop."""
    if name not in _INSIDE:
        yield _called(here.params), _called(there.params), None, False
        return
    for key in _INSIDE[name]:
        ours, theirs = here.params[key], there.params[key]
        for one, other in zip(_listed(ours), _listed(theirs), strict=True):
            inner, outer = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
            taken = None
            if name == "while":
                first, second = here.params["cond_nconsts"], here.params["body_nconsts"]
                start = here.invars[first + second :]
                taken = (here.invars[:first] if key == "cond_jaxpr" else here.invars[first : first + second]) + start
            yield inner, outer, taken, key == "cond_jaxpr"


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def _live(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations that matter to the outputs."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
    yield from reversed(kept)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or other is None:
        return bool(one == other)
    if np.shape(one) != np.shape(other):
        return False
    return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc"))

"""Properties of the equations of a jaxpr: movement along an axis, random keys, and jaxprs inside an equation."""

__all__ = ["SubJaxpr", "carries", "is_sampler", "keys_of", "live_equations", "moves_along_axis", "subjaxprs"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_MATRICES = frozenset({"cholesky", "lu", "eigh", "eig", "qr", "svd", "householder_product", "schur"})


def moves_along_axis(name: str, here: Any, place: int, axis: int, ins: list[int | None]) -> bool:
    """Return whether an equation moves values along ``axis`` of its input number ``place``.

    ``ins`` are the row axes of all inputs.
    """
    params, shape = here.params, here.invars[place].aval.shape
    match name:
        case _ if name.endswith("callback"):
            moved = True
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
        case "triangular_solve":
            # The right-hand sides are independent of each other.
            moved = axis >= len(shape) - 2 and (place == 0 or (axis == len(shape) - 2) == params["left_side"])
        case _ if name in _MATRICES:
            moved = axis >= len(shape) - 2
        case _ if name.startswith(("reduce_window", "select_and")):
            moved = params["window_dimensions"][axis] != 1
        case _:
            moved = name.startswith("cum") and params.get("axis") == axis
    return bool(moved)


def _folded(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> bool:
    """Return whether a reshape merges or splits the axis of the rows."""
    n_before, size = int(np.prod(before[:axis])), before[axis]
    return not any(after[i] == size and int(np.prod(after[:i])) == n_before for i in range(len(after)))


def is_sampler(name: Any) -> bool:
    """Return whether a function name is one of the rejection samplers of JAX or NumPyro."""
    return isinstance(name, str) and any(kind in name for kind in ("poisson", "binomial", "von_mises", "gamma"))


def carries(scan: Any) -> bool:
    """Return whether a `scan` carries values between iterations; a scan without a carry is a map."""
    inner = getattr(scan.params["jaxpr"], "jaxpr", scan.params["jaxpr"])
    # A carried value has the same rank outside and inside; other outputs are stacked.
    pairs = zip(scan.outvars, inner.outvars, strict=True)
    return any(len(outer.aval.shape) == len(within.aval.shape) for outer, within in pairs)


@dataclass(frozen=True)
class SubJaxpr:
    """A jaxpr inside an equation, in both traces."""

    small: core.Jaxpr
    large: core.Jaxpr
    consts: tuple[list[Any], list[Any]]
    """Constants of each."""
    operands: list[Any] | None
    """Inputs of the equation that are passed to the jaxpr, or None if unknown."""
    is_condition: bool = False
    """Whether it is the condition of a loop."""


def subjaxprs(name: str, here: Any, there: Any) -> Iterator[SubJaxpr]:
    """Yield the jaxprs inside an equation, except those that combine two numbers in a reduction."""
    if name.startswith(("reduce", "scatter", "select_and")):
        return
    for key, value in here.params.items():
        for one, other in zip(_jaxprs(value), _jaxprs(there.params.get(key)), strict=True):
            inner, larger = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
            consts = getattr(one, "consts", []), getattr(other, "consts", [])
            operands: list[Any] | None = None
            if name == "while":
                first, second = here.params["cond_nconsts"], here.params["body_nconsts"]
                start = here.invars[first + second :]
                operands = (here.invars[:first] if key == "cond_jaxpr" else here.invars[first : first + second]) + start
            elif name in ("cond", "scan") or key in ("jaxpr", "call_jaxpr"):
                operands = here.invars[len(here.invars) - len(inner.invars) :]
            yield SubJaxpr(inner, larger, consts, operands, key == "cond_jaxpr")


def _jaxprs(value: Any) -> list[Any]:
    """Return the jaxprs in a parameter of an equation."""
    found = value if isinstance(value, tuple | list) else (value,)
    return [jaxpr for jaxpr in found if isinstance(getattr(jaxpr, "jaxpr", jaxpr), core.Jaxpr)]


def keys_of(name: str, equation: Any) -> list[int]:
    """Return the positions of the inputs of an equation that are random keys."""
    if name == "threefry2x32":
        return [0, 1]
    atoms = enumerate(equation.invars)
    return [i for i, atom in atoms if jnp.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)]


def live_equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations that the outputs depend on."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
    yield from reversed(kept)

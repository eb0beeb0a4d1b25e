"""What the equations of JAX's programs do: which move something along an axis, draw, or hold programs themselves."""

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
    """Whether an equation moves something along ``axis`` of its input at ``place``; ``ins`` are the axes of all."""
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
            # Right-hand sides do not see each other.
            moved = axis >= len(shape) - 2 and (place == 0 or (axis == len(shape) - 2) == params["left_side"])
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


def is_sampler(name: Any) -> bool:
    """Whether a function inside a program is one of JAX's or NumPyro's that draw by rejection."""
    return isinstance(name, str) and any(kind in name for kind in ("poisson", "binomial", "von_mises", "gamma"))


def carries(scan: Any) -> bool:
    """Whether a loop hands anything on from turn to turn; one that does not is a map."""
    inner = getattr(scan.params["jaxpr"], "jaxpr", scan.params["jaxpr"])
    # What is carried comes out as it is inside; what is not is stacked.
    pairs = zip(scan.outvars, inner.outvars, strict=True)
    return any(len(outer.aval.shape) == len(within.aval.shape) for outer, within in pairs)


@dataclass(frozen=True)
class SubJaxpr:
    """A program inside an equation, in both traces."""

    small: core.Jaxpr
    large: core.Jaxpr
    consts: tuple[list[Any], list[Any]]
    taken: list[Any] | None
    """The values it begins with, where they are known."""
    is_condition: bool = False
    """Whether it says that a loop goes on."""


def subjaxprs(name: str, here: Any, there: Any) -> Iterator[SubJaxpr]:
    """Yield the programs inside an equation, but for what merely says how two numbers become one."""
    if name.startswith(("reduce", "scatter", "select_and")):
        return
    for key, ours in here.params.items():
        for one, other in zip(_programs(ours), _programs(there.params.get(key)), strict=True):
            inner, outer = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
            consts = getattr(one, "consts", []), getattr(other, "consts", [])
            taken: list[Any] | None = None
            if name == "while":
                first, second = here.params["cond_nconsts"], here.params["body_nconsts"]
                start = here.invars[first + second :]
                taken = (here.invars[:first] if key == "cond_jaxpr" else here.invars[first : first + second]) + start
            elif name in ("cond", "scan") or key in ("jaxpr", "call_jaxpr"):
                taken = here.invars[len(here.invars) - len(inner.invars) :]
            yield SubJaxpr(inner, outer, consts, taken, key == "cond_jaxpr")


def _programs(value: Any) -> list[Any]:
    """Return the programs in a parameter of an equation."""
    found = value if isinstance(value, tuple | list) else (value,)
    return [program for program in found if isinstance(getattr(program, "jaxpr", program), core.Jaxpr)]


def keys_of(name: str, equation: Any) -> list[int]:
    """Return which inputs of an equation are keys."""
    if name == "threefry2x32":
        return [0, 1]
    atoms = enumerate(equation.invars)
    return [i for i, atom in atoms if jnp.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)]


def live_equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations that matter to the outputs."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
    yield from reversed(kept)

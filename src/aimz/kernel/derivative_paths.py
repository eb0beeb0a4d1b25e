"""Paths of a jaxpr along which a derivative is lost: comparisons, look-ups, rounding and ``stop_gradient``."""

__all__ = ["DerivativeCut", "derivative_cuts"]

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.extend import core


@dataclass(frozen=True, order=True)
class DerivativeCut:
    """An operation that depends on the input and whose derivative is 0 although its value changes."""

    kind: str
    """"comparison", "draw" (a comparison with random numbers), "look-up", "rounding", "stop_gradient", or "rule" for a
    function without a forward derivative."""
    place: str
    """File and line of the user's code; empty if it is not known."""


type _State = frozenset[DerivativeCut | None]
"""Paths from the input to a value: None for one with a derivative, and the cuts of the others."""

_INDEPENDENT: _State = frozenset()
_SMOOTH: _State = frozenset({None})
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_ROUNDINGS = frozenset({"floor", "ceil", "round", "sign", "argmax", "argmin", "rem", "nextafter"})
_TABLES = frozenset({"gather", "dynamic_slice", "dynamic_update_slice"})
_JUMPS = frozenset(
    {"heaviside", "where", "select", "piecewise", "digitize", "searchsorted", "take", "sign", "trunc", "fix", "rint"}
    | {"floor", "ceil", "round", "around", "mod", "remainder", "fmod", "divmod", "floor_divide", "sort", "argsort"}
)
"""Names of compiled functions of JAX that are not continuous, or that the user calls with own conditions."""
_FUNCTIONS = (
    *("/jax/_src/nn/", "/jax/_src/numpy/", "/jax/_src/scipy/", "/jax/_src/ops/", "/jax/_src/lax/special"),
    *("/numpyro/distributions/", "/tensorflow_probability/"),
)
"""Parts of libraries whose functions are continuous, although some compare their input."""
_SAMPLERS = ("/jax/_src/random.py", "/aimz/samplers/")
_INTERNALS = (
    *(
        "/lax/lax.py",
        "/core.py",
        "/tree_util.py",
        "/traceback_util.py",
        "/partial_eval.py",
        "_info_util.py",
        "/pjit.py",
    ),
    *("/array_methods.py", "/ufuncs.py", "/ufunc_api.py", "/api.py"),
)
"""Files of JAX through which each operation of any code passes."""
_LIBRARIES = ("/jax/", "/numpyro/", "/aimz/", "/funsor/", "/flax/", "/haiku/")


def derivative_cuts(closed: Any) -> list[frozenset[DerivativeCut]]:
    """Return for each output of a closed jaxpr the operations that cut its derivative by the first input."""
    jaxpr = closed.jaxpr
    states = [_SMOOTH, *[_INDEPENDENT] * (len(jaxpr.invars) - 1)]
    return [frozenset(cut for cut in state if cut is not None) for state in _run(jaxpr, states, None)]


def _run(jaxpr: Any, inputs: Sequence[_State], place: str | None) -> list[_State]:
    """Return the states of the outputs of a jaxpr for the states of its inputs; ``place`` is the line that calls it."""
    known: dict[Any, _State] = dict(zip(jaxpr.invars, inputs, strict=True))

    def state(atom: Any) -> _State:
        return _INDEPENDENT if isinstance(atom, core.Literal) else known.get(atom, _INDEPENDENT)

    for equation in jaxpr.eqns:
        ins = [state(atom) for atom in equation.invars]
        here = _Equation(equation, place)
        outs = _outputs(here, ins) if any(ins) else [_INDEPENDENT] * len(equation.outvars)
        for var, found in zip(equation.outvars, outs, strict=True):
            known[var] = found if _is_float(var.aval) else here.discrete(found)
    return [state(atom) for atom in jaxpr.outvars]


@dataclass(frozen=True)
class _Equation:
    """An equation, with the line of the user's code that called the function in which it is."""

    equation: Any
    caller: str | None

    @property
    def name(self) -> str:
        return str(self.equation.primitive.name)

    @property
    def params(self) -> Any:
        return self.equation.params

    @property
    def place(self) -> str:
        """File and line of the user's code, as far as JAX records it."""
        if self.caller is not None:
            return self.caller
        name, line = next((f for f in self.frames() if not any(part in f[0] for part in _LIBRARIES)), ("", 0))
        return f"{Path(name).name}, line {line}" if name else ""

    def frames(self) -> Iterator[tuple[str, int]]:
        """Yield file and line of each call, the innermost first."""
        traceback = getattr(self.equation.source_info, "traceback", None)
        for frame in getattr(traceback, "frames", ()):
            yield frame.file_name.replace("\\", "/"), frame.line_num

    @property
    def in_function(self) -> bool:
        """Whether the operation is a part of a function of a library whose derivative is right."""
        outside = (file for file, _ in self.frames() if not file.endswith(_INTERNALS))
        first = next(outside, "")
        return any(part in first for part in _FUNCTIONS) and not first.endswith("/discrete.py")

    def cut(self, state: _State, kind: str) -> _State:
        """Return a cut of one kind in place of all paths, if there is one."""
        if not state:
            return _INDEPENDENT
        drawn = any(part in file for file, _ in self.frames() for part in _SAMPLERS)
        return frozenset({DerivativeCut("draw" if drawn else kind, self.place)})

    def discrete(self, state: _State) -> _State:
        """Return the state of a value that is not a floating-point number."""
        return state - {None} | self.cut(state, "rounding") if None in state else state


def _outputs(here: _Equation, ins: list[_State]) -> list[_State]:
    """Return the states of the outputs of an equation."""
    name, params, n_outs = here.name, here.params, len(here.equation.outvars)
    merged = _union(ins)
    match name:
        case _ if name == "custom_vjp_call" or name.endswith("callback"):
            return [here.cut(merged, "rule")] * n_outs
        case "custom_jvp_call":
            return [merged] * n_outs  # the author's rule is the derivative
        case "jit" | "pjit":
            return _call(here, ins)
        case "scan":
            return _scan(here, ins)
        case "while":
            return _while(here, ins)
        case "cond":
            found = [_run(branch.jaxpr, ins[1:], here.caller) for branch in params["branches"]]
            chosen = here.cut(ins[0], "comparison")
            return [_union(states) | chosen for states in zip(*found, strict=True)]
        case "select_n":
            return [_union(ins[1:]) | here.discrete(ins[0])]
        case _ if name in _COMPARISONS:
            # `x != x` asks for NaN, which no change of a number brings about.
            is_nan = here.equation.invars[0] is here.equation.invars[1]
            return [_INDEPENDENT if is_nan or here.in_function else here.cut(merged, "comparison")]
        case "is_finite":
            return [_INDEPENDENT]
        case "stop_gradient":
            return [_INDEPENDENT if here.in_function else here.cut(merged, "stop_gradient")] * n_outs
        case _ if name in _ROUNDINGS:
            kept = ins[0] if name == "rem" else _INDEPENDENT
            return [kept | here.cut(merged, "rounding")] * n_outs
        case _ if name in _TABLES or name.startswith("scatter"):
            return [_looked_up(here, ins)]
        case "sort" if n_outs > 1:
            return [ins[0], *(one | here.cut(ins[0], "comparison") for one in ins[1:])]
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    return [merged] * n_outs if inner is None else _run(inner, ins, here.caller)


def _call(here: _Equation, ins: list[_State]) -> list[_State]:
    """Return the states after a compiled function; functions of JAX are continuous unless they are listed."""
    inner = here.params["jaxpr"].jaxpr
    file = str(getattr(inner.debug_info, "func_filename", "")).replace("\\", "/")
    if any(part in file for part in _FUNCTIONS) and here.params["name"].lstrip("_") not in _JUMPS:
        return [_union(ins)] * len(here.equation.outvars)
    is_library = any(part in file for part in _LIBRARIES)
    return _run(inner, ins, here.place if is_library else here.caller)


def _scan(here: _Equation, ins: list[_State]) -> list[_State]:
    """Return the states after a `scan`."""
    body = getattr(here.params["jaxpr"], "jaxpr", here.params["jaxpr"])
    # Stacked inputs and outputs have an axis more outside than inside; carried values are equal in shape.
    pairs = zip(here.equation.outvars, body.outvars, strict=True)
    n_carried = sum(outer.aval.shape == inner.aval.shape for outer, inner in pairs)
    invars = zip(here.equation.invars, body.invars, strict=True)
    n_stacked = sum(len(outer.aval.shape) > len(inner.aval.shape) for outer, inner in invars)
    n_fixed = len(ins) - n_stacked - n_carried
    return _loop(body, ins, n_fixed, n_carried, here.caller)


def _loop(body: Any, ins: list[_State], n_consts: int, n_carried: int, place: str | None) -> list[_State]:
    """Return the states after any number of iterations of a body."""
    consts, carried, stacked = ins[:n_consts], ins[n_consts : n_consts + n_carried], ins[n_consts + n_carried :]
    while True:
        found = _run(body, [*consts, *carried, *stacked], place)
        after = [before | one for before, one in zip(carried, found[:n_carried], strict=True)]
        if after == carried:
            return [*carried, *found[n_carried:]]
        carried = after


def _while(here: _Equation, ins: list[_State]) -> list[_State]:
    """Return the states after a loop whose length may depend on the input."""
    params = here.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    carried = ins[first + second :]
    start = [*ins[first : first + second], *carried]
    carried = _loop(params["body_jaxpr"].jaxpr, start, second, len(carried), here.caller)
    (condition,) = _run(params["cond_jaxpr"].jaxpr, [*ins[:first], *carried], here.caller)
    return [one | condition if one else one for one in carried]


def _looked_up(here: _Equation, ins: list[_State]) -> _State:
    """Return the state of entries of a table; an index that depends on the input is a cut."""
    if here.name.startswith("scatter"):
        tables, indices = [ins[0], ins[2]], ins[1:2]
    else:
        n_tables = 2 if here.name == "dynamic_update_slice" else 1
        tables, indices = ins[:n_tables], ins[n_tables:]
    return _union(tables) | here.cut(_union(indices), "look-up")


def _union(states: Iterable[_State]) -> _State:
    return frozenset().union(*states)


def _is_float(aval: Any) -> bool:
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, jnp.inexact)

"""A jaxpr with its calls and loops inlined, and the evaluation of some of its values on the host."""

__all__ = ["FlatJaxpr", "Step", "evaluate", "flatten"]

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import jax
import numpy as np
from jax.extend import core

_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "remat2", "checkpoint"}
)
"""Primitives that call one jaxpr with their own inputs."""


type Conditions = tuple[tuple[int, int], ...]
"""Numbers of predicates, scalars or one for each row, and the values with which an equation runs."""


@dataclass(frozen=True)
class Step:
    """An equation, whose inputs and outputs are numbers of values."""

    primitive: Any
    """The primitive; None for a marker without outputs (see `FlatJaxpr.steps`)."""
    name: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    params: Mapping[str, Any]
    conditions: Conditions = ()


@dataclass
class FlatJaxpr:
    """A jaxpr without calls, scans and branches, in which each value has a number."""

    steps: list[Step] = field(default_factory=list)
    """Equations in order. A call of ``jax.nn.one_hot`` is preceded by a marker of the same name."""
    avals: list[Any] = field(default_factory=list)
    """Shape and dtype of each value."""
    constants: dict[int, Any] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    conditions: Conditions = ()
    """Conditions of the equations that are appended now."""

    def add(self, aval: Any) -> int:
        """Return the number of a new value."""
        self.avals.append(aval)
        return len(self.avals) - 1

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value."""
        return tuple(self.avals[value].shape)


def flatten(closed: Any) -> FlatJaxpr:
    """Return a closed jaxpr with the functions that it calls inlined.

    A `scan` becomes its body for all iterations at once, in which the carried values are unknown. The branches of a
    `cond` are computed one after the other, each under the condition that it is taken. A `while` is preceded by its
    first iteration, under the condition that there is one.
    """
    flat = FlatJaxpr()
    flat.inputs = [flat.add(var.aval) for var in closed.jaxpr.invars]
    flat.outputs = _inline(flat, closed.jaxpr, closed.consts, flat.inputs)
    return flat


def _inline(flat: FlatJaxpr, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]) -> list[int]:
    """Append the equations of a jaxpr and return the numbers of its outputs."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def constant(aval: Any, value: Any) -> int:
        number = flat.add(aval)
        flat.constants[number] = value
        return number

    def number_of(atom: Any) -> int:
        return constant(atom.aval, atom.val) if isinstance(atom, core.Literal) else known[atom]

    for var, value in zip(jaxpr.constvars, consts, strict=True):
        known[var] = constant(var.aval, value)
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        ins = tuple(map(number_of, equation.invars))
        inner = params.get("jaxpr", params.get("call_jaxpr")) if name in _CALLS else None
        if inner is not None:
            if params.get("name") == "_one_hot":
                shape = {"shape": equation.outvars[0].aval.shape}
                flat.steps.append(Step(None, "one_hot", ins, (), shape, flat.conditions))
            outs = _inline(flat, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), ins)
        elif name == "scan":
            outs = _inline_scan(flat, equation, ins)
        elif name == "cond":
            outs = _inline_branches(flat, equation, ins)
        elif name == "optimization_barrier":
            outs = list(ins)
        else:
            if name == "while":
                _inline_first_iteration(flat, params, ins)
            outs = [flat.add(var.aval) for var in equation.outvars]
            flat.steps.append(Step(equation.primitive, name, ins, tuple(outs), params, flat.conditions))
        known.update(zip(equation.outvars, outs, strict=True))
    return [number_of(atom) for atom in jaxpr.outvars]


def _inline_scan(flat: FlatJaxpr, scan: Any, ins: Sequence[int]) -> list[int]:
    """Append the body of a `scan`, mapped over its iterations, and return the numbers of its outputs."""
    inner = scan.params["jaxpr"]
    body = inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())  # type: ignore[attr-defined]
    # Stacked inputs and outputs have an axis more outside than inside; carried values are equal in shape.
    n_carried = sum(o.aval.shape == i.aval.shape for o, i in zip(scan.outvars, body.jaxpr.outvars, strict=True))
    stacked = [len(flat.shape(i)) > len(var.aval.shape) for i, var in zip(ins, body.jaxpr.invars, strict=True)]
    n_fixed = len(ins) - sum(stacked) - n_carried
    carried = [flat.add(flat.avals[i]) for i in ins[n_fixed : n_fixed + n_carried]]
    inputs = [*ins[:n_fixed], *carried, *ins[n_fixed + n_carried :]]
    axes = tuple(0 if is_stacked else None for is_stacked in stacked)
    every = jax.vmap(core.jaxpr_as_fun(body), in_axes=axes, axis_size=scan.params["length"])
    closed = jax.make_jaxpr(every)(*(jax.ShapeDtypeStruct(flat.avals[i].shape, flat.avals[i].dtype) for i in inputs))
    outs = _inline(flat, closed.jaxpr, closed.consts, inputs)
    return [*(flat.add(var.aval) for var in scan.outvars[:n_carried]), *outs[n_carried:]]


def _inline_if(flat: FlatJaxpr, closed: Any, ins: Sequence[int], predicate: int, wanted: int) -> list[int]:
    """Append the equations of a closed jaxpr that runs if a scalar has a value, and return its outputs."""
    before = flat.conditions
    flat.conditions = (*before, (predicate, wanted))
    outs = _inline(flat, closed.jaxpr, closed.consts, ins)
    flat.conditions = before
    return outs


def _inline_branches(flat: FlatJaxpr, cond: Any, ins: Sequence[int]) -> list[int]:
    """Append all branches of a `cond`, and return the numbers of the outputs, selected from the branches' outputs."""
    branches = [_inline_if(flat, branch, ins[1:], ins[0], i) for i, branch in enumerate(cond.params["branches"])]
    outs = [flat.add(var.aval) for var in cond.outvars]
    for out, *cases in zip(outs, *branches, strict=True):
        flat.steps.append(Step(jax.lax.select_n_p, "select_n", (ins[0], *cases), (out,), {}, flat.conditions))
    return outs


def _inline_first_iteration(flat: FlatJaxpr, params: Mapping[str, Any], ins: Sequence[int]) -> None:
    """Append the condition and the body of a `while` for the initial values."""
    first, second = params["cond_nconsts"], params["body_nconsts"]
    condition, body, start = params["cond_jaxpr"], params["body_jaxpr"], ins[first + second :]
    (predicate,) = _inline(flat, condition.jaxpr, condition.consts, (*ins[:first], *start))
    _inline_if(flat, body, (*ins[first : first + second], *start), predicate, 1)


def evaluate(flat: FlatJaxpr, steps: Iterable[Step], values: dict[int, Any]) -> None:
    """Add the outputs of ``steps`` to ``values``, computed by NumPy, or by JAX on the CPU where NumPy has no equal."""
    with np.errstate(all="ignore"):
        for step in steps:
            ins = [np.asarray(values[i] if i in values else flat.constants[i]) for i in step.ins]
            operation = _OPERATIONS.get(step.name)
            found = _run(step, ins) if operation is None else [operation(step.params, *ins)]
            for out, value in zip(step.outs, found, strict=True):
                values[out] = np.asarray(value).astype(flat.avals[out].dtype, copy=False)


def _run(step: Step, ins: Sequence[np.ndarray]) -> list[Any]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        found = step.primitive.bind(*map(jax.numpy.asarray, ins), **step.params)
    return list(found) if step.primitive.multiple_results else [found]


def _broadcast(params: Mapping[str, Any], value: np.ndarray, *_: Any) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], value.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(value.reshape(shape), params["shape"])


def _slice(params: Mapping[str, Any], value: np.ndarray) -> Any:
    strides = params["strides"] or (None,) * value.ndim
    return value[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _divide(_: Mapping[str, Any], one: np.ndarray, other: np.ndarray) -> Any:
    whole = one.dtype.kind in "iu"
    return np.asarray(np.trunc(one / np.where(other == 0, 1, other)) if whole else one / other)


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, value: function(value, axis=tuple(params["axes"]))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *ins: function(*ins)


def _select(which: np.ndarray, *cases: np.ndarray) -> Any:
    return reduce(lambda found, case: np.where(which == case[0], case[1], found), enumerate(cases), cases[0])


def _iota(params: Mapping[str, Any]) -> np.ndarray:
    axis, shape = params["dimension"], params["shape"]
    along = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(along, shape)


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{name: _plain(getattr(operator, name)) for name in ("add", "sub", "mul", "neg")},
    **{name: _plain(getattr(operator, name)) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: _plain(getattr(np, name)) for name in ("abs", "sign", "floor", "ceil", "exp", "log", "sqrt")},
    **{f"reduce_{name}": _reduction(getattr(np, name)) for name in ("max", "min", "sum", "prod")},
    "and": _plain(operator.and_),
    "or": _plain(operator.or_),
    "xor": _plain(operator.xor),
    "not": _plain(np.invert),
    "max": _plain(np.maximum),
    "min": _plain(np.minimum),
    "rem": _plain(np.fmod),
    "is_finite": _plain(np.isfinite),
    "reduce_or": _reduction(np.any),
    "reduce_and": _reduction(np.all),
    "div": _divide,
    "copy": _plain(lambda value: value),
    "convert_element_type": _plain(lambda value: value),
    "stop_gradient": _plain(lambda value: value),
    "clamp": _plain(lambda low, value, high: np.clip(value, low, high)),
    "select_n": _plain(_select),
    "broadcast_in_dim": _broadcast,
    "reshape": lambda params, value: value.reshape(params["new_sizes"]),
    "squeeze": lambda params, value: value.squeeze(tuple(params["dimensions"])),
    "expand_dims": lambda params, value: np.expand_dims(value, tuple(params["dimensions"])),
    "transpose": lambda params, value: value.transpose(params["permutation"]),
    "concatenate": lambda params, *ins: np.concatenate(ins, axis=params["dimension"]),
    "rev": lambda params, value: np.flip(value, params["dimensions"]),
    "slice": _slice,
    "iota": _iota,
}
"""Functions of the parameters and the inputs, by primitive."""

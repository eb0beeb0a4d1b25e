"""Columns of the input that reach each site, from an abstract run in which every element has its own source."""

__all__ = ["columns_of_sites"]

from collections.abc import Mapping
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from aimz.kernel.flat_jaxpr import FlatJaxpr, Step, evaluate, flatten
from aimz.kernel.tracing import Abstract, AbstractKernel, ProvenanceHandler

_N_ROWS = 4
"""Number of rows of the abstract run, for kernels that accept it."""
_MAX_ELEMENTS = 2**18
"""Largest number of elements of the input of a kernel that accepts its own number of rows only."""

# fmt: off
_ELEMENTWISE = frozenset({
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
    "bessel_i1e", "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy", "cos", "cosh", "digamma",
    "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac",
    "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul",
    "ne", "neg", "nextafter", "not", "or", "polygamma", "pow", "real", "reduce_precision",
    "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square",
    "stop_gradient", "sub", "tan", "tanh", "xor"
})
# fmt: on
_MOVES = frozenset(
    {"broadcast_in_dim", "dynamic_slice", "expand_dims", "gather", "reshape", "rev", "slice", "squeeze", "transpose"}
)
"""Primitives that move elements of their first input, to places that their other inputs determine."""
_REDUCES = frozenset(
    {"argmax", "argmin", *(f"reduce_{name}" for name in ("sum", "prod", "max", "min", "and", "or", "xor"))}
)


def columns_of_sites(run: AbstractKernel, arrays: Abstract, row_plates: frozenset[str]) -> dict[str, frozenset[int]]:
    """Return the columns of a two-dimensional input that each site depends on directly.

    Operations that are not known count as mixing all of their elements, so that a column may be listed that has no
    effect, but none is missing. All columns are listed for a kernel that accepts one large number of rows only.
    """
    param_input = run.signature.param_input
    n_obs, n_columns = arrays[param_input].shape
    resized = {
        name: jax.ShapeDtypeStruct((_N_ROWS, *a.shape[1:]) if a.shape[:1] == (n_obs,) else a.shape, a.dtype)
        for name, a in arrays.items()
    }
    try:
        names, flat = _flat_inputs(run, resized, row_plates)
    except Exception:  # noqa: BLE001, RUF100 (a kernel may raise anything at another number of rows)
        if n_obs * n_columns > _MAX_ELEMENTS:
            every = frozenset(range(n_columns))
            return dict.fromkeys(run.shapes(arrays, row_plates)[0], every)
        names, flat = _flat_inputs(run, arrays, row_plates)
    found = _Sources(flat, sorted(arrays).index(param_input)).of_outputs()
    sites: dict[str, frozenset[int]] = {}
    for name, columns in zip(names, found, strict=True):
        sites[name] = sites.get(name, frozenset()) | columns
    return sites


def _flat_inputs(run: AbstractKernel, arrays: Abstract, row_plates: frozenset[str]) -> tuple[list[str], FlatJaxpr]:
    """Return a program that computes what each site depends on, and the site of each of its outputs."""
    shapes, _ = run.shapes(arrays, row_plates)
    names: list[str] = []
    output = run.signature.param_output

    def inputs(given: dict[str, Any]) -> list[Any]:
        handler = ProvenanceHandler(
            run.kernel,
            random.key(0),
            n_obs=run.n_rows(arrays),
            row_plates=row_plates,
            marks={name: jnp.zeros(()) for name in shapes},
            output=(output, given.get(output)),
        )
        handler.run({**run.static, **given})
        pairs = [(name, leaf) for name, found in handler.inputs.items() for leaf in found["parents"]]
        names[:] = [name for name, _ in pairs]
        return [leaf for _, leaf in pairs]

    closed = jax.make_jaxpr(inputs)({name: arrays[name] for name in sorted(arrays)})
    return list(names), flatten(closed)


class _Sources:
    """Columns that each element of each value of a program depends on, as bits of an integer."""

    def __init__(self, flat: FlatJaxpr, place: int) -> None:
        self._flat = flat
        shape = flat.shape(flat.inputs[place])
        self._bits: dict[int, np.ndarray] = {}
        self._every = (1 << shape[1]) - 1
        for i, number in enumerate(flat.inputs):
            bits = np.array([1 << column for column in range(shape[1])], object) if i == place else 0
            self._bits[number] = np.broadcast_to(np.asarray(bits, object), flat.shape(number))
        for number in flat.constants:
            self._bits[number] = self._filled(number, 0)
        self._makers = {out: step for step in flat.steps for out in step.outs}
        for step in flat.steps:
            self._run(step)

    def of_outputs(self) -> list[frozenset[int]]:
        """Return the columns that each output depends on."""
        found = [_union(self._of(number)) for number in self._flat.outputs]
        return [frozenset(i for i in range(bits.bit_length()) if bits >> i & 1) for bits in found]

    def _filled(self, number: int, bits: int) -> np.ndarray:
        return np.full(self._flat.shape(number), bits, object)

    def _of(self, number: int) -> np.ndarray:
        """Return the sources of a value; a value that a loop carries may depend on every column."""
        return self._bits[number] if number in self._bits else self._filled(number, self._every)

    def _run(self, step: Step) -> None:
        """Add the sources of the outputs of an equation."""
        ins = [self._of(number) for number in step.ins]
        total = reduce(int.__or__, map(_union, ins), 0)
        conditions = reduce(int.__or__, (_union(self._of(number)) for number, _ in step.conditions), 0)
        for out in step.outs:
            found = self._moved(step, ins, out) if total else None
            exact = found is not None and found.shape == self._flat.shape(out)
            found = found if exact else self._filled(out, total)
            self._bits[out] = np.asarray(found | conditions, object)  # type: ignore[operator]

    def _moved(self, step: Step, ins: list[np.ndarray], out: int) -> np.ndarray | None:
        """Return the sources of an output element by element; None if they are not known in detail."""
        shape = self._flat.shape(out)
        if step.name in _ELEMENTWISE:
            return np.asarray(reduce(np.bitwise_or, (np.broadcast_to(one, shape) for one in ins)), object)
        if step.name in _REDUCES:
            return np.asarray(np.bitwise_or.reduce(ins[0], axis=tuple(step.params["axes"])), object)
        if step.name == "concatenate":
            return np.concatenate(ins, axis=step.params["dimension"])
        if step.name == "dot_general":
            return _dot(ins, step.params["dimension_numbers"])
        return self._gathered(step, ins[0]) if step.name in _MOVES else None

    def _gathered(self, step: Step, bits: np.ndarray) -> np.ndarray | None:
        """Return the sources of elements that an equation moves; None if the places depend on data."""
        values: dict[int, Any] = {}
        if not all(self._known(number, values) for number in step.ins[1:]):
            return None
        positions = jnp.arange(bits.size, dtype=jnp.int32).reshape(bits.shape)
        given = [jnp.asarray(values.get(number, self._flat.constants.get(number))) for number in step.ins[1:]]
        with jax.ensure_compile_time_eval():
            places = np.asarray(step.primitive.bind(positions, *given, **_plain(step.params)))
        flat = np.append(bits.ravel(), 0)
        return np.asarray(flat[np.where((places < 0) | (places >= bits.size), bits.size, places)], object)

    def _known(self, number: int, values: dict[int, Any]) -> bool:
        """Return whether a value follows from constants; add it to ``values``."""
        if number in values or number in self._flat.constants:
            return True
        step = self._makers.get(number)
        if step is None or step.primitive is None or not all(self._known(one, values) for one in step.ins):
            return False
        with jax.ensure_compile_time_eval():
            evaluate(self._flat, [step], values)
        return True


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an equation that moves elements, for integers."""
    return {**params, **({"fill_value": -1} if "fill_value" in params else {})}


def _union(bits: np.ndarray) -> int:
    return int(np.bitwise_or.reduce(bits, axis=None)) if bits.size else 0  # of Python integers: any number of bits


def _dot(ins: list[np.ndarray], numbers: Any) -> np.ndarray:
    """Return the sources of a product of matrices: each element depends on a row and on a column."""
    contracted, batch = numbers
    sides = []
    for bits, summed, shared in zip(ins, contracted, batch, strict=True):
        reduced = np.asarray(np.bitwise_or.reduce(bits, axis=tuple(summed), keepdims=True), object)
        free = [i for i in range(bits.ndim) if i not in (*summed, *shared)]
        ordered = reduced.transpose([*shared, *free, *summed])
        sides.append(ordered.reshape([bits.shape[i] for i in (*shared, *free)]))
    n_shared = len(batch[0])
    left, right = sides
    left = left.reshape([*left.shape, *(1,) * (right.ndim - n_shared)])
    right = right.reshape([*right.shape[:n_shared], *(1,) * (left.ndim - right.ndim), *right.shape[n_shared:]])
    return np.asarray(left | right, object)

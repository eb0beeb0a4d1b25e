"""Arguments of a function as shapes, and the names of the input and the output."""

__all__ = ["BoundCall", "Roles", "bind", "guess_roles", "observed_argument", "optional_parameters", "roles_for_output"]

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from aimz.data import check_array, is_array
from aimz.kernel import KernelSpec, Role
from aimz.types import Kernel


@dataclass(frozen=True)
class BoundCall:
    """A function and the arguments of one call, with shapes instead of arrays."""

    function: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    values: Mapping[str, Any]
    """Values by parameter, in which arrays, also inside lists and dictionaries, are ``ShapeDtypeStruct``."""

    @property
    def arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Arrays by the name of their parameter and their position inside it, as in ``data['x']``."""
        leaves, _ = self._flat()
        return {name: leaf for name, leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)}

    @property
    def kernel(self) -> Kernel:
        """The function as a kernel that takes its arrays by name."""
        leaves, tree = self._flat()

        def call(**arrays: Any) -> Any:
            given = jax.tree.unflatten(tree, [arrays.get(name, leaf) for name, leaf in leaves])
            return self._call(dict(zip(self.values, given, strict=True)))

        return call

    def _flat(self) -> tuple[list[tuple[str, Any]], Any]:
        """Return all leaves with their names in the order of the parameters, and the tree structure."""
        names = list(self.values)
        leaves, tree = jax.tree_util.tree_flatten_with_path(list(self.values.values()))
        return [(f"{names[path[0].idx]}{jax.tree_util.keystr(path[1:])}", leaf) for path, leaf in leaves], tree

    def _call(self, values: Mapping[str, Any]) -> Any:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False  # arguments after an omitted parameter cannot be positional
        for name, parameter in self.parameters.items():
            if name not in values:
                by_name = True
            elif parameter.kind is parameter.VAR_POSITIONAL:
                args += values[name]
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs |= values[name]
            elif parameter.kind is parameter.KEYWORD_ONLY or by_name:
                kwargs[name] = values[name]
            else:
                args.append(values[name])
        return self.function(*args, **kwargs)

    def with_value(self, name: str, value: Any) -> "BoundCall":
        """Return the same call with another value of a parameter."""
        return replace(self, values={**self.values, name: value})

    def parameter_of(self, array: str) -> str:
        """Return the parameter that contains an array."""
        return array if array in self.parameters else array.split("[", 1)[0]


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BoundCall:
    """Return a call with shapes instead of arrays.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit the function, or it has no signature.
    """
    inner: Any = function
    # NumPyro handlers hide the signature of the wrapped function when used as decorators.
    while isinstance(inner, Messenger) and inner.fn is not None:
        inner = inner.fn
    signature = inspect.signature(inner)
    bound = signature.bind(*args, **kwargs)
    values = {name: jax.tree.map(_abstract, value) for name, value in bound.arguments.items()}
    for name in {"X", "y", next(iter(values), "X")}.intersection(values):
        if _is_listed(values[name]):
            # The input and the output of a model may be anything that NumPy converts to an array.
            values[name] = _abstract(np.asarray(values[name]))
    return BoundCall(function, signature.parameters, values)


def _is_listed(value: Any) -> bool:
    """Return whether a value is a nested list of numbers."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, int | float) or _is_listed(v) for v in value)


def _abstract(leaf: Any) -> Any:
    """Return the shape and type of an array; return other values, and 0-d integers (sizes), as they are."""
    if isinstance(leaf, np.generic):
        return leaf.item()
    if not isinstance(leaf, jax.ShapeDtypeStruct) and not is_array(leaf):
        return leaf
    dtype = _dtype(leaf)
    if dtype is None:
        return leaf
    is_size = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
    if not leaf.shape and is_size and isinstance(leaf, np.ndarray | jax.Array):
        return leaf.item()
    return jax.ShapeDtypeStruct(tuple(leaf.shape), dtype)


def _dtype(array: Any) -> Any:
    """Return the type of an array on a device, or None if it is not numeric."""
    dtype: Any = getattr(array, "dtype", None)
    if isinstance(array, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(dtype, jax.dtypes.extended):
        return dtype  # the type of a random key
    known: Any = None
    if dtype is not None:
        with suppress(TypeError):  # a dtype of another library
            known = jnp.dtype(dtype)
    if known is None:
        with suppress(TypeError, ValueError):  # a data frame, which has one dtype per column
            known = check_array(array, "array").dtype
    if known is None or not (jnp.issubdtype(known, jnp.number) or jnp.issubdtype(known, jnp.bool_)):
        return None
    return jax.dtypes.canonicalize_dtype(known)


@dataclass(frozen=True)
class Roles:
    """Names of the parameters that are the input and the output of a model."""

    input: str | None
    output: str | None

    def n_obs(self, call: BoundCall) -> int:
        """Return the number of rows of the input, else of the output; 0 if neither has rows."""
        for role in (self.input, self.output):
            for name, array in call.arrays.items():
                if array.shape and call.parameter_of(name) == role:
                    return int(array.shape[0])
        return 0


def guess_roles(call: BoundCall) -> Roles:
    """Return the roles by the names of the parameters, then by their defaults: an output has the default None."""
    return roles_for_output(call, "y" if "y" in call.parameters else next(iter(optional_parameters(call)), None))


def optional_parameters(call: BoundCall) -> list[str]:
    """Return the parameters with the default None, one of which may be the output."""
    return [name for name, p in call.parameters.items() if p.default is None and name != "X"]


def roles_for_output(call: BoundCall, output: str | None) -> Roles:
    """Return the roles of a model with this output."""
    names = [p.name for p in call.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if "X" in names:
        return Roles("X", output)
    others = [name for name in names if name != output and call.parameters[name].default is not None]
    with_rows = {call.parameter_of(name) for name, array in call.arrays.items() if array.shape}
    arrays = [name for name in others if name in with_rows]
    return Roles(next(iter(arrays or others), None), output)


def observed_argument(call: BoundCall, spec: KernelSpec) -> str | None:
    """Return the first parameter that contains data of a site, or None."""
    for site in spec.sites:
        if site.role is Role.OBSERVED and site.data:
            return call.parameter_of(min(site.data))
    return None

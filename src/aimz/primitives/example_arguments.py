"""The arguments of any function, as arrays that are only shapes and everything else."""

__all__ = ["Bound", "bind"]

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
from aimz.types import Kernel


@dataclass(frozen=True)
class Bound:
    """A function and the arguments it is to be called with, in which arrays have no values."""

    function: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    values: Mapping[str, Any]
    """By parameter; arrays, within lists and dictionaries too, are ``ShapeDtypeStruct``."""

    @property
    def arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays by name: that of their parameter, and where they are inside it, as in ``data['x']``."""
        leaves, _ = self._flat()
        return {name: leaf for name, leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)}

    @property
    def kernel(self) -> Kernel:
        """The function, called with its arrays by name."""
        leaves, tree = self._flat()

        def call(**arrays: Any) -> Any:
            given = jax.tree.unflatten(tree, [arrays.get(name, leaf) for name, leaf in leaves])
            return self._call(dict(zip(self.values, given, strict=True)))

        return call

    def _flat(self) -> tuple[list[tuple[str, Any]], Any]:
        """Return all leaves with their names, in the order of the parameters."""
        names = list(self.values)
        leaves, tree = jax.tree_util.tree_flatten_with_path(list(self.values.values()))
        return [(f"{names[path[0].idx]}{jax.tree_util.keystr(path[1:])}", leaf) for path, leaf in leaves], tree

    def _call(self, values: Mapping[str, Any]) -> Any:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False  # what follows a parameter that is left out cannot be passed by place
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

    def sites_from(self, name: str, value: Any) -> "Bound":
        """Return the same call with another value for a parameter."""
        return replace(self, values={**self.values, name: value})

    def parameter_of(self, array: str) -> str:
        """Return the parameter in which an array is."""
        return array if array in self.parameters else array.split("[", 1)[0]


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound:
    """Return a call whose arrays are shapes only.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit the function, or it does not say what it takes.
    """
    inner: Any = function
    # NumPyro's handlers, used as decorators, hide the signature of what they wrap.
    while isinstance(inner, Messenger) and inner.fn is not None:
        inner = inner.fn
    signature = inspect.signature(inner)
    bound = signature.bind(*args, **kwargs)
    values = {name: jax.tree.map(_abstract, value) for name, value in bound.arguments.items()}
    for name in {"X", "y", next(iter(values), "X")}.intersection(values):
        if _is_listed(values[name]):
            # A model takes its input and its output as anything NumPy makes an array of.
            values[name] = _abstract(np.asarray(values[name]))
    return Bound(function, signature.parameters, values)


def _is_listed(value: Any) -> bool:
    """Whether a value is a list of numbers, however nested."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, int | float) or _is_listed(v) for v in value)


def _abstract(leaf: Any) -> Any:
    """Return an array without its values; whole numbers without axes are sizes and stay what they are."""
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
    """Return the type an array has on a device, or None if it is not of numbers."""
    dtype: Any = getattr(array, "dtype", None)
    if isinstance(array, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(dtype, jax.dtypes.extended):
        return dtype  # that of a key
    known: Any = None
    if dtype is not None:
        with suppress(TypeError):  # a type of another library
            known = jnp.dtype(dtype)
    if known is None:
        with suppress(TypeError, ValueError):  # a data frame, which has a type for each column
            known = check_array(array, "array").dtype
    if known is None or not (jnp.issubdtype(known, jnp.number) or jnp.issubdtype(known, jnp.bool_)):
        return None
    return jax.dtypes.canonicalize_dtype(known)

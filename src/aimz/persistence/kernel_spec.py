"""Kernel structure, example arguments and plain Python values as JSON."""

__all__ = [
    "is_plain",
    "read_columns",
    "read_example",
    "read_plain",
    "read_spec",
    "write_example",
    "write_plain",
    "write_spec",
]

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from aimz.kernel import AbstractCall, InputColumns, KernelSpec, Role, Site, is_storable

_SPEC_FIELDS = tuple(name for name in KernelSpec.__dataclass_fields__ if name not in ("sites", "output_support"))
_SITE_FIELDS = tuple(Site.__dataclass_fields__)


def write_plain(value: Any) -> Any:
    """Return a plain value (None, bool, int, float, str, and lists, tuples and dicts of them) as JSON.

    Tuples are distinguished from lists, and numbers that JSON lacks (NaN, infinity) are written as text.

    Raises
    ------
    TypeError
        If the value contains an object of another type.
    """
    kind = type(value)  # exact: the state of a subclass would be lost
    if kind in (bool, int, str, type(None)):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [write_plain(item) for item in value]
    if kind is tuple:
        return {"tuple": [write_plain(item) for item in value]}
    if kind is dict:
        return {"dict": [[write_plain(key), write_plain(item)] for key, item in value.items()]}
    msg = f"Only plain values are written as JSON; got {kind.__name__}."
    raise TypeError(msg)


def read_plain(node: Any) -> Any:
    """Return the value written by :func:`write_plain`."""
    if isinstance(node, list):
        return [read_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, items),) = node.items()
    if kind == "float":
        return float(items)
    if kind == "tuple":
        return tuple(read_plain(item) for item in items)
    if kind == "dict":
        return {read_plain(key): read_plain(item) for key, item in items}
    msg = f"There is no plain value of the kind {kind!r}."
    raise ValueError(msg)


def is_plain(value: Any) -> bool:
    """Return whether :func:`write_plain` can write a value."""
    try:
        write_plain(value)
    except (TypeError, RecursionError):
        return False
    return True


def write_spec(spec: KernelSpec) -> dict[str, Any]:
    """Return the structure of a kernel as JSON; fields of a site that have their default are left out."""
    default = Site("", Role.LATENT, ())
    sites = [
        {
            name: _sorted(getattr(site, name))
            for name in _SITE_FIELDS
            if name in ("name", "role", "shape") or getattr(site, name) != getattr(default, name)
        }
        for site in spec.sites
    ]
    return {**{name: _sorted(value) for name, value in vars(spec).items() if name in _SPEC_FIELDS}, "sites": sites}


def _sorted(value: Any) -> Any:
    """Return a set as a sorted list, and other values unchanged (JSON turns tuples into lists)."""
    return sorted(value) if isinstance(value, frozenset) else value


def read_spec(node: Mapping[str, Any]) -> KernelSpec:
    """Return the structure written by :func:`write_spec`.

    Raises
    ------
    ValueError
        If a name is not valid as the name of a site.
    """
    fields = {name: node[name] for name in _SPEC_FIELDS if name in node}
    for name in ("row_plates", "arguments_by_row"):
        fields[name] = frozenset(fields[name])
    return KernelSpec(sites=tuple(_read_site(site) for site in node["sites"]), **fields)


def _read_site(node: Mapping[str, Any]) -> Site:
    fields = {name: _tuples(node[name]) for name in _SITE_FIELDS if name in node}
    if not is_storable(fields["name"]):
        msg = f"{fields['name']!r} is not a valid site name"
        raise ValueError(msg)
    for name in {"arguments", "data", "parents", "shape_parents"} & set(fields):
        fields[name] = frozenset(fields[name])
    return Site(**{**fields, "role": Role(fields["role"])})


def _tuples(value: Any) -> Any:
    """Return nested lists as nested tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def write_example(example: AbstractCall) -> dict[str, Any]:
    """Return the arguments of a call of the kernel as JSON: shapes, types and plain values, but no data."""
    return {
        "arrays": {name: [list(array.shape), str(array.dtype)] for name, array in example.arrays.items()},
        "static": {name: write_plain(value) for name, value in example.static.items()},
        "left_out": list(example.left_out),
        "spec": write_spec(example.spec),
    }


def read_example(node: Mapping[str, Any]) -> AbstractCall:
    """Return the arguments written by :func:`write_example`."""
    spec = read_spec(node["spec"])
    arrays = {name: _read_abstract_array(*array) for name, array in node["arrays"].items()}
    if not arrays[spec.param_input].shape:
        msg = f"`{spec.param_input}` has no rows"
        raise ValueError(msg)
    static = {name: read_plain(value) for name, value in node["static"].items()}
    return AbstractCall(arrays, static, tuple(node["left_out"]), spec)


def _read_abstract_array(shape: list[int], kind: str) -> jax.ShapeDtypeStruct:
    dtype = jnp.dtype(kind)
    is_shape = all(type(size) is int and size >= 0 for size in shape)
    if not is_shape or not (dtype.kind == "b" or jnp.issubdtype(dtype, jnp.number)):
        msg = f"No argument has shape {shape} and type {kind}"
        raise ValueError(msg)
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


def read_columns(node: Any) -> InputColumns | None:
    """Return the input's column names and the axes of sites along the columns."""
    return None if node is None else InputColumns(tuple(node[0]), {name: tuple(axes) for name, axes in node[1].items()})

"""What is known of a kernel, as JSON."""

__all__ = ["read_columns", "read_example", "read_spec", "write_example", "write_spec"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from aimz.kernel import AbstractCall, InputColumns, KernelSpec, Role, Site, is_storable
from aimz.persistence.plain import read_plain, write_plain


def write_spec(spec: KernelSpec) -> dict[str, Any]:
    """Return the structure of a kernel."""
    return {**{name: _sorted(value) for name, value in vars(spec).items() if name in _SPEC}, "sites": _sites(spec)}


_SPEC = tuple(name for name in KernelSpec.__dataclass_fields__ if name != "sites")
_SITE = tuple(Site.__dataclass_fields__)


def _sites(spec: KernelSpec) -> list[dict[str, Any]]:
    """Return the sites, without what is as for most."""
    default = Site("", Role.LATENT, ())
    return [
        {
            name: _sorted(getattr(site, name))
            for name in _SITE
            if name in ("name", "role", "shape") or getattr(site, name) != getattr(default, name)
        }
        for site in spec.sites
    ]


def _sorted(value: Any) -> Any:
    """Return a set as a list; tuples become lists by themselves."""
    return sorted(value) if isinstance(value, frozenset) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def read_spec(node: Mapping[str, Any]) -> KernelSpec:
    """Return what :func:`write_spec` wrote.

    Raises
    ------
    ValueError
        If a name cannot be one of a site.
    """
    sites = [_site(site) for site in node["sites"]]
    known = {name: node[name] for name in _SPEC if name in node}
    for name in ("row_plates", "arguments_by_row"):
        known[name] = frozenset(known[name])
    return KernelSpec(sites=tuple(sites), **known)


def _site(node: Mapping[str, Any]) -> Site:
    known = {name: _tuples(node[name]) for name in _SITE if name in node}
    if not is_storable(known["name"]):
        msg = f"no site is called {known['name']!r}"
        raise ValueError(msg)
    for name in {"parents", "data"} & set(known):
        known[name] = frozenset(known[name])
    return Site(**{**known, "role": Role(known["role"])})


def write_example(example: AbstractCall) -> dict[str, Any]:
    """Return the arguments of a call of the kernel: shapes, types and plain values, but no data."""
    return {
        "arrays": {name: [list(array.shape), str(array.dtype)] for name, array in example.arrays.items()},
        "static": {name: write_plain(value) for name, value in example.static.items()},
        "left_out": list(example.left_out),
        "spec": write_spec(example.spec),
    }


def read_example(node: Mapping[str, Any]) -> AbstractCall:
    """Return what :func:`write_example` wrote."""
    spec = read_spec(node["spec"])
    arrays = {name: _abstract(*array) for name, array in node["arrays"].items()}
    if not arrays[spec.param_input].shape:
        msg = f"`{spec.param_input}` has no rows"
        raise ValueError(msg)
    static = {name: read_plain(value) for name, value in node["static"].items()}
    return AbstractCall(arrays, static, tuple(node["left_out"]), spec)


def _abstract(shape: list[int], kind: str) -> jax.ShapeDtypeStruct:
    dtype = jnp.dtype(kind)
    if any(type(size) is not int or size < 0 for size in shape) or not (
        dtype.kind == "b" or jnp.issubdtype(dtype, jnp.number)
    ):
        msg = f"no argument has shape {shape} and type {kind}"
        raise ValueError(msg)
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


def read_columns(node: Any) -> InputColumns | None:
    """Return the columns of the input: names, and the axes of sites along them."""
    return None if node is None else InputColumns(tuple(node[0]), {name: tuple(axes) for name, axes in node[1].items()})

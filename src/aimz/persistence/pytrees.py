"""Pytrees as arrays: with their structure as JSON (saved models), or by key path only (checkpoints)."""

__all__ = [
    "NO_TEMPLATE",
    "TreeMismatchError",
    "check_leaves",
    "fill_leaves",
    "leaf_arrays",
    "needs_template",
    "read_tree",
    "write_tree",
]

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
from jax import random

from aimz.persistence.kernel_spec import read_plain, write_plain

NO_TEMPLATE: Any = object()
"""Template of :func:`read_tree` if there is none."""


class TreeMismatchError(Exception):
    """A saved tree and its template differ; the arguments describe each difference."""


@cache
def _named_tuples() -> Mapping[str, Any]:
    """Return the named tuples of NumPyro's inference by name: the only classes that a file can refer to."""
    result: dict[str, Any] = {}
    for module in iter_modules(numpyro.infer.__path__, "numpyro.infer."):
        try:
            members = vars(import_module(module.name))
        except ImportError:  # the module needs a package that is not installed
            continue
        own = [value for value in members.values() if getattr(value, "__module__", None) == module.name]
        for value in own:
            if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
                result[value.__name__] = value
    return result


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return the key path and the value of each leaf."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _key_impl(leaf: Any) -> str | None:
    """Return the implementation of a PRNG key, or None for other leaves."""
    return str(random.key_impl(leaf)) if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else None


def _restore_leaf(array: Any, impl: str | None) -> jax.Array:
    array = jnp.array(array)  # a copy: the file may be mapped into memory
    return array if impl is None else random.wrap_key_data(array, impl=impl)


def leaf_arrays(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by key path; PRNG keys are returned as their key data."""
    return {path: leaf if _key_impl(leaf) is None else random.key_data(leaf) for path, leaf in _leaves(tree)}


def fill_leaves(template: Any, arrays: Mapping[str, Any]) -> Any:
    """Return a tree with the structure of ``template`` and the leaves written by :func:`leaf_arrays`."""
    leaves = [_restore_leaf(arrays[path], _key_impl(leaf)) for path, leaf in _leaves(template)]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def write_tree(tree: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a tree as JSON and add its arrays to ``arrays``, under names that begin with ``name``.

    Python containers and NumPyro's named tuples are written with their structure. Of a node of another class only the
    leaves are written, by key path: :func:`read_tree` fills them into a template of that class.

    Raises
    ------
    TypeError
        If a leaf is neither an array nor a plain value.
    """
    kind = type(tree)
    if kind in (dict, OrderedDict):
        keys = {key: write_plain(key) for key in tree}
        return {"dict": [[key, write_tree(tree[k], f"{name}/{key}", arrays)] for k, key in keys.items()]}
    if kind in (list, tuple):
        return {kind.__name__: [write_tree(item, f"{name}/{i}", arrays) for i, item in enumerate(tree)]}
    if _named_tuples().get(kind.__name__) is kind:
        fields = [[field, write_tree(getattr(tree, field), f"{name}/{field}", arrays)] for field in tree._fields]
        return {"named": kind.__name__, "fields": fields}
    if tree is None or kind in (bool, int, float):
        return {"plain": write_plain(tree)}
    if jax.tree_util.all_leaves([tree]):
        return _write_leaf(tree, name, arrays)
    # Leaves that are not arrays, such as functions, belong to the class and are in the template as well.
    leaves = [
        [path, _write_leaf(leaf, name + path, arrays) if _is_array(leaf) else {"plain": None}]
        for path, leaf in _leaves(tree)
    ]
    return {"like": f"{kind.__module__}.{kind.__qualname__}", "leaves": leaves}


def _write_leaf(leaf: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    impl = _key_impl(leaf) if _is_array(leaf) else None
    array = np.asarray(leaf if impl is None else random.key_data(leaf))
    if array.dtype.hasobject or array.dtype.kind in "SUmM":
        msg = f"`{name}` must be an array of numbers to be saved; got {type(leaf).__name__}."
        raise TypeError(msg)
    while name in arrays:
        name += "'"
    arrays[name] = array
    return {"array": name} if impl is None else {"array": name, "key": impl}


def needs_template(node: Any) -> bool:
    """Return whether a written tree has nodes of other classes, which :func:`read_tree` needs a template for."""
    if node is None or "like" in node:
        return node is not None
    children = [item for _, item in node.get("dict", node.get("fields", ()))]
    return any(needs_template(item) for item in (*children, *node.get("list", ()), *node.get("tuple", ())))


def read_tree(node: Any, arrays: Mapping[str, np.ndarray], template: Any = NO_TEMPLATE) -> Any:
    """Return the tree written by :func:`write_tree`, with its leaves on the default device.

    ``template`` is a tree of arrays or shapes with the same structure, which is needed for nodes of other classes.

    Raises
    ------
    TreeMismatchError
        If ``template`` has another structure, or is needed and missing.
    """
    if "dict" in node:
        pairs = [(read_plain(key), item) for key, item in node["dict"]]
        return {key: read_tree(item, arrays, _child(template, key)) for key, item in pairs}
    if "list" in node:
        return [read_tree(item, arrays, _child(template, i)) for i, item in enumerate(node["list"])]
    if "tuple" in node:
        return tuple(read_tree(item, arrays, _child(template, i)) for i, item in enumerate(node["tuple"]))
    if "named" in node:
        fields = {name: read_tree(item, arrays, getattr(template, name, NO_TEMPLATE)) for name, item in node["fields"]}
        kind = _named_tuples()[node["named"]]
        if tuple(fields) != kind._fields:
            msg = f"`{kind.__name__}` with the fields {', '.join(fields)}"
            raise TreeMismatchError(msg)
        return kind(**fields)
    if "plain" in node:
        return read_plain(node["plain"])
    if "array" in node:
        return _restore_leaf(arrays[node["array"]], node.get("key"))
    return _read_instance(node, arrays, template)


def _read_instance(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], template: Any) -> Any:
    """Fill the written leaves into a template of the same class."""
    written = dict(node["leaves"])
    if template is NO_TEMPLATE:
        msg = f"A tree of {node['like']}"
        raise TreeMismatchError(msg)
    leaves = _leaves(template)
    paths = [path for path, _ in leaves]
    if paths != list(written):
        different = sorted(set(paths) ^ set(written)) or paths
        msg = f"{', '.join(f'`{path}`' for path in different[:3])} of {node['like']}"
        raise TreeMismatchError(msg)
    restored = [read_tree(written[path], arrays) if "array" in written[path] else leaf for path, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(template), restored)


def _child(template: Any, key: Any) -> Any:
    """Return the child of a template that is a Python container."""
    if isinstance(template, Mapping):
        return template.get(key, NO_TEMPLATE)
    if type(template) in (list, tuple) and key < len(template):
        return template[key]
    return NO_TEMPLATE


def check_leaves(saved: Any, template: Any) -> None:
    """Check that two trees have the same leaves, with the same shapes and dtypes.

    Raises
    ------
    TreeMismatchError
        If they differ.
    """
    was, now = _describe_leaves(saved), _describe_leaves(template)
    differences = [
        f"`{path}` ({was.get(path, 'none')} saved, {now.get(path, 'none')} here)"
        for path in {**was, **now}
        if was.get(path) != now.get(path)
    ]
    if differences:
        raise TreeMismatchError(*differences)


def _describe_leaves(tree: Any) -> dict[str, str]:
    """Return dtype and shape of each numeric leaf by key path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{jnp.result_type(leaf)} of shape {np.shape(leaf)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if _is_array(leaf) or isinstance(leaf, bool | int | float)
    }

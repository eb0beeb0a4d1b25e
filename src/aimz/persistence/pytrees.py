"""Trees of arrays as JSON that names arrays; what is made by classes is filled into a tree that is at hand."""

__all__ = ["NOTHING", "Unlike", "needs_like", "read_tree", "unlike_leaves", "write_tree"]

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from aimz.persistence.plain import read_plain, write_plain

NOTHING: Any = object()
"""There is no tree to fill."""


class Unlike(Exception):  # noqa: N818 (never seen by users)
    """A tree that is at hand has another structure than the one that was written."""


@cache
def _named_tuples() -> Mapping[str, Any]:
    """Return the named tuples of NumPyro's inference, by name: all that a name in a file can stand for."""
    import numpyro.infer

    found: dict[str, Any] = {}
    for module in iter_modules(numpyro.infer.__path__, "numpyro.infer."):
        try:
            members = vars(import_module(module.name))
        except ImportError:  # of a package that it needs and that is not there
            continue
        own = [value for value in members.values() if getattr(value, "__module__", None) == module.name]
        for value in own:
            if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
                found[value.__name__] = value
    return found


def write_tree(tree: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a tree as JSON; its arrays are added to ``arrays``, under names that begin with ``name``.

    Containers of Python and NumPyro's named tuples are written as they are.  Of nodes of any other class only the
    leaves are, with the way to each: :func:`read_tree` fills them into a tree of that class.

    Raises
    ------
    TypeError
        If a leaf is neither an array nor a plain value.
    """
    kind = type(tree)
    if kind in (dict, OrderedDict):
        return {"dict": [[write_plain(key), write_tree(v, _below(name, key), arrays)] for key, v in tree.items()]}
    if kind in (list, tuple):
        return {kind.__name__: [write_tree(item, f"{name}/{i}", arrays) for i, item in enumerate(tree)]}
    if _named_tuples().get(kind.__name__) is kind:
        fields = [[field, write_tree(getattr(tree, field), f"{name}/{field}", arrays)] for field in tree._fields]
        return {"named": kind.__name__, "fields": fields}
    if tree is None or kind in (bool, int, float):
        return {"plain": write_plain(tree)}
    if jax.tree_util.all_leaves([tree]):
        return _write_leaf(tree, name, arrays)
    leaves = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        way = jax.tree_util.keystr(path)
        # Functions and the like are part of the class, which the tree at hand has too.
        written = _write_leaf(leaf, name + way, arrays) if _is_array(leaf) else {"plain": None}
        leaves.append([way, written])
    return {"like": f"{kind.__module__}.{kind.__qualname__}", "leaves": leaves}


def needs_like(node: Any) -> bool:
    """Return whether a tree that was written has nodes of classes, which :func:`read_tree` cannot make by itself."""
    if node is None or "like" in node:
        return node is not None
    inner = [item for _, item in node.get("dict", node.get("fields", ()))]
    return any(needs_like(item) for item in (*inner, *node.get("list", ()), *node.get("tuple", ())))


def _below(name: str, key: Any) -> str:
    return f"{name}/{key}" if isinstance(key, str) else f"{name}/{write_plain(key)}"


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _write_leaf(leaf: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    node: dict[str, Any] = {}
    if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        node, leaf = {"key": str(random.key_impl(leaf))}, random.key_data(leaf)
    array = np.asarray(leaf)
    if array.dtype.hasobject or array.dtype.kind in "SUmM":
        msg = f"`{name}` must be an array of numbers to be saved; got {type(leaf).__name__}."
        raise TypeError(msg)
    unique = name
    while unique in arrays:
        unique += "'"
    arrays[unique] = array
    return {"array": unique, **node}


def read_tree(node: Any, arrays: Mapping[str, np.ndarray], like: Any = NOTHING) -> Any:
    """Return the tree that :func:`write_tree` wrote, its leaves on the default device.

    ``like`` is a tree of the same structure, or of shapes, for what is made by classes.

    Raises
    ------
    Unlike
        If it has another structure, or is needed and not there.
    """
    if "dict" in node:
        pairs = [(read_plain(key), item) for key, item in node["dict"]]
        return {key: read_tree(item, arrays, _part(like, key)) for key, item in pairs}
    if "list" in node:
        return [read_tree(item, arrays, _part(like, i)) for i, item in enumerate(node["list"])]
    if "tuple" in node:
        return tuple(read_tree(item, arrays, _part(like, i)) for i, item in enumerate(node["tuple"]))
    if "named" in node:
        fields = {field: read_tree(item, arrays, getattr(like, field, NOTHING)) for field, item in node["fields"]}
        kind = _named_tuples()[node["named"]]
        if tuple(fields) != kind._fields:
            msg = f"`{kind.__name__}` with the fields {', '.join(fields)}"
            raise Unlike(msg)
        return kind(**fields)
    if "plain" in node:
        return read_plain(node["plain"])
    if "array" in node:
        return _read_leaf(node, arrays)
    written = dict(node["leaves"])
    if like is NOTHING:
        msg = f"a tree of {node['like']}"
        raise Unlike(msg)
    at_hand = jax.tree_util.tree_leaves_with_path(like)
    ways = [jax.tree_util.keystr(path) for path, _ in at_hand]
    if ways != list(written):
        other = sorted(set(ways) ^ set(written)) or ways
        msg = f"{', '.join(f'`{way}`' for way in other[:3])} of {node['like']}"
        raise Unlike(msg)
    leaves = [
        _read_leaf(written[way], arrays) if "array" in written[way] else leaf
        for way, (_, leaf) in zip(ways, at_hand, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _part(like: Any, key: Any) -> Any:
    """Return what a tree has at ``key``, if it is of the containers of Python."""
    if isinstance(like, Mapping):
        return like.get(key, NOTHING)
    if type(like) in (list, tuple) and key < len(like):
        return like[key]
    return NOTHING


def _read_leaf(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> jax.Array:
    array = jnp.array(arrays[node["array"]])  # copied: the file may be mapped into memory
    return random.wrap_key_data(array, impl=node["key"]) if "key" in node else array


def _described(tree: Any) -> Iterator[tuple[str, tuple[tuple[int, ...], str]]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_array(leaf) or isinstance(leaf, bool | int | float):
            yield (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                (tuple(np.shape(leaf)), str(jnp.result_type(leaf))),
            )


def unlike_leaves(saved: Any, here: Any) -> list[str]:
    """Return in words which leaves of two trees differ in shape or type, or are in one of them only."""
    one, other = dict(_described(saved)), dict(_described(here))
    found = []
    for way in {**one, **other}:
        if one.get(way) != other.get(way):
            texts = (f"{kind} of shape {shape}" for shape, kind in filter(None, (one.get(way), other.get(way))))
            was, is_ = (next(texts) if way in tree else "none" for tree in (one, other))
            found.append(f"`{way}` ({was} saved, {is_} here)")
    return found

"""Plain Python values as JSON, with tuples told from lists, and numbers that JSON has not."""

__all__ = ["is_plain", "read_plain", "write_plain"]

import math
from typing import Any

_SAME = (bool, int, str, type(None))


def write_plain(value: Any) -> Any:
    """Return a plain value (None, bool, int, float, str, list, tuple, dict of these) as JSON.

    Raises
    ------
    TypeError
        If there is anything else in it.
    """
    kind = type(value)  # a subclass may be anything
    if kind in _SAME:
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
    """Return what :func:`write_plain` wrote."""
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
    """Return whether a value can be written."""
    try:
        write_plain(value)
    except (TypeError, RecursionError):
        return False
    return True

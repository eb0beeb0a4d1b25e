"""A small LRU cache, and hashable keys for it."""

__all__ = ["LRUCache", "freeze"]

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from itertools import count
from types import BuiltinFunctionType, FunctionType

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters import partial_eval

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, Enum, np.dtype, FunctionType, BuiltinFunctionType)


def freeze(value: object) -> Hashable:
    """Return a hashable key that is equal for equal values of the same type.

    A mutable object gets a key that equals no other, not even a later one of its own: it may have changed in place,
    and a program compiled for it would be silently out of date.
    """
    if isinstance(value, Mapping):
        return (type(value), frozenset((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, list | tuple | frozenset):
        return (type(value), tuple(freeze(item) for item in value))
    # JAX's arrays are immutable, unlike NumPy's; keys have no bytes.
    if isinstance(value, jax.Array) and not jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return (jax.Array, value.shape, value.dtype, np.asarray(value).tobytes())
    return (type(value), value) if isinstance(value, _PLAIN) else object()


_EVICTIONS = count(1)
_EVICTIONS_BETWEEN = 64
"""Number of evictions from any cache after which JAX's traces are cleared."""
_LOCK = threading.RLock()
"""Lock of all caches, held for single operations on them."""


def _forget_traces() -> None:
    """Clear JAX's cache of traces, the only one without a bound: it grows by 0.3 MiB for each new number of rows.

    Compiled programs are in other caches and are not compiled again.
    """
    clear = getattr(getattr(partial_eval, "trace_to_jaxpr", None), "cache_clear", None)
    if clear is not None and next(_EVICTIONS) % _EVICTIONS_BETWEEN == 0:
        clear()


class LRUCache[T]:
    """Cache that evicts the least recently used entry, for several threads."""

    def __init__(self, max_size: int = 64) -> None:
        self._max_size = max_size
        self._entries: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the entry of ``key``, calling ``make`` if there is none."""
        with _LOCK:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        made = make()  # not locked: it may take long
        with _LOCK:
            found = self._entries.setdefault(key, made)
            evicts = len(self._entries) > self._max_size
            if evicts:
                self._entries.popitem(last=False)
        if evicts:
            _forget_traces()
        return found

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def drop(self, key: Hashable) -> None:
        """Remove the entry of ``key``, if there is one."""
        with _LOCK:
            self._entries.pop(key, None)

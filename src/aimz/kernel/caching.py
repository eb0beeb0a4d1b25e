"""Arguments that are not arrays: what is read or compiled for their values, and kept."""

__all__ = ["LRUCache", "freeze"]

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType

import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, Enum, np.dtype, FunctionType, BuiltinFunctionType)


def freeze(value: object) -> Hashable:
    """Return something hashable that is equal for equal values of the same type.

    What might be changed in place is equal to nothing, not even to itself later: a program made for it would then
    be silently out of date.
    """
    if isinstance(value, Mapping):
        return (type(value), frozenset((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, list | tuple | frozenset):
        return (type(value), tuple(freeze(item) for item in value))
    return (type(value), value) if isinstance(value, _PLAIN) else object()


class LRUCache[T]:
    """What was made for the most recent handles; the least recently used goes first."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._made: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, handle: Hashable, make: Callable[[], T]) -> T:
        """Return what was made for ``handle``, made now if it was not."""
        if handle in self._made:
            found = self._made[handle]
        else:
            found = self._made[handle] = make()
            if len(self._made) > self._most:
                self._made.popitem(last=False)
        if handle in self._made:  # which another thread may have dropped
            self._made.move_to_end(handle)
        return found

    def __contains__(self, handle: Hashable) -> bool:
        return handle in self._made

    def drop(self, handle: Hashable) -> None:
        """Forget what was made for ``handle``, if anything was."""
        self._made.pop(handle, None)

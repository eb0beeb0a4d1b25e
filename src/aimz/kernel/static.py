"""Arguments that are not arrays: a compiled program is made for their values."""

__all__ = ["freeze"]

from collections.abc import Hashable, Mapping


def freeze(value: object) -> Hashable:
    """Return something hashable that is equal for equal values of the same type.

    A value that can be neither hashed nor taken apart is equal to nothing, not even to itself later: it may
    have been changed in place, and then a program made for it would be silently out of date.
    """
    if isinstance(value, Mapping):
        return (type(value), frozenset((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value), tuple(freeze(item) for item in value))
    try:
        hash(value)
    except TypeError:
        return object()
    return (type(value), value)

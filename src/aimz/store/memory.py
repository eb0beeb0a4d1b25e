"""Results in host memory."""

__all__ = ["InMemoryStore"]

import gc
import math
import weakref
from collections import defaultdict
from collections.abc import Mapping  # noqa: TC003 (an annotation beside one that is used)
from typing import Any

import numpy as np

from aimz.store.base import Group, ResultStore, StorePart, Variable

_MUCH = 2**26
_LARGE: list[weakref.ref[np.ndarray]] = []
"""Arrays of more than 64 MiB that were made here and may still be there."""


class _Pieces(StorePart):
    """Pieces on their way."""

    whole_chunks = False

    def __init__(self) -> None:
        self._pieces: list[tuple[str, np.ndarray, int]] = []

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Keep a copy, since the device may use the memory again."""
        self._pieces.append((name, np.array(array), start))

    def payload(self) -> list[tuple[str, np.ndarray, int]]:
        """Return them."""
        return self._pieces


class InMemoryStore(ResultStore):
    """Plain NumPy arrays, made at once where the length is known and put together at the end where it is not."""

    whole_chunks = False

    def __init__(self) -> None:
        self._variables: Mapping[str, Variable] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._filled: defaultdict[str, int] = defaultdict(int)
        self._pieces: defaultdict[str, dict[int, np.ndarray]] = defaultdict(dict)

    def open(self, group: Group) -> None:
        """Allocate the arrays; pages that are never written take no memory."""
        self._variables = group.variables
        for generation in range(3):
            # Trees are cycles: those that were dropped hold their arrays until the collector comes by.  What was
            # dropped lately is among what is young, and looking there costs little.
            if any(array() is not None for array in _LARGE):
                gc.collect(generation)
        _LARGE[:] = [array for array in _LARGE if array() is not None]
        for name, variable in group.variables.items():
            if None not in variable.shape:
                shape: Any = variable.shape
                array = self._arrays[name] = np.empty(shape, variable.dtype)
                if array.nbytes > _MUCH:
                    _LARGE.append(weakref.ref(array))

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Copy a piece into its place."""
        where, piece = self._variables[name].place(array, start)
        self._filled[name] += piece.size
        if name in self._arrays:
            self._arrays[name][where] = piece
        else:
            self._pieces[name][start] = piece.astype(self._variables[name].dtype)

    def finish(self, length: int) -> None:
        """Put together what came in pieces."""
        for name, variable in self._variables.items():
            shape: Any = variable.ending_at(length).shape
            if self._filled[name] != math.prod(shape):
                msg = f"`{name}` is not whole: {self._filled[name]} of its {math.prod(shape)} numbers came."
                raise OSError(msg)
        for name, pieces in self._pieces.items():
            axis = self._variables[name].axis
            assert axis is not None
            self._arrays[name] = np.concatenate([pieces[start] for start in sorted(pieces)], axis=axis)
        self._pieces.clear()

    def fail(self, error: BaseException) -> BaseException:
        """Forget everything."""
        self._arrays.clear()
        self._pieces.clear()
        return error

    def part(self, start: int, stop: int) -> StorePart:  # noqa: ARG002 (it takes whatever comes)
        """Return what keeps pieces until they are sent."""
        return _Pieces()

    def add(self, payload: Any) -> None:
        """Copy pieces into their places."""
        for name, array, start in payload:
            self.write(name, array, start)

    def read(self, name: str) -> np.ndarray:
        """Return the array itself."""
        return self._arrays[name]

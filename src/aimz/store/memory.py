"""Store of results in host memory."""

__all__ = ["InMemoryStore"]

import gc
import math
import weakref
from collections import defaultdict
from typing import Any

import numpy as np

from aimz.statistics import with_nan
from aimz.store.base import Group, ResultStore, StorePart, Variable

_LARGE_BYTES = 2**26
_large: list[weakref.ref[np.ndarray]] = []
"""Arrays of more than 64 MiB that were allocated here and may still be referenced."""


class _Pieces(StorePart):
    """Pieces kept until they are sent."""

    whole_chunks = False

    def __init__(self) -> None:
        self._pieces: list[tuple[str, np.ndarray, int]] = []

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Copy a piece, since the device may reuse its memory."""
        self._pieces.append((name, np.array(array), start))

    def payload(self) -> list[tuple[str, np.ndarray, int]]:
        """Return the pieces."""
        return self._pieces


class InMemoryStore(ResultStore):
    """NumPy arrays, allocated when the store is opened, or concatenated at the end if the length is not known."""

    whole_chunks = False

    def __init__(self) -> None:
        self._variables: dict[str, Variable] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._filled: defaultdict[str, int] = defaultdict(int)
        self._pieces: defaultdict[str, dict[int, np.ndarray]] = defaultdict(dict)

    def open(self, group: Group) -> None:
        """Allocate the arrays; pages that are never written take no memory."""
        self._variables = dict(group.variables)
        for generation in range(3):
            # Trees are reference cycles: the arrays of a dropped tree are freed by the garbage collector only.  Recent
            # trees are in the youngest generations, whose collection is cheap.
            if any(array() is not None for array in _large):
                gc.collect(generation)
        _large[:] = [array for array in _large if array() is not None]
        for name, variable in group.variables.items():
            if None not in variable.shape:
                shape: Any = variable.shape
                array = self._arrays[name] = np.empty(shape, variable.dtype)
                if array.nbytes > _LARGE_BYTES:
                    _large.append(weakref.ref(array))

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Copy a piece into its array."""
        where, piece = self._variables[name].place(array, start)
        self._filled[name] += piece.size
        if name in self._arrays:
            self._arrays[name][where] = piece
        else:
            self._pieces[name][start] = piece.astype(self._variables[name].dtype)

    def finish(self, length: int) -> None:
        """Check that every value was written, and concatenate the pieces of arrays of unknown length."""
        for name, variable in self._variables.items():
            shape: Any = variable.ending_at(length).shape
            if self._filled[name] != math.prod(shape):
                msg = f"`{name}` is incomplete: {self._filled[name]} of its {math.prod(shape)} values were written."
                raise OSError(msg)
        for name, pieces in self._pieces.items():
            axis = self._variables[name].axis
            assert axis is not None
            self._arrays[name] = np.concatenate([pieces[start] for start in sorted(pieces)], axis=axis)
        self._pieces.clear()

    def fail(self, error: BaseException) -> BaseException:
        """Drop all arrays."""
        self._arrays.clear()
        self._pieces.clear()
        return error

    def part(self, _start: int, _stop: int, /) -> StorePart:
        """Return a part that keeps its pieces until they are sent."""
        return _Pieces()

    def add(self, payload: Any) -> None:
        """Copy the pieces of a part."""
        for name, array, start in payload:
            self.write(name, array, start)

    def read(self, name: str) -> np.ndarray:
        """Return the array, in float64 with NaN if integers are missing."""
        return with_nan(self._arrays[name]) if self._variables[name].may_be_missing else self._arrays[name]

"""Draws spilled to unnamed temporary files."""

__all__ = ["TemporaryFileStore"]

import math
import os
import tempfile
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from aimz.store.base import Group, ResultStore, Variable


class TemporaryFileStore(ResultStore):
    """Memory-mapped arrays in files without a name, released when the context exits or the process ends."""

    whole_chunks = False

    def __init__(self) -> None:
        self._variables: dict[str, Variable] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrays.clear()
        for file in self._files:
            file.close()

    def open(self, group: Group) -> None:
        """Create a file for each variable; all shapes must be known."""
        self._variables = dict(group.variables)
        for name, variable in group.variables.items():
            shape: Any = variable.shape
            file = tempfile.TemporaryFile(prefix="aimz-")  # noqa: SIM115 (closed by __exit__)
            self._files.append(file)
            if math.prod(shape):
                if hasattr(os, "posix_fallocate"):
                    # A write to a mapped file kills the process if the disk is full; an allocation raises.
                    os.posix_fallocate(file.fileno(), 0, math.prod(shape) * variable.dtype.itemsize)
                self._arrays[name] = np.memmap(file, variable.dtype, mode="w+", shape=shape)
            else:
                self._arrays[name] = np.empty(shape, variable.dtype)

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Copy a piece into its array."""
        where, piece = self._variables[name].place(array, start)
        self._arrays[name][where] = piece

    def finish(self, length: int) -> None:
        """Return at once: the draws are read by the same call."""

    def read(self, name: str) -> np.ndarray:
        """Return the array, which is valid until the context exits."""
        return self._arrays[name]

"""Reader of stored arrays that raises for missing or damaged chunks."""

__all__ = ["FILL_VALUE", "StoredArray"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from zarr.storage import StorePath

from aimz.errors import IncompleteResultError, StaleResultError
from aimz.statistics import with_nan
from aimz.store.checksums import ChunkChecksums, ChunkStore, grid_of
from aimz.store.location import Location
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import open_chunks

FILL_VALUE = "_FillValue"
"""Attribute of an array of integers in which values are missing, by the CF conventions."""


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array of a complete result, read in pieces.

    Keeps the temporary directory of its model from being removed.  An unpickled copy does not.
    """

    location: Location
    name: str
    """Path of the array in the result."""
    document: Mapping[str, Any] = field(repr=False)
    """Metadata of the array."""
    checksums: ChunkChecksums | None = field(repr=False)
    """Checksums of the chunks; None in results of format 1."""
    temporary: TemporaryDirectory | None = field(default=None, repr=False)
    """Temporary directory that contains the result, if any."""

    @cached_property
    def _array(self) -> Any:
        """The zarr array."""
        root = self.location.store_path("", read_only=True)
        store = ChunkStore(
            root.store, root.path, {self.name: grid_of(self.document)}, on_write=_reject, on_read=self.compare
        )
        return open_chunks(StorePath(store, root.path) / self.name, self.document)

    def compare(self, _: str, number: int, checksum: int) -> None:
        """Check that a chunk that was read is the chunk that was written at its position."""
        if self.checksums is not None and self.checksums.get(number) != checksum:
            msg = f"Chunk {number} is not the chunk that was written there."
            raise ValueError(msg)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.document["shape"])

    @property
    def chunks(self) -> tuple[int, ...]:
        """Length of a chunk along each axis."""
        return tuple(self.document["chunk_grid"]["configuration"]["chunk_shape"])

    @cached_property
    def _may_be_missing(self) -> bool:
        return FILL_VALUE in self.document["attributes"] and self.document["data_type"].startswith("int")

    @cached_property
    def dtype(self) -> np.dtype:
        """Type of the values; float64 for integers of which some are missing."""
        kind = self.document["data_type"]
        if kind == "string":
            return np.dtypes.StringDType()
        return np.dtype(np.float64 if self._may_be_missing else kind)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read a part of the array.

        Raises
        ------
        StaleResultError
            If the result was removed.
        IncompleteResultError
            If a chunk is missing or was altered.
        """
        if self.temporary is not None:
            self.temporary.check_open()
        try:
            found = np.asarray(self._array[key])
        except self.location.read_errors as error:
            raise self._explain(error) from error
        return with_nan(found).astype(self.dtype, copy=False) if self._may_be_missing else found

    def _explain(self, error: Exception) -> Exception:
        if not self.location.exists():
            return StaleResultError(f"The result in {self.location} no longer exists: it was removed. Predict again.")
        return IncompleteResultError(
            f"Array `{self.name}` of the result in {self.location} is missing data, or they were altered after they "
            f"were written ({str(error).rstrip('.')}). Nothing of it should be used; predict again."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the temporary directory."""
        return StoredArray, (self.location, self.name, self.document, self.checksums)


def _reject(*_: Any) -> None:
    """Raise: a complete result is only read."""
    msg = "A complete result cannot be written."
    raise PermissionError(msg)

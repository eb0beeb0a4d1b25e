"""Reader of stored arrays that raises for missing or damaged chunks."""

__all__ = ["FILL_VALUE", "STATE", "StoredArray", "check_result"]

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from aimz.errors import IncompleteResultError, StaleResultError
from aimz.statistics import with_nan
from aimz.store.location import Location, as_location
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import zarr_settings

STATE = "aimz_store"
"""Attribute of the root group that lists the contents of a complete result."""
FILL_VALUE = "_FillValue"
"""Attribute of an array of integers in which values are missing, by the CF conventions."""


class StoredArray:
    """An array of a complete result, read in pieces.

    Keeps the temporary directory of its model from being removed.  An unpickled copy does not.

    Parameters
    ----------
    location
        Location of the result.
    name
        Path of the array in the result.
    temporary
        Temporary directory that contains the result, if any.
    array
        Zarr array, if it is open already.
    """

    def __init__(
        self, location: Location | Path, name: str, temporary: TemporaryDirectory | None = None, array: Any = None
    ) -> None:
        self.location = as_location(location)
        self.name = name
        self._temporary = temporary
        if array is None:
            try:
                with zarr_settings():
                    array = zarr.open_array(self.location.store_path(name, read_only=True), mode="r")
            except self.location.read_errors as error:
                raise self._explain(error) from error
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self._may_be_missing = FILL_VALUE in array.attrs and array.dtype.kind == "i"
        self.dtype: np.dtype = np.dtype(np.float64) if self._may_be_missing else array.dtype
        self.chunks: tuple[int, ...] = array.chunks

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
        if self._temporary is not None:
            self._temporary.check_open()
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
            f"were written ({error}). Nothing of it should be used; predict again."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the location and the name."""
        return StoredArray, (self.location, self.name)


def check_result(place: Location | Path) -> dict[str, Any]:
    """Check that a result is complete, and return the state stored in its root.

    Raises
    ------
    IncompleteResultError
        If the call did not finish, or files are missing.
    FileNotFoundError
        If the location does not exist.
    """
    location = as_location(place)
    root = location.get("zarr.json")
    if root is None and not location.exists():
        msg = f"There is no result in {location}: pass the directory of one call, the `artifact_path` of its result."
        raise FileNotFoundError(msg)
    if root is None:
        msg = (
            f"The result in {location} is incomplete: the call that was writing it did not finish. Finish it with the "
            f"same call and {location.resume}."
        )
        raise IncompleteResultError(msg)
    state = json.loads(root)["attributes"].get(STATE)
    if state is None:
        msg = (
            f"The Zarr store in {location} is no result of this package: its root has no attribute `{STATE}`. Pass "
            "the `artifact_path` of a result."
        )
        raise IncompleteResultError(msg)
    read: dict[str, Any] = json.loads(state)
    found = location.count_chunks(read["chunks"])
    for name, count in read["chunks"].items():
        if found[name] != count:
            msg = f"Array `{name}` of the result in {location} has {found[name]} of its {count} chunks. Predict again."
            raise IncompleteResultError(msg)
    return read

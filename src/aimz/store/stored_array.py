"""Stored arrays, read so that what is missing or damaged raises."""

__all__ = ["STATE", "StoredArray", "check_result"]

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from aimz.errors import IncompleteResultError, StaleResultError
from aimz.store.location import Location, as_location
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import zarr_settings

STATE = "aimz_store"
"""Attribute of the root that says what a complete result consists of."""


class StoredArray:
    """One array of a complete result, read piece by piece.

    Holds the temporary directory it lies in, if it lies in one; unpickled elsewhere it holds nothing and reads what is
    there.

    Parameters
    ----------
    location
        Where the result lies.
    name
        Path of the array in it.
    home
        The temporary directory around, if any.
    array
        The array itself, where it is open already.
    """

    def __init__(
        self, location: Location | Path, name: str, home: TemporaryDirectory | None = None, array: Any = None
    ) -> None:
        self.location = as_location(location)
        self.name = name
        self._home = home
        if array is None:
            try:
                with zarr_settings():
                    array = zarr.open_array(self.location.store_path(name, read_only=True), mode="r")
            except self.location.damage as error:
                raise self._explain(error) from error
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype = array.dtype
        self.chunks: tuple[int, ...] = array.chunks

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read a part.

        Raises
        ------
        StaleResultError
            If the directory is gone.
        IncompleteResultError
            If a chunk is missing, or is not what was written.
        """
        if self._home is not None:
            self._home.check()
        try:
            return np.asarray(self._array[key])
        except self.location.damage as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> Exception:
        if not self.location.exists():
            return StaleResultError(f"The result in {self.location} is gone: it was removed. Predict again.")
        return IncompleteResultError(
            f"Array `{self.name}` of the result in {self.location} is missing data, or they were altered after they "
            f"were written ({error}). Nothing of it should be used; predict again."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where it lies."""
        return StoredArray, (self.location, self.name)


def check_result(place: Location | Path) -> dict[str, Any]:
    """Check that a result is complete; return what its root says of it.

    Raises
    ------
    IncompleteResultError
        If it is not: it was never finished, or files are missing.
    FileNotFoundError
        If there is nothing of that name.
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
        msg = f"The Zarr store in {location} is no result: its root lacks the attribute `{STATE}`."
        raise IncompleteResultError(msg)
    read: dict[str, Any] = json.loads(state)
    found = location.count_chunks(read["chunks"])
    for name, count in read["chunks"].items():
        if found[name] != count:
            msg = f"Array `{name}` of the result in {location} has {found[name]} of its {count} chunks. Predict again."
            raise IncompleteResultError(msg)
    return read

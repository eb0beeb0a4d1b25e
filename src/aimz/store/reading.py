"""Stored arrays, read so that what is missing or damaged raises."""

__all__ = ["STATE", "StoredArray", "check_result", "count_chunks"]

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from aimz.errors import IncompleteResultError, StaleResultError
from aimz.store.location import Home
from aimz.store.zarr_files import zarr_settings

STATE = "aimz_store"
"""Attribute of the root that says what a complete result consists of."""


class StoredArray:
    """One array of a complete result, read piece by piece.

    Holds the temporary directory it lies in, if it lies in one; unpickled elsewhere it holds nothing and reads what is
    there.

    Parameters
    ----------
    directory
        Directory of the result.
    name
        Path of the array in it.
    home
        The temporary directory around, if any.
    array
        The array itself, where it is open already.
    """

    def __init__(self, directory: Path, name: str, home: Home | None = None, array: Any = None) -> None:
        self.directory = directory
        self.name = name
        self._home = home
        if array is None:
            try:
                with zarr_settings():
                    array = zarr.open_array(zarr.storage.LocalStore(directory / name, read_only=True), mode="r")
            except (ValueError, OSError) as error:
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
        except (ValueError, OSError, RuntimeError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> Exception:
        if not self.directory.is_dir():
            return StaleResultError(
                f"The result in {self.directory} is gone: its directory was removed. Predict again."
            )
        return IncompleteResultError(
            f"Array `{self.name}` of the result in {self.directory} is missing data, or they were altered after they "
            f"were written ({error}). Nothing of it should be used; predict again."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where it lies."""
        return StoredArray, (self.directory, self.name)


def count_chunks(path: Path) -> int:
    """Return how many chunks of an array there are; that of a single number is a file of its own."""
    chunks = path / "c"
    if not chunks.is_dir():
        return int(chunks.is_file())
    return sum(1 for file in chunks.rglob("*") if file.suffix != ".partial" and file.is_file())


def check_result(directory: Path) -> dict[str, Any]:
    """Check that a result is complete; return what its root says of it.

    Raises
    ------
    IncompleteResultError
        If it is not: it was never finished, or files are missing.
    FileNotFoundError
        If there is nothing of that name.
    """
    if not directory.is_dir():
        msg = f"There is no result in {directory}: pass the directory of one call, the `artifact_path` of its result."
        raise FileNotFoundError(msg)
    root = directory / "zarr.json"
    if not root.is_file():
        msg = (
            f"The result in {directory} is incomplete: the call that was writing it did not finish. Finish it with "
            f"the same call and `resume={str(directory)!r}`."
        )
        raise IncompleteResultError(msg)
    state = json.loads(root.read_text())["attributes"].get(STATE)
    if state is None:
        msg = f"The Zarr store in {directory} is no result: its root lacks the attribute `{STATE}`."
        raise IncompleteResultError(msg)
    read: dict[str, Any] = json.loads(state)
    for name, count in read["chunks"].items():
        found = count_chunks(directory / name)
        if found != count:
            msg = f"Array `{name}` of the result in {directory} has {found} of its {count} chunks. Predict again."
            raise IncompleteResultError(msg)
    return read

"""The temporary directory of a model."""

__all__ = ["TemporaryDirectory"]

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from aimz.errors import StaleResultError


def _remove(path: str, owner: int) -> None:
    """Remove a directory, unless this is a child process that inherited the duty."""
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


class TemporaryDirectory:
    """A temporary directory that lives as long as anyone holds this object, and no longer than the process.

    The model holds it, and so does each result in it: a result outlives its model, and the last to go turns off the
    light.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="aimz-"))
        self._finalizer = weakref.finalize(self, _remove, str(self.path), os.getpid())

    def close(self) -> None:
        """Remove the directory; results in it are stale from now on."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether the directory has been removed by us."""
        return not self._finalizer.alive

    def check(self) -> None:
        """Refuse to read what was removed."""
        if self.closed:
            msg = (
                f"This result lay in the temporary directory {self.path} of its model, which was cleaned up. Predict "
                "again; pass `output_dir` to keep results, or `store='memory'`, or load them first."
            )
            raise StaleResultError(msg)

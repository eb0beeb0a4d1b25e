"""Temporary directory of a model."""

__all__ = ["TemporaryDirectory"]

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from aimz.errors import StaleResultError


def _remove(path: str, owner: int) -> None:
    """Remove a directory, unless this is a forked child of the process that created it."""
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


class TemporaryDirectory:
    """Directory that is removed when the model and every result that refers to it are deleted, or the process ends."""

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="aimz-"))
        except OSError as error:
            place = tempfile.tempdir or os.environ.get("TMPDIR")
            msg = (
                f"Results without an `output_dir` are stored in the temporary directory; {place} cannot be written "
                f"({error.strerror}). Set `TMPDIR` to another directory, or pass `output_dir` or `store='memory'`."
            )
            raise OSError(error.errno, msg) from error
        self._finalizer = weakref.finalize(self, _remove, str(self.path), os.getpid())

    def close(self) -> None:
        """Remove the directory; its results can no longer be read."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether this process has removed the directory."""
        return not self._finalizer.alive

    def check_open(self) -> None:
        """Raise :class:`StaleResultError` if the directory was removed."""
        if self.closed:
            msg = (
                f"This result was stored in the temporary directory {self.path} of its model, which was cleaned up. "
                "Predict again; pass `output_dir` to keep results, or `store='memory'`, or load them first."
            )
            raise StaleResultError(msg)

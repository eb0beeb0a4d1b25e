"""Where results lie: directories of calls, and the temporary one of a model."""

__all__ = ["Home", "new_directory", "read_output_dir"]

import os
import shutil
import tempfile
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aimz.errors import StaleResultError


def _remove(path: str, owner: int) -> None:
    """Remove a directory, unless this is a child process that inherited the duty."""
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


class Home:
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


def read_output_dir(output_dir: Any) -> Path:
    """Return the directory results are to go to, and refuse one that cannot be written; nothing is made.

    Raises
    ------
    TypeError
        If it is no path.
    ValueError
        If it is a URL.
    OSError
        If it is a file, or may not be written.
    """
    if not isinstance(output_dir, str | os.PathLike):
        msg = f"`output_dir` must be a path; got {output_dir!r}. Pass a string or a `pathlib.Path`."
        raise TypeError(msg)
    if "://" in str(output_dir):
        msg = f"`output_dir` must be a local path; got {output_dir!r}. Write to a local directory and copy it there."
        raise ValueError(msg)
    path = Path(output_dir).expanduser().absolute()
    parent = next(p for p in (path, *path.parents) if p.exists())
    if not parent.is_dir():
        msg = f"`output_dir` must be a directory; got {path}, and {parent} is a file. Choose another."
        raise NotADirectoryError(msg)
    if not os.access(parent, os.W_OK | os.X_OK):
        msg = f"`output_dir` must be a directory that can be written; got {path}. Choose another, or change its mode."
        raise PermissionError(msg)
    return path


def new_directory(top: Path, method: str) -> Path:
    """Make the directory of one call, ``<UTC time>_<method>``, which no other process has."""
    top.mkdir(parents=True, exist_ok=True)
    while True:
        path = top / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}_{method}"
        try:
            path.mkdir()
        except FileExistsError:  # the same microsecond, in another process
            continue
        return path

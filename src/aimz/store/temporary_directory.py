"""Temporary directory of a model."""

__all__ = ["TemporaryDirectory"]

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path

from aimz.errors import StaleResultError

_SCRIPT = 'trap "" HUP INT TERM; while IFS= read -r path; do set -- "$@" "$path"; done; rm -rf -- "$@"'
"""Shell script that removes the directories it has read, after the process that writes to it has ended."""


@cache
def _cleaner() -> int | None:
    """Start a process that survives signals to this one, and return the pipe to it; None if there is no shell.

    A signal that ends Python at once, such as SIGTERM, runs no finalizer, and its handler belongs to the user.
    """
    if not Path("/bin/sh").exists() or not hasattr(os, "posix_spawn"):
        return None
    reading, writing = os.pipe()
    devnull = os.open(os.devnull, os.O_WRONLY)
    files = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in ((reading, 0), (devnull, 1), (devnull, 2))]
    try:
        os.posix_spawn("/bin/sh", ["/bin/sh", "-c", _SCRIPT, "aimz"], os.environ, file_actions=files, setpgroup=0)
    except OSError:
        os.close(writing)
        return None
    finally:
        os.close(reading)
        os.close(devnull)
    return writing


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
        pipe = _cleaner()
        if pipe is not None:
            with suppress(OSError):  # the user ended that process
                os.write(pipe, f"{self.path}\n".encode())

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

"""One process, one accelerator: which of those of a host a worker takes."""

__all__ = ["own_device"]

import os
import tempfile
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import IO

from aimz.kernel import LRUCache

_HELD = LRUCache[IO[bytes] | None](1)
"""The lock of the device that is ours; as long as the process lives."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def own_device() -> None:
    """Take one accelerator for this process, before JAX sees any; of what is seen already nothing is changed.

    JAX would take hold of most of the memory of all that it sees, and leave none for the next worker of the host.
    """
    _HELD.get("device", lambda: _take(sorted(glob("/dev/nvidia[0-9]*")), Path(tempfile.gettempdir())))


def _take(devices: Sequence[str], directory: Path) -> IO[bytes] | None:
    """Make one device visible: the first, of those assigned or of all, that no other worker has; return its lock."""
    if not devices:
        return None
    # Assigned are those of the whole job, or, by Dask's own cluster of GPUs, all in another order for each worker.
    assigned = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    if _VISIBLE in os.environ and len(assigned) < 2:
        return None
    import fcntl

    for name in assigned or map(str, range(len(devices))):
        file = _open(directory / f"aimz-device-{name}.lock")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        os.environ[_VISIBLE] = name
        return file
    return None  # more workers than devices: they share


def _open(path: Path) -> IO[bytes]:
    """Open a file to lock it; one that another user of the host has made can be read only, which is enough."""
    try:
        return path.open("ab")
    except PermissionError:
        return path.open("rb")

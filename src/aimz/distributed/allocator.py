"""Memory of large arrays that come and go: kept while a worker computes, given back afterwards."""

__all__ = ["give_back", "keep_freed"]

import ctypes
import os
import sys

_TRIM, _MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's `mallopt`."""
_SETTING = "MALLOC_TRIM_THRESHOLD_"


def keep_freed() -> None:
    """Set the thresholds of an ordinary process, which reuses freed memory.

    Dask's nanny starts workers with a threshold of 64 KiB, above which freed memory goes back to the system at once.
    Each array of a step is then mapped and filled with zeros again, which took half of the time.
    """
    _set(trim=2**27, mmap=2**25)


def give_back() -> None:
    """Release free memory to the system, now and from now on as set for the worker."""
    given = os.environ.get(_SETTING, "")
    if _set(trim=int(given) if given.isdigit() else 2**17, mmap=2**17):
        ctypes.CDLL(None).malloc_trim(0)


def _set(*, trim: int, mmap: int) -> bool:
    """Set thresholds, if the environment sets one and the library is glibc."""
    if sys.platform != "linux" or _SETTING not in os.environ:
        return False
    if not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return False
    return bool(library.mallopt(_TRIM, trim) and library.mallopt(_MMAP, mmap))

"""Import what a result needs while the kernel is traced and compiled: both take half a second, on different cores."""

__all__ = ["await_imports", "begin_imports"]

import importlib
import sys
import threading
from contextlib import suppress

_HEAVY = ("zarr", "xarray", "dask.array")
_threads: list[threading.Thread] = []


def begin_imports() -> None:
    """Start importing, in a thread of its own."""
    if not _threads and not all(name in sys.modules for name in _HEAVY):
        _threads.append(threading.Thread(target=_load, name="aimz-imports"))
        _threads[0].start()


def await_imports() -> None:
    """Wait until that has ended; rooms that need those packages do so before they import them."""
    if _threads and _threads[0] is not threading.current_thread():
        _threads[0].join()


def _load() -> None:
    # Whoever needs one imports it once more, and hears what is wrong with it; an interpreter that ends is no fault.
    with suppress(Exception):
        for name in _HEAVY:
            importlib.import_module(name)

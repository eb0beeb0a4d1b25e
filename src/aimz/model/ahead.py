"""Import what a result needs while the first program compiles: both take half a second, on different cores."""

__all__ = ["imports_ahead"]

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HEAVY = ("zarr", "xarray", "dask.array")


def _load() -> None:
    for name in _HEAVY:
        importlib.import_module(name)


@contextmanager
def imports_ahead() -> Iterator[None]:
    """Import in a thread of its own, which has ended on leaving; nothing inside may import them."""
    if all(name in sys.modules for name in _HEAVY):
        yield
        return
    thread = threading.Thread(target=_load, name="aimz-imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()

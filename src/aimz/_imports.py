"""Import NumPyro once, and the packages that results need in the background.

ArviZ puts a lazy placeholder for NumPyro into ``sys.modules``.  Importing a submodule through this placeholder loads
the submodule twice, and NumPyro's handlers then miss the sites of a kernel.  NumPyro is therefore imported here, before
any of its submodules.
"""

__all__ = ["NUMPYRO", "await_imports", "begin_imports", "pandas", "xarray", "zarr"]

import importlib
import sys
import threading
import warnings
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

with warnings.catch_warnings():
    # NumPyro imports tqdm.auto too, which warns in a notebook without widgets; our progress bars do not need them.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto  # noqa: F401

import numpyro

NUMPYRO: str = numpyro.__version__
"""Version of NumPyro; reading it loads the whole package."""


class _LazyModule(ModuleType):
    """A module that is imported when one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas
    import xarray
    import zarr
else:
    pandas, xarray, zarr = _LazyModule("pandas"), _LazyModule("xarray"), _LazyModule("zarr")

_HEAVY = ("zarr", "xarray", "dask.array")
"""Packages imported in a thread while programs are compiled, which takes as long on another core."""
_threads: list[threading.Thread] = []
_LOCK = threading.Lock()


def begin_imports() -> None:
    """Start importing zarr, xarray and Dask in a background thread."""
    with _LOCK:  # a thread in the list has been started
        if not _threads and not all(name in sys.modules for name in _HEAVY):
            thread = threading.Thread(target=_load, name="aimz-imports")
            thread.start()
            _threads.append(thread)


def await_imports() -> None:
    """Wait for the background imports; call this before importing one of the packages."""
    if _threads and _threads[0] is not threading.current_thread():
        _threads[0].join()


def _load() -> None:
    # A failed import is raised where the package is needed, and a shutdown of the interpreter is not an error.
    with suppress(Exception):
        for name in _HEAVY:
            importlib.import_module(name)

"""Stores of streamed results: a directory, an object store, memory, or sums over rows.

The package has the names of ``aimz.store.api``, imported when the first is used, since they import zarr.
"""

from typing import TYPE_CHECKING

from aimz._imports import names_of

if TYPE_CHECKING:
    from aimz.store.api import *
else:
    __getattr__ = names_of("aimz.store", "aimz.store.api")

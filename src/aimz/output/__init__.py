"""Results as :class:`xarray.DataTree` in ArviZ's schema; their summaries.

The package has the names of ``aimz.output.api``, imported when the first is used, since they import pandas.
"""

from typing import TYPE_CHECKING

from aimz._imports import names_of

if TYPE_CHECKING:
    from aimz.output.api import *
else:
    __getattr__ = names_of("aimz.output", "aimz.output.api")

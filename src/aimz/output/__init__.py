"""What the user gets: arrays -> :class:`xarray.DataTree` in ArviZ's schema.

Imported when a result is made, since xarray brings pandas with it.
"""

from aimz.output.effect import difference, recorded
from aimz.output.labels import Labels
from aimz.output.tree import Draws, draws_dataset, make_tree, observed_dataset, stats_dataset

__all__ = [
    "Draws",
    "Labels",
    "difference",
    "draws_dataset",
    "make_tree",
    "observed_dataset",
    "recorded",
    "stats_dataset",
]

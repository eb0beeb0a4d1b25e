"""What the user gets: arrays -> :class:`xarray.DataTree` in ArviZ's schema.

Imported when a result is made, since xarray brings pandas with it.
"""

from aimz.output.effect import difference, recorded
from aimz.output.labels import Labels
from aimz.output.stored import Frame, as_group, frame
from aimz.output.tree import Draws, attributes, draws_dataset, make_tree, observed_dataset, stats_dataset

__all__ = [
    "Draws",
    "Frame",
    "Labels",
    "as_group",
    "attributes",
    "difference",
    "draws_dataset",
    "frame",
    "make_tree",
    "observed_dataset",
    "recorded",
    "stats_dataset",
]

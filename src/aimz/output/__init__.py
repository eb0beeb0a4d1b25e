"""What the user gets: arrays -> :class:`xarray.DataTree` in ArviZ's schema.

Imported when a result is made, since xarray brings pandas with it.
"""

from aimz._imports import await_imports

await_imports()

from aimz.output.arviz import import_arviz_stats  # noqa: E402
from aimz.output.datasets import Draws, attributes, draws_dataset, make_tree, observed_dataset, stats_dataset  # noqa: E402
from aimz.output.differences import difference, recorded  # noqa: E402
from aimz.output.elpd import leave_one_out, relative_ess  # noqa: E402
from aimz.output.labels import Labels  # noqa: E402
from aimz.output.lazy_datasets import Frame, as_group, frame, open_result  # noqa: E402
from aimz.output.scenario_tree import Averages, Contrast, check_by, check_contrast, compared_tree, read_contrast  # noqa: E402
from aimz.output.summary import in_words, summary  # noqa: E402

__all__ = [
    "Averages",
    "Contrast",
    "Draws",
    "Frame",
    "Labels",
    "as_group",
    "attributes",
    "check_by",
    "check_contrast",
    "compared_tree",
    "difference",
    "draws_dataset",
    "frame",
    "import_arviz_stats",
    "in_words",
    "leave_one_out",
    "make_tree",
    "observed_dataset",
    "open_result",
    "read_contrast",
    "recorded",
    "relative_ess",
    "stats_dataset",
    "summary",
]

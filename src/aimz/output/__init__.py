"""Results as :class:`xarray.DataTree` in ArviZ's schema; their summaries.

Imported when the first result is built, since xarray imports pandas.
"""

import sys

from aimz._imports import await_imports

await_imports()

from aimz.output.datasets import (
    DrawsInfo,
    GroupTemplate,
    as_group,
    attributes,
    draws_dataset,
    group_template,
    make_tree,
    observed_dataset,
    open_result,
    stats_dataset,
)
from aimz.output.decomposition import decomposition_tree, share_mediated
from aimz.output.differences import difference, difference_of_arrays, recorded
from aimz.output.effect_texts import effect_text
from aimz.output.elpd import import_arviz_stats, interval_bounds, leave_one_out, relative_ess
from aimz.output.impact_trees import ImpactSums, impact_tree, with_placebos
from aimz.output.labels import Labels
from aimz.output.power_scaled import power_scaling, power_scaling_text, sensitivity_tree
from aimz.output.rehearsal_texts import placebo_table, recovery_table, rehearsal_text, simulation_dataset
from aimz.output.result_text import describe_result, register_displays, register_prompt, tree_of
from aimz.output.scenario_trees import Averages, Contrast, check_by, check_contrast, read_contrast, scenario_tree
from aimz.output.sensitivity_texts import sensitivity_line, sensitivity_sentences, sensitivity_text
from aimz.output.sentences import format_table, in_words
from aimz.output.slope_trees import slope_contrast, slope_tree
from aimz.output.summaries import summary

__all__ = [
    "Averages",
    "Contrast",
    "DrawsInfo",
    "GroupTemplate",
    "ImpactSums",
    "Labels",
    "as_group",
    "attributes",
    "check_by",
    "check_contrast",
    "decomposition_tree",
    "describe_result",
    "difference",
    "difference_of_arrays",
    "draws_dataset",
    "effect_text",
    "format_table",
    "group_template",
    "impact_tree",
    "import_arviz_stats",
    "in_words",
    "interval_bounds",
    "leave_one_out",
    "make_tree",
    "observed_dataset",
    "open_result",
    "placebo_table",
    "power_scaling",
    "power_scaling_text",
    "read_contrast",
    "recorded",
    "recovery_table",
    "register_displays",
    "register_prompt",
    "rehearsal_text",
    "relative_ess",
    "scenario_tree",
    "sensitivity_line",
    "sensitivity_sentences",
    "sensitivity_text",
    "sensitivity_tree",
    "share_mediated",
    "simulation_dataset",
    "slope_contrast",
    "slope_tree",
    "stats_dataset",
    "summary",
    "tree_of",
    "with_placebos",
]

if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()) is not None:
    register_displays(shell.display_formatter.formatters)
elif (hasattr(sys, "ps1") or sys.flags.interactive) and sys.displayhook is sys.__displayhook__:
    register_prompt()

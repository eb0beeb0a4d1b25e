"""Plans and executes one call."""

from aimz.engine.abduction_checks import check_outcome_kept
from aimz.engine.category_arguments import (
    check_known,
    check_used,
    declared_categories,
    with_counts,
    without_counts,
)
from aimz.engine.continuation_checks import check_continued
from aimz.engine.decompositions import read_decomposition
from aimz.engine.fingerprint import digests_for, fingerprint_of, known_digests, versions
from aimz.engine.inputs import InputSource, check_order, open_source
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.kernel_graphs import kernel_graph_of, with_identification
from aimz.engine.known_steps import FittedSteps
from aimz.engine.layout import InputLayout, RowFeed
from aimz.engine.levers import (
    check_derivatives,
    check_lever_values,
    derivative_of,
    read_levers,
    read_slope_kind,
    sign_error,
    with_levers,
)
from aimz.engine.named_outcome import with_outcome
from aimz.engine.options import StreamingOptions, read_options
from aimz.engine.outputs import OutputSpec, missing_steps, output_shapes, output_variables
from aimz.engine.panels import Panel
from aimz.engine.planning import blocks_per_device, local_mesh, plan_request
from aimz.engine.prepared_call import PredictionSettings, PreparedCall, SharedResampling
from aimz.engine.request import PredictionRequest
from aimz.engine.result_directory import CallLocation, ResultDirectory
from aimz.engine.row_dependence import depends_on_rows, warn_about_new_rows
from aimz.engine.row_groups import omit_rows_with_nan, read_groups_of, read_labels
from aimz.engine.row_range import Executor, LocalExecutor, RangeDigests, RunOptions, compute_range
from aimz.engine.runner import StepRunner, StepSpec
from aimz.engine.scenarios import (
    Scenario,
    check_columns,
    check_inputs,
    check_nan_policy,
    check_return_sites,
    check_same_rows,
    check_same_sites,
    open_arguments,
    read_kind,
    read_pair,
    read_scenario,
    read_scenarios,
    share_labels,
    share_rows,
)
from aimz.engine.support_checks import check_support, fit_support, with_support
from aimz.engine.support_recorder import record_support
from aimz.engine.support_report import SupportReport, labels_of
from aimz.engine.treatments import Question, add_one, read_interventions, read_treatment, read_where
from aimz.engine.warnings import warn_about_missing, warn_about_priors, warn_about_substitution
from aimz.engine.worlds import check_linked, link_factual, link_scenarios, link_scored

__all__ = [
    "CallLocation",
    "Executor",
    "FittedSteps",
    "InputLayout",
    "InputSource",
    "KernelEngine",
    "LocalExecutor",
    "OutputSpec",
    "Panel",
    "PredictionRequest",
    "PredictionSettings",
    "PreparedCall",
    "Question",
    "RangeDigests",
    "ResultDirectory",
    "RowFeed",
    "RunOptions",
    "Scenario",
    "SharedResampling",
    "StepRunner",
    "StepSpec",
    "StreamingOptions",
    "SupportReport",
    "add_one",
    "blocks_per_device",
    "check_columns",
    "check_continued",
    "check_derivatives",
    "check_inputs",
    "check_known",
    "check_lever_values",
    "check_linked",
    "check_nan_policy",
    "check_order",
    "check_outcome_kept",
    "check_return_sites",
    "check_same_rows",
    "check_same_sites",
    "check_support",
    "check_used",
    "compute_range",
    "declared_categories",
    "depends_on_rows",
    "derivative_of",
    "digests_for",
    "fingerprint_of",
    "fit_support",
    "kernel_graph_of",
    "known_digests",
    "labels_of",
    "link_factual",
    "link_scenarios",
    "link_scored",
    "local_mesh",
    "missing_steps",
    "omit_rows_with_nan",
    "open_arguments",
    "open_source",
    "output_shapes",
    "output_variables",
    "plan_request",
    "read_decomposition",
    "read_groups_of",
    "read_interventions",
    "read_kind",
    "read_labels",
    "read_levers",
    "read_options",
    "read_pair",
    "read_scenario",
    "read_scenarios",
    "read_slope_kind",
    "read_treatment",
    "read_where",
    "record_support",
    "share_labels",
    "share_rows",
    "sign_error",
    "versions",
    "warn_about_missing",
    "warn_about_new_rows",
    "warn_about_priors",
    "warn_about_substitution",
    "with_counts",
    "with_identification",
    "with_levers",
    "with_outcome",
    "with_support",
    "without_counts",
]

"""The structure of a kernel, the handlers that run it, and the source of each site's value in a call."""

from aimz.kernel.abduction import Abduction
from aimz.kernel.as_in import AsIn, as_in
from aimz.kernel.caching import LRUCache, freeze
from aimz.kernel.conditioning import check_conditioned, read_condition
from aimz.kernel.confounded_kernel import (
    HIDDEN_CAUSE,
    HiddenCause,
    TreatmentModel,
    can_shift,
    confounded_kernel,
)
from aimz.kernel.counterfactual import CounterfactualHandler
from aimz.kernel.derivative_paths import DerivativeCut, derivative_cuts
from aimz.kernel.draw_values import DrawnArgument, DrawValues
from aimz.kernel.expectation import expected_value
from aimz.kernel.handler_stack import isolated
from aimz.kernel.handlers import Message, PredictiveHandler
from aimz.kernel.hashing import AbstractCall, digest_program, kernel_digest
from aimz.kernel.index_checks import BadIndices, IndexCheck, IndexChecks
from aimz.kernel.index_finder import find_index_checks
from aimz.kernel.inspection import InputColumns, KernelReader, read_kernel
from aimz.kernel.intervention import ResolvedIntervention, read_intervention
from aimz.kernel.masks import is_discrete, seen_mask, strip_wrappers
from aimz.kernel.output_support import OutputSupport, within_support
from aimz.kernel.paths import check_mediators, induced_confounders
from aimz.kernel.residual_kernel import EXPECTED, RESIDUALS, Column, residual_kernel
from aimz.kernel.row_independence import site_obstacle
from aimz.kernel.row_jaxpr import RowUse, row_use
from aimz.kernel.scenario_names import OBSERVED, name_settings
from aimz.kernel.signature import (
    KernelSignature,
    count_parameters,
    kernel_name,
    plural_names,
    quote_list,
    read_signature,
)
from aimz.kernel.site_names import is_storable
from aimz.kernel.spec import COLUMNS, KernelSpec, Role, Site, site_cells, with_shapes
from aimz.kernel.substitution import DRAWN, Scored, Substitution, ValueSource, check_draws, outcome_site, substitute
from aimz.kernel.text_tables import WIDTH, format_shape, html_block, html_table, text_table
from aimz.kernel.tracing import AbstractHandler
from aimz.kernel.undefined_values import is_undefined
from aimz.kernel.valued_kernel import VALUE, valued_kernel

__all__ = [
    "COLUMNS",
    "DRAWN",
    "EXPECTED",
    "HIDDEN_CAUSE",
    "OBSERVED",
    "RESIDUALS",
    "VALUE",
    "WIDTH",
    "Abduction",
    "AbstractCall",
    "AbstractHandler",
    "AsIn",
    "BadIndices",
    "Column",
    "CounterfactualHandler",
    "DerivativeCut",
    "DrawValues",
    "DrawnArgument",
    "HiddenCause",
    "IndexCheck",
    "IndexChecks",
    "InputColumns",
    "KernelReader",
    "KernelSignature",
    "KernelSpec",
    "LRUCache",
    "Message",
    "OutputSupport",
    "PredictiveHandler",
    "ResolvedIntervention",
    "Role",
    "RowUse",
    "Scored",
    "Site",
    "Substitution",
    "TreatmentModel",
    "ValueSource",
    "as_in",
    "can_shift",
    "check_conditioned",
    "check_draws",
    "check_mediators",
    "confounded_kernel",
    "count_parameters",
    "derivative_cuts",
    "digest_program",
    "expected_value",
    "find_index_checks",
    "format_shape",
    "freeze",
    "html_block",
    "html_table",
    "induced_confounders",
    "is_discrete",
    "is_storable",
    "is_undefined",
    "isolated",
    "kernel_digest",
    "kernel_name",
    "name_settings",
    "outcome_site",
    "plural_names",
    "quote_list",
    "read_condition",
    "read_intervention",
    "read_kernel",
    "read_signature",
    "residual_kernel",
    "row_use",
    "seen_mask",
    "site_cells",
    "site_obstacle",
    "strip_wrappers",
    "substitute",
    "text_table",
    "valued_kernel",
    "with_shapes",
    "within_support",
]

"""Methods that test an answer: rehearsal, sensitivity, identification and the report."""

from aimz.validation.confounded_grid import ConfoundedGrid
from aimz.validation.confounding import ConfoundingMethods
from aimz.validation.falsification import FalsificationMethod
from aimz.validation.falsification_result import FalsificationResult
from aimz.validation.identification_result import IdentificationResult
from aimz.validation.planning_studies import AssuranceMethod
from aimz.validation.prior_sensitivity import PriorSensitivityMethod, PriorSensitivityResult
from aimz.validation.rehearsal_result import AssuranceResult, RehearsalResult
from aimz.validation.report import ReportMethods
from aimz.validation.sensitivity_result import SensitivityResult

__all__ = [
    "AssuranceMethod",
    "AssuranceResult",
    "ConfoundedGrid",
    "ConfoundingMethods",
    "FalsificationMethod",
    "FalsificationResult",
    "IdentificationResult",
    "PriorSensitivityMethod",
    "PriorSensitivityResult",
    "RehearsalResult",
    "ReportMethods",
    "SensitivityResult",
]

"""Methods that test an answer: rehearsal, sensitivity, identification and the report."""

from aimz.validation.falsification import FalsificationMethod
from aimz.validation.falsification_result import FalsificationResult
from aimz.validation.identification_result import IdentificationResult
from aimz.validation.sensitivity import SensitivityMethods
from aimz.validation.sensitivity_result import SensitivityResult

__all__ = [
    "FalsificationMethod",
    "FalsificationResult",
    "IdentificationResult",
    "SensitivityMethods",
    "SensitivityResult",
]

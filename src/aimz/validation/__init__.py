"""Methods that test an answer: rehearsal, sensitivity, identification and the report."""

from aimz.validation.identification import IdentificationMethods
from aimz.validation.identification_result import IdentificationResult
from aimz.validation.sensitivity import SensitivityMethods
from aimz.validation.sensitivity_result import SensitivityResult

__all__ = ["IdentificationMethods", "IdentificationResult", "SensitivityMethods", "SensitivityResult"]

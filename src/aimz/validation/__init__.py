"""Methods that test an answer: rehearsal, sensitivity, identification and the report."""

from aimz.validation.sensitivity import SensitivityMethods
from aimz.validation.sensitivity_result import SensitivityResult

__all__ = ["SensitivityMethods", "SensitivityResult"]

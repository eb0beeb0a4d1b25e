"""The ``ImpactModel`` class, and the results of its methods."""

from aimz.kernel import KernelSpec
from aimz.methods import CheckResult, EffectResult, ModelInputs
from aimz.model.impact_model import ImpactModel
from aimz.timeseries import BacktestResult
from aimz.validation import (
    AssuranceResult,
    FalsificationResult,
    IdentificationResult,
    PriorSensitivityResult,
    RehearsalResult,
)

__all__ = [
    "AssuranceResult",
    "BacktestResult",
    "CheckResult",
    "EffectResult",
    "FalsificationResult",
    "IdentificationResult",
    "ImpactModel",
    "KernelSpec",
    "ModelInputs",
    "PriorSensitivityResult",
    "RehearsalResult",
]

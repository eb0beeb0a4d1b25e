"""The ``ImpactModel`` class, and the results of its methods ``check`` and ``effect``."""

from aimz.kernel import KernelSpec
from aimz.methods import CheckResult, EffectResult, ModelInputs
from aimz.model.impact_model import ImpactModel

__all__ = ["CheckResult", "EffectResult", "ImpactModel", "KernelSpec", "ModelInputs"]

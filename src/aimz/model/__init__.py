"""The ``ImpactModel`` class, and the results of its methods ``check`` and ``effect``."""

from aimz.kernel import KernelSpec
from aimz.model.base import ModelInputs
from aimz.model.check_result import CheckResult
from aimz.model.effect_result import EffectResult
from aimz.model.impact_model import ImpactModel

__all__ = ["CheckResult", "EffectResult", "ImpactModel", "KernelSpec", "ModelInputs"]

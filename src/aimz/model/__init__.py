"""The ``ImpactModel`` class, and the result of its method ``effect``."""

from aimz.kernel import KernelSpec
from aimz.model.base import ModelInputs
from aimz.model.effect_result import EffectResult
from aimz.model.impact_model import ImpactModel

__all__ = ["EffectResult", "ImpactModel", "KernelSpec", "ModelInputs"]

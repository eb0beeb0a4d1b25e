"""The ``ImpactModel`` class."""

from aimz.kernel import KernelSpec
from aimz.model.base import ModelInputs
from aimz.model.impact_model import ImpactModel

__all__ = ["ImpactModel", "KernelSpec", "ModelInputs"]

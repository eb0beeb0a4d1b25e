"""What the user holds: check, delegate, return."""

from aimz.kernel import KernelSpec
from aimz.model.impact_model import ImpactModel

__all__ = ["ImpactModel", "KernelSpec"]

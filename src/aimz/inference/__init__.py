"""Fit: (kernel, data) -> :class:`Posterior`."""

from aimz.inference.fit import Fit, VIResult, read_inference
from aimz.inference.posterior import Posterior, read_draws

__all__ = ["Fit", "Posterior", "VIResult", "read_draws", "read_inference"]

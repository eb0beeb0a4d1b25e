"""Fit: (kernel, data) -> :class:`Posterior`."""

from aimz.inference.choose import make_fit
from aimz.inference.fit import Fit, VIResult
from aimz.inference.posterior import Posterior, read_draws

__all__ = ["Fit", "Posterior", "VIResult", "make_fit", "read_draws"]

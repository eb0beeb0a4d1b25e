"""The arithmetic, pure JAX: (kernel, posterior, rows) -> draws."""

from aimz.forward.likelihood import log_density
from aimz.forward.predictive import Pass, predictive
from aimz.forward.programs import Programs

__all__ = ["Pass", "Programs", "log_density", "predictive"]

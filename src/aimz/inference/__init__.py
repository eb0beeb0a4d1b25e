"""Fit: (kernel, data) -> :class:`Posterior`."""

from aimz.inference.choose import make_fit
from aimz.inference.fit import Fit, Known, VIResult
from aimz.inference.posterior import Posterior, read_draws
from aimz.inference.ratios import log_ratios, ratio_obstacle
from aimz.inference.scaling import abstract_sites
from aimz.inference.svi import Minibatches, SVIFit
from aimz.inference.without import WithoutInference

__all__ = [
    "Fit",
    "Known",
    "Minibatches",
    "Posterior",
    "SVIFit",
    "VIResult",
    "WithoutInference",
    "abstract_sites",
    "log_ratios",
    "make_fit",
    "ratio_obstacle",
    "read_draws",
]

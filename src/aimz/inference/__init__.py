"""Inference: fits by SVI and MCMC, which give a :class:`Posterior`."""

from aimz.inference.base import Fit, KernelContext, VIResult
from aimz.inference.diagnostics import check_chains, check_variational
from aimz.inference.factory import make_fit
from aimz.inference.fit_data import FitData
from aimz.inference.importance_ratios import draw_guide
from aimz.inference.loaded import PosteriorOnly
from aimz.inference.minibatch_scaling import abstract_sites
from aimz.inference.svi import SVIFit
from aimz.inference.svi_epochs import MinibatchPlan

__all__ = [
    "Fit",
    "FitData",
    "KernelContext",
    "MinibatchPlan",
    "PosteriorOnly",
    "SVIFit",
    "VIResult",
    "abstract_sites",
    "check_chains",
    "check_variational",
    "draw_guide",
    "make_fit",
]

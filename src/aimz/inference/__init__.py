"""Inference: fits by SVI and MCMC, which give a :class:`Posterior`."""

from aimz.inference.base import Fit, KernelContext, Outcome, VIResult
from aimz.inference.choice import CYCLE, Choice
from aimz.inference.chosen_fits import DeferredFit, fit_for_data, restored_fit
from aimz.inference.diagnostics import check_chains, check_variational
from aimz.inference.factory import make_fit
from aimz.inference.fit_data import FitData
from aimz.inference.importance_ratios import draw_guide
from aimz.inference.loaded import PosteriorOnly
from aimz.inference.mcmc import MCMCFit
from aimz.inference.minibatch_scaling import abstract_sites
from aimz.inference.outcome import judge_chains, judge_guide
from aimz.inference.refits import make_refit
from aimz.inference.settling import ROUNDS
from aimz.inference.svi import SVIFit
from aimz.inference.svi_epochs import MinibatchPlan

__all__ = [
    "CYCLE",
    "ROUNDS",
    "Choice",
    "DeferredFit",
    "Fit",
    "FitData",
    "KernelContext",
    "MCMCFit",
    "MinibatchPlan",
    "Outcome",
    "PosteriorOnly",
    "SVIFit",
    "VIResult",
    "abstract_sites",
    "check_chains",
    "check_variational",
    "draw_guide",
    "fit_for_data",
    "judge_chains",
    "judge_guide",
    "make_fit",
    "make_refit",
    "restored_fit",
]

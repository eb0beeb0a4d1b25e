"""Outcome of a fit: whether it has settled, and whether its draws represent the posterior."""

__all__ = ["judge_chains", "judge_guide"]

from typing import TYPE_CHECKING

import jax
import numpy as np

import aimz
from aimz.data import KernelArguments, Posterior
from aimz.errors import FitWarning, warn
from aimz.inference.base import Outcome
from aimz.inference.importance_ratios import NotCheckedError, check_ratios, draw_guide
from aimz.inference.svi import SVIFit

if TYPE_CHECKING:
    import pandas as pd

_DRAWS = 4000
"""Number of draws of the guide that are weighted."""
_MAX_EVALUATIONS = 2**28
"""Number of rows, over all draws, above which the guide is not weighted."""
_MAX_RATIO, _MAX_SHIFT = 1.1, 0.1
"""Largest ratio of standard deviations, and largest shift of a mean in standard deviations, of guide and posterior.

Weights underestimate both, so that limits are below the errors that are promised, 1.15 and 0.15.
"""
_MAX_K = 0.7
_EQUAL = 0.9
"""Effective share of weights above which they are nearly equal."""


_CAUSES = {
    "R-hat": "the chains do not agree on the posterior",
    "bulk ESS": "there are too few effective draws",
    "tail ESS": "there are too few effective draws in the tails",
    "divergences": "the sampler left out a part of the posterior, as divergences show",
}
"""Check of ``diagnose`` to what its failure means for the draws."""


def judge_chains(posterior: Posterior, table: "pd.DataFrame") -> Outcome:
    """Return the outcome of chains from the table of ``diagnose``, and warn if they cannot be relied on."""
    bad = [check for check, verdict in table["verdict"].items() if verdict.startswith("bad")]
    values = table["value"]
    several = posterior.num_chains > 1
    chains = f"{posterior.num_chains} chains, R-hat {values['R-hat']:.3f}" if several else "one chain, without R-hat"
    text = (
        f"{posterior.n_draws:,} draws in {chains}, "
        f"{min(values['bulk ESS'], values['tail ESS']):,.0f} effective draws, {values['divergences']:.0f} divergences"
    )
    if bad:
        site = table.loc[bad[0], "site"]
        warn(
            f"Intervals may be too narrow and means off: {_CAUSES[bad[0]]}{f' of `{site}`' if site else ''} ({text}). "
            "Center or reparametrize the kernel, choose tighter priors, or run more draws; `check()` lists what fails.",
            FitWarning,
        )
    return Outcome(settled=not bad, text=text)


def judge_guide(fit: SVIFit, call: KernelArguments, key: jax.Array) -> Outcome:
    """Return the outcome of a fit by SVI after comparing its guide with the posterior by importance weights."""
    if not fit.outcome.settled or call.n_obs * _DRAWS > _MAX_EVALUATIONS:
        return fit.outcome
    try:
        check_ratios(fit, call, key)
    except NotCheckedError:
        return fit.outcome
    draws = draw_guide(fit, call, key, num_draws=_DRAWS)
    ratios = draws.log_ratios.astype(np.float64)
    if not np.isfinite(ratios).all() or np.ptp(ratios) < 1e-2:
        return fit.outcome
    smoothed, k = aimz.output.import_arviz_stats("fit").base.array_stats.psislw(-ratios)
    weights = np.exp(np.asarray(smoothed) - np.max(smoothed))
    weights /= weights.sum()
    ratio, shift, site = 1.0, 0.0, ""
    for name, values in draws.values.items():
        mean, sd = values.mean(0), values.std(0)
        weighted = weights @ values
        weighted_sd = np.sqrt(np.maximum(weights @ (values - weighted) ** 2, 0.0))
        ratios_here = np.exp(np.abs(np.log(np.maximum(weighted_sd, 1e-30) / np.maximum(sd, 1e-30))))
        shifts = np.abs(weighted - mean) / np.maximum(sd, 1e-30)
        if max(ratios_here.max(initial=1.0) - 1, shifts.max(initial=0.0)) > max(ratio - 1, shift):
            ratio, shift, site = float(ratios_here.max()), float(shifts.max()), name
    share = 1 / (weights**2).sum() / len(weights)
    # The tail of weights that are nearly equal is noise.
    if (k <= _MAX_K or share > _EQUAL) and ratio <= _MAX_RATIO and shift <= _MAX_SHIFT:
        return fit.outcome
    text = f"{fit.outcome.text}, but a normal guide does not have the shape of the posterior"
    warn(
        f"Means and intervals of `{site or next(iter(draws.values))}` may be off by more than 15 %: the normal guide "
        f"of SVI does not have the shape of the posterior (Pareto k {float(k):.2f}, ratio of standard deviations "
        f"{ratio:.2f}). Pass `inference='nuts'` to a new model, or accept an approximation.",
        FitWarning,
    )
    return Outcome(settled=False, text=text)

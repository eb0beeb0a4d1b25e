"""PSIS-LOO as a reduction over the draws of a log-likelihood."""

__all__ = ["UNSEEN", "LeaveOneOut"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.statistics.psis import psis_loo

UNSEEN = 1e38
"""Log density that marks an observation without a likelihood: any dtype of at least 32 bits can represent it, and the
sum with the log prior of a latent that is marginalized is the same number."""


@dataclass(frozen=True)
class LeaveOneOut:
    """PSIS-LOO of each row."""

    r_eff: float
    """Relative effective sample size: effective draws over draws."""
    labels: tuple[str, ...] = ("elpd", "pareto_k", "p_loo", "seen")

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Relative effective sample size, as an attribute of the result's group."""
        return {"r_eff": self.r_eff}

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """Return elpd, Pareto k, p_loo and 1.0, ``(4, ...)``, of log-likelihoods ``(n_draws, ...)``.

        Observations without a likelihood have three times NaN, and 0.0.
        """
        flat = draws.reshape(len(draws), -1)
        marked = flat == np.asarray(UNSEEN, flat.dtype)
        seen = ~marked.all(axis=0)
        if marked.any():  # a factor may be 0 for some draws only
            flat = np.where(marked, 0, flat)[:, seen]
        found = np.full((4, len(seen)), np.nan)
        found[:3, seen] = psis_loo(flat, self.r_eff)
        found[3] = seen
        return found.reshape(4, *draws.shape[1:])

"""PSIS-LOO as a reduction over the draws of a log-likelihood."""

__all__ = ["LeaveOneOut"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.statistics.psis import psis_loo


@dataclass(frozen=True)
class LeaveOneOut:
    """PSIS-LOO of each row."""

    r_eff: float
    """Relative effective sample size: effective draws over draws."""
    labels: tuple[str, ...] = ("elpd", "pareto_k", "p_loo")

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Relative effective sample size, as an attribute of the result's group."""
        return {"r_eff": self.r_eff}

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """Return elpd, Pareto k and p_loo, ``(3, ...)``, of log-likelihoods ``(n_draws, ...)``."""
        scores = psis_loo(draws.reshape(len(draws), -1), self.r_eff)
        return np.stack(scores).reshape(3, *draws.shape[1:])

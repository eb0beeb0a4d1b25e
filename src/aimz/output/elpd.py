"""Scores of a model in ArviZ's own type."""

__all__ = ["leave_one_out", "relative_ess"]

from typing import Any

import numpy as np
import xarray as xr

from aimz.errors import warn
from aimz.output.arviz import import_arviz_stats
from aimz.output.labels import STATISTIC


def relative_ess(posterior: xr.Dataset) -> float:
    """Return the mean effective sample size of the posterior's numbers, as a share of their draws.

    One chain counts as independent draws, as in ArviZ.
    """
    stats = import_arviz_stats("loo")
    if posterior.sizes["chain"] == 1:
        return 1.0
    ess = stats.ess(posterior, method="mean")
    found = np.hstack([np.ravel(array.values) for array in ess.data_vars.values()])
    found = found[np.isfinite(found)]  # what does not vary has none
    n_draws = posterior.sizes["chain"] * posterior.sizes["draw"]
    return float(found.mean() / n_draws) if len(found) else 1.0


def leave_one_out(scores: xr.DataArray, n_draws: int) -> Any:
    """Return scores of rows, along a dimension of statistics, as :func:`arviz_stats.loo` returns them."""
    import_arviz_stats("loo")
    from arviz_stats.utils import ELPDDataLOO

    scores = scores.load()
    elpd, khat, p_loo = (scores.sel({STATISTIC: name}, drop=True) for name in ("elpd", "pareto_k", "p_loo"))
    # As ArviZ has it: below it the error of importance sampling with so many draws is known to be small.
    good = min(1 - 1 / np.log10(n_draws), 0.7)
    bad = int((~(khat.values <= good)).sum())
    if bad:
        warn(
            f"The Pareto k of {bad} of {khat.size} observations is above {good:.2f}: leaving one of them out changes "
            "the posterior more than importance sampling can tell, so the score is not to be relied on. Look at these "
            "observations, or use a model that is less moved by them."
        )
    n_data = elpd.size
    return ELPDDataLOO(
        elpd=float(elpd.sum()),
        se=float(np.sqrt(n_data * np.var(elpd.values, ddof=1))) if n_data > 1 else 0.0,
        p=float(p_loo.sum()),
        n_samples=n_draws,
        n_data_points=n_data,
        scale="log",
        warning=bad > 0,
        good_k=good,
        elpd_i=elpd,
        pareto_k=khat,
    )

"""Leave-one-out scores as ``arviz_stats.ELPDData``, bounds of intervals, and the import of ArviZ."""

__all__ = ["import_arviz_stats", "interval_bounds", "leave_one_out", "relative_ess"]

from typing import Any

import numpy as np
import xarray as xr

from aimz.errors import OutputWarning, warn
from aimz.output.labels import STATISTIC
from aimz.statistics import Statistic


def import_arviz_stats(caller: str) -> Any:
    """Return the module ``arviz_stats``.

    Raises
    ------
    ImportError
        If ArviZ is not installed; the error names ``caller``.
    """
    try:
        import arviz_stats
    except ImportError as error:
        msg = (
            f"`{caller}` takes its statistics from ArviZ, which is not installed. Call `pip install arviz-base "
            "arviz-stats`."
        )
        raise ImportError(msg) from error
    return arviz_stats


def interval_bounds(draws: np.ndarray, interval: Statistic, caller: str) -> np.ndarray:
    """Return the bounds, along a new last axis, of an interval over the first axis; errors name ``caller``."""
    array_stats = import_arviz_stats(caller).base.array_stats
    bounds: np.ndarray = (array_stats.hdi if interval.kind == "hdi" else array_stats.eti)(draws, interval.at, axis=0)
    return bounds


def relative_ess(posterior: xr.Dataset) -> float:
    """Return the mean effective sample size of all parameters, relative to the number of draws; 1 for a single chain.

    Parameters without variation are left out, and a single chain counts as independent draws, as in ArviZ.
    """
    stats = import_arviz_stats("loo")
    if posterior.sizes["chain"] == 1:
        return 1.0
    ess = stats.ess(posterior, method="mean")
    found = np.hstack([np.ravel(array.values) for array in ess.data_vars.values()])
    found = found[np.isfinite(found)]
    n_draws = posterior.sizes["chain"] * posterior.sizes["draw"]
    return float(found.mean() / n_draws) if len(found) else 1.0


def leave_one_out(scores: xr.DataArray, n_draws: int) -> Any:
    """Return the scores of rows, which have a dimension of statistics, in the type of :func:`arviz_stats.loo`."""
    make = import_arviz_stats("loo").utils.ELPDDataLOO
    scores = scores.load()
    elpd, khat, p_loo, seen = (
        scores.sel({STATISTIC: name}, drop=True) for name in ("elpd", "pareto_k", "p_loo", "seen")
    )
    seen = seen.astype(bool)
    n_data = int(seen.sum())
    if n_data == 0:
        msg = (
            f"No observation of `{scores.name}` has a likelihood: masks exclude all {seen.size} of them. Pass a mask "
            "that includes the observations to score."
        )
        raise ValueError(msg)
    # ArviZ's threshold, below which the error of importance sampling with this number of draws is known to be small.
    good = min(1 - 1 / np.log10(n_draws), 0.7)
    bad = int((~(khat.values <= good) & seen.values).sum())
    if bad:
        warn(
            f"The Pareto k of {bad} of {n_data} observations is above {good:.2f}: leaving one of them out changes "
            "the posterior more than importance sampling can correct, so the score is unreliable. Check these "
            "observations, or use a model that is less sensitive to them.",
            OutputWarning,
        )
    scored = elpd.values[seen.values]
    return make(
        elpd=float(scored.sum()),
        se=float(np.sqrt(n_data * np.var(scored, ddof=1))) if n_data > 1 else 0.0,
        p=float(p_loo.values[seen.values].sum()),
        n_samples=n_draws,
        n_data_points=n_data,
        scale="log",
        warning=bad > 0,
        good_k=good,
        elpd_i=elpd,
        pareto_k=khat,
    )

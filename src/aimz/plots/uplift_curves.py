"""Uplift curve, Qini curve and the value of a treatment policy."""

__all__ = ["compute_gain", "compute_qini", "policy_value", "qini_curve", "uplift_curve"]

from typing import Any

import numpy as np
import xarray as xr

from aimz.plots.ranking import SHARE, RankedEffects, block_sums, rank_effects
from aimz.plots.selection import SAMPLE_DIMS, read_column


def uplift_curve(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    var_name: str | None = None,
    ranking: Any = None,
    n_cuts: int = 100,
    max_draws: int | None = None,
) -> xr.Dataset:
    r"""Return the gain of treating the rows with the largest effects, for each share of rows treated.

    With rows ranked by ``ranking``, the gain of treating the first :math:`k` of :math:`n` is, in draw :math:`d`,
    :math:`G_d(k/n) = \frac{1}{n} \sum_{i \le k} \tau_{di}`, where :math:`\tau_{di}` is the effect on row :math:`i`.
    It is per row of all rows, so :math:`G_d(1)` is the average effect.  Rows with equal scores are not distinguished:
    if a cut falls among them, each counts with the same share, so the gain is the average over all their orders.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Effects on rows: the result of :meth:`ImpactModel.estimate_effect`, of any size, or one of its variables.
        Large effects are assumed to be good; if small ones are, pass the negated variable.
    var_name : str, optional
        Site to use, if there are several.
    ranking : array_like of shape (n_obs,), optional
        Scores of the rows, the highest treated first; by default posterior mean effects.  A series with labels must
        have the labels of the rows, in the same order.
    n_cuts : int
        Number of shares between 0 and 1 at which the gain is computed; at most 200, and at most the number of rows.
    max_draws : int, optional
        Maximum number of draws to use; all by default.

    Returns
    -------
    xarray.Dataset
        ``gain`` with dimensions ``(chain, draw, share)``, at ``share = 0, ..., 1``; ``random``, the gain of treating
        as many rows chosen at random; and ``area``, the mean of ``gain - random`` over shares.  The coordinate
        ``n_rows`` is the number of rows of each share.  The curve of row statistics is that of their means, without
        dimensions of draws, because intervals of rows do not determine how rows vary together.

    Raises
    ------
    TypeError, ValueError
        If there are no effects on rows, some are not finite, or ``ranking`` does not match the rows.

    Notes
    -----
    The ranking and the gain are computed from the same posterior.  If the kernel is correct, so are the gain and its
    interval.  A kernel that overfits is too optimistic: it ranks rows by noise, and then counts that noise as gain.
    Check with :func:`qini_curve` on rows of an experiment that were not fitted, or rank by another model's effects.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import uplift_curve
    >>> effect = xr.DataArray(np.array([[[4.0, 0.0, 2.0, -2.0]]]), dims=("chain", "draw", "row"))
    >>> curve = uplift_curve(effect)
    >>> curve["gain"].values.tolist()
    [[[0.0, 1.0, 1.5, 1.5, 1.0]]]
    >>> curve["random"].values.tolist()
    [[[0.0, 0.25, 0.5, 0.75, 1.0]]]
    """
    return compute_gain(rank_effects(effects, var_name, ranking, n_cuts, max_draws, "uplift_curve"))


def qini_curve(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    treated: Any,
    outcome: Any,
    var_name: str | None = None,
    ranking: Any = None,
    n_cuts: int = 100,
    max_draws: int | None = None,
    n_boot: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    r"""Return the Qini curve of an experiment, and the one that the model expects.

    Among the first :math:`k` rows in the ranking of :func:`uplift_curve`, :math:`N_t` are treated, with total outcome
    :math:`Y_t`, and :math:`N_c` are not, with total outcome :math:`Y_c`.  The curve is the outcome added by treatment,

    .. math:: Q(k) = Y_t(k) - Y_c(k) \, N_t(k) / N_c(k),

    which needs no model, but randomized treatment.  In each draw of the model it should be the sum of the effects on
    the treated among the first :math:`k` rows.  Rows with equal scores count with the same share each, as in
    :func:`uplift_curve`, so the curve does not depend on the order of the rows.

    Parameters
    ----------
    effects, var_name, ranking, n_cuts, max_draws
        As in :func:`uplift_curve`.
    treated : array_like of shape (n_obs,)
        1 (or True) for treated rows, 0 for others; randomized, with the same probability for all rows.
    outcome : array_like of shape (n_obs,)
        Observed outcome.  Labels of both arrays, if there are any, must equal the row labels, in the same order.
    n_boot : int
        Number of bootstrap replications of ``qini``, in which each row is weighted by a Poisson variable of mean 1;
        0 for none.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    xarray.Dataset
        ``qini`` with dimension ``share``, NaN where all rows so far are treated; ``qini_boot`` with dimensions
        ``(replication, share)``; ``qini_model`` with dimensions ``(chain, draw, share)``; and for each its coefficient
        (``coefficient``, ``coefficient_boot``, ``coefficient_model``): the area between the curve and the straight line
        to its end, as a mean over shares.

    Raises
    ------
    TypeError, ValueError
        As :func:`uplift_curve`; and if labels differ, ``treated`` is not of zeros and ones, or an arm is empty.

    References
    ----------
    Radcliffe, N. J. (2007). Using control groups to target on predicted lift: building and assessing uplift models.
    *Direct Marketing Analytics Journal*, 14-21.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import qini_curve
    >>> effect = xr.DataArray(np.array([[[4.0, 3.0, 2.0, 1.0]]]), dims=("chain", "draw", "row"))
    >>> curve = qini_curve(effect, treated=[1, 0, 1, 0], outcome=[9.0, 5.0, 7.0, 5.0], n_boot=0)
    >>> curve["qini"].values.tolist(), curve["qini_model"].values.tolist()
    ([0.0, nan, 4.0, 6.0, 6.0], [[[0.0, 4.0, 4.0, 6.0, 6.0]]])
    """
    rows = rank_effects(effects, var_name, ranking, n_cuts, max_draws, "qini_curve")
    return compute_qini(rows, treated, outcome, n_boot=n_boot, seed=seed)


def policy_value(curve: xr.Dataset, *, cost: float, value: float = 1.0) -> xr.Dataset:
    r"""Return the value of treating the first rows of a ranking, if treating a row has a cost.

    It is :math:`V_d(s) = \text{value} \cdot G_d(s) - \text{cost} \cdot s` per row of all rows, in draw :math:`d`, with
    :math:`G_d` the gain of :func:`uplift_curve`.

    Parameters
    ----------
    curve : xarray.Dataset
        Result of :func:`uplift_curve`.
    cost : float
        Cost of treating one row.
    value : float
        Value of one unit of the effect, in the same currency.

    Returns
    -------
    xarray.Dataset
        ``value`` with dimensions ``(chain, draw, share)``; ``best_share``, the share with the largest expected value,
        the smallest of equals; ``best_value``, its value, with dimensions ``(chain, draw)``; and
        ``best_share_by_draw``, the best share if that draw were true.

    Raises
    ------
    TypeError, ValueError
        If there is no gain, or ``cost`` or ``value`` is not a finite number.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import policy_value, uplift_curve
    >>> effect = xr.DataArray(np.array([[[4.0, 0.0, 2.0, -2.0]]]), dims=("chain", "draw", "row"))
    >>> worth = policy_value(uplift_curve(effect), cost=1.0)
    >>> worth["best_share"].item(), worth["best_value"].item()
    (0.5, 1.0)
    """
    if not isinstance(curve, xr.Dataset) or "gain" not in curve:
        msg = f"`curve` must be a result of `uplift_curve`; got {type(curve).__name__}. Call it first."
        raise TypeError(msg)
    for name, number in (("cost", cost), ("value", value)):
        if not (isinstance(number, int | float | np.number) and np.isfinite(number)):
            msg = f"`{name}` must be a finite number; got {number!r}. If it differs by row, change the effects instead."
            raise ValueError(msg)
    worth = value * curve["gain"] - cost * curve[SHARE]
    head = [dim for dim in SAMPLE_DIMS if dim in worth.dims]
    best = int(worth.mean(head).argmax(SHARE))
    return xr.Dataset(
        {
            "value": worth.transpose(*head, SHARE),
            "best_share": curve[SHARE].isel({SHARE: best}, drop=True),
            "best_value": worth.isel({SHARE: best}, drop=True),
            "best_share_by_draw": worth.idxmax(SHARE),
        },
        attrs={**curve.attrs, "cost": float(cost), "value": float(value)},
    )


def compute_gain(rows: RankedEffects) -> xr.Dataset:
    """Return the result of :func:`uplift_curve`."""
    gain = rows.cumulate(block_sums(rows)) / rows.n_obs
    random, dims = gain[..., -1:] * rows.share, rows.sample_dims
    area = np.trapezoid(gain - random, rows.share, axis=-1)
    found = {"gain": ((*dims, SHARE), gain), "random": ((*dims, SHARE), random), "area": (dims, area)}
    return xr.Dataset(found, coords=rows.coords, attrs=rows.attrs)


def compute_qini(rows: RankedEffects, treated: Any, outcome: Any, *, n_boot: int = 200, seed: int = 0) -> xr.Dataset:
    """Return the result of :func:`qini_curve`."""
    arm, y = (
        read_column(given, name, rows.array, rows.row_dim)
        for given, name in ((treated, "treated"), (outcome, "outcome"))
    )
    if not np.isin(arm, (0.0, 1.0)).all() or len(np.unique(arm)) != 2:
        some = ", ".join(f"{x:g}" for x in np.unique(arm)[:5])
        msg = f"`treated` must be 1 for treated rows and 0 for others, with some of each; got {some}."
        raise ValueError(msg)
    if not isinstance(n_boot, int | np.integer) or n_boot < 0:
        msg = f"`n_boot` must be a number of replications, 0 for none; got {n_boot!r}. Omit it for 200."
        raise ValueError(msg)
    share, cells = rows.share, rows.cells * 2 + arm.astype(np.int64)
    curve = _qini(cells, y, np.ones(rows.n_obs), rows.spread)
    found: dict[str, Any] = {"qini": (SHARE, curve), "coefficient": ((), _coefficient(curve, share))}
    if n_boot:
        rng = np.random.default_rng(seed)
        curves = np.stack([_qini(cells, y, rng.poisson(1.0, rows.n_obs), rows.spread) for _ in range(n_boot)])
        found["qini_boot"] = (("replication", SHARE), curves)
        found["coefficient_boot"] = (("replication",), _coefficient(curves, share))
    model = rows.cumulate(block_sums(rows, arm.astype(bool)))
    found["qini_model"] = ((*rows.sample_dims, SHARE), model)
    found["coefficient_model"] = (rows.sample_dims, _coefficient(model, share))
    return xr.Dataset(found, coords=rows.coords, attrs={**rows.attrs, "n_treated": int(arm.sum())})


def _qini(cells: np.ndarray, y: np.ndarray, weight: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return ``Y_t - Y_c N_t / N_c`` of weighted rows, at 0 and at each cut; cells alternate between arms."""
    sums = np.stack([np.bincount(cells, w, 2 * len(spread)).reshape(-1, 2) for w in (weight, weight * y)])
    count, total = np.cumsum(spread.T @ sums, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        curve = total[:, 1] - total[:, 0] * (count[:, 1] / count[:, 0])
    return np.concatenate([[0.0], np.where(count[:, 0] > 0, curve, np.nan)])


def _coefficient(curve: np.ndarray, share: np.ndarray) -> Any:
    """Return the area between a curve and the straight line to its end; where it is NaN, it counts as the line."""
    return np.trapezoid(np.nan_to_num(curve - curve[..., -1:] * share), share, axis=-1)

"""Whom to treat first, and what it brings: the numbers behind the picture."""

__all__ = ["gains", "policy_value", "qini", "qini_curve", "uplift_curve"]

from typing import Any

import numpy as np
import xarray as xr

from aimz.plots.ranking import SHARE, Ranked, column, ranked, sums
from aimz.plots.selection import SAMPLE_DIMS


def uplift_curve(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    var_name: str | None = None,
    ranking: Any = None,
    n_cuts: int = 100,
    max_draws: int | None = None,
) -> xr.Dataset:
    r"""Return what it brings to treat the rows with the largest effects, for each share of rows that is treated.

    With rows ranked by ``ranking``, the gain of treating the first :math:`k` of :math:`n` is, in draw :math:`d`,
    :math:`G_d(k/n) = \frac{1}{n} \sum_{i \le k} \tau_{di}`, where :math:`\tau_{di}` is the effect on row :math:`i`.
    It is per row of all rows, so :math:`G_d(1)` is the average effect.  Rows of one score are not told apart: where a
    cut falls among them, each counts with the same share, so the gain is the average over all their orders.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Effects on rows: what :meth:`ImpactModel.estimate_effect` returns, or a variable of it, of any size.  Large
        effects are taken to be good ones; where small ones are, pass the negated variable.
    var_name : str, optional
        Which site, if there are several.
    ranking : array_like of shape (n_obs,), optional
        Scores of the rows, the highest treated first; by default posterior mean effects.  A series with labels must
        have those of the rows, in their order.
    n_cuts : int
        Shares between 0 and 1 to compute the gain at; at most 200, and no more than rows.
    max_draws : int, optional
        Use at most so many draws; by default all.

    Returns
    -------
    xarray.Dataset
        ``gain`` with dimensions ``(chain, draw, share)``, at ``share = 0, ..., 1``; ``random``, the gain of treating as
        many chosen by lot; and ``area`` between the two, the mean of ``gain - random`` over shares.  The
        coordinate ``n_rows`` says how many rows a share is.  Of row statistics only means are known, and there is no
        dimension of draws: bounds of rows do not tell how rows vary together.

    Raises
    ------
    TypeError, ValueError
        If there are no effects on rows, or some are not finite, or ``ranking`` does not fit.

    Notes
    -----
    Ranking and gain come from the same posterior.  If the kernel is right, so are the gain and its interval.  A kernel
    that fits noise promises more than it will keep: it ranks rows by noise, and then counts that noise as gain.  Check
    with :func:`qini_curve` on rows of an experiment that were not fitted to, or rank by another model's effects.

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
    rows = ranked(effects, var_name, ranking, n_cuts, max_draws, "uplift_curve")
    return gains(rows)


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
    r"""Return the Qini curve of an experiment, and what the model says it should be.

    Along the ranking of :func:`uplift_curve`, among the first :math:`k` rows, :math:`N_t` were treated, with outcomes
    that add up to :math:`Y_t`, and :math:`N_c` were not, with :math:`Y_c`.  The curve is the outcome that treatment
    added,

    .. math:: Q(k) = Y_t(k) - Y_c(k) \, N_t(k) / N_c(k),

    which needs no model, but treatment by lot.  In each draw of the model it should be the sum of the effects on the
    treated among the first :math:`k`.  Rows of one score count with the same share each, as in :func:`uplift_curve`, so
    the order of the rows has no part in the curve.

    Parameters
    ----------
    effects, var_name, ranking, n_cuts, max_draws
        As in :func:`uplift_curve`.
    treated : array_like of shape (n_obs,)
        1 (or True) for rows that were treated, 0 for others; by lot, with the same probability for all rows.
    outcome : array_like of shape (n_obs,)
        What was observed.  Labels of both, if there are any, must be those of the rows, in their order.
    n_boot : int
        Replications for the error of ``qini``: each row counts as often as a Poisson variable of mean 1 says.  0 for
        none.
    seed : int
        Seed of these replications.

    Returns
    -------
    xarray.Dataset
        ``qini`` with dimension ``share``, NaN where nobody has been left untreated yet; ``qini_boot`` with dimensions
        ``(replication, share)``; ``qini_model`` with dimensions ``(chain, draw, share)``; and for each its coefficient
        (``coefficient``, ``coefficient_boot``, ``coefficient_model``): the area between the curve and the straight line
        to its end, as a mean over shares.

    Raises
    ------
    TypeError, ValueError
        As :func:`uplift_curve`; and if labels are others, ``treated`` is not of zeros and ones, or an arm is empty.

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
    rows = ranked(effects, var_name, ranking, n_cuts, max_draws, "qini_curve")
    return qini(rows, treated, outcome, n_boot=n_boot, seed=seed)


def policy_value(curve: xr.Dataset, *, cost: float, value: float = 1.0) -> xr.Dataset:
    r"""Return what treating the first rows of a ranking is worth, when treating one costs something.

    It is :math:`V_d(s) = \text{value} \cdot G_d(s) - \text{cost} \cdot s` per row of all rows, in draw :math:`d`, with
    :math:`G_d` the gain of :func:`uplift_curve`.

    Parameters
    ----------
    curve : xarray.Dataset
        Result of :func:`uplift_curve`.
    cost : float
        What it costs to treat one row.
    value : float
        What one unit of the effect is worth, in the same currency.

    Returns
    -------
    xarray.Dataset
        ``value`` with dimensions ``(chain, draw, share)``; ``best_share``, the share with the largest expected value,
        the smallest of equals; ``best_value`` of it with dimensions ``(chain, draw)``; and ``best_share_by_draw``,
        which would be best if that draw were true.

    Raises
    ------
    TypeError, ValueError
        If there is no gain, or cost or value are not finite numbers.

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
        msg = f"`curve` must be what `uplift_curve` returns; got {type(curve).__name__}. Call it first."
        raise TypeError(msg)
    for name, number in (("cost", cost), ("value", value)):
        if not (isinstance(number, int | float | np.number) and np.isfinite(number)):
            msg = (
                f"`{name}` must be a finite number; got {number!r}. For what differs by row, change the effects first."
            )
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


def gains(rows: Ranked) -> xr.Dataset:
    """Return what :func:`uplift_curve` does."""
    gain = rows.shaped(sums(rows)) / rows.n_obs
    lot = gain[..., -1:] * rows.share
    head = rows.head
    area = np.trapezoid(gain - lot, rows.share, axis=-1)
    found = {"gain": ((*head, SHARE), gain), "random": ((*head, SHARE), lot), "area": (head, area)}
    return xr.Dataset(found, coords=rows.coords, attrs=rows.attrs)


def qini(rows: Ranked, treated: Any, outcome: Any, *, n_boot: int = 200, seed: int = 0) -> xr.Dataset:
    """Return what :func:`qini_curve` does."""
    arm, y = _experiment(treated, outcome, rows)
    if not isinstance(n_boot, int | np.integer) or n_boot < 0:
        msg = f"`n_boot` must be a number of replications, 0 for none; got {n_boot!r}. Leave it out for 200."
        raise ValueError(msg)
    share = rows.share
    place = rows.cells * 2 + arm
    seen = _qini(place, y, np.ones(rows.n_obs), rows.spread)
    found: dict[str, Any] = {"qini": (SHARE, seen), "coefficient": ((), _coefficient(seen, share))}
    if n_boot:
        rng = np.random.default_rng(seed)
        some = np.stack([_qini(place, y, rng.poisson(1.0, rows.n_obs), rows.spread) for _ in range(n_boot)])
        found["qini_boot"] = (("replication", SHARE), some)
        found["coefficient_boot"] = (("replication",), _coefficient(some, share))
    model = rows.shaped(sums(rows, arm.astype(bool)))
    found["qini_model"] = ((*rows.head, SHARE), model)
    found["coefficient_model"] = (rows.head, _coefficient(model, share))
    return xr.Dataset(found, coords=rows.coords, attrs={**rows.attrs, "n_treated": int(arm.sum())})


def _experiment(treated: Any, outcome: Any, rows: Ranked) -> tuple[np.ndarray, np.ndarray]:
    arm, y = (column(x, name, rows.array, rows.row_dim) for x, name in ((treated, "treated"), (outcome, "outcome")))
    if not np.isin(arm, (0.0, 1.0)).all() or len(np.unique(arm)) != 2:
        some = ", ".join(f"{x:g}" for x in np.unique(arm)[:5])
        msg = f"`treated` must hold 1 for rows that were treated and 0 for others, some of each; got {some}."
        raise ValueError(msg)
    return arm.astype(np.int64), y


def _qini(place: np.ndarray, y: np.ndarray, weight: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return ``Y_t - Y_c N_t / N_c`` of rows counted with ``weight``, at 0 and at each cut."""
    cells = np.stack([np.bincount(place, w, 2 * len(spread)).reshape(-1, 2) for w in (weight, weight * y)])
    count, total = np.cumsum(spread.T @ cells, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = total[:, 1] - total[:, 0] * (count[:, 1] / count[:, 0])
    return np.concatenate([[0.0], np.where(count[:, 0] > 0, found, np.nan)])


def _coefficient(curve: np.ndarray, share: np.ndarray) -> Any:
    """Return the area between a curve and the straight line to its end; where there is no curve, the line is it."""
    above = np.nan_to_num(curve - curve[..., -1:] * share)
    return np.trapezoid(above, share, axis=-1)

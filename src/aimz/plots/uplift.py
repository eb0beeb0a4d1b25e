"""Plot of uplift curve, Qini curve and policy value."""

__all__ = ["plot_uplift"]

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from aimz.plots.figure import BLUE, DARK, GREY, ORANGE, Canvas, canvas, set_ticks
from aimz.plots.ranking import rank_effects
from aimz.plots.selection import SAMPLE_DIMS, intervals
from aimz.plots.text import (
    axis_label,
    describe_comparison,
    estimate,
    format_number,
    interval_name,
    plain_name,
)
from aimz.plots.uplift_curves import compute_gain, compute_qini, policy_value
from aimz.statistics import Statistic, read_ci


def plot_uplift(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    treated: Any = None,
    outcome: Any = None,
    cost: float | None = None,
    value: float = 1.0,
    ranking: Any = None,
    var_name: str | None = None,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    n_cuts: int = 100,
    max_draws: int | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot the gain of treating the rows with the largest effects first.

    The first panel is the uplift curve: the gain, according to the model, of treating the top share of rows, and the
    gain of treating as many rows chosen at random.  With ``treated`` and ``outcome`` of an experiment, a second panel
    is the Qini curve: the outcome that treatment added, with its bootstrap interval, and the one that the model
    expects.  With ``cost``, a last panel is the expected value of each share, with the best one marked.

    Large effects are assumed to be good; if small ones are, pass the negated variable.  The numbers equal the output of
    :func:`uplift_curve`, :func:`qini_curve` and :func:`policy_value`.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Effects on rows: the result of :meth:`ImpactModel.estimate_effect`, of any size.  For row statistics the curve
        of their means is plotted without a band, because intervals of rows do not determine how rows vary together.
    treated, outcome : array_like of shape (n_obs,), optional
        Randomized treatment and observed outcome of an experiment.  Labels must equal the row labels.
    cost : float, optional
        Cost of treating one row.
    value : float
        Value of one unit of the effect, in the same currency.
    ranking : array_like of shape (n_obs,), optional
        Scores of the rows, the highest treated first; by default posterior mean effects.
    var_name : str, optional
        Site to plot, if there are several.
    ci_prob : float, optional
        Probability of the interval; by default ArviZ's, 0.89 unless it was changed.
    ci_kind : {"eti", "hdi"}, optional
        Kind of the interval, equal-tailed or highest-density; by default ArviZ's, "eti" unless it was changed.
    hdi_prob : float, optional
        Another name of ``ci_prob`` with ``ci_kind="hdi"``.
    n_cuts : int
        Number of shares at which the curves are computed; at most 200.
    max_draws : int, optional
        Maximum number of draws to use; all by default.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there are no effects on rows, or only one of ``treated`` and ``outcome`` is given.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Notes
    -----
    The first and the last panel rank and evaluate with the same posterior, which is optimistic: they are only as good
    as the kernel, and too good for a kernel that overfits.  The observed Qini curve does not depend on the kernel if
    treatment was randomized; plot it for rows that were not fitted.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from aimz.plots import plot_uplift
    >>> draws = np.random.default_rng(0).normal(np.linspace(-1, 2, 300), 0.3, (1, 200, 300))
    >>> effect = xr.DataArray(draws, dims=("chain", "draw", "customer"), name="sales", attrs={"units": "EUR"})
    >>> [ax.get_xlabel() for ax in plot_uplift(effect, cost=0.5).axes]
    ['share of rows treated', 'share of rows treated']
    """
    if (treated is None) != (outcome is None):
        given, other = ("treated", "outcome") if outcome is None else ("outcome", "treated")
        msg = f"`plot_uplift` got `{given}` without `{other}`. Pass both for a Qini curve, or neither."
        raise ValueError(msg)
    interval = read_ci(ci_prob, ci_kind, hdi_prob)
    rows = rank_effects(effects, var_name, ranking, n_cuts, max_draws, "plot_uplift")
    curve = compute_gain(rows)
    observed = None if treated is None else compute_qini(rows, treated, outcome)
    worth = None if cost is None else policy_value(curve, cost=cost, value=value)
    columns = 1 + (observed is not None) + (worth is not None)
    size = (6.4, 4.6) if columns == 1 else (4.6 * columns, 4.8)
    with canvas(size, columns=columns, figsize=figsize) as drawn:
        axes = iter(drawn.axes)
        _draw_gain(drawn, next(axes), curve, interval)
        if observed is not None:
            _draw_qini(drawn, next(axes), observed, interval)
        if worth is not None:
            _draw_value(drawn, next(axes), worth, interval)
        for ax in drawn.axes:
            ax.axhline(0, color=DARK, linewidth=0.8)
            ax.set_xlim(0, 1)
            set_ticks(ax.xaxis, unit=" %", most=4 if columns > 1 else 5)
            set_ticks(ax.yaxis)
            drawn.xlabel("share of rows treated", ax)
            ax.legend(loc="best", frameon=True, facecolor="white", edgecolor="none", framealpha=0.8)
        attrs = curve.attrs
        ranked_by = "a given ranking" if attrs["ranked_by"] == "ranking" else "posterior mean effect"
        drawn.title(f"Treating first where the effect on {plain_name(attrs['site'], attrs)} is largest")
        drawn.caption(
            f"Bands: {interval_name(interval)}." if "draw" in curve.sizes else "No band, because draws are not known.",
            f"{attrs['n_obs']:,} rows, ranked by {ranked_by}.",
            describe_comparison(attrs),
            attrs["thinned"],
        )
        return drawn.figure


def _flatten_draws(array: xr.DataArray) -> np.ndarray:
    """Return values of shape ``(n_draws, ...)``; without dimensions of draws, there is one draw."""
    if "draw" not in array.dims:
        return array.values[None]
    values = array.transpose(*SAMPLE_DIMS, ...).values
    return values.reshape(-1, *values.shape[2:])


def _draw_band(ax: Any, share: np.ndarray, draws: np.ndarray, interval: Statistic, label: str) -> None:
    """Draw the mean of curves and their interval; a single curve has no interval."""
    if len(draws) > 1:
        ax.fill_between(share, *intervals(draws, interval), color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(share, draws.mean(axis=0), color=BLUE, linewidth=1.8, label=label)


def _draw_gain(drawn: Canvas, ax: Any, curve: xr.Dataset, interval: Statistic) -> None:
    """Draw the uplift curve."""
    share, gain, random = curve["share"].values, _flatten_draws(curve["gain"]), _flatten_draws(curve["random"])
    _draw_band(ax, share, gain, interval, "largest effects first")
    ax.plot(share, random.mean(axis=0), color=GREY, linewidth=1.4, linestyle="--", label="at random")
    drawn.ylabel(axis_label(curve.attrs["site"], curve.attrs, "gain per row in "), ax)
    half = int(np.argmin(np.abs(share - 0.5)))
    drawn.subtitle(
        ax,
        "Uplift, according to the model",
        f"Treating the top {100 * share[half]:.3g} % gains {estimate(gain[:, half], interval)} per row; all, "
        f"{estimate(gain[:, -1], interval)}.",
    )


def _draw_qini(drawn: Canvas, ax: Any, found: xr.Dataset, interval: Statistic) -> None:
    """Draw the observed Qini curve, and the one that the model expects."""
    share, observed = found["share"].values, found["qini"].values
    _draw_band(ax, share, _flatten_draws(found["qini_model"]), interval, "expected by the model")
    boot = found["qini_boot"].values
    known = np.isfinite(boot).all(axis=0)
    ax.fill_between(share[known], *intervals(boot[:, known], interval), color=ORANGE, alpha=0.18, linewidth=0)
    ax.plot(share, observed, color=ORANGE, linewidth=1.8, label="observed (band: bootstrap)")
    ax.plot([0, 1], [0, observed[-1]], color=GREY, linewidth=1.4, linestyle="--", label="at random")
    drawn.ylabel(axis_label(found.attrs["site"], found.attrs, "added among the treated: total "), ax)
    low, high = (format_number(float(bound)) for bound in intervals(found["coefficient_boot"].values, interval))
    coefficient = format_number(found["coefficient"].item())
    expected = estimate(_flatten_draws(found["coefficient_model"]), interval)
    drawn.subtitle(
        ax,
        "Qini curve, as observed",
        f"Coefficient {coefficient} ({low} to {high}); expected by the model {expected}.",
    )


def _draw_value(drawn: Canvas, ax: Any, worth: xr.Dataset, interval: Statistic) -> None:
    """Draw the expected value of each share, and the best share."""
    share, draws, best = worth["share"].values, _flatten_draws(worth["value"]), worth["best_share"].item()
    _draw_band(ax, share, draws, interval, "expected value")
    by_draw = _flatten_draws(worth["best_share_by_draw"])
    low, high = (float(bound) for bound in intervals(by_draw, interval)) if len(by_draw) > 1 else (best, best)
    if high > low:
        label = f"best share, {100 * interval.at:.3g} % interval"
        ax.axvspan(low, high, color=ORANGE, alpha=0.12, linewidth=0, label=label)
    ax.axvline(best, color=ORANGE, linewidth=1.4)
    label = f"best: top {100 * best:.3g} %"
    ax.plot([best], [worth["best_value"].mean().item()], marker="o", color=ORANGE, label=label)
    drawn.ylabel("expected value per row", ax)
    drawn.subtitle(
        ax,
        f"Value, at a cost of {worth.attrs['cost']:,.6g} for each treated row",
        f"The top {100 * best:.3g} % is worth {estimate(_flatten_draws(worth['best_value']), interval)} per row; all, "
        f"{estimate(draws[:, -1], interval)}.",
    )

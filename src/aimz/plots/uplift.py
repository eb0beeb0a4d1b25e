"""Whom to treat first, and what it brings, as a picture."""

__all__ = ["plot_uplift"]

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from aimz.plots.figure import BLUE, DARK, GREY, ORANGE, Canvas, canvas, note, numbers
from aimz.plots.ranking import ranked
from aimz.plots.selection import SAMPLE_DIMS, intervals
from aimz.plots.text import against, axis_label, estimate, interval_name, number, wanted_interval
from aimz.plots.uplift_curves import gains, policy_value, qini
from aimz.statistics import Statistic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_uplift(
    effects: xr.DataTree | xr.Dataset | xr.DataArray,
    *,
    treated: Any = None,
    outcome: Any = None,
    cost: float | None = None,
    value: float = 1.0,
    ranking: Any = None,
    var_name: str | None = None,
    hdi_prob: float | None = None,
    n_cuts: int = 100,
    max_draws: int | None = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Draw what it brings to treat the rows with the largest effects first.

    The first panel is the uplift curve: the gain, as the model has it, of treating the top share of rows, beside the
    gain of treating as many chosen by lot.  With ``treated`` and ``outcome`` of an experiment a second panel is the
    Qini curve: what treatment added in fact, with its bootstrap interval, beside what the model says it should have.
    With ``cost`` a last panel is the expected value of each share, with the best one marked.

    Large effects are taken to be good; where small ones are, pass the negated variable.  The numbers are those of
    :func:`uplift_curve`, :func:`qini_curve` and :func:`policy_value`.

    Parameters
    ----------
    effects : xarray.DataTree, xarray.Dataset or xarray.DataArray
        Effects on rows: what :meth:`ImpactModel.estimate_effect` returns, of any size.  With row statistics the curve
        of means is drawn, and no band: bounds of rows do not tell how rows vary together.
    treated, outcome : array_like of shape (n_obs,), optional
        Of an experiment: whether a row was treated, by lot, and what was observed.  Labels must be those of the rows.
    cost : float, optional
        What it costs to treat one row.
    value : float
        What one unit of the effect is worth, in the same currency.
    ranking : array_like of shape (n_obs,), optional
        Scores of the rows, the highest treated first; by default posterior mean effects.
    var_name : str, optional
        Which site, if there are several.
    hdi_prob : float, optional
        Probability of a highest-density interval; by default an interval of the kind and level of
        ``arviz_base.rcParams``.
    n_cuts : int
        Shares to compute the curves at; at most 200.
    max_draws : int, optional
        Use at most so many draws; by default all.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there are no effects on rows, or one of ``treated`` and ``outcome`` comes without the other.
    ImportError
        If matplotlib or arviz-plots are not installed.

    Notes
    -----
    The first and the last panel rank and evaluate with the same posterior, which is optimistic: they are as good as the
    kernel, and a kernel that fits noise makes them too good.  The observed Qini curve does not rest on the kernel, if
    treatment was by lot; draw it for rows that were not fitted to.

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
    interval = wanted_interval(hdi_prob)
    rows = ranked(effects, var_name, ranking, n_cuts, max_draws, "plot_uplift")
    curve = gains(rows)
    seen = None if treated is None else qini(rows, treated, outcome)
    worth = None if cost is None else policy_value(curve, cost=cost, value=value)
    columns = 1 + (seen is not None) + (worth is not None)
    size = (6.4, 4.6) if columns == 1 else (4.6 * columns, 4.8)
    with canvas("plot_uplift", size, columns=columns, figsize=figsize) as drawn:
        axes = list(drawn.axes)
        _draw_gain(drawn, axes.pop(0), curve, interval)
        if seen is not None:
            _draw_qini(drawn, axes.pop(0), seen, interval)
        if worth is not None:
            _draw_value(drawn, axes.pop(0), worth, interval)
        for ax in drawn.axes:
            ax.set_xlim(0, 1)
            numbers(ax.xaxis, percent=True, most=4 if columns > 1 else 5)
            numbers(ax.yaxis, most=6)
            drawn.xlabel("share of rows treated", ax)
        drawn.title(f"Treating first where the effect on {_name(curve)} is largest")
        sampled = "draw" in curve.sizes
        drawn.foot(
            f"Bands: {interval_name(interval)}." if sampled else "No band: bounds of rows do not tell of their sums.",
            f"{curve.attrs['n_obs']:,} rows, ranked by {_ranked_by(curve)}.",
            against(xr.DataArray(0.0, attrs=curve.attrs)),
            curve.attrs["thinned"],
        )
        return drawn.figure  # type: ignore[no-any-return]


def _ranked_by(curve: xr.Dataset) -> str:
    return "a ranking that was given" if curve.attrs["ranked_by"] == "ranking" else "posterior mean effect"


def _name(curve: xr.Dataset) -> str:
    return str(curve.attrs.get("long_name") or curve.attrs["site"].replace("_", " "))


def _draws(array: xr.DataArray) -> np.ndarray:
    """Return draws of shape ``(n_draws, ...)``; what has none is one."""
    if "draw" not in array.dims:
        return array.values[None]
    values = array.transpose(*SAMPLE_DIMS, ...).values
    return values.reshape(-1, *values.shape[2:])


def _band(ax: Any, share: np.ndarray, draws: np.ndarray, interval: Statistic, colour: str, label: str) -> None:
    """Draw the mean of curves with its band; of one curve, the curve alone."""
    if len(draws) > 1:
        low, high = intervals(draws, interval)
        ax.fill_between(share, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(share, draws.mean(axis=0), color=colour, linewidth=1.8, label=label)


def _draw_gain(drawn: Canvas, ax: Any, curve: xr.Dataset, interval: Statistic) -> None:
    share, gain, lot = curve["share"].values, _draws(curve["gain"]), _draws(curve["random"])
    _band(ax, share, gain, interval, BLUE, "largest effects first")
    ax.plot(share, lot.mean(axis=0), color=GREY, linewidth=1.4, linestyle="--", label="by lot")
    ax.axhline(0, color=DARK, linewidth=0.8)
    drawn.ylabel(axis_label(_name(curve), curve.attrs, prefix="gain per row in "), ax)
    half = int(np.argmin(np.abs(share - 0.5)))
    words = f"Treating the top {100 * share[half]:.3g} % gains {estimate(gain[:, half], interval)} per row; all, "
    note(ax, ["Uplift, by the model", words + f"{estimate(gain[:, -1], interval)}."])
    ax.legend(loc="best", frameon=True, facecolor="white", edgecolor="none", framealpha=0.8)


def _draw_qini(drawn: Canvas, ax: Any, found: xr.Dataset, interval: Statistic) -> None:
    share, seen, model = found["share"].values, found["qini"].values, _draws(found["qini_model"])
    _band(ax, share, model, interval, BLUE, "expected by the model")
    if "qini_boot" in found:
        boot = found["qini_boot"].values
        known = np.isfinite(boot).all(axis=0)
        low, high = intervals(boot[:, known], interval)
        ax.fill_between(share[known], low, high, color=ORANGE, alpha=0.18, linewidth=0)
    ax.plot(share, seen, color=ORANGE, linewidth=1.8, label="observed (band: bootstrap)")
    ax.plot([0, 1], [0, seen[-1]], color=GREY, linewidth=1.4, linestyle="--", label="by lot")
    ax.axhline(0, color=DARK, linewidth=0.8)
    drawn.ylabel(axis_label(_name(found), found.attrs, prefix="added among the treated: total "), ax)
    coefficient = number(found["coefficient"].item())
    if "coefficient_boot" in found:
        ends = (number(float(bound)) for bound in intervals(found["coefficient_boot"].values, interval))
        coefficient += f" ({' to '.join(ends)})"
    by_model = estimate(_draws(found["coefficient_model"]), interval)
    note(ax, ["Qini curve, as observed", f"Coefficient {coefficient}; expected by the model {by_model}."])
    ax.legend(loc="best", frameon=True, facecolor="white", edgecolor="none", framealpha=0.8)


def _draw_value(drawn: Canvas, ax: Any, worth: xr.Dataset, interval: Statistic) -> None:
    share, draws = worth["share"].values, _draws(worth["value"])
    _band(ax, share, draws, interval, BLUE, "expected value")
    ax.axhline(0, color=DARK, linewidth=0.8)
    best = worth["best_share"].item()
    by_draw = _draws(worth["best_share_by_draw"])
    if len(by_draw) > 1:
        low, high = (float(bound) for bound in intervals(by_draw, interval))
        if high > low:
            ax.axvspan(
                low,
                high,
                color=ORANGE,
                alpha=0.12,
                linewidth=0,
                label=f"best share, {100 * interval.at:.3g} % interval",
            )
    ax.axvline(best, color=ORANGE, linewidth=1.4)
    ax.plot(
        [best], [worth["best_value"].mean().item()], marker="o", color=ORANGE, label=f"best: top {100 * best:.3g} %"
    )
    drawn.ylabel("expected value per row", ax)
    words = f"The top {100 * best:.3g} % is worth {estimate(_draws(worth['best_value']), interval)} per row; all, "
    cost = f"{worth.attrs['cost']:,.6g}"
    note(ax, [f"Value, at a cost of {cost} for each treated row", words + f"{estimate(draws[:, -1], interval)}."])
    ax.legend(loc="best", frameon=True, facecolor="white", edgecolor="none", framealpha=0.8)

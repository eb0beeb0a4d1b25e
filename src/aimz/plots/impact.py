"""Plot of the effect of an event."""

__all__ = ["plot_impact"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from aimz.output import tree_of
from aimz.plots.figure import BLUE, DARK, GREY, ORANGE, Canvas, canvas, set_ticks, wrap_text
from aimz.plots.selection import SAMPLE_DIMS, intervals
from aimz.plots.text import axis_label, interval_name, plain_name
from aimz.statistics import Statistic, read_ci

_READINGS = {"outcome": "outcomes", "mean": "expected values"}


def plot_impact(
    impact: xr.DataTree,
    *,
    reading: str = "outcome",
    group: Mapping[str, Any] | None = None,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Plot the effect of an event: observed and counterfactual, their difference, and its cumulative sum.

    Parameters
    ----------
    impact : xarray.DataTree
        Result of :meth:`ImpactModel.estimate_impact`.
    reading : {"outcome", "mean"}
        Whether the counterfactual is the outcome that would have been seen, with its noise, or its expected value.
    group : mapping, optional
        Label of each dimension of ``by``, such as ``{"region": "North"}``; all groups together by default.
    ci_prob : float, optional
        Probability of the interval; by default ArviZ's, 0.89 unless it was changed.
    ci_kind : {"eti", "hdi"}, optional
        Kind of the interval, equal-tailed or highest-density; by default ArviZ's, "eti" unless it was changed.
    hdi_prob : float, optional
        Another name of ``ci_prob`` with ``ci_kind="hdi"``.
    figsize : (float, float), optional
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels, one below the other. A vertical line marks the start of the event.

    Raises
    ------
    TypeError, ValueError
        If ``impact`` is not such a result, or ``reading`` or ``group`` is not in it.
    ImportError
        If matplotlib or arviz-plots is not installed.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from jax import random
    >>> from numpyro.infer import MCMC, NUTS
    >>> import aimz
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("week", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
    >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
    >>> _ = model.set_posterior_sample({"b": np.linspace(1.9, 2.1, 100)})
    >>> X, week = np.ones(20), np.arange(20)
    >>> found = model.estimate_impact(X, 2.0 * X + 3.0 * (week >= 15), period=week, start=15, progress=False)
    >>> [ax.get_ylabel() for ax in aimz.plots.plot_impact(found).axes]
    ['y', 'difference', 'cumulative difference']
    """
    interval = read_ci(ci_prob, ci_kind, hdi_prob)
    tree = tree_of(impact)
    if not isinstance(tree, xr.DataTree) or "event_start" not in getattr(tree.get("effect"), "attrs", {}):
        msg = (
            "`plot_impact` needs the result of `ImpactModel.estimate_impact`; got an object of type "
            f"`{type(impact).__name__}` that is not one. Pass the whole tree."
        )
        raise TypeError(msg)
    if reading not in _READINGS:
        msg = f"`reading` must be 'outcome' or 'mean'; got {reading!r}. Omit it for outcomes."
        raise ValueError(msg)
    parts = _select(tree, group, reading)
    about = tree["effect"].attrs
    name = plain_name(parts["observed_data"].name, parts["observed_data"].attrs)
    with canvas((7.5, 7.0), rows=3, figsize=figsize) as drawn:
        _draw(drawn, parts, about, interval)
        where = "" if not group else " for " + ", ".join(f"{dim} {label}" for dim, label in group.items())
        drawn.title(f"{name} with and without the event of {about['event_start']}{where}")
        drawn.caption(
            f"Posterior mean and {interval_name(interval)} of {_READINGS[reading]} without the event.",
            "Vertical line: start of the event.",
            "The cumulative difference is summed within each draw.",
        )
        return drawn.figure


def _select(tree: xr.DataTree, group: Mapping[str, Any] | None, reading: str) -> dict[str, xr.DataArray]:
    """Return observed values, counterfactual, difference and cumulative difference of one group."""
    by = [str(dim) for dim in tree["effect"].attrs["by"]]
    chosen = dict(group or {})
    known = {dim: tree["effect"].to_dataset()[dim].values.tolist() for dim in by}
    if chosen and (set(chosen) != set(by) or any(label not in known[dim] for dim, label in chosen.items())):
        listed = "; ".join(f"{dim}: {', '.join(map(str, labels[:8]))}" for dim, labels in known.items()) or "no groups"
        msg = f"`group` must name a label of each dimension of `by` ({listed}); got {chosen!r}. Omit it for all groups."
        raise ValueError(msg)
    suffix = "_overall" if by and not chosen else ""
    found = {}
    for name in ("observed_data", "counterfactual", "pointwise", "cumulative"):
        part = next(iter(tree[name + suffix].to_dataset().data_vars.values())).sel(chosen)
        found[name] = part.sel(reading=reading) if "reading" in part.dims else part
    return found


def _draw(drawn: Canvas, parts: Mapping[str, xr.DataArray], about: Mapping[Any, Any], interval: Statistic) -> None:
    """Draw the three panels."""
    along, first = about["period_dim"], about["n_periods_before"]
    at, labels = _positions(parts["observed_data"][along].values)
    unit = axis_label(parts["observed_data"].name, parts["observed_data"].attrs)
    panels = (
        ("counterfactual", at, unit),
        ("pointwise", at, "difference"),
        ("cumulative", at[first:], "cumulative difference"),
    )
    for i, (ax, (name, x, label)) in enumerate(zip(drawn.axes, panels, strict=True)):
        draws = parts[name].transpose(*SAMPLE_DIMS, along).values.reshape(-1, len(x))
        low, high = intervals(draws, interval)
        ax.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(
            x, draws.mean(0), color=BLUE, linewidth=1.4, label="without the event", linestyle="--" if not i else "-"
        )
        if i == 0:
            ax.plot(x, parts["observed_data"].values, color=DARK, linewidth=1.4, label="observed")
        else:
            ax.axhline(0.0, color=GREY, linewidth=0.9)
        ax.axvline(_between(at, first), color=ORANGE, linewidth=1.2, linestyle=":")
        ax.set_ylabel(wrap_text(label, drawn.figure.get_figheight() / 4, 10.0))
        if at.dtype.kind != "M":
            set_ticks(ax.yaxis, most=5)
    drawn.legend()
    last = drawn.axes[-1]
    if labels is not None:
        shown = np.unique(np.linspace(0, len(at) - 1, min(len(at), 8)).round().astype(int))
        last.set_xticks(at[shown], [labels[i] for i in shown])
    elif at.dtype.kind == "M":
        locator = AutoDateLocator(maxticks=9)
        last.xaxis.set_major_locator(locator)
        last.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    last.set_xlabel(axis_label(along, parts["observed_data"][along].attrs))


def _positions(periods: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """Return places on the horizontal axis, and tick labels if periods are neither numbers nor dates."""
    if periods.dtype.kind in "iufM":
        return periods, None
    try:
        return np.asarray(periods, "datetime64[ns]"), None  # periods of pandas, or dates with a time zone
    except (TypeError, ValueError):
        return np.arange(len(periods)), [str(label) for label in periods]


def _between(at: np.ndarray, first: int) -> Any:
    """Return the middle between the last period before the event and its first one."""
    return at[first - 1] + (at[first] - at[first - 1]) / 2

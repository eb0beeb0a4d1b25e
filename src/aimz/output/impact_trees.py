"""The effect of an event as a tree: observed outcomes, outcomes without the event, and their difference."""

__all__ = ["QUANTITY", "READING", "READINGS", "ImpactSums", "impact_tree", "placebo_sentence", "with_placebos"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.errors import OutputWarning, warn
from aimz.output.datasets import attributes, make_tree
from aimz.output.labels import SAMPLE_DIMS

READING, QUANTITY = "reading", "quantity"
READINGS = ("outcome", "mean")
"""Readings of "without the event": outcomes that would have been seen, with noise; and their expected values."""
_QUANTITIES = ("average", "cumulative", "relative")


@dataclass(frozen=True)
class ImpactSums:
    """Sums over the rows of each period and group, observed and without the event."""

    site: str
    observed: np.ndarray
    """Observed sums ``(n_periods, *groups)``."""
    counterfactual: np.ndarray
    """Sums without the event ``(n_chains, n_draws, 2, n_periods, *groups)``, for each of ``READINGS``."""
    rows: np.ndarray
    """Number of rows ``(n_periods, *groups)``."""
    periods: pd.Index
    period_dim: str
    first: int
    """Number of the first period of the event, which lasts until the last period."""
    labels: Mapping[str, np.ndarray]
    """Labels of the groups, by dimension."""
    attrs: Mapping[str, Any]
    """Attributes of all groups of the tree; "aggregate" is "sum" or "mean"."""


def impact_tree(sums: ImpactSums) -> xr.DataTree:
    """Return the effect of an event, for each group and over all of them; with several sets of groups, for each set."""
    dims = tuple(sums.labels)
    kept: dict[str, tuple[str, ...]] = {"": dims}
    if dims:
        kept["_overall"] = ()
    if len(dims) > 1:
        kept |= {f"_by_{dim}": (dim,) for dim in dims}
    found: dict[str, xr.Dataset | None] = {}
    for suffix, own in kept.items():
        found |= {f"{name}{suffix}": dataset for name, dataset in _parts(sums, own).items()}
    rows = xr.DataArray(sums.rows[sums.first :].sum(0), dict(sums.labels), dims)
    about = attributes(period_dim=sums.period_dim)
    return make_tree({**found, "groups": xr.Dataset({"rows": rows, "weight": rows}, attrs=about)})


def _parts(sums: ImpactSums, kept: tuple[str, ...]) -> dict[str, xr.Dataset]:
    """Return the data sets of the groups along the dimensions ``kept``."""
    site, along = sums.site, sums.period_dim
    others = tuple(i - len(sums.labels) for i, dim in enumerate(sums.labels) if dim not in kept)
    coords = {along: sums.periods, **{dim: sums.labels[dim] for dim in kept}}
    rows = xr.DataArray(sums.rows.sum(others), coords, (along, *kept))
    scale = 1 if sums.attrs["aggregate"] == "sum" else rows
    observed = xr.DataArray(sums.observed.sum(others), coords, (along, *kept)) / scale
    head = {SAMPLE_DIMS[i]: pd.RangeIndex(size) for i, size in enumerate(sums.counterfactual.shape[:2])}
    without = (
        xr.DataArray(
            sums.counterfactual.sum(others),
            {**head, READING: list(READINGS), **coords},
            (*SAMPLE_DIMS, READING, along, *kept),
        )
        / scale
    )
    pointwise = observed - without
    event = {along: slice(sums.first, None)}
    cumulative = pointwise.isel(event).cumsum(along).assign_coords({along: sums.periods[sums.first :]})
    effect = _effect(observed.isel(event), without.isel(event), along, site)
    attrs = attributes(**sums.attrs)
    order = (*SAMPLE_DIMS, READING)
    return {
        "effect": effect.transpose(*order, QUANTITY, *kept).to_dataset(name=site).assign_attrs(attrs, by=list(kept)),
        "pointwise": pointwise.transpose(*order, along, *kept).to_dataset(name=site).assign_attrs(attrs),
        "cumulative": cumulative.transpose(*order, along, *kept).to_dataset(name=site).assign_attrs(attrs),
        "counterfactual": without.to_dataset(name=site).assign_attrs(attrs),
        "observed_data": observed.to_dataset(name=site).assign_attrs(attrs),
    }


def _effect(observed: xr.DataArray, without: xr.DataArray, along: str, site: str) -> xr.DataArray:
    """Return the effect over all periods of the event: on average, in total, and relative to the total without it."""
    total, total_without = observed.sum(along), without.sum(along)
    n_periods = observed.sizes[along]
    difference = total - total_without
    relative = difference / _positive(total_without, site)
    name = xr.DataArray(np.array(_QUANTITIES), dims=QUANTITY, name=QUANTITY)
    effect = xr.concat([difference / n_periods, difference, relative], name)
    return effect.assign_coords(
        observed=xr.concat([total / n_periods, total, total], name),
        counterfactual=xr.concat([total_without / n_periods, total_without, total_without], name).mean(SAMPLE_DIMS),
    )


def _positive(total: xr.DataArray, site: str) -> xr.DataArray:
    """Return totals to divide by, NaN for groups in which a draw is not positive, with a warning."""
    bad = total <= 0
    if not bool(bad.any()):
        return total
    draws = bad.sum(SAMPLE_DIMS)
    n_draws = total.sizes["chain"] * total.sizes["draw"]
    place = np.unravel_index(int(np.argmax(draws.values)), draws.shape)
    cell = ", ".join(f"{dim} {draws[dim].values[i]}" for dim, i in zip(draws.dims, place, strict=True))
    warn(
        f"The relative effect on `{site}` is NaN: it is relative to the total of `{site}` without the event, which "
        f"must be above 0 and is not in {int(draws.max()):,} of {n_draws:,} draws ({cell}). Use the average or the "
        "cumulative effect.",
        OutputWarning,
    )
    return total.where(draws == 0)


def with_placebos(impact: xr.DataTree, placebos: Mapping[Any, xr.DataTree], kind: str) -> xr.DataTree:
    """Return the effect of an event with the average effects of placebo events, by label."""
    site = str(next(iter(impact["effect"].data_vars)))
    labels = np.array(list(placebos))
    trees = list(placebos.values())
    effects = [_average(tree) for tree in trees]
    along = xr.DataArray(labels, dims="placebo", name="placebo")
    draws = xr.concat([effect.drop_vars(["observed", "counterfactual"], errors="ignore") for effect in effects], along)
    found = draws.transpose(*SAMPLE_DIMS, READING, "placebo").to_dataset(name=site)
    found = found.assign(
        n_periods=("placebo", [tree["effect"].attrs["n_periods"] for tree in trees]),
        error_before=("placebo", [_error_before(tree) for tree in trees]),
    )
    about = attributes(kind=kind, n_refits=len(trees), error_before_of_event=_error_before(impact))
    groups = {str(name): node.to_dataset() for name, node in impact.children.items()}
    return make_tree({**groups, "placebo": found.assign_attrs(about)})


def _average(tree: xr.DataTree) -> xr.DataArray:
    """Return the average effect over all rows."""
    group = "effect_overall" if "effect_overall" in tree.children else "effect"
    effect = next(iter(tree[group].to_dataset().data_vars.values()))
    return effect.sel({QUANTITY: "average"}, drop=True)


def _error_before(tree: xr.DataTree) -> float:
    """Return the root of the mean squared difference from the expected values in the periods before the event."""
    group = "pointwise_overall" if "pointwise_overall" in tree.children else "pointwise"
    pointwise = tree[group].to_dataset()
    about = pointwise.attrs
    error = next(iter(pointwise.data_vars.values())).sel({READING: "mean"}).mean(SAMPLE_DIMS)
    before = error.isel({about["period_dim"]: slice(0, about["n_periods_before"])})
    return float(np.sqrt((before**2).mean()))


def placebo_sentence(impact: xr.DataTree) -> list[str]:
    """Return a sentence that compares an effect with placebo effects, without a verdict; none without placebos."""
    if "placebo" not in impact.children:
        return []
    placebo = impact["placebo"].to_dataset()
    site = next(name for name in placebo.data_vars if READING in placebo[name].dims)
    means = placebo[site].sel({READING: "outcome"}).mean(SAMPLE_DIMS).values
    effect = float(_average(impact).sel({READING: "outcome"}).mean())
    n, about = len(means), placebo.attrs
    where = "earlier periods" if about["kind"] == "time" else "other units"
    farther = int((np.abs(means) >= abs(effect)).sum())
    span = f"{means.min():.3g}" + (f" to {means.max():.3g}" if n > 1 else "")
    text = (
        f"In {n} refit{'s' * (n > 1)} with a placebo event in {where}, the average effect on `{site}` was {span}; "
        f"{farther} of {n} were at least as far from 0 as {effect:.3g}, the estimate for the event."
    )
    if about["kind"] == "space":
        ratios = np.abs(means) / placebo["error_before"].values
        larger = int((ratios >= abs(effect) / about["error_before_of_event"]).sum())
        text += f" Relative to the error before the event, {larger} of {n} were at least as large."
    return [text]

"""The effect of an event as a tree: what was observed, what would have been, and their difference."""

__all__ = ["QUANTITY", "READING", "READINGS", "ImpactSums", "impact_tree"]

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


def impact_tree(sums: ImpactSums, **groups: xr.Dataset | None) -> xr.DataTree:
    """Return the effect of an event: for each group, over all of them and, with several sets of groups, for each set.

    ``groups`` are further groups of the tree.
    """
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
    return make_tree({**found, "groups": xr.Dataset({"rows": rows, "weight": rows}, attrs=about), **groups})


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

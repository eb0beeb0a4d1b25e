"""Averages under scenarios, and their contrasts with a baseline."""

__all__ = [
    "SCENARIO",
    "Averages",
    "Contrast",
    "check_by",
    "check_contrast",
    "read_contrast",
    "scenario_tree",
]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.errors import OutputWarning, warn
from aimz.output.datasets import attributes, common_sizes, make_tree
from aimz.output.labels import SAMPLE_DIMS

SCENARIO = "scenario"
type Contrast = str | Callable[[xr.DataArray, xr.DataArray], xr.DataArray]

_CONTRASTS: Mapping[str, tuple[Callable[[Any, Any], Any], float]] = {
    "difference": (lambda scenario, baseline: scenario - baseline, 0.0),
    "ratio": (lambda scenario, baseline: scenario / baseline, 1.0),
    "lift": (lambda scenario, baseline: scenario / baseline - 1, 0.0),
}
"""Name of a contrast to its function, and its value for equal averages."""


@dataclass(frozen=True)
class Averages:
    """Sums over rows, and the information to label their averages."""

    sums: Mapping[str, np.ndarray]
    """Site to sums ``(n_draws, n_scenarios, ..., n_cells)``, without the last axis for a site without rows."""
    dims: Mapping[str, tuple[str, ...]]
    """Site to the names of its axes, without the axes of draws and rows."""
    with_rows: frozenset[str]
    """Names of the sites with rows."""
    scenarios: tuple[Any, ...]
    baseline: Any
    num_chains: int
    labels: Mapping[str, np.ndarray]
    """Dimensions of the groups of rows to their labels."""
    rows: np.ndarray
    """Number of rows in each cell."""
    weight: np.ndarray
    """Total weight of each cell, on the scale of the sums."""
    weight_scale: float = 1.0
    averaged_over: tuple[str, ...] = ()
    """Dimensions that are averaged over, if these are not only the rows; cells then count their entries."""
    coords: Mapping[str, Any] = field(default_factory=dict)
    """Labels of the dimensions of the sites."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Site to "expected", "outcome" or "counterfactual", for the output and other sites that are drawn."""
    probabilities: frozenset[str] = frozenset()
    """Sites whose values are 0 and 1, so that an average is a probability, or a share."""
    attrs: Mapping[str, Any] = field(default_factory=dict)


def read_contrast(contrast: Any) -> Contrast:
    """Return a checked contrast.

    Raises
    ------
    ValueError
        If it is neither the name of a contrast nor callable.
    """
    if callable(contrast) or (isinstance(contrast, str) and contrast in _CONTRASTS):
        return contrast  # type: ignore[no-any-return]
    msg = (
        f"`contrast` must be {', '.join(map(repr, _CONTRASTS))}, or a function of two averages (scenario, baseline); "
        f"got {contrast!r}."
    )
    raise ValueError(msg)


def check_by(labels: Mapping[str, Any], taken: Mapping[str, tuple[str, ...]]) -> None:
    """Check that names of groups differ from all other names in the result and its table.

    Raises
    ------
    ValueError
        If a name is that of a sampling dimension, a site, an axis of a site, or a column of the table.
    """
    used = {*SAMPLE_DIMS, SCENARIO, "rows", "weight", "site", "mean", "sd", *taken}
    used.update(*taken.values())
    clash = sorted(name for name in labels if name in used or name.startswith("P(") or name.endswith(("_lb", "_ub")))
    if clash:
        msg = (
            f"`by` must not name a dimension {clash[0]!r}: the result or its table has that name. Name it differently."
        )
        raise ValueError(msg)


def scenario_tree(averages: Averages, contrast: Contrast) -> xr.DataTree:
    """Return the groups ``scenarios``, ``effect`` and ``groups``.

    With groups of rows, also the averages over all rows, and with several sets of groups the averages for each set.
    """
    weight = averages.weight * averages.weight_scale
    dims = tuple(averages.labels)
    kept: dict[str, tuple[str, ...]] = {"": dims}
    if dims:
        kept["_overall"] = ()
    if len(dims) > 1:
        kept |= {f"_by_{dim}": (dim,) for dim in dims}
    baseline = averages.scenarios.index(averages.baseline)
    scenarios = {suffix: _averages(averages, own) for suffix, own in kept.items()}
    effects = {suffix: _effect(found, baseline, contrast, averages.labels) for suffix, found in scenarios.items()}
    shape = tuple(len(labels) for labels in averages.labels.values())
    groups = xr.Dataset(
        {"rows": (dims, averages.rows.reshape(shape)), "weight": (dims, weight.reshape(shape))},
        coords=dict(averages.labels),
        attrs=attributes(**({"averaged_over": list(averages.averaged_over)} if averages.averaged_over else {})),
    )
    return make_tree(
        {
            **{f"effect{suffix}": found for suffix, found in effects.items()},
            **{f"scenarios{suffix}": found for suffix, found in scenarios.items()},
            "groups": groups,
        }
    )


def _averages(averages: Averages, kept: tuple[str, ...]) -> xr.Dataset:
    """Return the average of each site for each group along the dimensions ``kept``, over the rows of all others."""
    head = (*SAMPLE_DIMS, SCENARIO)
    labels = {dim: averages.labels[dim] for dim in kept}
    shape = tuple(map(len, averages.labels.values()))
    others = tuple(i - len(shape) for i, dim in enumerate(averages.labels) if dim not in kept)
    weight = averages.weight.reshape(shape).sum(others)
    variables = {}
    for name, sums in averages.sums.items():
        dims: tuple[str, ...] = (*head, *averages.dims[name])
        values = sums
        if name in averages.with_rows:
            with np.errstate(invalid="ignore", divide="ignore"):  # a cell without rows has no average
                values = sums.reshape(*sums.shape[:-1], *shape).sum(others) / weight
            # The axes of the groups precede the axes of the site.
            values = np.moveaxis(values, range(values.ndim - len(kept), values.ndim), range(2, 2 + len(kept)))
            dims = (*head, *labels, *averages.dims[name])
        about = {"kind": averages.kinds[name]} if name in averages.kinds else {}
        about |= {"scale": "probability"} if name in averages.probabilities else {}
        variables[name] = (dims, values.reshape(averages.num_chains, -1, *values.shape[1:]), about)
    sizes = common_sizes({name: (dims, array.shape) for name, (dims, array, _) in variables.items()})
    coords: dict[str, Any] = {dim: averages.coords.get(dim, pd.RangeIndex(size)) for dim, size in sizes.items()}
    coords |= {SCENARIO: _scenario_labels(averages.scenarios), **labels}
    attrs = attributes(sample_dims=list(SAMPLE_DIMS), baseline=str(averages.baseline), **averages.attrs)
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _scenario_labels(scenarios: tuple[Any, ...]) -> np.ndarray:
    """Return names of scenarios as labels; NumPy would convert numbers next to strings into strings."""
    kinds = {str if isinstance(name, str) else float if isinstance(name, Real) else object for name in scenarios}
    if len(kinds) == 1 and object not in kinds:
        return np.asarray(scenarios)
    names = np.empty(len(scenarios), object)
    names[:] = scenarios
    return names


def check_contrast(contrast: Contrast, dims: Mapping[str, tuple[str, ...]], labels: Mapping[str, Any]) -> None:
    """Call the user's contrast on averages of 1, before anything is computed."""
    if not callable(contrast):
        return
    head = (*SAMPLE_DIMS, SCENARIO, *labels)
    ones = {name: ((*head, *own), np.ones((1,) * (len(head) + len(own)))) for name, own in dims.items()}
    averages = xr.Dataset(ones, attrs={"baseline": ""})
    _effect(averages.isel({SCENARIO: [0, 0]}), 0, contrast, labels)


def _effect(averages: xr.Dataset, baseline: int, contrast: Contrast, by: Mapping[str, Any]) -> xr.Dataset:
    """Return the contrast of each scenario with the baseline, which is given by its index, draw by draw."""
    after = averages.isel({SCENARIO: [i for i in range(averages.sizes[SCENARIO]) if i != baseline]})
    before = averages.isel({SCENARIO: baseline}, drop=True)
    if callable(contrast):
        function, null, name = contrast, 0.0, getattr(contrast, "__name__", type(contrast).__name__)
    else:
        (function, null), name = _CONTRASTS[contrast], contrast
    found = {}
    for site in averages.data_vars:
        base = before[site]
        if not callable(contrast) and contrast != "difference":
            base = _nonzero(base, str(site), contrast)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = function(after[site], base)
        if not isinstance(value, xr.DataArray) or set(value.dims) != set(after[site].dims):
            got = f"dimensions {value.dims}" if isinstance(value, xr.DataArray) else f"a {type(value).__name__}"
            msg = (
                f"`contrast` must return an array with the dimensions {after[site].dims} of the scenarios, draw by "
                f"draw; for `{site}` it returned {got}. Compute it from its arguments without averaging."
            )
            raise ValueError(msg)
        found[site] = value.transpose(*after[site].dims)
    about = {"contrast": name, "no_effect": null, "baseline": averages.attrs["baseline"]}
    if name == "lift" and any(bool((before[site] < 0).any()) for site in before.data_vars):
        about["negative_baseline"] = 1
    about["by"] = [str(dim) for dim in averages.dims if dim in by]
    for site, value in found.items():
        value.attrs = {
            **about,
            **{name: averages[site].attrs[name] for name in ("kind", "scale") if name in averages[site].attrs},
        }
    effect = xr.Dataset(found)
    effect.attrs = {**averages.attrs, **about}
    return effect


def _nonzero(base: xr.DataArray, site: str, contrast: str) -> xr.DataArray:
    """Return a baseline to divide by, without its zeros; warn if its sign makes a quotient hard to interpret."""
    zero = (base == 0).values
    if zero.any():
        warn(
            f"The {contrast} of `{site}` is NaN where it has no value: the baseline's average of `{site}` is 0 in "
            f"{int(zero.sum())} of {zero.size} draws and groups. Use `contrast='difference'`.",
            OutputWarning,
        )
    signs = (base > 0).any(SAMPLE_DIMS) & (base < 0).any(SAMPLE_DIMS)
    if bool(signs.any()):
        warn(
            f"The {contrast} of `{site}` has no meaning as a number: the baseline's average of `{site}` is below 0 in "
            "some draws and above in others, so it runs through infinity. Use `contrast='difference'`.",
            OutputWarning,
        )
    elif bool((base < 0).any()):
        warn(
            f"The {contrast} of `{site}` has the opposite sign of the change: the baseline's average of `{site}` is "
            "below 0. Use `contrast='difference'`.",
            OutputWarning,
        )
    return base.where(base != 0)

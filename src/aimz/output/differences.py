"""Difference between two predictions: ``intervention - baseline``, draw by draw and row by row."""

__all__ = ["difference", "difference_of_arrays", "recorded"]

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from aimz.errors import OutputWarning, warn
from aimz.output.labels import STATISTIC

_PATHS = ("output_dir", "artifact_path")
"""Attributes with the location of a scenario, where the difference is not stored."""
_GROUPS = ("posterior_predictive", "predictions", "prior_predictive")


def difference(baseline: xr.DataTree, intervention: xr.DataTree) -> xr.DataTree:
    """Return ``intervention - baseline`` for each variable of both scenarios, draw by draw and row by row.

    By construction, ``difference(a, a) = 0`` and ``difference(a, b) = -difference(b, a)``.

    Raises
    ------
    ValueError
        If the scenarios share no group of predictions or no variable in it, or differ in draws, rows or labels.
    """
    group = _shared_group(baseline, intervention)
    before, after = baseline[group].to_dataset(), intervention[group].to_dataset()
    shared = [name for name in after.data_vars if name in before.data_vars]
    if not shared:
        msg = (
            f"The scenarios share no variable in group {group!r}: the baseline has {sorted(map(str, before))}, the "
            f"intervention {sorted(map(str, after))}. Make both with the same `return_sites`."
        )
        raise ValueError(msg)
    if any(STATISTIC in side.sizes for side in (before, after)):
        msg = (
            "The scenarios hold statistics over draws, and the difference of two quantiles is no quantile of the "
            "difference. Make both without `statistics`, or call `compare_scenarios` for averages over rows."
        )
        raise ValueError(msg)
    _check_sizes(before, after)
    _warn_of_independent_noise(before, after)
    _warn_of_unequal_resampling(before, after)
    try:
        # By default xarray silently keeps only the labels that both arrays have.
        with xr.set_options(arithmetic_join="exact", keep_attrs=False):
            effect = xr.Dataset({name: _signed(after[name]) - _signed(before[name]) for name in shared})
    except ValueError as error:
        msg = (
            f"The scenarios have different labels, so rows cannot be matched ({error}). Make both from the same "
            "observations."
        )
        raise ValueError(msg) from error
    effect.attrs = {
        **{key: value for key, value in after.attrs.items() if key not in ("intervention", *_PATHS)},
        "contrast": "intervention - baseline",
        "intervention": after.attrs.get("intervention", "{}"),
        "baseline": before.attrs.get("intervention", "{}"),
        **_locations(before, after),
    }
    groups = {f"/{group}": effect}
    for name in ("posterior", "sample_stats"):
        if name in intervention.children:
            groups[f"/{name}"] = dataset = intervention[name].to_dataset()
            dataset.attrs = {key: value for key, value in dataset.attrs.items() if key not in _PATHS}
    tree = xr.DataTree.from_dict(groups)
    kept = {key: value for key, value in intervention.attrs.items() if key not in _PATHS}
    tree.attrs = {**kept, **_locations(before, after)}
    return tree


def difference_of_arrays(baseline: Mapping[str, Any], intervention: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``intervention - baseline`` for each array that both results with ``return_datatree=False`` have.

    Raises
    ------
    ValueError
        If they share no site, or differ in shape.
    """
    shared = [name for name in intervention if name in baseline]
    if not shared:
        msg = (
            f"The scenarios share no site: the baseline has {sorted(baseline)}, the intervention "
            f"{sorted(intervention)}. Make both with the same `return_sites`."
        )
        raise ValueError(msg)
    for name in shared:
        shapes = np.shape(baseline[name]), np.shape(intervention[name])
        if shapes[0] != shapes[1]:
            msg = (
                f"The scenarios must have the same draws and rows; got shape {shapes[0]} of `{name}` in the baseline "
                f"and {shapes[1]} with the intervention. Make both from the same rows."
            )
            raise ValueError(msg)
    return {name: _signed(intervention[name]) - _signed(baseline[name]) for name in shared}


def recorded(tree: xr.DataTree, name: str) -> tuple[str | None, frozenset[str], bool]:
    """Return the key, the resampled sites, and whether rows were drawn in blocks, from the attributes of a result.

    Raises
    ------
    TypeError
        If ``tree`` is not a tree; the error names the argument ``name``.
    """
    if not isinstance(tree, xr.DataTree):
        msg = f"`{name}` must be a DataTree that a predictive method returned; got {type(tree).__name__}."
        raise TypeError(msg)
    group = next((group for group in _GROUPS if group in tree.children), None)
    attrs = {} if group is None else tree[group].attrs
    return attrs.get("rng_key"), frozenset(attrs.get("drawn_anew", ())), bool(attrs.get("row_block", 1))


def _shared_group(baseline: xr.DataTree, intervention: xr.DataTree) -> str:
    shared = [name for name in _GROUPS if name in baseline.children and name in intervention.children]
    if not shared:
        msg = (
            f"The scenarios must share a group of predictions; the baseline has {sorted(baseline.children)}, the "
            f"intervention {sorted(intervention.children)}. Make both with the same method and `in_sample`."
        )
        raise ValueError(msg)
    return shared[0]


def _check_sizes(before: xr.Dataset, after: xr.Dataset) -> None:
    differing = ", ".join(
        f"{dim}: {before.sizes[dim]} in the baseline, {after.sizes[dim]} with the intervention"
        for dim in before.sizes
        if dim in after.sizes and before.sizes[dim] != after.sizes[dim]
    )
    if differing:
        msg = f"The scenarios must have the same draws and rows; got {differing}. Make both from the same rows."
        raise ValueError(msg)


def _warn_of_independent_noise(before: xr.Dataset, after: xr.Dataset) -> None:
    keys = [before.attrs.get("rng_key"), after.attrs.get("rng_key")]
    if None not in keys and keys[0] != keys[1]:
        warn(
            "The effect contains the noise of both scenarios, which does not cancel: they were drawn with different "
            "keys. Pass the same `rng_key` to both, or let `estimate_effect` predict them.",
            OutputWarning,
        )
    blocks = [before.attrs.get("row_block"), after.attrs.get("row_block")]
    if None not in blocks and blocks[0] != blocks[1]:
        ways = [f"in blocks of {block} rows" if block else "for all rows together" for block in blocks]
        warn(
            "The effect contains the noise of both scenarios, which does not cancel: they were drawn in two ways, "
            f"{ways[0]} and {ways[1]}. Make both with `predict_on_batch`, or both with `predict`.",
            OutputWarning,
        )


def _warn_of_unequal_resampling(before: xr.Dataset, after: xr.Dataset) -> None:
    sides = (before, after)
    resampled = [set(side.attrs.get("drawn_anew", ())) for side in sides]
    # A site that one scenario sets has no posterior draws to keep in that scenario.
    given = set().union(*(json.loads(side.attrs.get("intervention", "{}")) for side in sides))
    unequal = (resampled[0] ^ resampled[1]) - given
    if unequal:
        warn(
            f"The effect also reflects resampling: site(s) {', '.join(sorted(unequal))} were resampled in one scenario "
            "and kept their posterior draws in the other. Let `estimate_effect` predict both.",
            OutputWarning,
        )


def _locations(before: xr.Dataset, after: xr.Dataset) -> dict[str, str]:
    """Return the directories in which the scenarios of an effect are stored."""
    sides = {"artifact_path_baseline": before, "artifact_path_intervention": after}
    return {name: side.attrs["artifact_path"] for name, side in sides.items() if "artifact_path" in side.attrs}


def _signed(array: Any) -> Any:
    """Convert unsigned integers, which would wrap, and booleans, which cannot be subtracted."""
    if array.dtype.kind in "bu":
        return array.astype(np.result_type(array.dtype, np.int8) if array.dtype.itemsize < 8 else np.float64)
    return array

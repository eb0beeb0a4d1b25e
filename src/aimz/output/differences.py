"""The effect of an intervention: what happens with it, minus what happens without."""

__all__ = ["difference", "recorded"]

import json

import numpy as np
import xarray as xr

from aimz.errors import warn
from aimz.output.labels import STATISTIC

_OF_FILES = ("output_dir", "artifact_path")
"""Attributes that say where a scenario is stored; the effect is not there."""
_GROUPS = ("posterior_predictive", "predictions", "prior_predictive")


def difference(baseline: xr.DataTree, intervention: xr.DataTree) -> xr.DataTree:
    """Return ``intervention - baseline`` for each variable both have, draw by draw and row by row.

    The law: ``difference(a, a) = 0`` and ``difference(a, b) = -difference(b, a)``.

    Raises
    ------
    ValueError
        If the two share no group of predictions or no variable in it, or differ in draws, rows or labels.
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
    _warn_unless_noise_is_common(before, after)
    _warn_unless_drawn_alike(before, after)
    try:
        # By default xarray keeps only the labels both have, and the rest would be dropped without a word.
        with xr.set_options(arithmetic_join="exact", keep_attrs=False):
            effect = xr.Dataset({name: _signed(after[name]) - _signed(before[name]) for name in shared})
    except ValueError as error:
        msg = (
            f"The scenarios have different labels, so rows cannot be matched ({error}). Make both from the same "
            "observations."
        )
        raise ValueError(msg) from error
    kept = {key: value for key, value in after.attrs.items() if key not in ("intervention", *_OF_FILES)}
    effect.attrs = {
        **kept,
        "contrast": "intervention - baseline",
        "intervention": after.attrs.get("intervention", "{}"),
        "baseline": before.attrs.get("intervention", "{}"),
    }
    groups = {f"/{group}": effect}
    groups |= {
        f"/{name}": _without(intervention[name].to_dataset(), _OF_FILES)
        for name in ("posterior", "sample_stats")
        if name in intervention.children
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {key: value for key, value in intervention.attrs.items() if key not in _OF_FILES}
    return tree


def recorded(tree: xr.DataTree, name: str) -> tuple[str | None, frozenset[str], bool]:
    """Return the key a result says it was drawn with, the sites drawn anew, and whether rows were drawn in blocks.

    Raises
    ------
    TypeError
        If it is no result.
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
    differing = [dim for dim in before.sizes if dim in after.sizes and before.sizes[dim] != after.sizes[dim]]
    if differing:
        listed = ", ".join(
            f"{dim}: {before.sizes[dim]} in the baseline, {after.sizes[dim]} with the intervention" for dim in differing
        )
        msg = f"The scenarios must have the same draws and rows; got {listed}. Make both from the same rows."
        raise ValueError(msg)


def _warn_unless_noise_is_common(before: xr.Dataset, after: xr.Dataset) -> None:
    keys = [before.attrs.get("rng_key"), after.attrs.get("rng_key")]
    if None not in keys and keys[0] != keys[1]:
        warn(
            "The scenarios were drawn with different keys, so their noise is independent and their difference "
            "holds the noise of both. Pass the same `rng_key` to both, or let `estimate_effect` predict them."
        )
    blocks = [before.attrs.get("row_block"), after.attrs.get("row_block")]
    if None not in blocks and blocks[0] != blocks[1]:
        ways = [f"in blocks of {block} rows" if block else "for all rows together" for block in blocks]
        warn(
            f"The scenarios were drawn in two ways, {ways[0]} and {ways[1]}, so their noise is independent and their "
            "difference holds the noise of both. Make both with `predict_on_batch`, or both with `predict`."
        )


def _warn_unless_drawn_alike(before: xr.Dataset, after: xr.Dataset) -> None:
    sides = (before, after)
    anew = [set(side.attrs.get("drawn_anew", ())) for side in sides]
    # A site that one side sets has no draws there to be kept.
    given = set().union(*(json.loads(side.attrs.get("intervention", "{}")) for side in sides))
    unlike = (anew[0] ^ anew[1]) - given
    if unlike:
        warn(
            f"Site(s) {', '.join(sorted(unlike))} were drawn anew in one scenario and kept their posterior "
            "draws in the other, so the difference is not of like with like. Let `estimate_effect` predict both."
        )


def _without(dataset: xr.Dataset, names: tuple[str, ...]) -> xr.Dataset:
    dataset.attrs = {key: value for key, value in dataset.attrs.items() if key not in names}
    return dataset


def _signed(array: xr.DataArray) -> xr.DataArray:
    """Return an array that can be subtracted: unsigned numbers would wrap, booleans have no minus."""
    if array.dtype.kind in "bu":
        return array.astype(np.result_type(array.dtype, np.int8) if array.dtype.itemsize < 8 else np.float64)
    return array

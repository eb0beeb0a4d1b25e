"""Slopes as a tree of averages, in the form of the tree of a comparison of scenarios."""

__all__ = ["slope_contrast", "slope_tree"]

from collections.abc import Callable
from typing import Any

import xarray as xr

from aimz.errors import OutputWarning, warn
from aimz.output.datasets import make_tree
from aimz.output.labels import SAMPLE_DIMS
from aimz.output.scenario_trees import SCENARIO


def slope_contrast(kind: str) -> Callable[[Any, Any], Any]:
    """Return the function of two averages, a derivative and the site, that is a slope of a kind."""

    def contrast(slope: xr.DataArray, level: xr.DataArray) -> xr.DataArray:
        if kind != "total":
            return slope
        signs = (level > 0).any(SAMPLE_DIMS) & (level < 0).any(SAMPLE_DIMS)
        if bool(signs.any()):
            warn(
                f"The total of `{level.name}` is below 0 in some draws and above in others, so its elasticity has no "
                "meaning as a number. Use kind='dyex', the change for 1 % of the lever in units of the site.",
                OutputWarning,
            )
        return slope / level.where(level != 0)

    contrast.__name__ = kind
    return contrast


def slope_tree(tree: xr.DataTree, kind: str) -> xr.DataTree:
    """Return slopes from a comparison of derivatives with the average at the given values."""
    groups = {}
    for name, node in tree.children.items():
        dataset = node.to_dataset()
        if name.startswith("scenarios"):
            dataset = dataset.isel({SCENARIO: [0]})
        if name != "groups":
            dataset.attrs = {**{k: v for k, v in dataset.attrs.items() if k != "baseline"}, "slope": kind}
        for array in dataset.data_vars.values():
            array.attrs.pop("baseline", None)
        groups[str(name)] = dataset
    return make_tree(groups)

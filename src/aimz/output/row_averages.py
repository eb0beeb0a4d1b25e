"""Effects of rows, averaged over the rows within each draw."""

__all__ = ["average_effect"]

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from aimz.kernel import name_settings
from aimz.output.labels import SAMPLE_DIMS, STATISTIC
from aimz.output.scenario_trees import SCENARIO

_GROUPS = ("posterior_predictive", "predictions", "prior_predictive")


def average_effect(tree: xr.DataTree) -> xr.Dataset:
    """Return the effects in a result of `estimate_effect`, averaged over rows; other trees as their root dataset.

    Statistics over draws are returned as they are.
    """
    group = next((name for name in _GROUPS if name in tree.children), None)
    if group is None:
        return tree.to_dataset()
    effects = tree[group].to_dataset()
    if "contrast" not in effects.attrs:
        msg = (
            f"`effects` must hold effects; got a tree with predictions in the group {group!r}. Call `effect` or "
            f"`compare_scenarios`, or pass an average over rows, such as tree[{group!r}].to_dataset().mean('obs')."
        )
        raise TypeError(msg)
    if STATISTIC in effects.dims:
        return effects
    row_dim = _row_dim(effects)
    names = [name_settings(_settings(effects.attrs.get(side))) for side in ("intervention", "baseline")]
    averages = {
        str(name): array.mean(row_dim, dtype=np.float64, skipna=False) if row_dim in array.dims else array
        for name, array in effects.data_vars.items()
    }
    found = xr.Dataset(averages).compute().expand_dims({SCENARIO: [names[0]]}, axis=2)
    found.attrs = {**effects.attrs, "contrast": "difference", "no_effect": 0.0, "baseline": names[1], "by": []}
    return found


def _row_dim(effects: xr.Dataset) -> str | None:
    """Return the dimension of the rows: the first one after the draws, in the variable with the most values."""
    largest = max(effects.data_vars.values(), key=lambda array: array.size)
    return next((str(dim) for dim in largest.dims if dim not in SAMPLE_DIMS), None)


def _settings(stored: Any) -> Mapping[str, Any]:
    """Return the settings of a scenario, which a result stores as JSON."""
    found = json.loads(stored or "{}")
    return found if isinstance(found, Mapping) else {}

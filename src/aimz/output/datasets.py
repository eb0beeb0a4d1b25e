"""Arrays to data sets and trees in ArviZ's schema."""

__all__ = ["Draws", "attributes", "common_sizes", "draws_dataset", "make_tree", "observed_dataset", "stats_dataset"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.kernel import KernelSpec
from aimz.output.labels import SAMPLE_DIMS, Labels


@dataclass(frozen=True)
class Draws:
    """Draws of one group and what is needed to label them."""

    arrays: Mapping[str, Any]
    """Site name to array of shape ``(n_draws, ...)``, chain after chain."""
    spec: KernelSpec
    n_obs: int
    num_chains: int = 1
    known_rows: bool = True
    """Whether the rows are those the user's labels are for."""
    attrs: Mapping[str, Any] = field(default_factory=dict)


@cache
def _versions() -> dict[str, str]:
    """Return what made a result; looked up once, since reading a package's metadata takes a millisecond."""
    return {
        "creation_library": "aimz",
        "creation_library_version": version("aimz"),
        "creation_library_language": "Python",
        "inference_library": "numpyro",
        "inference_library_version": version("numpyro"),
    }


def attributes(**more: Any) -> dict[str, Any]:
    """Return what ArviZ's schema recommends for every group."""
    return {"created_at": datetime.now(UTC).isoformat(), **_versions(), **more}


def _dataset(
    variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    labels: Labels,
    *,
    row_dim: str,
    known_rows: bool,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Put arrays together that share dimensions, without copying one."""
    sizes = common_sizes({name: (dims, array.shape) for name, (dims, array) in variables.items()})
    dims = {name: axes for name, (axes, _) in variables.items()}
    coords = labels.coordinates(dims, sizes, row_dim=row_dim, known_rows=known_rows)
    return xr.Dataset(dict(variables), coords=coords, attrs=dict(attrs))


def common_sizes(shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]) -> dict[str, int]:
    """Return the length of each dimension, given names and lengths of each array's axes; refuse two for one."""
    sizes: dict[str, int] = {}
    for name, (dims, shape) in shapes.items():
        for dim, size in zip(dims, shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                msg = (
                    f"Dimension {dim!r} would be both {sizes[dim]} and {size} long (at {name!r}). Give the axes "
                    f"of {name!r} names of their own with `dims`."
                )
                raise ValueError(msg)
    return sizes


def draws_dataset(draws: Draws, labels: Labels) -> xr.Dataset:
    """Return a data set with dimensions ``(chain, draw, ...)``."""
    variables = {}
    for name, array in draws.arrays.items():
        host = np.asarray(array)
        axes = labels.axes(draws.spec, name, host.shape[1:], draws.n_obs)
        by_chain = host.reshape(draws.num_chains, -1, *host.shape[1:])
        variables[name] = ((*SAMPLE_DIMS, *axes), by_chain)
    return _dataset(
        variables,
        labels,
        row_dim=labels.row_dim(draws.spec),
        known_rows=draws.known_rows,
        attrs=attributes(sample_dims=list(SAMPLE_DIMS), **draws.attrs),
    )


def stats_dataset(stats: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Return the group ``sample_stats``."""
    shape = next(iter(stats.values())).shape
    return xr.Dataset(
        {name: (SAMPLE_DIMS, array) for name, array in stats.items()},
        coords={dim: pd.RangeIndex(size) for dim, size in zip(SAMPLE_DIMS, shape, strict=True)},
        attrs=attributes(sample_dims=list(SAMPLE_DIMS)),
    )


def observed_dataset(name: str, array: Any, spec: KernelSpec, labels: Labels) -> xr.Dataset:
    """Return the group ``observed_data``: the data of the output, not copied."""
    host = np.asarray(array)
    axes = labels.axes(spec, name, host.shape, host.shape[0])
    return _dataset({name: (axes, host)}, labels, row_dim=labels.row_dim(spec), known_rows=True, attrs=attributes())


def make_tree(groups: Mapping[str, xr.Dataset | None], **attrs: Any) -> xr.DataTree:
    """Return a tree of the groups that are there."""
    present = {f"/{name}": dataset for name, dataset in groups.items() if dataset is not None}
    tree = xr.DataTree.from_dict(present)
    tree.attrs = {**attributes(), **attrs}
    return tree

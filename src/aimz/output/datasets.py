"""Datasets and trees in ArviZ's schema."""

__all__ = [
    "DrawsInfo",
    "GroupTemplate",
    "attributes",
    "common_sizes",
    "draws_dataset",
    "group_template",
    "make_tree",
    "observed_dataset",
    "stats_dataset",
]

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz._distribution import VERSION
from aimz.kernel import KernelSpec
from aimz.output.labels import SAMPLE_DIMS, STATISTIC, Labels
from aimz.output.lazy_datasets import lazy_array, stored_coords
from aimz.statistics import Reduction


@dataclass(frozen=True)
class DrawsInfo:
    """Information to label the draws of one group."""

    spec: KernelSpec
    n_obs: int
    num_chains: int = 1
    known_rows: bool = True
    """Whether the user's labels belong to these rows."""
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupTemplate:
    """A group without its arrays."""

    dims: Mapping[str, tuple[str, ...]]
    """Variable to the names of its axes."""
    coords: Mapping[Hashable, Any]
    attrs: dict[str, Any]

    def filled(self, arrays: Mapping[str, Any], **attrs: Any) -> xr.Dataset:
        """Return the group with its arrays; stored arrays are read lazily."""
        variables = {
            name: (self.dims[name], array if isinstance(array, np.ndarray) else lazy_array(array))
            for name, array in arrays.items()
        }
        return xr.Dataset(variables, coords=dict(self.coords), attrs={**self.attrs, **attrs})

    def packed_coords(self) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
        """Return the labels to store; see :func:`stored_coords`."""
        return stored_coords(
            {
                str(name): labels if isinstance(labels, tuple) else ((str(name),), labels, {})
                for name, labels in self.coords.items()
            }
        )


@cache
def _versions() -> dict[str, str]:
    """Return the versions that are recorded in results; cached, since reading them takes a millisecond."""
    return {
        "creation_library": "aimz",
        "creation_library_version": VERSION,
        "creation_library_language": "Python",
        "inference_library": "numpyro",
        "inference_library_version": version("numpyro"),
    }


def attributes(**more: Any) -> dict[str, Any]:
    """Return the attributes that ArviZ's schema recommends for every group."""
    return {"created_at": datetime.now(UTC).isoformat(), **_versions(), **more}


def common_sizes(shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]) -> dict[str, int]:
    """Return the length of each dimension, from the names and lengths of the axes of each array.

    Raises
    ------
    ValueError
        If two arrays differ in the length of a dimension.
    """
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


def group_template(
    info: DrawsInfo, shapes: Mapping[str, tuple[int, ...]], labels: Labels, statistics: Reduction | None = None
) -> GroupTemplate:
    """Return the group of sites with arrays ``(n_draws, ...)`` of these shapes, or of statistics over the draws."""
    if statistics is None:
        head: tuple[str, ...] = SAMPLE_DIMS
        whole = {n: (info.num_chains, shape[0] // info.num_chains, *shape[1:]) for n, shape in shapes.items()}
        about: dict[str, Any] = {"sample_dims": list(SAMPLE_DIMS)}
    else:
        head = (STATISTIC,)
        whole = {n: (len(statistics.labels), *shape[1:]) for n, shape in shapes.items()}
        n_draws = next((shape[0] for shape in shapes.values()), 0)
        about = {"statistics": list(statistics.labels), "n_draws": n_draws, **statistics.attrs}
    dims = {n: (*head, *labels.axes(info.spec, n, shape[1:], info.n_obs)) for n, shape in shapes.items()}
    sizes = common_sizes({name: (dims[name], whole[name]) for name in dims})
    coords = labels.coordinates(dims, sizes, row_dim=labels.row_dim(info.spec), known_rows=info.known_rows)
    if statistics is not None:
        if STATISTIC in shapes:
            msg = f"A site named {STATISTIC!r} has no place in a result with `statistics`. Name the site differently."
            raise ValueError(msg)
        coords[STATISTIC] = np.asarray(statistics.labels)
    return GroupTemplate(dims, coords, attributes(**about, **info.attrs))


def draws_dataset(draws: Mapping[str, Any], info: DrawsInfo, labels: Labels) -> xr.Dataset:
    """Return a dataset with dimensions ``(chain, draw, ...)`` from arrays ``(n_draws, ...)``, chain after chain."""
    arrays = {name: np.asarray(array) for name, array in draws.items()}
    template = group_template(info, {name: array.shape for name, array in arrays.items()}, labels)
    return template.filled({name: a.reshape(info.num_chains, -1, *a.shape[1:]) for name, a in arrays.items()})


def stats_dataset(stats: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Return the group ``sample_stats``."""
    shape = next(iter(stats.values())).shape
    return xr.Dataset(
        {name: (SAMPLE_DIMS, array) for name, array in stats.items()},
        coords={dim: pd.RangeIndex(size) for dim, size in zip(SAMPLE_DIMS, shape, strict=True)},
        attrs=attributes(sample_dims=list(SAMPLE_DIMS)),
    )


def observed_dataset(name: str, array: np.ndarray, spec: KernelSpec, labels: Labels) -> xr.Dataset:
    """Return the group ``observed_data`` with the data of the output, without copying them."""
    axes = labels.axes(spec, name, array.shape, array.shape[0])
    sizes = common_sizes({name: (axes, array.shape)})
    coords = labels.coordinates({name: axes}, sizes, row_dim=labels.row_dim(spec), known_rows=True)
    return xr.Dataset({name: (axes, array)}, coords=coords, attrs=attributes())


def make_tree(groups: Mapping[str, xr.Dataset | None], **attrs: Any) -> xr.DataTree:
    """Return a tree of the groups that are not None."""
    tree = xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items() if dataset is not None})
    tree.attrs = {**attributes(), **attrs}
    return tree

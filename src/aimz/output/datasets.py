"""Datasets and trees in ArviZ's schema, whose stored arrays are read when they are needed."""

__all__ = [
    "DrawsInfo",
    "GroupTemplate",
    "as_group",
    "attributes",
    "common_sizes",
    "draws_dataset",
    "group_template",
    "make_tree",
    "observed_dataset",
    "open_result",
    "stats_dataset",
]

import math
import uuid
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

import aimz
from aimz._distribution import VERSION
from aimz.kernel import KernelSpec
from aimz.output.labels import SAMPLE_DIMS, STATISTIC, Labels
from aimz.statistics import Reduction

if TYPE_CHECKING:
    import os

    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from aimz.store import Group

_SHORT = 4096
"""Length up to which default labels are stored, so that any reader has labels for a small result."""
_SMALL_BYTES = 2**26
"""Size up to which an array is read as a whole: ArviZ and many other packages do not take Dask arrays."""


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


def stored_coords(
    coords: Mapping[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]],
) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
    """Return the dimensions, values and attributes of labels to store.

    A default range along the rows is left out: it has no information, and takes 800 MB for 100 million rows.
    """
    stored: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {}
    for name, (dims, labels, attrs) in coords.items():
        if isinstance(labels, pd.RangeIndex) and name not in SAMPLE_DIMS and len(labels) > _SHORT:
            continue
        values = np.asarray(labels)
        if values.dtype.kind in "biufcOUT":
            stored[name] = (dims, values, dict(attrs))
        else:  # dates and durations
            variable = xr.conventions.encode_cf_variable(xr.Variable(dims, values), name=name)
            stored[name] = (dims, variable.values, {**attrs, **variable.attrs})
    return stored


def as_group(dataset: xr.Dataset) -> "tuple[Group, dict[str, Any]]":
    """Return the group of a dataset in memory as a store takes it, and its arrays."""
    variables = {}
    for name, array in dataset.data_vars.items():
        shape = array.shape
        # Chunks are split along the last axis, so that each is at most 8 MiB.
        chunk = min(shape[-1], max(1, 2**23 // max(1, array.nbytes // max(1, shape[-1])))) if shape else 0
        chunks = (*shape[:-1], chunk) if shape else ()
        variables[str(name)] = aimz.store.Variable(tuple(map(str, array.dims)), shape, array.dtype, chunks)
    data = {str(name): array.values for name, array in dataset.data_vars.items()}
    coords = {
        str(name): (tuple(map(str, coord.dims)), coord.to_index() if coord.ndim == 1 else coord.values, coord.attrs)
        for name, coord in dataset.coords.items()
    }
    return aimz.store.Group(variables, stored_coords(coords), dict(dataset.attrs)), data


def open_result(path: "str | os.PathLike[str] | Store | StorePath") -> xr.DataTree:
    """Open a stored result, and check that it is complete.

    In contrast to :func:`xarray.open_datatree` with ``engine="zarr"``, a missing or altered file raises an error when
    it is read, instead of reading as a fill value, and rows have their numbers as labels.

    Parameters
    ----------
    path : path-like, URL, zarr.abc.store.Store or zarr.storage.StorePath
        Location of one call, which is the ``artifact_path`` of its result: a directory, or a URL such as
        ``"s3://bucket/results/<call>"``; in a zarr store, ``StorePath(store, "<call>")``.

    Returns
    -------
    xarray.DataTree
        All groups of the result; arrays are read lazily.

    Raises
    ------
    IncompleteResultError
        If the call did not finish, or files are missing.
    FileNotFoundError
        If the location does not exist.

    Examples
    --------
    >>> import aimz
    >>> aimz.open_result("results/20260101T000000.000000Z_predict")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    FileNotFoundError: There is no result there: pass the `artifact_path` of one.
    """
    location = aimz.store.read_location(path, "path", call=True)
    result = aimz.store.check_result(location)
    root: Any = result.open_store()
    groups = {}
    with aimz.store.reporting_damage(location), xr.open_datatree(root, engine="zarr", zarr_format=3) as tree:
        for name, node in tree.children.items():
            plain = node.to_dataset().drop_vars(list(node.data_vars))
            variables = {
                str(v): (array.dims, lazy_array(result.array(f"{name}/{v}")), array.attrs)
                for v, array in node.data_vars.items()
            }
            sizes = {dim: size for dim, size in node.sizes.items() if dim not in plain.coords}
            groups[f"/{name}"] = (
                plain.load().assign(variables).assign_coords({d: pd.RangeIndex(n) for d, n in sizes.items()})
            )
    opened = xr.DataTree.from_dict(groups)
    opened.attrs = dict(result.attrs)
    return opened


def lazy_array(array: Any) -> Any:
    """Return a lazy view of a stored array for xarray: a Dask array if it is large."""
    if math.prod(array.shape) * array.dtype.itemsize <= _SMALL_BYTES:
        return LazilyIndexedArray(_StoredBackend(array))
    import dask.array as da

    # Each chunk has all draws, so that quantiles need no rechunking.
    chunks = tuple(
        size if i < 2 else chunk for i, (size, chunk) in enumerate(zip(array.shape, array.chunks, strict=True))
    )
    meta = np.empty((0,) * array.ndim, array.dtype)
    return da.from_array(array, chunks=chunks, name=f"{array.name}-{uuid.uuid4().hex}", meta=meta)


class _StoredBackend(BackendArray):
    """Stored array that xarray reads on every access, without a cache, so that a removed result always raises."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        """Read a part of the array."""
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.BASIC, self.array.__getitem__)

    def __deepcopy__(self, memo: object) -> "_StoredBackend":
        """Return the same object, which is immutable and keeps the temporary directory of its model."""
        return self

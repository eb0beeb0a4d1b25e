"""Datasets whose arrays are read from a store when they are needed."""

__all__ = ["as_group", "lazy_array", "open_result", "stored_coords"]

import math
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

import aimz
from aimz.output.labels import SAMPLE_DIMS

if TYPE_CHECKING:
    import os

    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from aimz.store import Group

_SHORT = 4096
"""Length up to which default labels are stored, so that any reader has labels for a small result."""
_SMALL_BYTES = 2**26
"""Size up to which an array is read as a whole: ArviZ and many other packages do not take Dask arrays."""


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

"""Groups whose arrays are filled by a stream: labels first, arrays later."""

__all__ = ["Frame", "as_group", "frame", "open_result"]

import math
import uuid
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from aimz.output.datasets import Draws, attributes, common_sizes
from aimz.output.labels import SAMPLE_DIMS, STATISTIC, Labels
from aimz.statistics import Reduction

if TYPE_CHECKING:
    import os

    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from aimz.store import Group


@dataclass(frozen=True)
class Frame:
    """A group without its arrays."""

    dims: Mapping[str, tuple[str, ...]]
    """Variable to the names of its axes."""
    coords: Mapping[Hashable, Any]
    attrs: Mapping[str, Any]

    def filled(self, arrays: Mapping[str, Any], **attrs: Any) -> xr.Dataset:
        """Return the data set; an array that is stored is read when it is needed."""
        variables = {
            name: (self.dims[name], array if isinstance(array, np.ndarray) else _lazy(array))
            for name, array in arrays.items()
        }
        return xr.Dataset(variables, coords=dict(self.coords), attrs={**self.attrs, **attrs})

    def packed_coords(self) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
        """Return the labels as a store keeps them; see :func:`packed`."""
        return packed(
            {
                str(name): labels if isinstance(labels, tuple) else ((str(name),), labels)
                for name, labels in self.coords.items()
            }
        )


def frame(
    draws: Draws, shapes: Mapping[str, tuple[int, ...]], labels: Labels, statistics: Reduction | None = None
) -> Frame:
    """Return the group of ``draws`` for sites whose draws have ``shapes``, the number of all draws first.

    With ``statistics``, they take the place of the draws.
    """
    head: tuple[str, ...] = SAMPLE_DIMS if statistics is None else (STATISTIC,)
    dims = {n: (*head, *labels.axes(draws.spec, n, shape[1:], draws.n_obs)) for n, shape in shapes.items()}
    if statistics is None:
        whole = {n: (draws.num_chains, shape[0] // draws.num_chains, *shape[1:]) for n, shape in shapes.items()}
        about: dict[str, Any] = {"sample_dims": list(SAMPLE_DIMS)}
    else:
        whole = {n: (len(statistics.labels), *shape[1:]) for n, shape in shapes.items()}
        n_draws = next((shape[0] for shape in shapes.values()), 0)
        about = {"statistics": list(statistics.labels), "n_draws": n_draws, **statistics.attrs}
    sizes = common_sizes({name: (dims[name], whole[name]) for name in dims})
    coords = labels.coordinates(dims, sizes, row_dim=labels.row_dim(draws.spec), known_rows=draws.known_rows)
    if statistics is not None:
        if STATISTIC in shapes:
            msg = f"A site named {STATISTIC!r} has no place in a result with `statistics`. Name the site differently."
            raise ValueError(msg)
        coords[STATISTIC] = np.asarray(statistics.labels)
    return Frame(dims, coords, attributes(**about, **draws.attrs))


def packed(
    coords: Mapping[str, tuple[tuple[str, ...], Any]],
) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
    """Return labels, given with their dimensions, as a store keeps them: dimensions, values and attributes.

    A range along the rows is left out: it says nothing, and for 100 million rows it would take 800 MB.
    """
    kept: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {}
    for name, (dims, labels) in coords.items():
        if isinstance(labels, pd.RangeIndex) and name not in SAMPLE_DIMS and len(labels) > _SHORT:
            continue
        values = np.asarray(labels)
        if values.dtype.kind in "biufcOUT":
            kept[name] = (dims, values, {})
        else:  # dates and spans of time
            variable = xr.conventions.encode_cf_variable(xr.Variable(dims, values), name=name)
            kept[name] = (dims, variable.values, dict(variable.attrs))
    return kept


def as_group(dataset: xr.Dataset) -> "tuple[Group, dict[str, Any]]":
    """Return a data set in memory as a store takes it: what it is made of, and its arrays."""
    from aimz.store import Group, Variable

    variables = {}
    for name, array in dataset.data_vars.items():
        shape = array.shape
        # Chunks are cut along the last axis, as far as it takes to keep each below 8 MiB.
        chunk = min(shape[-1], max(1, 2**23 // max(1, array.nbytes // max(1, shape[-1])))) if shape else 0
        chunks = (*shape[:-1], chunk) if shape else ()
        variables[str(name)] = Variable(tuple(map(str, array.dims)), shape, array.dtype, chunks)
    data = {str(name): array.values for name, array in dataset.data_vars.items()}
    coords = {
        str(name): (tuple(map(str, coord.dims)), coord.to_index() if coord.ndim == 1 else coord.values)
        for name, coord in dataset.coords.items()
    }
    return Group(variables, packed(coords), dict(dataset.attrs)), data


def open_result(path: "str | os.PathLike[str] | Store | StorePath") -> xr.DataTree:
    """Open a stored result, and make sure that it is whole.

    What :func:`xarray.open_datatree` with ``engine="zarr"`` does too, and more carefully: a file that is missing or was
    altered raises when it is read, rather than reading as a fill value, and rows get their numbers as labels again.

    Parameters
    ----------
    path : path-like, URL, zarr.abc.store.Store or zarr.storage.StorePath
        Where one call lies: the ``artifact_path`` of its result, a directory or a URL such as
        ``"s3://bucket/results/<call>"``; in a store of zarr's, ``StorePath(store, "<call>")``.

    Returns
    -------
    xarray.DataTree
        All groups; arrays are read when they are asked for.

    Raises
    ------
    IncompleteResultError
        If the call did not finish, or files are missing.
    FileNotFoundError
        If there is nothing there.

    Examples
    --------
    >>> import aimz
    >>> aimz.open_result("results/20260101T000000.000000Z_predict")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    FileNotFoundError: There is no result there: pass the `artifact_path` of one.
    """
    from aimz.store import STATE, StoredArray, check_result, read_location

    location = read_location(path, "path", call=True)
    check_result(location)
    groups = {}
    with xr.open_datatree(location.store_path("", read_only=True), engine="zarr") as tree:
        for name, node in tree.children.items():
            plain = node.to_dataset().drop_vars(list(node.data_vars))
            variables = {
                str(v): (array.dims, _lazy(StoredArray(location, f"{name}/{v}")), array.attrs)
                for v, array in node.data_vars.items()
            }
            sizes = {dim: size for dim, size in node.sizes.items() if dim not in plain.coords}
            groups[f"/{name}"] = (
                plain.load().assign(variables).assign_coords({d: pd.RangeIndex(n) for d, n in sizes.items()})
            )
        attrs = {key: value for key, value in tree.attrs.items() if key != STATE}
    opened = xr.DataTree.from_dict(groups)
    opened.attrs = attrs
    return opened


_SHORT = 4096
"""Ranges up to this length are stored all the same, so that any reader has labels for a small result."""


_SMALL = 2**26
"""Arrays of up to 64 MiB are read as wholes: ArviZ, and much else, takes no Dask arrays."""


def _lazy(array: Any) -> Any:
    """Return a stored array as something that is read when it is needed: by Dask piece by piece, if it is large."""
    if math.prod(array.shape) * array.dtype.itemsize <= _SMALL:
        return LazilyIndexedArray(_Whole(array))
    import dask.array as da

    # All draws together, so that quantiles need no rechunking.
    chunks = tuple(
        size if i < 2 else chunk for i, (size, chunk) in enumerate(zip(array.shape, array.chunks, strict=True))
    )
    meta = np.empty((0,) * array.ndim, array.dtype)
    return da.from_array(array, chunks=chunks, name=f"{array.name}-{uuid.uuid4().hex}", meta=meta)


class _Whole(BackendArray):
    """A stored array as xarray reads it, anew each time, so that one that is gone is never remembered."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        """Read a part."""
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.BASIC, self.array.__getitem__)

    def __deepcopy__(self, memo: object) -> "_Whole":
        """Return itself: what is stored does not change, and a copy must keep its directory as well."""
        return self

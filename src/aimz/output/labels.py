"""Names of the dimensions of a result, and their labels."""

__all__ = ["SAMPLE_DIMS", "STATISTIC", "Labels"]

import re
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from aimz.data import is_plain_range
from aimz.kernel import InputColumns, KernelSpec

SAMPLE_DIMS = ("chain", "draw")
STATISTIC = "statistic"
"""Name of the dimension that replaces the draws in a result of statistics."""


@dataclass(frozen=True)
class Labels:
    """Names and labels of dimensions: the user's ``dims`` and ``coords``, as in ArviZ, and the labels of the input.

    An axis is named by ``dims``, else after the rows or the plate that it runs along, else ``<site>_dim_<i>``.
    """

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Site name to the names of its axes, without the axes of the draws."""
    coords: Mapping[str, Any] = field(default_factory=dict)
    """Name of a dimension to the labels along it."""
    columns: InputColumns | None = None
    """Columns of the input, and the axes of sites that run along them."""
    index: Any = None
    """Labels of the rows, a :class:`pandas.Index`, if the input has any."""
    groups: Mapping[str, InputColumns] = field(default_factory=dict)
    """Categories of arguments of the kernel, and the axes of sites that run along them."""

    def with_new_entries(self, spec: KernelSpec, plates: Container[str], n_obs: int) -> "Labels":
        """Return labels in which entries of ``plates`` beyond the user's labels are called "new 4", and so on."""
        coords = dict(self.coords)
        for site in spec.sites:
            for axis in (axis for plate, axis in site.plates if plate in plates):
                dim = self.axes(spec, site.name, site.traced_shape, n_obs)[axis]
                known, size = coords.get(dim), site.traced_shape[axis]
                if known is not None and len(known) < size:
                    coords[dim] = np.array([*map(str, known), *(f"new {i}" for i in range(len(known), size))])
        return replace(self, coords=coords)

    def row_dim(self, spec: KernelSpec) -> str:
        """Return the name of the dimension that all row axes share."""
        named = self.dims.get(spec.param_output)
        return named[0] if named else spec.row_dim

    def axes(self, spec: KernelSpec, name: str, shape: tuple[int, ...], n_obs: int) -> tuple[str, ...]:
        """Return a name for each axis of one draw of the site ``name``.

        Raises
        ------
        ValueError
            If ``dims`` names another number of axes than the site has.
        """
        given, site = self.dims.get(name), spec.get(name)
        if given is not None:
            # A log density has no event axes, which are the last ones of the site.
            for scored in filter(None, (site, spec.get(f"{name}_observed"))):
                if len(given) == len(scored.traced_shape) == len(shape) + scored.event_dim:
                    given = given[: len(shape)]
            if len(given) != len(shape) or len(set(given)) != len(given):
                msg = (
                    f"`dims[{name!r}]` must name each of the {len(shape)} axes of one draw of shape {shape}, each "
                    f"differently; got {list(given)}."
                )
                raise ValueError(msg)
            return tuple(given)
        plates = {axis: plate for plate, axis in site.plates} if site else {}
        rows = set(site.row_axes) if site else set()
        if spec.fixed_size and name == spec.param_output and shape:
            rows = {0}
        if self.groups and site is not None and len(site.traced_shape) == len(shape):
            taken = {self.row_dim(spec), *(one.name for one in spec.sites)}
            for argument, group in self.groups.items():
                for axis in group.axes.get(name, ()) if argument not in taken else ():
                    plates.setdefault(len(shape) + axis, argument)
        axes: list[str] = []
        for i, size in enumerate(shape):
            dim = plates.get(i)
            if i in rows:
                # An axis that depends on the number of rows, but is not as long, cannot share their dimension.
                dim = self.row_dim(spec) if size == n_obs else None
            axes.append(f"{name}_dim_{i}" if dim is None or dim in axes else dim)
        return tuple(axes)

    def coordinates(
        self, dims: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int], *, row_dim: str, known_rows: bool
    ) -> dict[Hashable, Any]:
        """Return labels for every dimension: labels of the input or the user's, else a range, which takes no memory.

        Parameters
        ----------
        dims : mapping of str to tuple of str
            Dimensions of each variable, with the dimensions of one draw last.
        sizes : mapping of str to int
            Length of each dimension.
        row_dim : str
            Dimension of the rows.
        known_rows : bool
            Whether the user's labels belong to these rows; they are not used for other observations.

        Raises
        ------
        ValueError
            If labels and dimension differ in length.
        """
        coords: dict[Hashable, Any] = {}
        along = self.along_input(dims)
        for dim, size in sizes.items():
            labels = self.coords.get(dim)
            if dim == row_dim and labels is not None and (len(labels) != size or not known_rows):
                labels = None
            if dim == row_dim and self.index is not None and len(self.index) == size and not is_plain_range(self.index):
                coords |= row_labels(self.index, dim, {*dims, *sizes})
                continue
            if dim in along and (labels is None or len(labels) != size):
                known = along[dim][:size]
                labels = (*known, *(f"new {i}" for i in range(len(known), size))) if len(known) < size else known
            if labels is None:
                coords[dim] = pd.RangeIndex(size)
                continue
            if len(labels) != size:
                msg = f"`coords[{dim!r}]` must have {size} labels; got {len(labels)}."
                raise ValueError(msg)
            coords[dim] = np.asarray(labels)
        return coords

    def along_input(self, dims: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[Any, ...]]:
        """Return the labels of dimensions that run along the columns of the input or the categories of arguments."""
        labelled = [*([] if self.columns is None else [self.columns]), *self.groups.values()]
        return {
            dims[name][axis]: found.names
            for found in labelled
            for name, axes in found.axes.items()
            for axis in axes
            if name in dims and -axis <= len(dims[name])
        }

    @staticmethod
    def check(dims: Mapping[str, Iterable[str]] | None, coords: Mapping[str, Any] | None) -> "Labels":
        """Return labels from the user's ``dims`` and ``coords``.

        Raises
        ------
        TypeError, ValueError
            If an argument is no mapping, or a dimension has the name of a site or of a sampling dimension.
        """
        for what, value in (("dims", dims), ("coords", coords)):
            if value is not None and not isinstance(value, Mapping):
                msg = f"`{what}` must be a mapping in ArviZ's format; got {type(value).__name__}."
                raise TypeError(msg)
        read = {name: [axes] if isinstance(axes, str) else list(axes) for name, axes in (dims or {}).items()}
        for name, axes in read.items():
            for axis in axes:
                if axis in SAMPLE_DIMS or axis in read:
                    msg = (
                        f"`dims[{name!r}]` must not use {axis!r}, which is the name of a site or of a sampling "
                        "dimension."
                    )
                    raise ValueError(msg)
        return Labels(read, dict(coords or {}))


def row_labels(index: Any, dim: str, taken: set[str]) -> dict[Hashable, Any]:
    """Return coordinates for an index of the rows: its labels, or a range and one coordinate for each of its levels.

    ``taken`` are the names of other variables and dimensions.
    """
    if index.nlevels == 1:
        return {dim: ((dim,), _plain_labels(index), _zone(index)) if _zone(index) else _plain_labels(index)}
    coords: dict[Hashable, Any] = {dim: pd.RangeIndex(len(index))}
    for i, level in enumerate(index.names):
        # Zarr files list names separated by blanks, and "/" separates the parts of a path.
        name = f"{dim}_level_{i}" if level is None else re.sub(r"[\s/]", "_", str(level))
        while name in coords or name in taken or name in SAMPLE_DIMS or name in (".", ".."):
            name += "_label"
        values = index.get_level_values(i)
        coords[name] = ((dim,), _plain_labels(values), _zone(values))
    return coords


def _zone(index: Any) -> dict[str, str]:
    """Return the time zone of labels, which are stored in UTC, as an attribute; empty without a time zone."""
    zone = getattr(index, "tz", None)
    return {} if zone is None else {"time_zone": str(zone)}


def _plain_labels(index: Any) -> np.ndarray:
    """Return labels in types that every file format can store: numbers, dates without a time zone, strings."""
    if getattr(index, "tz", None) is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    labels = np.asarray(index)
    return labels if labels.dtype.kind in "biufMmU" else labels.astype(str)

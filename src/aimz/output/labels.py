"""Names and labels of the axes of a result."""

__all__ = ["Labels"]

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aimz.kernel import KernelSpec

SAMPLE_DIMS = ("chain", "draw")
STATISTIC = "statistic"
"""The dimension that takes the place of the draws where statistics are kept."""


@dataclass(frozen=True)
class Labels:
    """The user's ``dims`` and ``coords``, as :mod:`arviz_base` takes them.

    An axis is named by ``dims`` if the site is there; else after the rows or the plate it runs along; else
    ``<site>_dim_<i>``.
    """

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Site name to the names of its axes, those of the draws left out."""
    coords: Mapping[str, Any] = field(default_factory=dict)
    """Name of a dimension to the labels along it."""

    def row_dim(self, spec: KernelSpec) -> str:
        """Return the name of the one dimension all row axes share."""
        named = self.dims.get(spec.param_output)
        return named[0] if named else spec.row_dim

    def axes(self, spec: KernelSpec, name: str, shape: tuple[int, ...], n_obs: int) -> tuple[str, ...]:
        """Return a name for each axis of one draw of the site ``name``.

        Raises
        ------
        ValueError
            If ``dims`` names another number of axes than the site has.
        """
        given = self.dims.get(name)
        if given is not None:
            if len(given) != len(shape) or len(set(given)) != len(given):
                msg = (
                    f"`dims[{name!r}]` must name each of the {len(shape)} axes of one draw of shape {shape}, each "
                    f"differently; got {list(given)}."
                )
                raise ValueError(msg)
            return tuple(given)
        site = spec.get(name)
        plates = {axis: plate for plate, axis in site.plates} if site else {}
        rows = set(site.row_axes) if site else set()
        if spec.fixed_size and name == spec.param_output and shape:
            rows = {0}
        row_dim = self.row_dim(spec)
        axes: list[str] = []
        for i, size in enumerate(shape):
            wanted = plates.get(i)
            if i in rows:
                # An axis that grows with the rows, but is not as long, cannot share their dimension.
                wanted = row_dim if size == n_obs else None
            taken = wanted is None or wanted in axes
            axes.append(f"{name}_dim_{i}" if taken or wanted is None else wanted)
        return tuple(axes)

    def coordinates(self, sizes: Mapping[str, int], *, row_dim: str, known_rows: bool) -> dict[Hashable, Any]:
        """Return labels for every dimension: the user's, else a range, which takes no memory.

        Labels of rows are used where they belong: for as many rows, and not for other observations.

        Raises
        ------
        ValueError
            If labels and dimension differ in length.
        """
        coords: dict[Hashable, Any] = {}
        for dim, size in sizes.items():
            labels = self.coords.get(dim)
            if dim == row_dim and labels is not None and (len(labels) != size or not known_rows):
                labels = None
            if labels is None:
                coords[dim] = pd.RangeIndex(size)
                continue
            if len(labels) != size:
                msg = f"`coords[{dim!r}]` must have {size} labels; got {len(labels)}."
                raise ValueError(msg)
            coords[dim] = np.asarray(labels)
        return coords

    @staticmethod
    def check(dims: Mapping[str, Iterable[str]] | None, coords: Mapping[str, Any] | None) -> "Labels":
        """Return labels from what the user gave.

        Raises
        ------
        TypeError, ValueError
            If something is no mapping, or a dimension has the name of a site or of the sampling dimensions.
        """
        for what, value in (("dims", dims), ("coords", coords)):
            if value is not None and not isinstance(value, Mapping):
                msg = f"`{what}` must be a mapping as ArviZ takes it; got {type(value).__name__}."
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

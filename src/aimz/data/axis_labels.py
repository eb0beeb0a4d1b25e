"""Labels of the axes of xarray arrays: remembered at a fit, and matched by name afterwards."""

__all__ = ["AxisLabels", "align_axes", "axis_labels", "check_axes", "with_axis_labels"]

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from aimz._imports import xarray as xr

type AxisLabels = tuple[tuple[str, tuple[str, ...] | None], ...]
"""Name and labels of each axis; None for an axis without labels."""


def axis_labels(value: Any, *, with_rows: bool = False) -> AxisLabels:
    """Return the axes of an xarray array, empty for anything else; the first axis has labels only if ``with_rows``.

    The labels of rows are compared by :func:`check_aligned`.
    """
    if f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}" != "xarray.DataArray":
        return ()
    start = 0 if with_rows else 1
    return tuple((str(dim), _labels(value, dim) if i >= start else None) for i, dim in enumerate(value.dims))


def _labels(value: Any, dim: Any) -> tuple[str, ...] | None:
    index = value.indexes.get(dim)
    return None if index is None or not index.is_unique else tuple(map(str, index))


def with_axis_labels(array: np.ndarray, axes: AxisLabels) -> Any:
    """Return an xarray array with these axes and labels."""
    coords = {dim: list(labels) for dim, labels in axes if labels is not None}
    return xr.DataArray(array, dims=[dim for dim, _ in axes], coords=coords)


def align_axes(value: Any, name: str, known: AxisLabels) -> Any:
    """Return an xarray array with its axes, and the labels along them, in the known order; anything else unchanged.

    Raises
    ------
    ValueError
        If labels are missing, or others are present.
    """
    given = axis_labels(value, with_rows=True)
    if not given or len(given) != len(known):
        return value
    dims, wanted = [dim for dim, _ in given], [dim for dim, _ in known]
    if dims != wanted and set(dims) == set(wanted):
        value = value.transpose(*(value.dims[dims.index(dim)] for dim in wanted))
        given = axis_labels(value, with_rows=True)
    for axis, ((dim, here), (_, there)) in enumerate(zip(given, known, strict=True)):
        if here is None or there is None or here == there:
            continue
        missing = [label for label in there if label not in here]
        # Additional columns of a matrix are ignored, like additional columns of a data frame.
        other = [label for label in here if label not in there] if value.ndim > 2 or axis == 0 else []
        if missing or other:
            raise ValueError(_mismatch(name, dim, here, there, missing, other, is_matrix=value.ndim == 2))
        value = value.isel({value.dims[axis]: [here.index(label) for label in there]})
    return value


def _mismatch(
    name: str,
    dim: str,
    here: tuple[str, ...],
    there: tuple[str, ...],
    missing: list[str],
    other: list[str],
    *,
    is_matrix: bool,
) -> str:
    """Return the error message for labels along ``dim`` that differ from the labels of the fit."""
    if is_matrix:
        return (
            f"`{name}` is missing column{'s' if len(missing) > 1 else ''} {_listed(missing)}; got {_listed(here)}. "
            "Pass every column that the model was fitted with, in any order."
        )
    parts = [f"{len(missing)} missing ({_listed(missing)})"] * bool(missing)
    parts += [f"{len(other)} not in the fit ({_listed(other)})"] * bool(other)
    return (
        f"`{name}` must have the labels of the fit along {dim!r}, {_listed(there)}; got {_listed(here)}: "
        f"{', '.join(parts)}. Pass every label that the model was fitted with, in any order; or, if the values are to "
        f"be used by position, drop the labels with `.drop_vars({dim!r})`."
    )


def _listed(labels: Any) -> str:
    """Return at most six labels as a text."""
    shown = ", ".join(map(repr, labels[:6]))
    return shown if len(labels) <= 6 else f"{shown}, ... ({len(labels)} labels)"


def check_axes(given: Mapping[str, Any], whole: Container[str] = ()) -> dict[str, AxisLabels]:
    """Return the axes of the xarray arrays among the arguments, checked to agree.

    ``whole`` are arguments without a row axis.

    Raises
    ------
    ValueError
        If two arguments have different labels along an axis of the same name, or the rows of one are another axis of
        the other.
    """
    axes = {name: axis_labels(value, with_rows=name in whole) for name, value in given.items()}
    axes = {name: found for name, found in axes.items() if found}
    seen: dict[str, tuple[str, tuple[str, ...]]] = {}
    rows = next(((name, found[0][0]) for name, found in axes.items() if name not in whole), ("", ""))
    for name, found in axes.items():
        if name not in whole and found[0][0] != rows[1] and rows[1] in dict(found):
            msg = (
                f"The rows of `{rows[0]}` run along {rows[1]!r}, which must be the first axis of `{name}`; got axes "
                f"{tuple(dict(found))}. Transpose it: `.transpose({rows[1]!r}, ...)`."
            )
            raise ValueError(msg)
        for dim, labels in found:
            if labels is None:
                continue
            first, there = seen.setdefault(dim, (name, labels))
            # Two matrices may have other columns along axes of one name.
            both_matrices = len(found) == 2 and len(axes[first]) == 2
            if labels != there and not (both_matrices and set(labels).isdisjoint(there)):
                count = int(np.not_equal(labels, there).sum()) if len(labels) == len(there) else len(labels)
                msg = (
                    f"`{name}` has other labels along {dim!r} than `{first}`, or in another order ({count} of "
                    f"{len(labels)}): got {_listed(labels)}, expected {_listed(there)}. Put both in the same order, "
                    f"`{name}.sel({dim}={first}.{dim})`, or pass the values alone."
                )
                raise ValueError(msg)
    return axes

"""Groups of rows (``by=``) and their weights (``weights=``)."""

__all__ = ["Groups", "local_codes", "read_groups", "read_weights", "with_axes"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from aimz._imports import pandas as pd


@dataclass(frozen=True)
class Groups:
    """Assignment of rows to the cells of one or several sets of labels, with weights."""

    labels: Mapping[str, np.ndarray]
    """Labels along each dimension; empty if all rows are one group."""
    codes: np.ndarray | None
    """Cell number of each row, in row-major order of the dimensions; None for one group.

    With a panel, cells have further axes: ``(n_obs, *sizes)``."""
    weights: np.ndarray | None
    """Weight of each row, divided by ``scale``, or of each entry of its panel; None for equal weights."""
    scale: float = 1.0
    """Factor between ``weights`` and the weights given by the user."""
    omitted: np.ndarray | None = None
    """Whether each row is left out of the averages; None if no row is."""
    equal: bool = False
    """Whether all rows that are not left out have the same weight."""
    panel: tuple[str, ...] = ()
    """Dimensions of the output that are averaged over together with the rows."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of labels along each dimension."""
        return tuple(len(labels) for labels in self.labels.values())

    @cached_property
    def n_cells(self) -> int:
        """Number of cells; 1 without labels."""
        return prod(self.shape)

    @property
    def length(self) -> int | None:
        """Number of rows, or None if there are neither labels nor weights."""
        per_row = self.codes if self.codes is not None else self.weights
        return None if per_row is None else len(per_row)

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions of the panel."""
        per_row = self.codes if self.codes is not None else self.weights
        return () if per_row is None else per_row.shape[1:]

    def rows(self, n_obs: int) -> np.ndarray:
        """Return the number of rows of each cell, or of entries of the panel."""
        if self.codes is None:
            return np.array([(n_obs - self.n_omitted) * prod(self.row_shape)])
        codes = self.codes if self.omitted is None else self.codes[~self.omitted]
        return np.bincount(codes.ravel(), minlength=self.n_cells)

    @property
    def are_given(self) -> bool:
        """Whether the user has given weights."""
        return self.weights is not None and not self.equal

    @cached_property
    def n_omitted(self) -> int:
        """Number of rows that are left out."""
        return 0 if self.omitted is None else int(self.omitted.sum())

    def without(self, omitted: np.ndarray) -> "Groups":
        """Return the groups without some rows, whose weight becomes 0."""
        if not omitted.any():
            return self
        by_row = omitted.reshape(-1, *[1] * len(self.row_shape))
        weights = np.ones(self.row_shape, np.float32) if self.weights is None else self.weights
        return replace(
            self, weights=np.where(by_row, np.float32(0), weights), omitted=omitted, equal=self.weights is None
        )

    def weight(self, n_obs: int) -> np.ndarray:
        """Return the total weight of each cell."""
        if self.weights is None:
            return self.rows(n_obs).astype(np.float64)
        if self.codes is None:
            return np.array([self.weights.sum(dtype=np.float64)])
        return np.bincount(self.codes.ravel(), weights=self.weights.ravel(), minlength=self.n_cells)


def read_groups(labels: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the labels along each dimension of ``by=``, and the cell number of each row.

    Raises
    ------
    ValueError
        If labels are missing or cannot be sorted, or are of other rows than the labels of another dimension.
    """
    result: dict[str, np.ndarray] = {}
    codes: np.ndarray | None = None
    for name, given in labels.items():
        # Categories keep their order; other labels are sorted.
        ordered = isinstance(getattr(given, "dtype", None), pd.CategoricalDtype)
        array: Any = given if ordered else np.asarray(given)
        if not array.ndim or not len(array):
            msg = f"`by` must have one label for each row; `{name}` has shape {array.shape}. Pass an array of n_obs."
            raise ValueError(msg)
        try:
            numbers, names = pd.factorize(array if ordered else array.ravel(), sort=True)
        except TypeError as error:
            msg = f"`by` must have labels that can be sorted; got `{name}` ({error}). Use labels of one type."
            raise ValueError(msg) from error
        if isinstance(given, np.ma.MaskedArray):
            numbers[np.ma.getmaskarray(given).ravel()] = -1
        if numbers.min() < 0:
            msg = (
                f"`by` must have a label for each row; {int((numbers < 0).sum())} of `{name}` are missing. Give them a "
                "label of their own, such as 'unknown'."
            )
            raise ValueError(msg)
        result[name] = np.asarray(names)
        # The number of cells in several dimensions can exceed 32 bits.
        numbers = numbers.astype(np.int64).reshape(array.shape)
        if codes is not None and len(codes) != len(numbers):
            msg = f"`by` must have labels of the same rows; `{name}` has {len(numbers)}, another {len(codes)}."
            raise ValueError(msg)
        if codes is None:
            codes = numbers
        else:
            codes, numbers = with_axes(codes, numbers.ndim), with_axes(numbers, codes.ndim)
            codes = codes * len(names) + numbers
    return result, codes


def with_axes(array: np.ndarray, ndim: int) -> np.ndarray:
    """Return an array with at least ``ndim`` axes, the last ones of length 1."""
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


def read_weights(given: Any) -> tuple[np.ndarray, float]:
    """Return float32 weights below 2, and the factor that restores the given ones.

    Raises
    ------
    ValueError
        If they are not finite numbers, one is negative, or all are 0.
    """
    array = np.asarray(given)
    if not array.ndim or array.dtype.kind not in "biuf":
        msg = (
            f"`weights` must have one number for each row; got shape {array.shape} of {array.dtype}. Pass an array of "
            "n_obs."
        )
        raise ValueError(msg)
    if not np.isfinite(array).all() or (array < 0).any() or not (array > 0).any():
        msg = (
            "`weights` must be finite, at least 0, and not all 0; got numbers between "
            f"{array.min()} and {array.max()}. For some of the rows only, give the others 0."
        )
        raise ValueError(msg)
    # A power of two, so that nothing is rounded; weights that are negligible next to the largest underflow to 0.
    scale = float(2.0 ** np.floor(np.log2(float(array.max()))))
    return (array / scale).astype(np.float32), scale


def local_codes(codes: np.ndarray, tile: int) -> np.ndarray:
    """Return the cell of each entry, numbered within the cells that occur in its tile of rows."""
    result = np.empty(codes.shape, np.int32)
    for start in range(0, len(codes), tile):
        rows = slice(start, start + tile)
        result[rows] = np.unique(codes[rows], return_inverse=True)[1].reshape(result[rows].shape)
    return result

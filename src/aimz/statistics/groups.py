"""Which group each row belongs to, and how much it counts."""

__all__ = ["Groups", "local_codes", "read_groups", "read_weights"]

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Groups:
    """Rows sorted into the cells of one or several sets of labels, with weights."""

    labels: Mapping[str, np.ndarray]
    """Name of a dimension to the labels along it; empty where all rows are one group."""
    codes: np.ndarray | None
    """The number of each row's cell, the last dimension running fastest; None for one group."""
    weights: np.ndarray | None
    """What each row counts, on a scale of the device's; None where all count alike."""
    scale: float = 1.0
    """By which to multiply weights to have those that were given."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of labels along each dimension."""
        return tuple(len(labels) for labels in self.labels.values())

    @property
    def n_cells(self) -> int:
        """Number of cells; 1 without labels."""
        return prod(self.shape)

    @property
    def length(self) -> int | None:
        """Number of rows, where something goes with each."""
        given = self.codes if self.codes is not None else self.weights
        return None if given is None else len(given)

    def rows(self, n_obs: int) -> np.ndarray:
        """Return the number of rows of each cell."""
        if self.codes is None:
            return np.array([n_obs])
        return np.bincount(self.codes, minlength=self.n_cells)

    def weight(self, n_obs: int) -> np.ndarray:
        """Return what the rows of each cell count together."""
        if self.weights is None:
            return self.rows(n_obs).astype(np.float64)
        if self.codes is None:
            return np.array([self.weights.sum(dtype=np.float64)])
        return np.bincount(self.codes, weights=self.weights, minlength=self.n_cells)


def read_groups(labels: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the labels of each dimension, in order, and the cell of each row.

    Raises
    ------
    ValueError
        If labels are missing, or not one for each row.
    """
    import pandas as pd

    found: dict[str, np.ndarray] = {}
    codes: np.ndarray | None = None
    for name, given in labels.items():
        # Categories keep their order; other labels are sorted.
        ordered = isinstance(getattr(given, "dtype", None), pd.CategoricalDtype)
        array: Any = given if ordered else np.asarray(given)
        if array.ndim != 1 or not len(array):
            msg = f"`by` must have one label for each row; `{name}` has shape {array.shape}. Pass an array of n_obs."
            raise ValueError(msg)
        try:
            numbers, names = pd.factorize(array, sort=True)
        except TypeError as error:
            msg = f"`by` must have labels that can be sorted; those of `{name}` cannot ({error}). Use one type for all."
            raise ValueError(msg) from error
        if numbers.min() < 0:
            msg = (
                f"`by` must have a label for each row; {int((numbers < 0).sum())} of `{name}` are missing. Give them a "
                "label of their own, such as 'unknown'."
            )
            raise ValueError(msg)
        found[name] = np.asarray(names)
        # In 64 bits, since many labels in several dimensions make more cells than fit 32.
        numbers = numbers.astype(np.int64)
        if codes is not None and len(codes) != len(numbers):
            msg = f"`by` must have labels of the same rows; `{name}` has {len(numbers)}, another {len(codes)}."
            raise ValueError(msg)
        codes = numbers if codes is None else codes * len(names) + numbers
    return found, codes


def read_weights(given: Any) -> tuple[np.ndarray, float]:
    """Return weights as the device will use them, 2 at most, and by what to multiply them to have the given ones.

    Raises
    ------
    ValueError
        If they are not one finite number for each row, one is negative, or all are 0.
    """
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
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
    # A power of two, so that nothing is rounded; what is too small beside the largest to count becomes 0.
    scale = float(2.0 ** np.floor(np.log2(float(array.max()))))
    return (array / scale).astype(np.float32), scale


def local_codes(codes: np.ndarray, tile: int) -> np.ndarray:
    """Return which of the cells that occur in its tile each row is in, counted from 0."""
    found = np.empty(len(codes), np.int32)
    for start in range(0, len(codes), tile):
        rows = slice(start, start + tile)
        found[rows] = np.unique(codes[rows], return_inverse=True)[1]
    return found

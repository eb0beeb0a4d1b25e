"""Missing values of integer arrays, which have no NaN: the least integer of their type stands for it."""

__all__ = ["has_missing", "missing_code", "with_nan"]

from typing import Any

import numpy as np


def missing_code(dtype: Any) -> int | None:
    """Return the integer that represents NaN in arrays of a signed integer type; None for other types."""
    return int(np.iinfo(dtype).min) if np.dtype(dtype).kind == "i" else None


def has_missing(array: np.ndarray) -> bool:
    """Return whether an array of integers has a missing value."""
    code = missing_code(array.dtype)
    return code is not None and array.size > 0 and int(array.min()) == code


def with_nan(array: np.ndarray) -> np.ndarray:
    """Return an array in float64, with NaN for missing values, if it has any; else the array itself."""
    if not has_missing(array):
        return array
    return np.where(array == missing_code(array.dtype), np.nan, array.astype(np.float64))

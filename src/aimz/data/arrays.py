"""Checks of arrays that every method shares, and fingerprints of their values."""

__all__ = ["check_array", "check_count", "check_flag", "differences", "fill_masked", "fingerprint", "is_array"]

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data.array_sources import check_written
from aimz.data.dataframes import column_values, open_series
from aimz.data.row_findings import record_rounding


def check_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Return ``value`` as an array in a dtype of the device; every value is kept.

    Integers of 8 or 16 bits become int32, since sums and products of them would overflow silently.  Masked values of
    NumPy masked arrays become NaN.

    Parameters
    ----------
    value : array_like
        Anything :func:`numpy.asarray` understands, or a column of a data frame; a JAX array stays where it is.
    name : str
        Name of the argument in error messages.

    Raises
    ------
    TypeError
        If ``value`` is not an array (but a data set or a loader, say), ragged, or not real numbers.
    ValueError
        If a value does not fit the dtype of the device (a 64-bit integer out of range), or an integer is masked.
    """
    if isinstance(value, jax.Array):
        array: Any = value
    elif isinstance(value, np.ndarray | np.generic | Number):
        array = fill_masked(np.asanyarray(value), name)
    elif (series := open_series(value)) is not None:
        array = column_values(series, name)
    else:
        if not (is_array(value) or hasattr(value, "__array__") or isinstance(value, Sequence)):
            msg = (
                f"`{name}` must be an array; got {_kind_of(value)}. Pass iterables of batches, such as an "
                "`ArrayLoader`, to the streaming methods (`predict`, `log_likelihood`); the others take arrays."
            )
            raise TypeError(msg)
        check_written(value, name)
        try:
            array = np.asanyarray(value)
        except ValueError as error:
            msg = (
                f"`{name}` must be an array; got something ragged or nested ({error}). Pass batches to the streaming "
                "methods, as mappings of field to array."
            )
            raise TypeError(msg) from error
        array = fill_masked(array, name)
    if getattr(array.dtype, "kind", "O") not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        advice = "Encode it as numbers first (categories as integer codes, dates as days)."
        if getattr(array.dtype, "kind", "O") == "c":
            advice = f"Pass its parts as real columns (`{name}.real`, `{name}.imag`)."
        msg = f"`{name}` must be numeric; got dtype {array.dtype}. {advice}"
        raise TypeError(msg)
    if not isinstance(array, jax.Array):
        return _to_device_dtype(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")), name)
    return array.astype(np.int32) if array.dtype.kind in "iu" and array.dtype.itemsize < 4 else array


def fill_masked(array: np.ndarray, name: str, first_row: int = 0) -> np.ndarray:
    """Return an array without a mask: masked floats are NaN; raise ``ValueError`` if another value is masked."""
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    masked = np.ma.getmaskarray(array)
    if array.dtype.kind in "fc" or not masked.any():
        return np.asarray(array.filled(np.nan) if masked.any() else array.data)
    rows = np.flatnonzero(masked.reshape(len(masked), -1).any(axis=1)) if masked.ndim else np.zeros(1, int)
    msg = (
        f"`{name}` has masked values in {len(rows)} row(s), the first in row {first_row + rows[0]}, and {array.dtype} "
        f"has no NaN for them. Fill them with `{name}.filled(value)`, leave those rows out, or pass floats, where they "
        "become NaN."
    )
    raise ValueError(msg)


def _kind_of(value: object) -> str:
    return "None" if value is None else f"an object of type `{type(value).__name__}`"


def _to_device_dtype(array: np.ndarray, name: str) -> np.ndarray:
    """Cast to the dtype that JAX uses; raise ``ValueError`` if that changes a value beyond rounding."""
    if array.dtype.kind in "iu" and array.dtype.itemsize < 4:
        return array.astype(np.int32)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    if array.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        bad = array.size > 0 and (array.min() < limits.min or array.max() > limits.max)
        cast = array if bad else array.astype(dtype)
    else:
        record_rounding(array, name)
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        bad = bool((np.isinf(cast) & np.isfinite(array)).any())
    if bad:
        msg = (
            f"`{name}` holds values that do not fit {dtype}, the device's version of {array.dtype}; they would "
            "be changed silently. Recode them (identifiers as 0 .. n-1), rescale them, or enable 64 bits with "
            "`jax.config.update('jax_enable_x64', True)`."
        )
        raise ValueError(msg)
    return cast


def is_array(value: object) -> bool:
    """Return whether ``value`` is an array, a column of a data frame, or converts to an array."""
    return (
        isinstance(value, np.ndarray | jax.Array)
        or (hasattr(value, "__array__") and hasattr(value, "shape"))
        or open_series(value) is not None
    )


def fingerprint(pieces: Iterable[np.ndarray]) -> str:
    """Return a digest of an array's shape and values, given in pieces of some rows each.

    Equal numbers of another dtype have the same digest, if they are given in the same pieces.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        host = np.ascontiguousarray(piece)
        if host.dtype.kind in "biu" and host.size and abs(int(host.min())) < 2**24 and abs(int(host.max())) < 2**24:
            host = host.astype(np.float32)  # exact
        elif host.dtype.itemsize < 4:
            host = host.astype(np.float32)
        digest.update(f"{host.dtype.kind}{host.shape}".encode())
        digest.update(host.view(np.uint8).reshape(-1).data if host.size else b"")
    return digest.hexdigest()


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return the names whose fingerprints differ."""
    return [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]


_MAX_COUNT = 2**31 - 1
"""Largest length of an axis that JAX can index with 32-bit integers."""


def check_count(value: object, name: str, most: int = _MAX_COUNT) -> int:
    """Return ``value`` as an ``int``; raise ``ValueError`` if it is not a positive integer of at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"`{name}` must be a positive integer; got {value!r}."
        raise ValueError(msg)
    if value > most:
        msg = f"`{name}` must be a positive integer of at most {most:,}; got {value!r}. Pass a smaller one."
        raise ValueError(msg)
    return int(value)


def check_flag(value: object, name: str) -> bool:
    """Return ``value`` as a ``bool``; raise ``TypeError`` if it is not one."""
    if not isinstance(value, bool | np.bool_):
        msg = f"`{name}` must be True or False; got {value!r}. Pass a Boolean, not a text or a number."
        raise TypeError(msg)
    return bool(value)

"""The one door for arrays: every method refuses bad data here, in the same words, before any work."""

__all__ = ["Call", "fingerprint", "read_array", "read_call", "read_count"]

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Call:
    """The arguments of one call of the kernel, sorted."""

    arrays: dict[str, np.ndarray | jax.Array]
    """Arrays; the first axis of each is the row axis, unless it is 0-d."""
    static: dict[str, object] = field(default_factory=dict)
    """Everything else, handed to the kernel as it is."""
    n_obs: int = 0
    """Number of rows."""

    def without(self, name: str) -> "Call":
        """Return the same call without the array ``name``."""
        return Call({k: v for k, v in self.arrays.items() if k != name}, self.static, self.n_obs)


def read_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Return ``value`` as an array of a dtype the device has, with every value kept.

    Parameters
    ----------
    value : array_like
        Anything :func:`numpy.asarray` understands; a JAX array stays where it is.
    name : str
        What to call it in an error.

    Raises
    ------
    TypeError
        If it is ragged or not numeric.
    ValueError
        If a value would not survive the conversion to the device's dtype (a 64-bit integer out of range).
    """
    if isinstance(value, jax.Array):
        array: Any = value
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            msg = f"`{name}` must be an array; got something ragged or nested ({error})."
            raise TypeError(msg) from error
    if array.dtype.kind not in "biufc" and not jnp.issubdtype(array.dtype, jnp.floating):
        msg = (
            f"`{name}` must be numeric; got dtype {array.dtype}. Encode it as numbers first (categories as "
            "integer codes, dates as days)."
        )
        raise TypeError(msg)
    return array if isinstance(array, jax.Array) else _to_device_dtype(array, name)


def _to_device_dtype(array: np.ndarray, name: str) -> np.ndarray:
    """Cast to the dtype JAX would use, and refuse if that changes a value beyond rounding."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    if array.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        bad = array.size > 0 and (array.min() < limits.min or array.max() > limits.max)
        cast = array if bad else array.astype(dtype)
    else:
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        bad = bool((np.isinf(cast) & np.isfinite(array)).any())
    if bad:
        msg = (
            f"`{name}` holds values that do not fit {dtype}, the device's version of {array.dtype}; they would "
            "be changed without a word. Recode them (identifiers as 0 .. n-1), rescale them, or switch on 64 "
            "bits with `jax.config.update('jax_enable_x64', True)`."
        )
        raise ValueError(msg)
    return cast


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | jax.Array) or (hasattr(value, "__array__") and hasattr(value, "shape"))


def _sort_extra(value: Any, name: str) -> tuple[np.ndarray | jax.Array | None, object]:
    """Return a further kernel argument as an array, or as the plain value it is.

    Zero-dimensional integers become Python integers, since a kernel uses them as sizes, which a compiled
    program must know in advance.
    """
    if isinstance(value, np.generic):
        return None, value.item()
    if not _is_array(value):
        return None, value
    array = read_array(value, name)
    if array.ndim == 0 and array.dtype.kind in "iub":
        return None, array.item()
    return array, None


def read_call(required: Mapping[str, Any], extra: Mapping[str, Any]) -> Call:
    """Sort and check the arguments of a call.

    Parameters
    ----------
    required : mapping of str to array_like
        The input, and where the method takes it the output.
    extra : mapping of str to object
        The kernel's further arguments.  Arrays among them must be aligned with the rows; everything else
        (numbers, strings, lists, None) reaches the kernel untouched.

    Raises
    ------
    TypeError, ValueError
        If an array is empty, 0-d, not numeric, would be changed by the conversion, or if lengths differ.
    """
    arrays: dict[str, np.ndarray | jax.Array] = {}
    static: dict[str, object] = {}
    for name, value in required.items():
        if value is None:
            msg = f"`{name}` must be an array; got None."
            raise TypeError(msg)
        arrays[name] = read_array(value, name)
        if arrays[name].ndim == 0:
            msg = f"`{name}` must have a row axis; got a 0-d array. Pass an array of shape (n_obs, ...)."
            raise ValueError(msg)
    for name, value in extra.items():
        array, plain = _sort_extra(value, name)
        if array is None:
            static[name] = plain
        else:
            arrays[name] = array
    lengths = {name: array.shape[0] for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
        msg = (
            f"Arrays must have the same number of rows (length of the first axis); got {listed}. What has no "
            "row axis (a table per group, say) can be closed over by the kernel."
        )
        raise ValueError(msg)
    n_obs = next(iter(lengths.values()))
    if n_obs == 0:
        msg = f"{' and '.join(f'`{name}`' for name in lengths)} must not be empty; got no rows."
        raise ValueError(msg)
    return Call(arrays, static, n_obs)


def fingerprint(array: np.ndarray | jax.Array) -> str:
    """Return a digest of an array's shape and values; equal numbers of another dtype have the same."""
    host = np.ascontiguousarray(array)
    if host.dtype.kind in "biu" and host.size and abs(int(host.min())) < 2**24 and abs(int(host.max())) < 2**24:
        host = host.astype(np.float32)  # exact
    elif host.dtype.itemsize < 4:
        host = host.astype(np.float32)
    digest = hashlib.blake2b(f"{host.dtype.kind}{host.shape}".encode(), digest_size=16)
    digest.update(host.view(np.uint8).reshape(-1).data if host.size else b"")
    return digest.hexdigest()


def read_count(value: object, name: str) -> int:
    """Return ``value`` if it is a positive integer, and refuse it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"`{name}` must be a positive integer; got {value!r}."
        raise ValueError(msg)
    return int(value)

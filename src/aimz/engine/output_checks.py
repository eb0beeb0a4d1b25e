"""Checks of the output's data before a fit or a score: whether the kernel observes them, and their values."""

__all__ = ["as_integers", "check_observed", "check_values"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Never

import jax
import numpy as np

from aimz.data import KernelArguments, open_rows
from aimz.errors import KernelValidationError
from aimz.kernel import KernelSpec, OutputSupport, Role

_PIECE = 2**16
"""Number of rows that are checked together."""
_SHOWN = 5
"""Largest number of values in an error message."""


def check_observed(spec: KernelSpec, kernel: str) -> None:
    """Raise if the output's data do not enter the joint density, or are observed at a site of another name."""
    output = spec.param_output
    if output in spec and spec[output].role is Role.FACTOR:
        msg = (
            f"Factor `{output}` of kernel `{kernel}` has the name of the output, whose predictions are drawn at a site "
            f"of this name. Write `numpyro.sample('{output}', ..., obs={output})`, or give the factor another name."
        )
        raise KernelValidationError(msg)
    if spec.output_observed:
        return
    elsewhere = [site.name for site in spec.sites if output in site.data]
    if elsewhere:
        msg = (
            f"The data of `{output}` are observed at site `{elsewhere[0]}`. Name that site `{output}`, or name "
            f"the parameter `{elsewhere[0]}` and set `param_output` to it."
        )
        raise KernelValidationError(msg)
    if not spec.output_scored:
        msg = (
            f"Kernel `{kernel}` does not observe `{output}`: its data change nothing, so there is "
            f"nothing to fit. Write `numpyro.sample('{output}', ..., obs={output})`."
        )
        raise KernelValidationError(msg)


def check_values(
    call: KernelArguments,
    spec: KernelSpec,
    within_support: Callable[[str], np.ndarray],
    first_row: int | None = None,
    *,
    allow_nan: bool = False,
) -> None:
    """Raise if values of the output are outside of the support of its distribution, and not masked.

    ``within_support`` computes this for all rows, for a kernel that transforms or masks the output; ``first_row`` is
    the number of the first row of a batch.
    """
    support, output = spec.output_support, spec.param_output
    if support is None or output not in call.arrays:
        return
    rows = open_rows(call.arrays[output])
    if support.constraint is None:
        if any(array.is_lazy for array in call.rows.values()):
            return
        valid = within_support(support.site)
        if not valid.all():
            values = rows.read(0, call.n_obs)
            valid = _or_nan(valid, values) if allow_nan else valid
        if not valid.all():
            _raise_outside(output, support, _Found.of(values, valid, 0), call.n_obs, first_row)
        return
    found = _Found()
    for start in range(0, call.n_obs, _PIECE):
        values = np.asarray(rows.read(start, min(start + _PIECE, call.n_obs)))
        with np.errstate(invalid="ignore"):
            valid = np.asarray(support.constraint(values))
        valid = _or_nan(valid, values) if allow_nan else valid
        found += _Found.of(values, valid, start)
    if found.n_bad:
        _raise_outside(output, support, found, call.n_obs, first_row)


def _or_nan(valid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return whether each value is valid, or is NaN or contains NaN."""
    missing = np.isnan(values) if np.asarray(values).dtype.kind == "f" else np.zeros(np.shape(values), bool)
    missing = missing.any(tuple(range(valid.ndim, missing.ndim)))
    return valid | missing if missing.shape == valid.shape else valid


@dataclass(frozen=True)
class _Found:
    """Values outside of the support, among the rows that have been read."""

    n_bad: int = 0
    n_values: int = 0
    n_nan: int = 0
    first: int | None = None
    """Number of the first row with such a value."""
    shown: tuple[float, ...] = ()
    """Distinct values outside of the support; more than ``_SHOWN`` are left out."""
    seen: tuple[float, ...] = ()
    """Distinct values of all rows; more than ``_SHOWN`` plus one are left out."""

    @staticmethod
    def of(values: np.ndarray, valid: np.ndarray, start: int) -> "_Found":
        """Return the values outside of the support of rows that begin with row ``start``."""
        bad = ~valid
        if not bad.any():
            return _Found(0, valid.size)
        if valid.ndim < values.ndim and valid.ndim:  # one event, such as a vector of counts, counts as one value
            events = values[bad] if values.shape[: valid.ndim] == valid.shape else values
        else:
            events = values[bad] if valid.shape == values.shape else values
        outside = np.unique(events)
        nan = bool(np.isnan(outside).any()) if outside.dtype.kind == "f" else False
        n_nan = int((bad & np.isnan(values)).sum()) if nan and valid.shape == values.shape else int(nan)
        first = start + int(np.argmax(bad.reshape(len(bad), -1).any(1))) if bad.ndim else None
        every = tuple(np.unique(values)[: _SHOWN + 1].tolist())
        return _Found(int(bad.sum()), valid.size, n_nan, first, tuple(outside[:_SHOWN].tolist()), every)

    def __add__(self, other: "_Found") -> "_Found":
        """Return the values of both, of which ``other`` has the later rows."""
        first = self.first if self.first is not None else other.first
        shown = tuple(dict.fromkeys((*self.shown, *other.shown)))[:_SHOWN]
        seen = tuple(sorted({*self.seen, *other.seen})[: _SHOWN + 1])
        counts = self.n_bad + other.n_bad, self.n_values + other.n_values, self.n_nan + other.n_nan
        return _Found(*counts, first, shown, seen)


def _raise_outside(output: str, support: OutputSupport, found: _Found, n_obs: int, first_row: int | None) -> Never:
    """Raise ``ValueError`` about values outside of the support."""
    few = support.is_discrete and len(found.seen) <= _SHOWN and not found.n_nan
    got = ", ".join(f"{value:g}" for value in (found.seen if few else found.shown))
    row = "" if found.first is None else f", first in row {(first_row or 0) + found.first:,}"
    batch = "" if first_row is None else f" in rows {first_row:,} to {first_row + n_obs - 1:,}"
    if found.n_nan:
        advice = "Drop or impute the rows with missing values, or mask them with `obs_mask` or `numpyro.handlers.mask`."
    elif found.seen[:1] == (1.0,) and support.is_discrete:
        advice = f"If labels begin with 1, pass `{output} - 1`; or use a distribution that allows these values."
    else:
        advice = f"Recode `{output}`, or use a distribution that allows these values."
    msg = (
        f"{found.n_bad:,} of {found.n_values:,} values of `{output}`{batch} are not {support.words}; "
        f"got {got}{row}. Site `{support.site}` observes them with distribution {support.distribution}. {advice}"
    )
    raise ValueError(msg)


def as_integers(call: KernelArguments, output: str, read: Callable[[KernelArguments], KernelSpec]) -> KernelArguments:
    """Return a call with the output as integers, if the kernel accepts no floating-point output but an integer one.

    Raises
    ------
    ValueError
        If the values are not whole numbers of the support.
    """
    given = call.arrays.get(output)
    if given is None or np.dtype(given.dtype).kind != "f":
        return call
    try:
        read(call)
    except Exception as error:  # noqa: BLE001, RUF100 (a kernel may raise anything)
        integers = jax.ShapeDtypeStruct(given.shape, np.dtype(np.int32))
        try:
            spec = read(replace(call, arrays={**call.arrays, output: integers}))
        except Exception:  # noqa: BLE001, RUF100 (the first error is raised when the call is prepared)
            return call
        support = spec.output_support
        if support is None or not support.is_discrete:
            return call
        if support.constraint is not None:
            check_values(call, spec, lambda _: np.ones(0, bool))
        elif not (np.mod(np.asarray(given), 1) == 0).all():
            msg = f"`{output}` must hold whole numbers; got others. Recode it, or pass `{output}.round()`."
            raise ValueError(msg) from error
        rows = open_rows(given)
        cast = rows.apply(_to_integers)
        return replace(call, arrays={**call.arrays, output: cast})
    return call


def _to_integers(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as 32-bit integers."""
    return np.asarray(values).astype(np.int32)

"""Checks of the output's data before a fit or a score: whether the kernel observes them, and their values."""

__all__ = ["OutputCheck", "StepOutputCheck", "as_integers", "check_observed", "check_values"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Never

import jax
import numpy as np

from aimz.data import KernelArguments, open_rows
from aimz.engine.prepared_call import PreparedCall
from aimz.errors import KernelValidationError
from aimz.forward import CompiledPrograms, PassSpec
from aimz.kernel import KernelSpec, OutputSupport, Role, Scored

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

    ``within_support`` computes this for all rows, for a kernel that transforms or masks the output, if all rows are in
    memory; ``first_row`` is the number of the first row of a batch.
    """
    support, output = spec.output_support, spec.param_output
    if support is None or output not in call.arrays:
        return
    check, rows, found = OutputCheck(output, support, allow_nan), open_rows(call.arrays[output]), _Found()
    if support.constraint is not None:
        for start in range(0, call.n_obs, _PIECE):
            values = np.asarray(rows.read(start, min(start + _PIECE, call.n_obs)))
            found += check.found(values, check.valid(values), start)
    elif not any(array.is_lazy for array in call.rows.values()):
        found = check.found(np.asarray(rows.read(0, call.n_obs)), within_support(support.site), 0)
    check.raise_if_outside(found, call.n_obs, first_row)


@dataclass(frozen=True)
class OutputCheck:
    """Check that values of the output are in the support of its distribution."""

    output: str
    support: OutputSupport
    allow_nan: bool = False
    """Whether a missing value is accepted; its score is NaN."""

    @staticmethod
    def while_read(prepared: PreparedCall) -> "OutputCheck | None":
        """Return the check of a call that scores values which are read lazily; None if they were checked before."""
        spec, rows = prepared.spec, prepared.call.rows
        support, output = spec.output_support, spec.param_output
        if support is None or output not in rows:
            return None
        used = [rows[output]] if support.constraint is not None else rows.values()
        allow_nan = prepared.settings.scored is not Scored.ALL
        return OutputCheck(output, support, allow_nan) if any(array.is_lazy for array in used) else None

    def valid(self, values: np.ndarray) -> np.ndarray:
        """Return for each value whether it is in the support, if the kernel does not transform or mask values."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.support.constraint(values))

    def found(self, values: np.ndarray, valid: np.ndarray, start: int) -> "_Found":
        """Return the values outside of the support of rows that begin with row ``start``."""
        if not valid.all() and self.allow_nan:
            valid = _or_nan(valid, values)
        return _Found.of(values, valid, start)

    def raise_if_outside(self, found: "_Found", n_obs: int, first_row: int | None) -> None:
        """Raise ``ValueError`` if there are values outside of the support; ``first_row`` is that of the rows read."""
        if found.n_bad:
            _raise_outside(self.output, self.support, found, n_obs, first_row)


@dataclass(frozen=True)
class StepOutputCheck:
    """Check of the output's values in the rows of each step."""

    output: OutputCheck
    programs: CompiledPrograms
    plan: PassSpec
    arrays: Mapping[str, Any]
    """Arguments without rows."""
    n_rows: int
    """Number of rows for which a program is compiled; fewer rows are padded."""
    keys: Mapping[str, Any]
    """Key of the rows of each argument."""

    def check(self, start: int, stop: int, rows: Mapping[Any, np.ndarray]) -> None:
        """Check rows that were read.

        Raises
        ------
        ValueError
            If a value is outside of the support.
        """
        output, n_obs = self.output, stop - start
        rows = {name: rows[key] for name, key in self.keys.items() if key in rows}
        values = np.asarray(rows[output.output])
        valid = output.valid(values) if output.support.constraint is not None else self._within_support(rows, n_obs)
        output.raise_if_outside(output.found(values, valid, 0), n_obs, start)

    def _within_support(self, rows: Mapping[str, np.ndarray], n_obs: int) -> np.ndarray:
        """Return for each observation whether it is in the support or masked, computed by the kernel."""
        site, n_rows = self.output.support.site, max(n_obs, self.n_rows)
        plan = PassSpec(n_obs=n_rows, n_draws=1, static=self.plan.static, row_plates=self.plan.row_plates)
        padded = {
            name: np.pad(array, [(0, n_rows - n_obs), *[(0, 0)] * (array.ndim - 1)], mode="edge")
            for name, array in rows.items()
        }
        valid = self.programs.within_support(site, plan, {**self.arrays, **padded})
        axis = self.plan.row_axes.get(site, 0)
        return valid[(slice(None),) * axis + (slice(0, n_obs),)]


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
    except Exception:  # noqa: BLE001, RUF100 (a kernel may raise anything)
        integers = jax.ShapeDtypeStruct(given.shape, np.dtype(np.int32))
        try:
            spec = read(replace(call, arrays={**call.arrays, output: integers}))
        except Exception:  # noqa: BLE001, RUF100 (the first error is raised when the call is prepared)
            return call
        support = spec.output_support
        if support is None or not support.is_discrete:
            return call
        rows = open_rows(given)
        if support.constraint is not None and not rows.is_lazy:
            check_values(call, spec, lambda _: np.ones(0, bool))
        cast = rows.apply(partial(_to_integers, output))
        return replace(call, arrays={**call.arrays, output: cast})
    return call


def _to_integers(output: str, values: np.ndarray) -> np.ndarray:
    """Return whole numbers as 32-bit integers; raise ``ValueError`` if there are other values."""
    values = np.asarray(values)
    other = np.mod(values, 1) != 0
    if other.any():
        msg = (
            f"`{output}` must hold whole numbers; got {int(other.sum()):,} others, such as {values[other][0]:g}. "
            f"Recode it, or pass `{output}.round()`."
        )
        raise ValueError(msg)
    return values.astype(np.int32)

"""The scenarios that answer a question about a treatment or an intervention."""

__all__ = ["Question", "add_one", "read_interventions", "read_treatment", "read_where"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np

from aimz.data import ChunkedTable, KernelArguments, RowReader, check_aligned, open_rows
from aimz.engine.row_groups import read_labels
from aimz.kernel import OBSERVED, KernelSignature, KernelSpec, Role, name_settings
from aimz.types import Intervention

_MAX_LEVELS = 10
"""Largest number of values of a treatment that are compared one by one."""
_MIN_SWEEP = 5
"""Smallest number of numeric values that are a sweep, whose scenarios are named by these numbers."""
_ROWS = 2**16
"""Number of rows that are read together."""


@dataclass(frozen=True)
class Question:
    """Scenarios to compare, and the one with which the others are compared."""

    scenarios: Mapping[Any, Intervention]
    """Name of each scenario to its intervention, the baseline first."""
    baseline: Any


def read_interventions(intervention: Any, baseline: Any, call: KernelArguments) -> Question:
    """Return the comparison of an intervention with another one, or with the data as they are.

    Raises
    ------
    TypeError, ValueError
        If an intervention is no mapping, a value is a list of values to compare, or both sides are the same.
    """
    sides = [{} if baseline is None else baseline, intervention]
    for name, side in zip(("baseline", "intervention"), sides, strict=True):
        if not isinstance(side, Mapping):
            msg = (
                f"`{name}` must map the names of sites, arguments or columns to values; got {side!r}. Pass "
                "{'price': 9.0}, say; or the name of one treatment first, with `values` and the `baseline` level."
            )
            raise TypeError(msg)
        for key, value in side.items():
            _check_not_levels(str(key), value, call)
    names = [name_settings(side) for side in sides]
    if names[0] == names[1]:
        names = [f"baseline: {names[0]}", names[1]]
    if all(sides[0].get(key, sides) is value for key, value in sides[1].items()) and len(sides[0]) == len(sides[1]):
        msg = f"The intervention and the baseline must differ; got {names[1]!r} for both. Change one of them."
        raise ValueError(msg)
    return Question(dict(zip(names, sides, strict=True)), names[0])


def _check_not_levels(name: str, value: Any, call: KernelArguments) -> None:
    """Raise if a value is a list of values to compare, not one value for each row."""
    if not isinstance(value, list | tuple) or not value or len(value) == call.n_obs:
        return
    array = call.arrays.get(name)
    by_row = name in call.columns or (array is not None and array.ndim == 1)
    if by_row and all(isinstance(one, Real) for one in value):
        msg = (
            f"`{name}` must have one value, or one for each of the {call.n_obs:,} rows; got {value!r}. To compare "
            f"values with one another, call `effect({name!r}, values={value!r})`."
        )
        raise ValueError(msg)


def read_treatment(
    treatment: str,
    values: Any,
    baseline: Any,
    call: KernelArguments,
    spec: KernelSpec,
    signature: KernelSignature,
    X: Any,
) -> Question:
    """Return the comparison of the values of a treatment with a baseline, or of one more with the data as they are.

    ``X`` is the source of the rows.

    Raises
    ------
    TypeError, ValueError
        If the name is unknown, or there are too few values.
    """
    _check_name(treatment, call, spec, signature)
    if isinstance(baseline, Mapping):
        msg = (
            f"`baseline` of the treatment `{treatment}` must be one of its values; got {baseline!r}. Pass it, or both "
            f"sides as interventions, such as `effect({treatment}=..., baseline={baseline!r})`."
        )
        raise TypeError(msg)
    levels = _default_levels(treatment, call, spec, X) if values is None else _read_values(values)
    if levels is None and baseline is None:
        return Question({OBSERVED: {}, f"{treatment} + 1": {treatment: add_one}}, OBSERVED)
    if levels is None:
        msg = (
            f"`{treatment}` has too many values to compare each with the baseline {baseline!r}. Pass some of them "
            f"as `values`, such as `effect({treatment!r}, values=[...], baseline={baseline!r})`."
        )
        raise ValueError(msg)
    first = levels[0] if baseline is None else baseline
    levels = [first, *(level for level in levels if level != first)]
    if len(levels) < 2:
        msg = (
            f"`values` of `{treatment}` must be two or more different values, the first of which is the baseline; got "
            f"{levels}. Pass more, or the change itself, such as `effect({treatment}=...)`."
        )
        raise ValueError(msg)
    numeric = all(isinstance(level, Real) and not isinstance(level, bool) for level in levels)
    as_numbers = numeric and len(levels) >= _MIN_SWEEP
    categories = call.categories.get(treatment, ())
    named = {
        level if as_numbers else name_settings({treatment: level}): {treatment: _code(level, categories)}
        for level in levels
    }
    return Question(named, next(iter(named)))


def _code(level: Any, categories: Sequence[Any]) -> Any:
    """Return the code of a category that is a number; texts are encoded when the intervention is read."""
    return categories.index(level) if level in categories and not isinstance(level, str) else level


def add_one(values: Any) -> Any:
    """Return values plus one."""
    return values + 1


def _read_values(values: Any) -> list[Any]:
    """Return the values to compare, without repetitions."""
    if isinstance(values, str | Mapping) or not np.iterable(values):
        msg = f"`values` must be a list of values to compare, the baseline first; got {values!r}. Pass (0, 1), say."
        raise TypeError(msg)
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    return list(dict.fromkeys(plain))


def _check_name(treatment: Any, call: KernelArguments, spec: KernelSpec, signature: KernelSignature) -> None:
    """Raise if a treatment is neither a site nor an argument nor a column, or is the outcome."""
    if treatment == signature.param_output:
        msg = (
            f"`treatment` must be a cause of the outcome; got the outcome {treatment!r} itself. Pass the name of a "
            "site, an argument or a column that it depends on."
        )
        raise ValueError(msg)
    sites = [site.name for site in spec.sites if site.is_sample or site.role is Role.DETERMINISTIC]
    arguments = [name for name in (signature.param_input, *signature.extra) if name in {**call.arrays, **call.static}]
    known = [*sites, *arguments, *call.columns]
    if treatment in known:
        return
    if treatment in signature.optional:
        msg = (
            f"`{treatment}` is an argument of kernel `{signature.kernel}` with a default, and these rows have no "
            f"values of it. Pass them, in `args={{{treatment!r}: ...}}`."
        )
        raise ValueError(msg)
    close = get_close_matches(str(treatment), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    columns = f" Columns: {', '.join(call.columns)}." if call.columns else ""
    msg = (
        f"`treatment` must name a site, an argument of kernel `{signature.kernel}` or a column; got "
        f"{treatment!r}.{hint} Sites: {', '.join(sites)}. Arguments: {', '.join(arguments)}.{columns}"
    )
    raise ValueError(msg)


def _default_levels(treatment: str, call: KernelArguments, spec: KernelSpec, X: Any) -> list[Any] | None:
    """Return the values of a treatment to compare, the baseline first; None for one more than observed."""
    found: list[Any] | None
    if treatment in call.categories:
        return list(call.categories[treatment])
    if treatment in call.static:
        found = [call.static[treatment]]
    elif treatment in call.arrays or treatment in call.columns:
        found = _distinct(treatment, call, X)
    else:
        n_values = spec[treatment].n_values
        return None if n_values is None or n_values > _MAX_LEVELS else list(range(n_values))
    if found is not None and all(isinstance(value, Real) and value in (0, 1) for value in found):
        kind: Any = type(found[0])
        return [kind(0), kind(1)]
    if found is None or len(found) > _MAX_LEVELS or 2 * len(found) > call.n_obs or len(found) < 2:
        return None
    return found


def _distinct(treatment: str, call: KernelArguments, X: Any) -> list[Any] | None:
    """Return the distinct values of an argument or a column in order; None if there are many."""
    if isinstance(X, ChunkedTable) and X.same_order and treatment in X.known:
        labels = np.unique(np.asarray(X.labels(treatment)))
        return None if len(labels) > _MAX_LEVELS else list(labels.tolist())
    column = None if treatment in call.arrays else call.columns.index(treatment)
    rows: RowReader = open_rows(call.arrays[treatment] if column is None else next(iter(call.arrays.values())))
    if rows.from_batches:
        msg = (
            f"The values of `{treatment}` are in batches, which are read once, so the values to compare are unknown. "
            f"Pass them, such as `effect({treatment!r}, values=(0, 1))`."
        )
        raise ValueError(msg)
    found = np.empty(0)
    for start in range(0, call.n_obs, _ROWS):
        part = rows.read(start, min(start + _ROWS, call.n_obs))
        part = part if column is None else part[:, column]
        new = part[~np.isin(part, found)]
        rows.release(start, start + _ROWS)
        if new.size:
            found = np.unique(np.concatenate([found.astype(part.dtype), new[~np.isnan(new)]]))
        if len(found) > _MAX_LEVELS:
            return None
    return list(found.tolist()) or None


def read_where(where: Any, weights: Any, X: Any, call: KernelArguments) -> Any:
    """Return the weights of rows with those that `where` does not select set to 0.

    Raises
    ------
    ValueError
        If `where` is not one Boolean for each row, or selects none.
    """
    if where is None:
        return weights
    check_aligned({"X": X, "where": where})
    chosen = read_labels(where, X, call, "where") if isinstance(where, str) else np.asarray(where)
    chosen = np.asarray(chosen)
    valid = chosen.shape == (call.n_obs,) and (chosen.dtype == bool or bool(np.isin(chosen, (0, 1)).all()))
    if not valid or not chosen.any():
        got = "no selected row" if valid else f"an array of {chosen.dtype} of shape {chosen.shape}"
        msg = (
            f"`where` must select rows, with one Boolean (or 0 and 1) for each of the {call.n_obs:,} rows; got {got}. "
            "Pass a condition such as `campaign == 1`, or the name of a column or argument of 0 and 1."
        )
        raise ValueError(msg)
    if weights is None:
        return chosen.astype(np.float32)
    given = read_labels(weights, X, call, "weights") if isinstance(weights, str) else weights
    given = np.asarray(given)
    return given * chosen.reshape(len(chosen), *(1,) * (given.ndim - 1))

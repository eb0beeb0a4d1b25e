"""Fitted steps and the steps that follow them: axes, arguments and labels."""

__all__ = [
    "check_follows",
    "fitted_arguments",
    "index_of_steps",
    "later_labels",
    "step_axis",
    "with_fitted",
    "without_steps",
]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz.data import KernelArguments, axis_labels, is_plain_range
from aimz.engine import KernelEngine
from aimz.errors import KernelValidationError


def fitted_arguments(history: Any, param_input: str, param_output: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return the input, the output and the further arguments of ``history``.

    Raises
    ------
    TypeError
        If it is not a mapping, or the input is missing.
    """
    if not isinstance(history, Mapping) or param_input not in history:
        got = f"{sorted(map(str, history))}" if isinstance(history, Mapping) else type(history).__name__
        msg = (
            f"`history` must map names of kernel arguments to their values in the fitted steps, with the input "
            f"`{param_input}`; got {got}. Pass `history={{{param_input!r}: X, {param_output!r}: y}}`."
        )
        raise TypeError(msg)
    rest = dict(history)
    return rest.pop(param_input), rest.pop(param_output, None), rest


def step_axis(engine: KernelEngine, fitted: KernelArguments, X: Any) -> int:
    """Return the axis of the input along the steps: 0 if each row is a step, 1 if each row is a series.

    Raises
    ------
    KernelValidationError
        If the kernel accepts one number of rows only.
    """
    before = fitted.arrays[engine.signature.param_input].shape
    if engine.read_spec(fitted).fixed_size:
        msg = (
            f"`forecast` runs kernel `{engine.signature.kernel}` over the fitted and the later steps together, and it "
            f"accepts {before[0]} rows only, perhaps because it closes over an array of that length. Pass that array "
            "as an argument of the kernel."
        )
        raise KernelValidationError(msg)
    later = tuple(getattr(X, "shape", ()))
    if len(before) < 2 or len(later) != len(before):
        return 0
    may_be_rows, may_be_steps = later[1:] == before[1:], later[0] == before[0] and later[2:] == before[2:]
    if may_be_steps:
        names = [name for name, a in fitted.arrays.items() if a.ndim > 1 and a.shape[1] == before[1]]
        grown = engine.reader.growing_axes(fitted.arrays, fitted.static, names, 1)
        may_be_steps = engine.signature.param_output in grown
        spec = engine.reader.read(fitted.arrays, fitted.static)
        if may_be_rows and may_be_steps:  # both fit: the axis along which latents have values decides
            may_be_rows = not any(name in grown for name in spec.latent_sites)
    if not hasattr(X, "columns") and not (may_be_rows or may_be_steps):
        msg = (
            f"The fitted input has shape {before}, and the later one {later}. Later rows have shape "
            f"{('n_steps', *before[1:])}; later steps of the same series have shape "
            f"{(before[0], 'n_steps', *before[2:])}, if the output has an axis along them. Pass one of these."
        )
        raise ValueError(msg)
    return int(may_be_steps and not may_be_rows)


def without_steps(engine: KernelEngine) -> KernelEngine:
    """Return an engine that accepts other steps of the fitted series than the fitted ones."""
    engine = engine.copy()
    engine.row_shape, engine.columns = None, None
    axes = {
        name: tuple((dim, None if i == 1 else labels) for i, (dim, labels) in enumerate(axes))
        for name, axes in engine.parameters.axes.items()
    }
    engine.parameters = replace(engine.parameters, known={}, axes=axes)
    return engine


def index_of_steps(X: Any) -> Any:
    """Return the labels of the second axis of the input; None without labels."""
    if axis_labels(X):
        return X.indexes.get(X.dims[1])
    names = getattr(X, "column_names", getattr(X, "columns", None))
    return None if names is None else pd.Index(names)


def later_labels(known: Any, n_steps: int, n_later: int) -> Any:
    """Return labels of later steps: labels that continue ``known`` if these are evenly spaced, else numbers."""
    labels = None if known is None or len(known) != n_steps or n_steps < 3 else pd.Index(known)
    if isinstance(labels, pd.DatetimeIndex):
        freq = labels.freq or pd.infer_freq(labels)
        return (
            pd.RangeIndex(n_steps, n_steps + n_later)
            if freq is None
            else pd.date_range(labels[-1], periods=n_later + 1, freq=freq)[1:]
        )
    if labels is not None and labels.dtype.kind in "if" and len({*np.diff(labels)}) == 1:
        return labels[-1] + (labels[1] - labels[0]) * np.arange(1, n_later + 1)
    return pd.RangeIndex(n_steps, n_steps + n_later)


def with_fitted(
    engine: KernelEngine, fitted: KernelArguments, kwargs: Mapping[str, Any], X: Any, axis: int
) -> dict[str, Any]:
    """Return the further arguments of a forecast; those without an axis along the steps have their fitted values.

    Raises
    ------
    TypeError
        If values of an argument along the steps are missing.
    """
    given = dict(kwargs)
    input_, output = engine.signature.param_input, engine.signature.param_output
    before = fitted.arrays[input_].shape
    data = {name for site in engine.read_spec(fitted).sites for name in site.data}
    columns = set(map(str, getattr(X, "columns", ())))
    for name, array in fitted.arrays.items():
        if name in given or name in (input_, output) or name in columns or name in data:
            continue
        has_steps = array.ndim > 0 and (axis == 0 or (array.ndim > 1 and array.shape[1] == before[1]))
        if has_steps:
            msg = (
                f"`forecast` needs the values of `{name}` in the later steps; it was given the input alone. Pass "
                f"`{name}=`, with as many steps as `{input_}`."
            )
            raise TypeError(msg)
        given[name] = array
    for name, value in fitted.static.items():
        if name in engine.signature.extra:
            given.setdefault(name, value)
    return given


def check_follows(
    fitted: KernelArguments, call: KernelArguments, axis: int, param_input: str
) -> tuple[KernelArguments, int]:
    """Return the call with labels of its rows, and the number of fitted steps.

    Raises
    ------
    ValueError
        If the labels of the rows do not follow the fitted labels, or belong to other series.
    """
    before, here, there = fitted.arrays[param_input].shape, call.index, fitted.index
    if axis == 1:
        if here is not None and there is not None and not here.equals(there):
            differing = np.flatnonzero(np.asarray(here) != np.asarray(there))
            msg = (
                f"The rows of `{param_input}` must be the fitted series in the same order; {len(differing)} labels "
                f"differ, the first in row {differing[0]}: {here[differing[0]]!r} instead of {there[differing[0]]!r}. "
                "Sort the rows as in the fit."
            )
            raise ValueError(msg)
        return (replace(call, index=there) if here is None else call), before[1]
    n_steps, n_obs = before[0], call.n_obs
    if here is None or is_plain_range(here):
        return replace(call, index=pd.RangeIndex(n_steps, n_steps + n_obs)), n_steps
    if there is not None and not is_plain_range(there):
        known = here.isin(there)
        late = known if known.any() else _not_after(here, there)
        if late.any():
            first = int(np.flatnonzero(late)[0])
            msg = (
                f"The rows of `{param_input}` must follow the fitted rows, which end at {there[-1]!r}; {late.sum()} "
                f"row(s) do not, the first is row {first}, {here[first]!r}. Pass later rows only; `predict` "
                "answers questions about the fitted ones."
            )
            raise ValueError(msg)
    return call, n_steps


def _not_after(here: Any, there: Any) -> np.ndarray:
    """Return for each label whether it is not after the last fitted one, as far as labels have an order."""
    try:
        return np.asarray(here <= there[-1])
    except TypeError:
        return np.zeros(len(here), bool)

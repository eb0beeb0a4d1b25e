"""The outcome of a call, given by the name of its column."""

__all__ = ["with_outcome"]

from dataclasses import replace
from typing import Any

from aimz.data import column_names, is_batches, open_chunked_table
from aimz.engine.kernel_engine import KernelEngine


def with_outcome(engine: KernelEngine, X: Any, y: Any) -> tuple[KernelEngine, Any, Any]:
    """Return a copy of the engine for the column ``y`` of ``X``, the opened ``X`` and None; all unchanged if no text.

    Raises
    ------
    TypeError
        If ``X`` has no columns.
    ValueError
        If ``X`` has no such column.
    """
    if not isinstance(y, str):
        return engine, X, y
    engine, what = engine.copy(), f"`{engine.signature.param_input}`"
    engine.parameters = replace(engine.parameters, outcome=y)
    X = open_chunked_table(X, engine.parameters) or X
    names = column_names(X, engine.signature.param_input)
    if names is None and not is_batches(X):
        msg = (
            f"`y={y!r}` names a column, but {what} has none; got an object of type `{type(X).__name__}`. Pass a data "
            "frame with that column, or the values of the outcome."
        )
        raise TypeError(msg)
    if names is not None and y not in names:
        msg = (
            f"`y` must be the name of a column of {what}, or the values of the outcome; got {y!r}, and {what} has "
            f"{', '.join(map(repr, names))}. Pass one of them."
        )
        raise ValueError(msg)
    return engine, X, None

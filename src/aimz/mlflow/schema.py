"""What a model is asked with: columns or arrays, and their kinds."""

__all__ = ["Inputs", "example_of", "fitted_example", "inputs_of"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.model import ImpactModel

_SOME = 5
"""Rows of an input example."""


@dataclass(frozen=True)
class Inputs:
    """What a request has to hold, without any of the data."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Name of a column to its type, where the model reads tables."""
    arrays: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Name of a kernel parameter to the type and the shape of one row, where it reads arrays."""
    static: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the fit that are no arrays, and which every request gets."""

    def described(self) -> dict[str, Any]:
        """Return what is written down."""
        arrays = {name: [kind, list(shape)] for name, (kind, shape) in self.arrays.items()}
        return {"columns": dict(self.columns), "arrays": arrays, "static": dict(self.static)}

    @staticmethod
    def of_described(about: Mapping[str, Any]) -> "Inputs":
        """Return what was written down."""
        arrays = {name: (kind, tuple(shape)) for name, (kind, shape) in about["arrays"].items()}
        return Inputs(about["columns"], arrays, about["static"])

    def blank(self, n_rows: int) -> Any:
        """Return rows of zeros of the right kind, to compile with; None if the kind is not known."""
        import pandas as pd

        if self.columns:
            return pd.DataFrame({name: np.zeros(n_rows, kind) for name, kind in self.columns.items()})
        return {name: np.zeros((n_rows, *shape), kind) for name, (kind, shape) in self.arrays.items()} or None


def inputs_of(model: ImpactModel, example: Any) -> Inputs:
    """Return what requests have to hold: as in the example, else as in the last fit, as far as that is known."""
    called = model._engine.example
    static = {name: value for name, value in (called.static if called else {}).items() if _is_plain(value)}
    if example is None:
        example = fitted_example(model, _SOME)
    if isinstance(example, Mapping):
        arrays = {name: np.asarray(value) for name, value in example.items() if np.ndim(value)}
        own = {name: value for name, value in example.items() if not np.ndim(value) and _is_plain(value)}
        kinds = {name: (_kind(a.dtype), a.shape[1:]) for name, a in arrays.items() if name != model.param_output}
        return Inputs(arrays=kinds, static={**static, **own})
    if hasattr(example, "columns"):
        return Inputs(columns=_column_kinds(model, example), static=static)
    if example is None:
        return Inputs(static=static)
    array = np.asarray(example)
    return Inputs(arrays={model.param_input: (_kind(array.dtype), array.shape[1:])}, static=static)


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _kind(dtype: Any) -> str:
    """Return the type requests have: numbers are as wide as those of JSON and pandas, which MLflow would not narrow."""
    kind = np.dtype(dtype).kind
    return {"f": "float64", "i": "int64", "u": "int64"}.get(kind, str(np.dtype(dtype)))


def _column_kinds(model: ImpactModel, frame: Any) -> dict[str, str]:
    """Return the types of columns; those that are put side by side are all doubles if one is."""
    side_by_side = model._engine.tables.get(model.param_input, ())
    kinds = {str(name): _kind(frame[name].dtype) for name in frame.columns}
    double = any(kinds.get(name) == "float64" for name in side_by_side)
    return {name: "float64" if double and name in side_by_side else kind for name, kind in kinds.items()}


def example_of(model: ImpactModel, given: Any) -> Any:
    """Return an example of the input as MLflow knows it, without columns the model does not read.

    A frame of any kind becomes one of pandas, arrays of JAX become NumPy's.
    """
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict):
        return example_of(model, given[0]), given[1]
    if isinstance(given, Mapping):
        return {name: _plain_array(value) for name, value in given.items() if name != model.param_output}
    frame = given if not hasattr(given, "to_pandas") or hasattr(given, "iloc") else given.to_pandas()
    if not hasattr(frame, "iloc"):
        return _plain_array(frame)
    engine = model._engine
    known = engine.tables.get(model.param_input, ())
    further = engine.signature.extra
    if not known or not set(known) <= set(map(str, frame.columns)):
        return frame
    keep = [name for name in frame.columns if name in known or name in further]
    return frame[keep]


def _plain_array(value: Any) -> Any:
    return value if isinstance(value, list | str | bytes) or not np.ndim(value) else np.asarray(value)


def fitted_example(model: ImpactModel, n_rows: int) -> Any:
    """Return some rows of the data of the fit, as the model is asked with them; None if they are not at hand."""
    known = model._observed
    if known is None or known.call is None:
        return None
    output, name = model.param_output, model.param_input
    arrays = {key: np.asarray(array[:n_rows]) for key, array in known.call.arrays.items() if array.ndim}
    arrays.pop(output, None)
    columns = known.call.columns
    if not columns:
        return arrays[name] if set(arrays) == {name} else arrays
    import pandas as pd

    matrix = arrays.pop(name)
    if any(array.ndim != 1 for array in arrays.values()):
        return None
    table = {column: matrix[:, i] for i, column in enumerate(columns)}
    return pd.DataFrame({**table, **arrays})

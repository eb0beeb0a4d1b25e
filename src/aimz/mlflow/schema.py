"""Input schema of a model and its MLflow signature."""

__all__ = [
    "InputSchema",
    "complete_signature",
    "input_schema",
    "model_signature",
    "normalize_example",
    "output_columns",
    "rows_of_fit",
]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

from aimz.mlflow.request import DEFAULT_STATISTICS
from aimz.model import ImpactModel
from aimz.statistics import read_statistics

_EXAMPLE_ROWS = 5
"""Number of rows from the fit that the schema is inferred from."""
_PARAMETERS = ParamSchema(
    [
        ParamSpec("statistics", DataType.string, DEFAULT_STATISTICS),
        ParamSpec("intervention", DataType.string, None),
        ParamSpec("baseline", DataType.string, None),
        ParamSpec("num_samples", DataType.long, None),
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("arguments", DataType.string, None),
    ]
)


@dataclass(frozen=True)
class InputSchema:
    """Types and shapes of a model's input, without any data."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column name to dtype, for a model that reads tables."""
    arrays: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Argument name to dtype and shape of one row, for a model that reads arrays."""
    static: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the fit that are not arrays; every request is completed with them."""

    @property
    def dtypes(self) -> dict[str, str]:
        """Dtype of each argument that is an array, or of each column."""
        return {name: kind for name, (kind, _) in self.arrays.items()} or dict(self.columns)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as JSON values."""
        arrays = {name: [kind, list(shape)] for name, (kind, shape) in self.arrays.items()}
        return {"columns": dict(self.columns), "arrays": arrays, "static": dict(self.static)}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "InputSchema":
        """Return the schema that :meth:`to_json` wrote."""
        arrays = {name: (kind, tuple(shape)) for name, (kind, shape) in stored["arrays"].items()}
        return InputSchema(stored["columns"], arrays, stored["static"])

    def zeros(self, n_rows: int, categories: Mapping[str, Any]) -> Any:
        """Return rows of zeros and first categories, to compile the model with; None if the schema is empty."""
        if self.columns:
            rows = {name: np.zeros(n_rows, kind) for name, kind in self.columns.items()}
            return pd.DataFrame({**rows, **{name: categories[name][0] for name in categories.keys() & rows.keys()}})
        return {name: np.zeros((n_rows, *shape), kind) for name, (kind, shape) in self.arrays.items()} or None


def input_schema(model: ImpactModel, example: Any) -> InputSchema:
    """Return the schema of an example, or of the last fit as far as its data are known."""
    static = {name: value for name, value in model.inputs.static.items() if _is_json(value)}
    if example is None:
        example = rows_of_fit(model, _EXAMPLE_ROWS)
    if example is None:
        return InputSchema(static=static)
    if hasattr(example, "columns"):
        return InputSchema(columns=_column_dtypes(model, example), static=static)
    if not isinstance(example, Mapping):
        example = {model.param_input: np.asarray(example)}
    arrays = {name: np.asarray(v) for name, v in example.items() if np.ndim(v) and name != model.param_output}
    plain = {name: value for name, value in example.items() if not np.ndim(value) and _is_json(value)}
    return InputSchema(
        arrays={name: (_request_dtype(array.dtype), array.shape[1:]) for name, array in arrays.items()},
        static={**static, **plain},
    )


def _is_json(value: Any) -> bool:
    """Return whether a value is unchanged by JSON."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _request_dtype(dtype: Any) -> str:
    """Return the dtype of a request: 64 bits for numbers, as in JSON and pandas, because MLflow does not narrow."""
    if not isinstance(dtype, np.dtype):  # of pandas: text, categories, nullable numbers
        dtype = getattr(dtype, "numpy_dtype", np.dtype(object))
    return {"f": "float64", "i": "int64", "u": "int64", "O": "object"}.get(dtype.kind, str(dtype))


def _column_dtypes(model: ImpactModel, frame: Any) -> dict[str, str]:
    """Return the dtype of each column; columns of one matrix are all double if one of them is."""
    matrix = model.inputs.columns
    dtypes = {str(name): _request_dtype(frame[name].dtype) for name in frame.columns}
    double = any(dtypes.get(name) == "float64" for name in matrix)
    return {name: "float64" if double and name in matrix else dtype for name, dtype in dtypes.items()}


def normalize_example(model: ImpactModel, given: Any) -> Any:
    """Return an input example with the types that MLflow supports, without columns that the model does not read.

    Frames of any library become pandas frames, and arrays of JAX become NumPy arrays.
    """
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict):
        return normalize_example(model, given[0]), given[1]
    if isinstance(given, Mapping):
        return {name: _to_numpy(value) for name, value in given.items() if name != model.param_output}
    frame = given if not hasattr(given, "to_pandas") or hasattr(given, "iloc") else given.to_pandas()
    if not hasattr(frame, "iloc"):
        return _to_numpy(frame)
    inputs = model.inputs
    if not inputs.columns or not set(inputs.columns) <= set(map(str, frame.columns)):
        return frame
    return frame[[name for name in frame.columns if name in (*inputs.columns, *inputs.extra)]]


def _to_numpy(value: Any) -> Any:
    """Return an array as a NumPy array, and lists, text and scalars unchanged."""
    return value if isinstance(value, list | str | bytes) or not np.ndim(value) else np.asarray(value)


def rows_of_fit(model: ImpactModel, n_rows: int) -> Any:
    """Return the first rows of the fitted data in the form of a request; None if they are not in memory."""
    inputs = model.inputs
    if inputs.arrays is None:
        return None
    arrays = {name: np.asarray(array[:n_rows]) for name, array in inputs.arrays.items()}
    for name in inputs.categories.keys() & arrays.keys():
        arrays[name] = np.array(inputs.categories[name], object)[arrays[name]]
    if not inputs.columns:
        return arrays[model.param_input] if set(arrays) == {model.param_input} else arrays
    matrix = arrays.pop(model.param_input)
    if any(array.ndim != 1 for array in arrays.values()):
        return None
    return pd.DataFrame({**dict(zip(inputs.columns, matrix.T, strict=True)), **arrays})


def model_signature(model: ImpactModel, schema: InputSchema, *, by_name: bool = False) -> ModelSignature | None:
    """Return the MLflow signature of a model; None if its input is not known.

    ``by_name`` is whether requests have arrays by name even if the input is the only one.
    """
    if schema.columns:
        inputs = Schema([ColSpec(_column_type(dtype), name) for name, dtype in schema.columns.items()])
    elif schema.arrays:
        # MLflow accepts one dtype, while the model accepts floats and integers of any size. Tensors of objects are not
        # checked by MLflow; rows are checked and cast when a request is read.
        unnamed = set(schema.arrays) == {model.param_input} and not by_name
        specs = [TensorSpec(np.dtype(object), (-1,), None if unnamed else name) for name in schema.arrays]
        inputs = Schema(specs)
    else:
        return None
    return ModelSignature(inputs=inputs, outputs=_output_schema(model), params=_PARAMETERS)


def complete_signature(signature: ModelSignature) -> ModelSignature:
    """Return the user's signature with the parameters of a request, which MLflow would drop without a schema."""
    if signature.params is not None:
        return signature
    return ModelSignature(inputs=signature.inputs, outputs=signature.outputs, params=_PARAMETERS)


def _output_schema(model: ImpactModel) -> Schema | None:
    """Return the columns of a response to a request for the default statistics."""
    spec = model.kernel_spec
    if spec is None or model.param_output not in spec or not spec[model.param_output].row_axes:
        return None
    site = spec[model.param_output]
    sizes = [size for axis, size in enumerate(site.traced_shape) if axis != site.row_axes[0]]
    names = output_columns(json.loads(DEFAULT_STATISTICS), sizes)
    return Schema([ColSpec(DataType.double, name) for name in names])


def _column_type(dtype: str) -> DataType | AnyType:
    """Return MLflow's type of a column.

    MLflow cuts 0.5 to 0 in a request for a column of integers, and rejects frames with integers for one of doubles.
    Columns of integers are therefore not checked by MLflow; rows are checked and cast when a request is read.
    """
    kind = np.dtype(dtype).kind
    if kind == "O":
        return DataType.string
    return AnyType() if kind == "i" else DataType.boolean if kind == "b" else DataType.double


def output_columns(statistics: Any, sizes: Any) -> list[str]:
    """Return the columns of a response: one for each statistic and each of the ``sizes`` values of a row.

    Quantiles are named ``q0.05``, other statistics as in a result; values of a row with several are numbered.
    """
    read = read_statistics(statistics)
    assert read is not None
    names = [
        f"{'q' if part.kind == 'quantile' else ''}{label.replace(' ', '_')}"
        for part in read.parts
        for label in part.labels
    ]
    return [f"{name}[{i}]" for name in names for i in range(prod(sizes))] if len(sizes) else names

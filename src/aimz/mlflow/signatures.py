"""MLflow's signature of a model: what it is asked with, what it answers, and the parameters of a request."""

__all__ = ["complete", "signature_of"]

import json
from math import prod

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from aimz.mlflow.asked import DEFAULT_STATISTICS, names_of
from aimz.mlflow.pyfunc import answer_columns
from aimz.mlflow.schema import Inputs
from aimz.model import ImpactModel

_PARAMETERS = ParamSchema(
    [
        ParamSpec("statistics", DataType.string, DEFAULT_STATISTICS),
        ParamSpec("intervention", DataType.string, None),
        ParamSpec("baseline", DataType.string, None),
        ParamSpec("num_samples", DataType.long, None),
        ParamSpec("seed", DataType.long, 0),
    ]
)


def signature_of(model: ImpactModel, inputs: Inputs) -> ModelSignature | None:
    """Return the signature of a model; None if it is not known what it is asked with."""
    if inputs.columns:
        read = Schema([ColSpec(_column_type(kind), name) for name, kind in inputs.columns.items()])
    elif set(inputs.arrays) == {model.param_input}:
        read = Schema([_tensor(*inputs.arrays[model.param_input], None)])
    elif inputs.arrays:
        read = Schema([_tensor(*about, name) for name, about in inputs.arrays.items()])
    else:
        return None
    return ModelSignature(inputs=read, outputs=_answers(model), params=_PARAMETERS)


def complete(signature: ModelSignature) -> ModelSignature:
    """Return a signature of the user's with the parameters of a request, if it has none: MLflow would drop them."""
    if signature.params is not None:
        return signature
    return ModelSignature(inputs=signature.inputs, outputs=signature.outputs, params=_PARAMETERS)


def _answers(model: ImpactModel) -> Schema | None:
    spec = model.kernel_spec
    if spec is None or model.param_output not in spec or not spec[model.param_output].row_axes:
        return None
    site = spec[model.param_output]
    beside = [size for axis, size in enumerate(site.traced_shape) if axis != site.row_axes[0]]
    names = answer_columns(names_of(json.loads(DEFAULT_STATISTICS)), prod(beside) if beside else None)
    return Schema([ColSpec(DataType.double, name) for name in names])


def _tensor(kind: str, shape: tuple[int, ...], name: str | None) -> TensorSpec:
    return TensorSpec(np.dtype(kind), (-1, *shape), name)


def _column_type(kind: str) -> DataType:
    return {"b": DataType.boolean, "i": DataType.long}.get(np.dtype(kind).kind, DataType.double)

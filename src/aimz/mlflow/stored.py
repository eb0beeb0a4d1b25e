"""The part of an MLflow model that is ours: the model as it is saved anywhere, and how to come by its kernel."""

__all__ = ["FOLDER", "Stored", "read", "write"]

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimz.mlflow.kernel_code import PackagedKernel, read_kernel
from aimz.mlflow.schema import Inputs
from aimz.model import ImpactModel

FOLDER = "aimz_model"
_MODEL, _ABOUT = "model", "kernel.json"


@dataclass(frozen=True)
class Stored:
    """What was read."""

    model: ImpactModel
    inputs: Inputs


def write(model: ImpactModel, folder: Path, travelling: PackagedKernel, inputs: Inputs) -> None:
    """Write everything into a directory that is made here."""
    folder.mkdir()
    model.save(folder / _MODEL)
    travelling.write(folder)
    about = {"kernel": travelling.described(), "inputs": inputs.described()}
    (folder / _ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")


def read(folder: Path, *, kernel: Any = None, inference: Any = None, arguments: Any = None) -> Stored:
    """Read it back, with the kernel that was saved unless another is given."""
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    if kernel is None:
        code = folder.parent.parent / "code"
        kernel, saved = read_kernel(folder, about["kernel"], str(code) if code.is_dir() else None)
        inference = saved if inference is None else inference
    model = ImpactModel.load(folder / _MODEL, kernel, inference, arguments=arguments)
    return Stored(model, Inputs.of_described(about["inputs"]))

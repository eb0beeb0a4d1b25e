"""Serialize a kernel: by its import path, or by cloudpickle if it cannot be imported."""

__all__ = ["PackagedKernel", "package_kernel", "read_kernel"]

import importlib
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION

from aimz.mlflow.requirements import find_dependencies

_PICKLE = "kernel.pkl"
_MAX_CODE_BYTES = 50 * 2**20
"""Size of the code that is added to a model automatically."""


@dataclass(frozen=True)
class PackagedKernel:
    """Serialized form of a kernel and its inference."""

    reference: str | None
    """Import path ``module:name`` of the kernel; None if it is pickled."""
    inference: str | None
    """Import path of the inference, if the kernel's module has a name for it."""
    pickled: bytes | None
    """Kernel and inference as a pickle, if the kernel cannot be imported."""
    distributions: frozenset[str]
    """Names of the installed packages that the kernel uses."""
    code: tuple[str, ...]
    """Files and directories to store with the model."""

    def to_json(self) -> dict[str, Any]:
        """Return the import paths as JSON values."""
        return {"reference": self.reference, "inference": self.inference}

    def write(self, folder: Path) -> None:
        """Write the pickle, if there is one."""
        if self.pickled is not None:
            (folder / _PICKLE).write_bytes(self.pickled)


def package_kernel(kernel: Any, inference: Any, code_paths: list[str] | None) -> PackagedKernel:
    """Find the import path of a kernel and the code it uses, or pickle it.

    Raises
    ------
    ValueError
        If the kernel cannot be imported, and it cannot be pickled or MLflow does not allow pickles; or if its code is
        too large to be added automatically.
    """
    reference = _import_path(kernel)
    if reference is None:
        by_name, pickled = None, _pickle(kernel, inference)
        needs = find_dependencies(kernel, inference)
    else:
        module = reference.partition(":")[0]
        by_name, pickled = None if inference is None else _name_in(module, inference), None
        needs = find_dependencies(kernel)
    given = {Path(path).stem for path in code_paths or []}
    code = tuple(str(place) for top, place in sorted(needs.code.items()) if top not in given)
    _check_size(code)
    return PackagedKernel(reference, by_name, pickled, frozenset(needs.distributions), code)


def _import_path(kernel: Any) -> str | None:
    """Return ``module:name`` of a kernel, or None if importing that would not return the same object."""
    module = getattr(kernel, "__module__", None)
    module = module if isinstance(module, str) else type(kernel).__module__
    # A module without a file was typed in and ends with this process.
    return _name_in(module, kernel) if getattr(sys.modules.get(module), "__file__", None) else None


def _name_in(module: str, value: Any) -> str | None:
    """Return ``module:name`` of an object in a module, or None if the module has no name for it."""
    if module == "__main__":
        return None
    own = getattr(value, "__qualname__", None)
    if isinstance(own, str) and _find(sys.modules[module], own) is value:
        return f"{module}:{own}"
    # An object that a function returned and the module assigned to a name.
    name = next((key for key, member in vars(sys.modules[module]).items() if member is value), None)
    return None if name is None else f"{module}:{name}"


def _find(module: Any, name: str) -> Any:
    """Return the object with a qualified name, or None."""
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _pickle(kernel: Any, inference: Any) -> bytes:
    """Pickle a kernel and its inference."""
    name = getattr(kernel, "__qualname__", type(kernel).__name__)
    _check_pickle_allowed(
        f"Kernel `{name}` can be saved as a pickle only, because it cannot be imported from a module. Pickles are "
        "switched off (`MLFLOW_ALLOW_PICKLE_DESERIALIZATION`). Move it to a module of its own, such as `kernels.py`, "
        "and import it from there."
    )
    try:
        return bytes(cloudpickle.dumps({"kernel": kernel, "inference": inference}))
    except Exception as error:
        msg = (
            f"Kernel `{name}` cannot be imported from a module, and it cannot be pickled: {error}. Move it to a module "
            "of its own, such as `kernels.py`, and import it from there."
        )
        raise ValueError(msg) from error


def _check_pickle_allowed(message: str) -> None:
    """Raise a ValueError with ``message`` if MLflow does not allow pickles."""
    if not MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get():
        raise ValueError(message)


def _check_size(code: tuple[str, ...]) -> None:
    """Check that code is small enough to be added to a model automatically."""
    size = 0
    for place in map(Path, code):
        files = [place] if place.is_file() else place.rglob("*")
        size += sum(file.stat().st_size for file in files if file.is_file())
        if size > _MAX_CODE_BYTES:
            msg = (
                f"`code_paths` must name the code to save with the kernel: `{place.name}`, which it imports and which "
                f"is not installed, exceeds {_MAX_CODE_BYTES // 2**20} MiB. Pass the files it needs, or install "
                "the package."
            )
            raise ValueError(msg)


def read_kernel(folder: Path, stored: Mapping[str, Any], code: str | None) -> tuple[Any, Any]:
    """Return the saved kernel, and the saved inference or None.

    ``code`` is the directory of the code that is stored with the model.

    Raises
    ------
    ImportError
        If the kernel's module cannot be imported.
    ValueError
        If the kernel is pickled and MLflow does not allow pickles.
    """
    reference = stored["reference"]
    if reference is None:
        _check_pickle_allowed(
            "The kernel of this model is stored as a pickle, and pickles are switched off "
            "(`MLFLOW_ALLOW_PICKLE_DESERIALIZATION`), since loading one can run any code. Pass `kernel=` to "
            "`aimz.mlflow.load_model`, or set the variable to true if you trust the model's origin."
        )
        with (folder / _PICKLE).open("rb") as file:
            found = pickle.load(file)
        return found["kernel"], found["inference"]
    if code is not None and code not in sys.path:
        sys.path.insert(0, os.path.abspath(code))
    inference = stored["inference"]
    return _import(reference), None if inference is None else _import(inference)


def _import(reference: str) -> Any:
    """Return the object with the import path ``module:name``."""
    module, _, name = reference.partition(":")
    try:
        found = _find(importlib.import_module(module), name)
    except ImportError as error:
        msg = (
            f"The kernel of this model is `{reference}`, and importing `{module}` failed: {error}. Save the model with "
            "`code_paths=` naming the files it needs, or pass `kernel=` to `aimz.mlflow.load_model`."
        )
        raise ImportError(msg) from error
    if found is None:
        msg = (
            f"The kernel of this model is `{reference}`, and the module `{module}` has no `{name}`. Load it where that "
            "version of the module is installed, or pass `kernel=` to `aimz.mlflow.load_model`."
        )
        raise ImportError(msg)
    return found

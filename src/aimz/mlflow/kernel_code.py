"""How a kernel travels: as the name of what is imported, or, where it cannot be, as a pickle."""

__all__ = ["PackagedKernel", "check_pickle", "package_kernel", "read_kernel"]

import importlib
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION

from aimz.mlflow.needs import needs_of

_PICKLE = "kernel.pkl"
_MUCH = 50 * 2**20
"""Bytes of code that are taken along without being asked for."""


@dataclass(frozen=True)
class PackagedKernel:
    """How kernel and inference are written down."""

    reference: str | None
    """``module:name`` of the kernel; None if it is pickled."""
    inference: str | None
    """The same for the inference, where the kernel has one and it is a name of its module too."""
    pickled: bytes | None
    """Kernel and inference, where the kernel cannot be imported."""
    distributions: frozenset[str]
    """Installed packages it needs."""
    code: tuple[str, ...]
    """Files and directories that have to be beside it."""

    def described(self) -> dict[str, Any]:
        """Return what is written beside the model."""
        return {"reference": self.reference, "inference": self.inference}

    def write(self, folder: Path) -> None:
        """Write the pickle, if there is one."""
        if self.pickled is not None:
            (folder / _PICKLE).write_bytes(self.pickled)


def package_kernel(kernel: Any, inference: Any, code_paths: list[str] | None) -> PackagedKernel:
    """Decide how a kernel travels.

    Raises
    ------
    ValueError
        If it can only be pickled, and MLflow does not allow that or it cannot be; or its code is too much to be taken
        along unasked.
    """
    reference = _reference(kernel, None)
    module = None if reference is None else sys.modules[reference.partition(":")[0]]
    by_name = None if module is None or inference is None else _reference(inference, module)
    pickled = None if reference is not None else _pickled(kernel, inference)
    needs = needs_of(kernel) if reference is not None else needs_of(kernel, inference)
    given = {Path(path).stem for path in code_paths or []}
    code = tuple(str(place) for top, place in sorted(needs.code.items()) if top not in given)
    if len(code) > 0:
        _check_size(code)
    return PackagedKernel(reference, by_name, pickled, frozenset(needs.distributions), code)


def _reference(value: Any, module: Any) -> str | None:
    """Return ``module:name`` if importing the module and asking for the name gives this very object."""
    name = getattr(value, "__module__", None) if module is None else module.__name__
    name = name if isinstance(name, str) else type(value).__module__
    if name == "__main__" or name not in sys.modules:
        return None
    if module is None and getattr(sys.modules[name], "__file__", None) is None:
        return None  # typed in, and gone with this process
    own = getattr(value, "__qualname__", None)
    if isinstance(own, str) and _find(sys.modules[name], own) is value:
        return f"{name}:{own}"
    # What a function made, and a module gave a name.
    known = next((k for k, v in vars(sys.modules[name]).items() if v is value), None)
    return None if known is None else f"{name}:{known}"


def _find(module: Any, name: str) -> Any:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _pickled(kernel: Any, inference: Any) -> bytes:
    name = getattr(kernel, "__qualname__", type(kernel).__name__)
    check_pickle(
        f"Kernel `{name}` can be saved as a pickle only: it is not a name of a module that can be imported. "
        "Pickles are switched off (`MLFLOW_ALLOW_PICKLE_DESERIALIZATION`). Move it to a module of its own, such as "
        "`kernels.py`, and import it from there."
    )
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps({"kernel": kernel, "inference": inference}))
    except Exception as error:
        msg = (
            f"Kernel `{name}` is not a name of a module that can be imported, and it cannot be pickled: {error}. Move "
            "it to a module of its own, such as `kernels.py`, and import it from there."
        )
        raise ValueError(msg) from error


def check_pickle(message: str) -> None:
    """Refuse where MLflow does not allow pickles.

    Raises
    ------
    ValueError
        With the message given.
    """
    if not MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get():
        raise ValueError(message)


def _check_size(code: tuple[str, ...]) -> None:
    size = 0
    for place in map(Path, code):
        for file in [place] if place.is_file() else place.rglob("*"):
            size += file.stat().st_size if file.is_file() else 0
        if size > _MUCH:
            msg = (
                f"`code_paths` must say which code goes with the kernel: with `{place.name}`, which it imports and "
                f"which is not installed, it would be more than {_MUCH // 2**20} MiB. Pass the files it needs, or "
                "install the package."
            )
            raise ValueError(msg)


def read_kernel(folder: Path, described: Mapping[str, Any], code: str | None) -> tuple[Any, Any]:
    """Return kernel and inference as they were saved; None for an inference that was not.

    ``code`` is the directory of the code that came with the model.

    Raises
    ------
    ImportError
        If the kernel's module is not there.
    ValueError
        If it is pickled and MLflow does not allow that.
    """
    reference = described["reference"]
    if reference is None:
        check_pickle(
            "The kernel of this model is stored as a pickle, and pickles are switched off "
            "(`MLFLOW_ALLOW_PICKLE_DESERIALIZATION`), since loading one can run any code. Pass `kernel=` to "
            "`aimz.mlflow.load_model`, or set the variable to true if you trust where the model comes from."
        )
        with (folder / _PICKLE).open("rb") as file:
            found = pickle.load(file)  # noqa: S301, RUF100 (allowed by MLflow's policy, above)
        return found["kernel"], found["inference"]
    if code is not None and code not in sys.path:
        sys.path.insert(0, os.path.abspath(code))
    kernel = _imported(reference)
    inference = described["inference"]
    return kernel, None if inference is None else _imported(inference)


def _imported(reference: str) -> Any:
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
            "version of the module is, or pass `kernel=` to `aimz.mlflow.load_model`."
        )
        raise ImportError(msg)
    return found

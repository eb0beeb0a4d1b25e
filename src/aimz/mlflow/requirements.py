"""Pip and Conda requirements of a model, and the modules its kernel uses."""

__all__ = [
    "Dependencies",
    "find_dependencies",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "pin_versions",
]

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import mlflow.pyfunc

from aimz._distribution import NAME, VERSION

_ALWAYS = (NAME, "jax", "mlflow", "numpy", "numpyro", "pandas")
"""Requirements of every model; its numbers depend on the versions of JAX and NumPyro."""


def pin_versions(distributions: Iterable[str]) -> list[str]:
    """Return sorted requirements with the installed versions; distributions that are not installed are dropped."""
    pinned = {}
    for name in distributions:
        try:
            # The local part of a version, of a build from a commit, is in no package index.
            found = VERSION if name == NAME else version(name)
            pinned[name.lower()] = f"{name}=={found.partition('+')[0]}"
        except PackageNotFoundError:
            continue
    return [pinned[name] for name in sorted(pinned)]


def get_default_pip_requirements(include_cloudpickle: bool = False) -> list[str]:
    """Return the pip requirements of every model of this flavor.

    A saved model also requires the packages that its kernel's module imports.

    Parameters
    ----------
    include_cloudpickle : bool
        Whether the kernel is pickled.

    Returns
    -------
    list of str
        Requirements, each pinned to the installed version.

    Examples
    --------
    >>> import aimz.mlflow
    >>> [line.partition("==")[0] for line in aimz.mlflow.get_default_pip_requirements()]
    ['aimz-whatif', 'jax', 'mlflow', 'numpy', 'numpyro', 'pandas']
    """
    return pin_versions([*_ALWAYS, *(["cloudpickle"] if include_cloudpickle else [])])


def get_default_conda_env(include_cloudpickle: bool = False) -> dict[str, Any]:
    """Return the Conda environment of every model of this flavor.

    Parameters
    ----------
    include_cloudpickle : bool
        Whether the kernel is pickled.

    Returns
    -------
    dict
        Environment of :func:`mlflow.pyfunc.get_default_conda_env`, with the pip requirements of
        :func:`get_default_pip_requirements`.

    Examples
    --------
    >>> import aimz.mlflow
    >>> sorted(aimz.mlflow.get_default_conda_env())
    ['channels', 'dependencies', 'name']
    """
    environment: dict[str, Any] = mlflow.pyfunc.get_default_conda_env()
    conda = [line for line in environment["dependencies"] if not isinstance(line, dict)]
    pip = {"pip": get_default_pip_requirements(include_cloudpickle)}
    return {**environment, "dependencies": [*conda, pip]}


@dataclass
class Dependencies:
    """Code that a kernel uses."""

    distributions: set[str] = field(default_factory=set)
    """Names of installed distributions."""
    code: dict[str, Path] = field(default_factory=dict)
    """Name of each top-level module that belongs to no distribution, and its file or directory."""


def find_dependencies(*values: Any) -> Dependencies:
    """Return the modules that kernels and other objects refer to, directly and through their own modules.

    Installed packages are not searched.  A function of the ``__main__`` module is pickled by value, so only the names
    it uses are followed; any other module is imported as a whole, so all of its contents are.
    """
    found = Dependencies()
    stack, visited = list(values), set[int]()
    while stack:
        value = stack.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if not isinstance(value, ModuleType):
            stack += _references(value)
        name = value.__name__ if isinstance(value, ModuleType) else _module_of(value)
        module = sys.modules.get(name)
        if name != "__main__" and module is not None and _add_module(name, found):
            stack += [module, *(member for key, member in vars(module).items() if not key.startswith("__"))]
    return found


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Return the distributions of each installed top-level module."""
    return dict(packages_distributions())


def _add_module(name: str, found: Dependencies) -> bool:
    """Add a module to the dependencies; return whether it is code to be saved with the model."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return False
    if top == "aimz":
        found.distributions.add(NAME)
        return False
    if top in _distributions():
        found.distributions |= set(_distributions()[top])
        return False
    module = sys.modules.get(top)
    paths = [*getattr(module, "__path__", []), getattr(module, "__file__", None)]
    if not paths[0]:
        return False
    found.code[top] = Path(paths[0])
    return True


def _module_of(value: Any) -> str:
    """Return the name of the module that defines an object or its type."""
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else type(value).__module__


def _references(value: Any) -> list[Any]:
    """Return the objects that an object refers to and that can contain code."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        named = [value.__globals__[name] for name in set(_names(value.__code__)) if name in value.__globals__]
        return [*named, *_cell_contents(value), *(value.__defaults__ or ()), getattr(value, "__wrapped__", None)]
    if isinstance(value, type):
        return [m for m in vars(value).values() if inspect.isfunction(m)] if value.__module__ == "__main__" else []
    attributes = getattr(value, "__dict__", None)
    return [type(value), *(attributes.values() if isinstance(attributes, dict) else ())]


def _cell_contents(function: Any) -> Iterator[Any]:
    """Yield the values of a function's closure."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names that a function and the functions in it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)

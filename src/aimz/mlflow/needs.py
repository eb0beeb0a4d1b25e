"""What a kernel needs besides itself: packages that are installed, and code that is not."""

__all__ = ["Dependencies", "needs_of"]

import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


@dataclass
class Dependencies:
    """What was found."""

    distributions: set[str] = field(default_factory=set)
    """Names of installed distributions."""
    code: dict[str, Path] = field(default_factory=dict)
    """Name of a top-level module that belongs to none, to its file or directory."""


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def needs_of(*values: Any) -> Dependencies:
    """Return what kernels, and whatever else is given, refer to, and what that refers to in turn.

    Installed packages are not looked into.  Of a function only what it names is looked at, if it is to travel by value
    because its module is the script that is run; of any other module all there is in it, since all of it is run.
    """
    found = Dependencies()
    todo, seen = list(values), set[int]()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if not isinstance(value, ModuleType):
            todo += _parts(value)
        name = value.__name__ if isinstance(value, ModuleType) else _module_of(value)
        module = sys.modules.get(name or "__main__")
        if name in (None, "__main__") or module is None:
            continue
        assert name is not None
        if _note(name, found):
            todo += [module, *(v for k, v in vars(module).items() if not k.startswith("__"))]
    return found


def _note(name: str, found: Dependencies) -> bool:
    """Note a module; return whether it is code that has to travel, so that it is to be looked into."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return False
    if top in _distributions():
        found.distributions |= set(_distributions()[top])
        return False
    place = _place(sys.modules.get(top))
    if place is None:
        return False
    found.code[top] = place
    return True


def _place(module: ModuleType | None) -> Path | None:
    """Return the file of a module, or the directory of a package."""
    folders = list(getattr(module, "__path__", []))
    if folders:
        return Path(folders[0])
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _module_of(value: Any) -> str | None:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else type(value).__module__


def _parts(value: Any) -> list[Any]:
    """Return what a value is made of, as far as it can hold code."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        names = set(_names(value.__code__))
        named = [value.__globals__[name] for name in names if name in value.__globals__]
        wrapped = getattr(value, "__wrapped__", None)
        return [*named, *_cells(value), *(value.__defaults__ or ()), *([] if wrapped is None else [wrapped])]
    if isinstance(value, type):
        return [one for one in vars(value).values() if inspect.isfunction(one)] if _is_main(value) else []
    held = getattr(value, "__dict__", None)
    return [type(value), *(held.values() if isinstance(held, dict) else ())]


def _is_main(value: type) -> bool:
    return value.__module__ == "__main__"


def _cells(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names of a function and of the functions in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)

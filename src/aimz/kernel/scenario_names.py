"""Names of scenarios, from the values that they set."""

__all__ = ["OBSERVED", "name_settings"]

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

OBSERVED = "as observed"
"""Name of a scenario without an intervention."""


def name_settings(settings: Mapping[str, Any]) -> str:
    """Return a name for the scenario of an intervention, such as "price = 9" or "1.1 * price"."""
    return ", ".join(_name_setting(str(name), value) for name, value in settings.items()) or OBSERVED


def _name_setting(name: str, value: Any) -> str:
    if callable(value):
        return _name_change(name, value)
    if isinstance(value, str) and value.startswith("callable "):  # as an attribute of a result records it
        return f"{name} changed"
    if isinstance(value, str) or value is None:
        return f"{name} = {value}"
    array = np.asarray(value)
    if array.ndim:
        return f"{name} as given"
    return f"{name} = {array.item():.6g}" if array.dtype.kind == "f" else f"{name} = {array.item()}"


def _name_change(name: str, function: Any) -> str:
    """Return a name for a change by a function, which is called with a few numbers."""
    points = np.array([1.0, 2.0, 4.0])
    with suppress(Exception):  # a function may only accept the values of the data
        found = np.asarray(function(points.copy()), np.float64)
        factor, shift = float(found[0]), float(found[0] - 1)
        if found.shape == points.shape and np.allclose(found, factor * points):
            return f"{factor:.6g} * {name}"
        if found.shape == points.shape and np.allclose(found, points + shift):
            return f"{name} {'-' if shift < 0 else '+'} {abs(shift):.6g}"
    called = getattr(function, "__name__", "<lambda>")
    return f"{name} changed" if called == "<lambda>" else f"{called}({name})"

"""What a model raised, in words, with the line of the model it was raised at."""

__all__ = ["describe_raised"]

import inspect
import linecache
import sysconfig
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpyro

import aimz.types
from aimz.primitives.result import Finding

_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (jax, numpyro, aimz.types)),
    sysconfig.get_paths()["stdlib"],
)
_LONGEST = 300


def describe_raised(error: Exception, function: Callable[..., Any], when: str) -> Finding:
    """Return what was raised ``when`` it was called so, and what to change."""
    where = _line(error, function)
    if isinstance(error, _VALUES):
        return Finding(
            f"The model decides by the value of an array or a site, not by shapes and types alone{where}, so it cannot "
            "be compiled. Compute sizes beforehand and pass them as plain Python numbers; write `jnp.where` or "
            "`numpyro.contrib.control_flow.cond` for a branch, and index arrays with arrays of jax.numpy.",
            "values",
        )
    said = textwrap.shorten(str(error), _LONGEST, placeholder=" ...").rstrip(".") or "no more is said"
    return Finding(f"The model raises {type(error).__name__} {when}{where}: {said}.", "raises")


def _line(error: Exception, function: Callable[..., Any]) -> str:
    """Return the line of the model that raised, or of what it calls, as text to go into a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    others = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    if not own and not others:
        return ""
    frame = (own or others)[-1]
    text = linecache.getline(frame.filename, frame.lineno or 0).strip()
    written = f", `{text}`" if text else ""
    return f" (line {frame.lineno} of {Path(frame.filename).name}{written})"

"""NumPyro's primitives, and functions that validate models without computing anything.

The primitives are NumPyro's own objects: ``from aimz.primitives import sample`` and ``numpyro.sample`` are the same.
Helpers for neural networks depend on the version of NumPyro.
"""

from typing import Any

from numpyro.contrib import module as helpers
from numpyro.primitives import (
    CondIndepStackFrame,
    deterministic,
    factor,
    get_mask,
    module,
    mutable,
    param,
    plate,
    plate_stack,
    prng_key,
    sample,
    subsample,
)

from aimz.primitives.result import Finding, PlateInfo, SiteInfo, ValidationResult
from aimz.primitives.validate import inspect_fn, validate_model

_MODULES = (
    "eqx_module",
    "flax_module",
    "haiku_module",
    "nnx_module",
    "random_eqx_module",
    "random_flax_module",
    "random_haiku_module",
    "random_nnx_module",
)
"""Helpers for neural networks that the installed version of NumPyro has."""

__all__ = [
    "CondIndepStackFrame",
    "Finding",
    "PlateInfo",
    "SiteInfo",
    "ValidationResult",
    "deterministic",
    "factor",
    "get_mask",
    "inspect_fn",
    "module",
    "mutable",
    "param",
    "plate",
    "plate_stack",
    "prng_key",
    "sample",
    "subsample",
    "validate_model",
]


def __getattr__(name: str) -> Any:
    """Return a helper for neural networks, if this version of NumPyro has it."""
    if name in _MODULES:
        if hasattr(helpers, name):
            return getattr(helpers, name)
        msg = (
            f"This version of NumPyro has no `{name}`; pass the network to `numpyro.module` as a pair of functions: "
            "`init(key, input_shape) -> (output_shape, params)` and `apply(params, x)`"
        )
        raise AttributeError(msg)
    msg = f"module 'aimz.primitives' has no attribute {name!r}"
    raise AttributeError(msg)

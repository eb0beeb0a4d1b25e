"""Facts about a kernel and its data that determine the inference: latent values, noise of its own, and cost."""

__all__ = ["KernelCost", "measure_kernel"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr  # type: ignore[attr-defined]
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_uniform
from numpyro.infer.util import log_density

from aimz.kernel import isolated

_FACTORIZATIONS = frozenset({"cholesky", "triangular_solve", "lu", "qr", "eigh", "svd"})


@dataclass(frozen=True)
class KernelCost:
    """Cost of a kernel for an inference method."""

    latent_values: int
    """Number of continuous latent values."""
    operations: int
    """Number of floating-point operations of one log density."""
    resampled: str | None
    """Name of a site with new values in each evaluation (a subsampled plate, dropout), if any."""


def measure_kernel(kernel: Callable[..., Any], arrays: Mapping[str, Any], static: Mapping[str, object]) -> KernelCost:
    """Return the cost of a kernel with data of the given shapes; nothing is computed."""
    resampled: list[str] = []
    sizes: list[int] = []

    @isolated
    def run(arrays: Mapping[str, Any]) -> Any:
        model = substitute(seed(kernel, 0), substitute_fn=init_to_uniform)
        recorded = trace(model)
        value, _ = log_density(recorded, (), {**arrays, **static}, {})
        for name, site in recorded.trace.items():
            subsampled = site["type"] == "plate" and site["args"][1] not in (None, site["args"][0])
            if subsampled or site["type"] == "prng_key":
                resampled.append(name)
            elif site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete:
                sizes.append(prod(site["value"].shape))
        return value

    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    operations = _operations(jax.make_jaxpr(run)(shapes).jaxpr)
    return KernelCost(sum(sizes), operations, next(iter(resampled), None))


def _operations(jaxpr: Jaxpr) -> int:
    """Return the number of floating-point operations of a jaxpr, to within a small factor."""
    total = 0
    for equation in jaxpr.eqns:
        parts = [
            p for value in equation.params.values() for p in (value if isinstance(value, tuple | list) else [value])
        ]
        inner = sum(
            _operations(p.jaxpr if isinstance(p, ClosedJaxpr) else p)
            for p in parts
            if isinstance(p, ClosedJaxpr | Jaxpr)
        )
        if inner:
            total += inner * int(equation.params.get("length") or 1)
            continue
        shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars) if hasattr(v.aval, "shape")]
        size = max((prod(shape) for shape in shapes), default=0)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = 2 * prod(shapes[-1]) * prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name in _FACTORIZATIONS:
            size *= max((shape[-1] for shape in shapes if shape), default=1)
        total += size
    return total

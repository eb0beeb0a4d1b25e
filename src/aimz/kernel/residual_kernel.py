"""A kernel with two more sites: the expected output of each row, and products of its residual."""

__all__ = ["EXPECTED", "RESIDUALS", "Column", "residual_kernel"]

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro

from aimz.kernel.expectation import expected_value
from aimz.kernel.signature import kernel_name
from aimz.kernel.valued_kernel import Capture
from aimz.types import Kernel

EXPECTED, RESIDUALS = "expected_output", "residual_products"
"""Names of the sites."""


@dataclass(frozen=True)
class Column:
    """Numbers of the rows that are part of an argument."""

    name: str
    argument: str
    number: int | None = None
    """Column of the argument; None if the argument has one value for each row."""
    level: int | None = None
    """Category whose indicator the numbers are; None for the values themselves."""

    def read(self, arguments: Mapping[str, Any]) -> Any:
        """Return the numbers, from arrays of the arguments."""
        values = arguments[self.argument]
        values = values if self.number is None else values[:, self.number]
        return values if self.level is None else values == self.level


def residual_kernel(
    kernel: Kernel,
    *,
    output: str,
    columns: Sequence[Column],
    centers: np.ndarray,
    weights: np.ndarray,
) -> Kernel:
    """Return the kernel with the sites ``EXPECTED`` and ``RESIDUALS``; its output is data, which nothing observes.

    ``RESIDUALS`` has, for each row, whether the output is not NaN, then its residual, the square of the residual, and
    its product with each of several combinations of the centered columns: ``weights`` is ``(n_columns, n_combined)``.
    """

    def run(**arguments: Any) -> None:
        observed = arguments[output]
        seen = Capture()
        with seen:
            kernel(**{**arguments, output: None})
        message = seen.messages[output]
        mean = jnp.broadcast_to(jnp.asarray(expected_value(message["fn"])), jnp.shape(message["value"]))
        numpyro.deterministic(EXPECTED, mean)
        if observed is None:
            return
        known = ~jnp.isnan(observed)
        residual = jnp.where(known, observed - mean, 0.0)[:, None]
        parts = [known[:, None], residual, residual**2]
        if weights.shape[1]:
            rows = [
                jnp.asarray(column.read(arguments), mean.dtype) - float(center)
                for column, center in zip(columns, centers, strict=True)
            ]
            combined = jnp.matmul(jnp.stack(rows, axis=-1), jnp.asarray(weights, mean.dtype), precision="highest")
            parts.append(residual * combined)
        numpyro.deterministic(RESIDUALS, jnp.concatenate(parts, axis=-1))

    run.__signature__ = inspect.signature(kernel)  # type: ignore[attr-defined]
    run.__name__ = kernel_name(kernel)
    return run

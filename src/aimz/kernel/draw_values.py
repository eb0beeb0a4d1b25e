"""Values of an intervention that differ between draws."""

__all__ = ["DrawValues", "DrawnArgument"]

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, eq=False)
class DrawValues:
    """Values of a site, an argument or a column, one for each draw."""

    values: np.ndarray
    """Array of shape ``(n_draws, ...)``."""

    def first(self, dtype: Any) -> np.ndarray:
        """Return the value of one draw, of the first that a cast to ``dtype`` would change if there is any."""
        with np.errstate(invalid="ignore"):  # NaN cannot be cast to an integer
            same = self.values == self.values.astype(dtype)
        chosen: np.ndarray = self.values[int(np.argmin(same.reshape(len(same), -1).all(1)))]
        return chosen

    def aligned(self, fitted: Any) -> np.ndarray:
        """Return values ``(n_draws, ...)`` that broadcast to the shape of ``fitted``, the checked value of one draw."""
        own, ones = self.values.shape[1:], (1,) * (fitted.ndim - self.values.ndim + 1)
        trailing = all(size in (1, n) for size, n in zip(own[::-1], fitted.shape[::-1], strict=False))
        return self.values.astype(fitted.dtype).reshape(len(self.values), *(ones + own if trailing else own + ones))


class DrawnArgument(NamedTuple):
    """An argument, or one of its columns, whose value differs between draws."""

    key: str
    """Key of its values among the draws of the sites."""
    argument: str
    column: int | None = None

    def set(self, given: Any, value: Any) -> jax.Array:
        """Return the argument with its value in one draw."""
        array = jnp.asarray(given)
        if self.column is None:
            return jnp.broadcast_to(value, array.shape)
        return array.at[:, self.column].set(jnp.broadcast_to(value, array.shape[:1]))

"""Type aliases shared by the packages."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np

__all__ = ["Arrays", "Draws", "EffectKind", "Intervention", "Kernel", "Shape", "SlopeKind", "StatisticsLike"]

type Kernel = Callable[..., Any]
"""A NumPyro model."""

type Arrays = Mapping[str, np.ndarray | jax.Array]
"""Argument name to array, whose first axis is the row axis unless the array is 0-d."""

type Draws = Mapping[str, jax.Array]
"""Site name to array of shape ``(n_draws, ...)``."""

type EffectKind = Literal["expected", "outcome"]
"""Whether an effect is a contrast of expected values or of drawn outcomes."""

type Intervention = Mapping[str, Any]
"""Name of a site, an argument or a column to a scalar, an array that broadcasts, or a callable on the factual value.

An xarray array with dimensions ``(chain, draw, ...)`` has a value for each draw."""

type Shape = tuple[int | str, ...]
"""A shape with names for the row axes, as in ``("n_obs", 3)``."""

type SlopeKind = Literal["dydx", "eyex", "eydx", "dyex", "total"]
"""Unit of a slope: change of the site, or of its logarithm, by change of the lever, or of its logarithm."""

type StatisticsLike = str | float | Iterable[str | float | tuple[str, float]]
"""Statistics to keep instead of draws."""

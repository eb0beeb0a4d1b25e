"""Steps whose values are known and precede the steps that a pass draws, so that series continue from their state."""

__all__ = ["FITTED", "History"]

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

FITTED = "fitted/"
"""Prefix of the inputs of a pass that have values of known steps, followed by the name of a site or an argument."""


class Extended(NamedTuple):
    """Inputs of a run over the known steps and the later ones."""

    arguments: dict[str, Any]
    values: dict[str, Any]
    transforms: dict[str, Callable[[Any], Any]]
    prefixes: dict[str, int]
    """Axis along the steps of each site of which only the first steps have a value."""


@dataclass(frozen=True)
class History:
    """Sites and arguments with an axis along time, of which the first steps are known."""

    n_steps: int
    """Number of known steps that precede the steps of the call; 0 if they are among the steps of the call."""
    axis: int
    """Axis of the arguments along the steps: 0 if each row is a step, 1 if each row is a series."""
    arguments: tuple[str, ...] = ()
    """Arguments with an axis along the steps, whose known steps are inputs, too."""
    sites: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Axis along the steps and its length in this call, by site."""
    transposed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Axes along the rows and the steps of a site whose known values have them as axes 0 and 1."""
    given: Mapping[str, int] = field(default_factory=dict)
    """Number of known steps among the steps of the call, by site in a condition."""

    @property
    def key(self) -> Hashable:
        """A key that is equal for equal histories."""
        parts = (tuple(sorted(part.items())) for part in (self.sites, self.transposed, self.given))
        return self.n_steps, self.axis, self.arguments, *parts

    def n_rows(self, n_obs: int) -> int:
        """Return the number of rows of a run for ``n_obs`` rows of the call."""
        return n_obs + (self.n_steps if self.axis == 0 else 0)

    def extend(
        self, arguments: Mapping[str, Any], values: Mapping[str, Any], transforms: Mapping[str, Callable[[Any], Any]]
    ) -> Extended:
        """Return the inputs of a run over all steps; ``values`` include the values of known steps."""
        known = {name.removeprefix(FITTED): value for name, value in values.items() if name.startswith(FITTED)}
        own = {name: value for name, value in values.items() if not name.startswith(FITTED)}
        changes = dict(transforms)
        if self.n_steps:
            changes = {name: partial(self._change_last, name, change) for name, change in transforms.items()}
        prefixes = {}
        for name, (axis, size) in self.sites.items():
            if name in known:
                first = self.known(name, known[name])
                own[name] = jnp.concatenate([first, own[name]], axis=axis) if name in own else first
                if own[name].shape[axis] < size + self.n_steps:
                    prefixes[name] = axis
            elif name in own and self.n_steps:
                changes[name] = partial(self._set_last, name, own.pop(name))
        joined = {name: jnp.concatenate([known[name], arguments[name]], axis=self.axis) for name in self.arguments}
        return Extended({**arguments, **joined}, own, changes, prefixes)

    def known(self, name: str, value: Any) -> Any:
        """Return the values of known steps of a site with the axes of the site."""
        axes = self.transposed.get(name)
        return value if axes is None else jnp.moveaxis(value, (0, 1), axes)

    def with_given(self, name: str, mean: jax.Array, value: jax.Array) -> jax.Array:
        """Return the expected value of a site, with its values in the steps in which a condition has them."""
        if name not in self.given:
            return mean
        first = lax.slice_in_dim(value, 0, self.given[name], axis=self.sites[name][0])
        return lax.dynamic_update_slice(mean, first.astype(mean.dtype), (0,) * mean.ndim)

    def last(self, name: str, value: jax.Array) -> jax.Array:
        """Return the steps of this call of the result of a site."""
        if name not in self.sites or not self.n_steps:
            return value
        axis, size = self.sites[name]
        return lax.slice_in_dim(value, value.shape[axis] - size, None, axis=axis)

    def _change_last(self, name: str, change: Callable[[Any], Any], value: jax.Array) -> jax.Array:
        """Return the value of a site with its steps of this call changed by a function."""
        return self._set_last(name, change(self.last(name, value)), value)

    def _set_last(self, name: str, new: Any, value: jax.Array) -> jax.Array:
        """Return the value of a site with its steps of this call replaced."""
        if name not in self.sites:
            return jnp.asarray(new)
        axis, size = self.sites[name]
        start = value.shape[axis] - size
        return lax.dynamic_update_slice_in_dim(value, jnp.asarray(new, value.dtype), start, axis)

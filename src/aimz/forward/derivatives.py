"""Derivatives of sites along a lever, in one pass, summed over rows."""

__all__ = ["Derivative", "Lever", "derivative_pass", "moved_pass"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from aimz.forward.pass_spec import PassSpec
from aimz.forward.predictive import RowBlock, SingleDrawPass, one_pass
from aimz.kernel import Message
from aimz.types import Kernel


@dataclass(frozen=True)
class Lever:
    """A site, an argument or a column of the input along which sites are differentiated."""

    name: str
    argument: str | None = None
    """Argument of the kernel; None for a site."""
    column: int | None = None
    """Number of the column of the argument."""


@dataclass(frozen=True)
class Derivative:
    """The static part of a pass that differentiates."""

    levers: tuple[Lever, ...]
    relative: bool = False
    """Whether a lever changes in proportion to its value, so that derivatives are by its logarithm."""
    of_log: bool = False
    """Whether derivatives are divided by the value of the site, so that they are of its logarithm."""

    @property
    def n_values(self) -> int:
        """Number of values of each site: zeros, the site, its derivatives, and flags of the signs."""
        return 2 + len(self.levers) * (3 if self.relative else 1) + (2 if self.of_log else 0)

    def values(self, level: jax.Array, slopes: list[jax.Array], signs: list[jax.Array]) -> jax.Array:
        """Return the values of a site; ``signs`` are whether each lever is below and above 0, by row of the site."""
        dtype = jnp.promote_types(level.dtype, jnp.float32)
        level = level.astype(dtype)
        found = [jnp.zeros_like(level), level]
        found += [slope / level if self.of_log else slope for slope in slopes]
        if self.relative:
            found += [flag for both in signs for flag in both]
        if self.of_log:
            found += [level <= 0, level >= 0]
        return jnp.stack([jnp.broadcast_to(one, level.shape).astype(dtype) for one in found])


type Moved = tuple[dict[str, Any], jax.Array]
"""Sites, and whether the lever is below and above 0 in each row."""


def moved_pass(
    kernel: Kernel, plan: PassSpec, derivative: Derivative, read: Callable[[Message], Any], flags: set[str] | None
) -> Callable[..., Moved]:
    """Return ``f(lever, shift, draw_key, draws, values, arrays, block) -> (sites, signs of the lever)``.

    A lever is raised by ``shift``, or by this share of its value if the derivative is relative.
    """

    def run(
        lever: Lever,
        shift: jax.Array,
        draw_key: jax.Array,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        block: RowBlock | None,
    ) -> Moved:
        seen: list[jax.Array] = []

        def move(value: Any) -> jax.Array:
            value = jnp.asarray(value)
            moved: jax.Array = value.astype(jnp.promote_types(value.dtype, jnp.float32))
            own = moved if lever.column is None else moved[:, lever.column]
            seen.append(own)
            step = own * shift if derivative.relative else shift
            return moved + step if lever.column is None else moved.at[:, lever.column].add(step)

        def moved_in(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
            return {**given, name: move(given[name])} if name in given else given

        own, passes = block, plan
        name = lever.name if lever.argument is None else lever.argument
        if lever.argument is not None:
            arrays = moved_in(arrays, name)
            passes = replace(passes, static=moved_in(passes.static, name))
            own = own and own._replace(arrays=moved_in(own.arrays, name))
        else:
            values = moved_in(values, name)
            own = own and own._replace(values=moved_in(own.values, name))
            if not seen:
                passes = replace(passes, transforms={**passes.transforms, name: move})
        sites = one_pass(kernel, passes, read, flags)(draw_key, draws, values, arrays, own)
        return sites, _signs(seen[-1], _row_axis(lever, plan, arrays, own))

    return run


def _row_axis(lever: Lever, plan: PassSpec, arrays: Mapping[str, Any], block: RowBlock | None) -> int | None:
    """Return the row axis of the value of a lever; None without rows."""
    if lever.argument is None:
        return plan.row_axes.get(lever.name)
    given = block.arrays if block is not None else arrays
    return 0 if lever.argument in given and jnp.ndim(given[lever.argument]) else None


def _signs(value: jax.Array, row_axis: int | None) -> jax.Array:
    """Return whether each row has an entry below 0, and above 0: ``(2, n_rows)``, or ``(2,)`` without rows."""
    others = tuple(axis for axis in range(value.ndim) if axis != row_axis)
    return jnp.stack([(value < 0).any(others), (value > 0).any(others)])


def derivative_pass(
    kernel: Kernel,
    plan: PassSpec,
    derivative: Derivative,
    row_axes: Mapping[str, int],
    read: Callable[[Message], Any],
    flags: set[str] | None,
) -> SingleDrawPass:
    """Return ``f(draw_key, draws, values, arrays, block) -> {site: (n_values, ...)}``; see `Derivative.values`.

    Derivatives are computed forwards (``jax.jvp``) with the noise that the key of the draw gives.
    """
    run = moved_pass(kernel, plan, derivative, read, flags)

    def one(
        draw_key: jax.Array, draws: Any, values: Any, arrays: Any, block: RowBlock | None = None
    ) -> dict[str, jax.Array]:
        def at(lever: Lever, shift: jax.Array) -> Moved:
            return run(lever, shift, draw_key, draws, values, arrays, block)

        found = [jax.jvp(partial(at, lever), (jnp.zeros(()),), (jnp.ones(()),)) for lever in derivative.levers]
        result = {}
        for name, level in found[0][0][0].items():
            slopes = [_tangent(tangents[0][name], level) for _, tangents in found]
            shape = [1] * level.ndim
            if name in row_axes:
                shape[row_axes[name]] = -1
            signs = [both.reshape(2, *(shape if both.ndim > 1 else [1] * level.ndim)) for (_, both), _ in found]
            result[name] = derivative.values(level, slopes, signs)
        return result

    return one


def _tangent(tangent: jax.Array, level: jax.Array) -> jax.Array:
    """Return a derivative; 0 for integers that do not depend on the lever."""
    return jnp.zeros(level.shape, jnp.float32) if tangent.dtype == jax.dtypes.float0 else tangent

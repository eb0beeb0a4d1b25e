"""One predictive pass: draws of every return site, given posterior draws, parameters and rows."""

__all__ = [
    "CompiledProgram",
    "PassSpec",
    "RowBlock",
    "RowGroups",
    "SingleDrawPass",
    "draw_keys",
    "one_pass",
    "over_draws",
    "per_draw",
    "whole",
]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.forward.draw_batching import TracedFunction, group_size, map_draws, trace
from aimz.kernel import Message, PredictiveHandler
from aimz.types import Kernel

type SingleDrawPass = Callable[..., dict[str, Any]]
type CompiledProgram = Callable[..., dict[str, jax.Array]]


@dataclass(frozen=True)
class PassSpec:
    """What a pass does, apart from numbers: the part a compiled program is made for."""

    n_obs: int
    n_draws: int
    static: Mapping[str, object]
    """Arguments of the kernel that are not arrays."""
    return_sites: tuple[str, ...] = ()
    transforms: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Callable interventions, by site."""
    unobserve: frozenset[str] = frozenset()
    """Observed sites that are drawn although there are data."""
    row_plates: frozenset[str] = frozenset()
    """Plates that run along the rows at hand."""
    row_axes: Mapping[str, int] = field(default_factory=dict)
    """Sites with a row axis, and which axis of one draw it is."""
    summed: Mapping[str, int] = field(default_factory=dict)
    """Discrete sites over which the one return site, a log density, is summed, and how many values 0, 1, ... each
    has."""


class RowGroups(NamedTuple):
    """What a sum over rows needs to know of each row."""

    weights: Any
    """Weight of each row."""
    codes: Any = None
    """Number of each row's group; None where all rows are one group."""


class RowBlock(NamedTuple):
    """What differs from one block of rows to the next."""

    number: Any
    """Which block it is, or None if there is no other."""
    rows: Any
    """Number of each row, or None where no plate runs along the rows."""
    draws: Mapping[str, Any]
    """Posterior draws of sites with a row axis."""
    values: Mapping[str, Any]
    """Values of sites with a row axis that are the same in all draws."""
    arrays: Mapping[str, Any]
    """Arguments with a row axis."""
    n_rows: Any = None
    """Number of rows without padding; None unless rows are summed."""
    groups: RowGroups | None = None
    """Weights and groups of the rows; None unless rows are summed."""


def draw_keys(key: jax.Array, numbers: Any) -> jax.Array:
    """Return the key of each draw, which depends on its number alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(numbers))


def _block_key(draw_key: jax.Array, number: Any) -> jax.Array:
    """Return the key of a block: the first has that of the draw, as all rows together have."""
    if number is None:
        return draw_key
    return jax.numpy.where(number == 0, draw_key, jax.random.fold_in(draw_key, number))


def one_pass(
    kernel: Kernel, plan: PassSpec, read: Callable[[Message], Any], noticed: set[str] | None = None
) -> SingleDrawPass:
    """Return ``f(draw_key, draws, values, arrays, block) -> {site: value}`` for one draw, and one block or all rows.

    ``draws`` are values that differ from draw to draw (the posterior's), ``values`` are the same in all (fitted
    parameters, interventions); ``read`` takes what is wanted from the message of a return site.  What the kernel did
    that matters to whoever cuts it into blocks is added to ``noticed``.

    The law: the draw ``i`` of a site depends on ``key``, ``i``, the site's name, the block if the site has a row axis,
    and the values the site depends on, and on nothing else.
    """

    def run(
        draw_key: jax.Array,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        block: RowBlock | None = None,
    ) -> dict[str, Any]:
        own = block or RowBlock(None, None, {}, {}, {})

        def sites(fixed: Mapping[str, Callable[[Any], Any]]) -> dict[str, Message]:
            execution = PredictiveHandler(
                kernel,
                draw_key,
                n_obs=plan.n_obs,
                values={**draws, **own.draws, **values, **own.values},
                transforms={**plan.transforms, **fixed},
                unobserve=plan.unobserve,
                row_plates=plan.row_plates,
                block_key=_block_key(draw_key, own.number),
                row_sites=frozenset(plan.row_axes),
                rows=own.rows,
            )
            found = execution.run({**plan.static, **arrays, **own.arrays})
            if noticed is not None and execution.anonymous_noise:
                noticed.add("anonymous noise")
            return found

        if plan.summed:
            return _summed(sites, plan, read)
        found = sites({})
        return {name: read(found[name]) for name in plan.return_sites}

    return run


def _summed(
    sites: Callable[[Mapping[str, Callable[[Any], Any]]], dict[str, Message]],
    plan: PassSpec,
    read: Callable[[Message], Any],
) -> dict[str, Any]:
    """Return log densities summed over discrete sites: ``log sum_z p(z) p(y | z)``, observation by observation."""

    def joint(codes: tuple[jax.Array, ...]) -> dict[str, Any]:
        pairs = zip(plan.summed, codes, strict=True)
        found = sites({name: partial(jnp.full_like, fill_value=code) for name, code in pairs})
        prior = sum(read(found[name]) for name in plan.summed)
        return {name: prior + read(found[name]) for name in plan.return_sites}

    codes = np.indices(tuple(plan.summed.values())).reshape(len(plan.summed), -1)
    found = jax.vmap(joint)(tuple(jnp.asarray(each, jnp.int32) for each in codes))
    return {name: jax.nn.logsumexp(value, axis=0) for name, value in found.items()}


def per_draw(one: SingleDrawPass) -> CompiledProgram:
    """Return ``f(key, numbers, draws, values, arrays) -> {site: array of shape (n_draws, ...)}`` over all rows at once.

    ``numbers`` are those of the draws.
    """

    def run(
        key: jax.Array, numbers: Any, draws: Mapping[str, Any], values: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        first = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in draws.items()}
        # The kernel is traced once, for the group size and the computation alike.
        traced = trace(one, key, first, values, arrays, None)
        group = group_size(traced.jaxpr, len(numbers), jax.default_backend())
        return whole(traced, group)(key, numbers, draws, values, arrays)

    return run


def whole(traced: TracedFunction, group: int) -> CompiledProgram:
    """Return the program of :func:`per_draw` for a pass that was traced already."""

    def run(
        key: jax.Array,
        numbers: Any,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        blocks: None = None,
    ) -> dict[str, jax.Array]:
        def one_draw(draw: tuple[jax.Array, Mapping[str, Any]]) -> dict[str, Any]:
            return dict(traced(*draw, values, arrays, blocks))

        return dict(map_draws(one_draw, (draw_keys(key, numbers), dict(draws)), len(numbers), group))

    return run


def over_draws(
    one: SingleDrawPass, key: jax.Array, draws: Mapping[str, Any], *same: Any, n_draws: int
) -> dict[str, Any]:
    """Return ``one(draw_key, draw, *same)`` for each draw, compiled, as many side by side as the hardware likes."""

    @jax.jit
    def run(key: jax.Array, draws: Mapping[str, Any], same: tuple[Any, ...]) -> dict[str, Any]:
        first = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in draws.items()}
        keys = draw_keys(key, jnp.arange(n_draws))
        traced = trace(one, jax.ShapeDtypeStruct((), keys.dtype), first, *same)
        group = group_size(traced.jaxpr, n_draws, jax.default_backend())
        return dict(map_draws(lambda draw: traced(*draw, *same), (keys, dict(draws)), n_draws, group))

    return dict(run(key, dict(draws), same))

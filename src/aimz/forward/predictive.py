"""A pass of a kernel for one draw, and its map over all draws."""

__all__ = [
    "CompiledProgram",
    "RowBlock",
    "RowGroups",
    "SingleDrawPass",
    "draw_keys",
    "map_over_draws",
    "one_pass",
    "per_draw",
    "unblocked",
]

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.forward.densities import READERS
from aimz.forward.draw_batching import TracedFunction, group_size, map_draws, trace
from aimz.forward.pass_spec import DENSITY, EFFECT, IMPOSSIBLE, OBSERVED_VALUE, PassSpec, WorldInputs
from aimz.forward.worlds import Ran, effect_of, impossible_rows, run_worlds
from aimz.kernel import Message, is_undefined
from aimz.statistics import missing_code
from aimz.types import Kernel

type SingleDrawPass = Callable[..., dict[str, Any]]
type CompiledProgram = Callable[..., dict[str, jax.Array]]


class RowGroups(NamedTuple):
    """Weights and groups of rows, for sums over rows."""

    weights: Any
    """Weight of each row."""
    codes: Any = None
    """Number of each row's group; None where all rows are one group."""


class RowBlock(NamedTuple):
    """The inputs of a pass that differ between blocks of rows."""

    number: Any
    """Number of the block, or None if there is only one."""
    rows: Any
    """Number of each row, or None if no plate runs along the rows."""
    draws: Mapping[str, Any]
    """Posterior draws of sites with a row axis."""
    values: Mapping[str, Any]
    """Values of sites with a row axis that are the same in all draws."""
    arrays: Mapping[str, Any]
    """Arguments with a row axis."""
    n_rows: Any = None
    """Number of rows without padding; None unless rows are summed."""
    row_groups: RowGroups | None = None
    """Weights and groups of the rows; None unless rows are summed."""


def draw_keys(key: jax.Array, numbers: Any) -> jax.Array:
    """Return the key of each draw, which depends only on the number of the draw."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(numbers))


def _block_key(draw_key: jax.Array, number: Any) -> jax.Array:
    """Return the key of a block; the first block has the key of the draw, as all rows together do."""
    if number is None:
        return draw_key
    return jnp.where(number == 0, draw_key, jax.random.fold_in(draw_key, number))


def one_pass(
    kernel: Kernel, plan: PassSpec, read: Callable[[Message], Any], flags: set[str] | None = None
) -> SingleDrawPass:
    """Return ``f(draw_key, draws, values, arrays, block) -> {site: value}`` for one draw and one block, or all rows.

    ``draws`` are values that differ between draws (the posterior's), ``values`` are the same in all draws (fitted
    parameters, interventions), and ``read`` returns the result for a return site from its message. If the kernel draws
    noise that belongs to no site, "anonymous noise" is added to ``flags``.

    Draw ``i`` of a site depends only on ``key``, ``i``, the name of the site, the block if the site has a row axis, and
    the values that the site depends on.
    """

    def run(
        draw_key: jax.Array,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        block: RowBlock | None = None,
    ) -> dict[str, Any]:
        own = block or RowBlock(None, None, {}, {}, {})

        given = WorldInputs(
            draw_key,
            _block_key(draw_key, own.number),
            own.rows,
            {**draws, **own.draws},
            {**values, **own.values},
            {**arrays, **own.arrays},
        )

        def sites(fixed: Mapping[str, Callable[[Any], Any]]) -> dict[str, Message]:
            return dict(run_worlds(kernel, plan, given, fixed, flags).sites)

        if plan.summed:
            return _marginal(sites, plan, read)
        ran = run_worlds(kernel, plan, given, {}, flags)
        results = {name: plan.read(ran.sites, name, read) for name in plan.return_sites}
        if read is READERS["predictive"]:
            results = {name: _with_missing(name, value, ran.sites, plan) for name, value in results.items()}
        if plan.abducted:  # noise that is inferred with a parameter that is NaN is missing, too
            factual = {n: {**site, "is_observed": n not in plan.abducted} for n, site in ran.worlds[0].sites.items()}
            results = {name: _with_missing(name, value, factual, plan) for name, value in results.items()}
        if plan.history is not None:
            results = {name: plan.history.last(name, value) for name, value in results.items()}
        return {**results, **_compared(ran, plan, results), **_scored(kernel, plan, given, own.number)}

    return run


def _scored(kernel: Kernel, plan: PassSpec, given: WorldInputs, number: Any) -> dict[str, jax.Array]:
    """Return the values and the log densities of data that a pass scores, next to its predictions."""
    found = {}
    for world in plan.worlds:
        if world.scored is None:
            continue
        key, _, rows, draws, values, arrays = world.inputs(given)
        found[OBSERVED_VALUE + world.scored] = jnp.asarray(arrays[world.scored])
        if world.plan.return_sites:
            score = one_pass(kernel, world.plan, READERS["log_density"])
            densities = score(key, draws, values, arrays, RowBlock(number, rows, {}, {}, {}))
            found[DENSITY + world.scored] = densities[world.plan.return_sites[0]]
    return found


def _compared(ran: Ran, plan: PassSpec, results: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the further outputs of a counterfactual: effects, and the rows whose noise could not be inferred."""
    found = {}
    if plan.with_effects:
        for name, value in results.items():
            factual = jnp.asarray(ran.worlds[0].sites[name]["value"])
            missing = EFFECT + name in plan.discrete_sources
            found[EFFECT + name] = effect_of(value, factual, may_be_missing=missing)
    if plan.is_checked:
        found[IMPOSSIBLE] = impossible_rows(ran, plan)
    return found


def _with_missing(name: str, value: jax.Array, found: Mapping[str, Message], plan: PassSpec) -> jax.Array:
    """Return the value of a site, NaN or the missing code where a discrete site has NaN among its parameters."""
    missing = jnp.nan if jnp.issubdtype(value.dtype, jnp.inexact) else missing_code(value.dtype)
    if missing is None:
        return value
    for undefined in _undefined_parts(name, value, found, plan):
        value = jnp.where(undefined, jnp.asarray(missing, value.dtype), value)
    return value


def _undefined_parts(name: str, value: jax.Array, found: Mapping[str, Message], plan: PassSpec) -> Iterator[jax.Array]:
    """Yield flags, for each discrete source of a site, that broadcast to the value of the site."""
    for source in plan.discrete_sources.get(name, ()):
        if found[source]["is_observed"]:
            continue
        undefined = is_undefined(found[source]["fn"])
        row_axis, own_axis = plan.row_axes.get(source), plan.row_axes.get(name)
        if source == name and undefined.shape == value.shape[: undefined.ndim]:
            yield undefined.reshape(undefined.shape + (1,) * (value.ndim - undefined.ndim))
        elif row_axis is not None and own_axis is not None and row_axis < undefined.ndim:
            by_row = undefined.any(axis=tuple(axis for axis in range(undefined.ndim) if axis != row_axis))
            yield by_row.reshape((1,) * own_axis + (-1,) + (1,) * (value.ndim - own_axis - 1))
        else:
            yield undefined.any()


def _marginal(
    sites: Callable[[Mapping[str, Callable[[Any], Any]]], dict[str, Message]],
    plan: PassSpec,
    read: Callable[[Message], Any],
) -> dict[str, Any]:
    """Return log densities summed over discrete sites, ``log sum_z p(z) p(y | z)``, for each observation."""

    def joint(codes: tuple[jax.Array, ...]) -> dict[str, Any]:
        pairs = zip(plan.summed, codes, strict=True)
        found = sites({name: partial(jnp.full_like, fill_value=code) for name, code in pairs})
        prior = sum(read(found[name]) for name in plan.summed)
        return {name: prior + plan.read(found, name, read) for name in plan.return_sites}

    codes = np.indices(tuple(plan.summed.values())).reshape(len(plan.summed), -1)
    found = jax.vmap(joint)(tuple(jnp.asarray(each, jnp.int32) for each in codes))
    return {name: jax.nn.logsumexp(value, axis=0) for name, value in found.items()}


def per_draw(one: SingleDrawPass) -> CompiledProgram:
    """Return ``f(key, numbers, draws, values, arrays) -> {site: array of shape (n_draws, ...)}`` over all rows at once.

    ``numbers`` are the numbers of the draws.
    """

    def run(
        key: jax.Array, numbers: Any, draws: Mapping[str, Any], values: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        first = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in draws.items()}
        # The kernel is traced once, both for the group size and for the computation.
        traced = trace(one, key, first, values, arrays, None)
        group = group_size(traced.jaxpr, len(numbers), jax.default_backend())
        return unblocked(traced, group)(key, numbers, draws, values, arrays)

    return run


def unblocked(traced: TracedFunction, group: int) -> CompiledProgram:
    """Return the program of :func:`per_draw` for a traced pass."""

    def run(
        key: jax.Array,
        numbers: Any,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        row_groups: RowGroups | None = None,
    ) -> dict[str, jax.Array]:
        def one_draw(draw: tuple[jax.Array, Mapping[str, Any]]) -> dict[str, Any]:
            return dict(traced(*draw, values, arrays, row_groups))

        return dict(map_draws(one_draw, (draw_keys(key, numbers), dict(draws)), len(numbers), group))

    return run


def map_over_draws(
    one: SingleDrawPass, key: jax.Array, draws: Mapping[str, Any], *same: Any, n_draws: int
) -> dict[str, Any]:
    """Return ``one(draw_key, draw, *same)`` for each draw, compiled, in groups of a size that suits the device."""

    @jax.jit
    def run(key: jax.Array, draws: Mapping[str, Any], same: tuple[Any, ...]) -> dict[str, Any]:
        first = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in draws.items()}
        keys = draw_keys(key, jnp.arange(n_draws))
        traced = trace(one, jax.ShapeDtypeStruct((), keys.dtype), first, *same)
        group = group_size(traced.jaxpr, n_draws, jax.default_backend())
        return dict(map_draws(lambda draw: traced(*draw, *same), (keys, dict(draws)), n_draws, group))

    return dict(run(key, dict(draws), same))

"""Worlds of one pass: runs of the kernel whose sites take values, or noise, from other runs of the same draw."""

__all__ = ["Ran", "effect_of", "impossible_rows", "run_worlds"]

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aimz.forward.pass_spec import PassSpec, WorldInputs
from aimz.kernel import CounterfactualHandler, Message, PredictiveHandler
from aimz.statistics import missing_code
from aimz.types import Kernel


class Ran(NamedTuple):
    """A run of the kernel and the runs that it depends on."""

    sites: Mapping[str, Message]
    worlds: "list[Ran]"
    possible: Mapping[str, jax.Array]
    """Whether the noise of each value could be inferred, by site that was recomputed."""


def run_worlds(
    kernel: Kernel,
    plan: PassSpec,
    given: WorldInputs,
    fixed: Mapping[str, Callable[[Any], Any]],
    flags: set[str] | None,
) -> Ran:
    """Run the kernel, after the worlds that it depends on; ``fixed`` are further transforms of sites."""
    used = [world for world in plan.worlds if world.scored is None]
    worlds = [run_worlds(kernel, world.plan, world.inputs(given), {}, flags) for world in used]
    taken = {name: worlds[number].sites[name]["value"] for name, number in plan.taken.items()}
    own = [{name: value for name, value in part.items() if name not in plan.foreign} for part in given[3:]]
    draws, values, arrays = own
    arguments = {**plan.static, **arrays}
    for one in plan.drawn:
        arguments[one.argument] = one.set(arguments[one.argument], draws[one.key])
    own_values, transforms, prefixes = {**draws, **values, **taken}, {**plan.transforms, **fixed}, dict[str, int]()
    if plan.history is not None:
        arguments, own_values, transforms, prefixes = plan.history.extend(arguments, own_values, transforms)
    options = {
        "n_obs": plan.n_obs if plan.history is None else plan.history.n_rows(plan.n_obs),
        "values": own_values,
        "transforms": transforms,
        "unobserve": plan.unobserve,
        "row_plates": plan.row_plates,
        "block_key": given.block_key,
        "row_sites": frozenset(plan.row_axes),
        "rows": given.rows,
        "grown": plan.grown,
        "prefixes": prefixes,
    }
    handler: PredictiveHandler
    if plan.abducted:
        factual = worlds[0].sites
        handler = CounterfactualHandler(kernel, given.draw_key, factual=factual, abducted=plan.abducted, **options)
    else:
        handler = PredictiveHandler(kernel, given.draw_key, **options)
    found = handler.run(arguments)
    if flags is not None and handler.anonymous_noise:
        flags.add("anonymous noise")
    return Ran(found, worlds, handler.possible if isinstance(handler, CounterfactualHandler) else {})


def impossible_rows(ran: Ran, plan: PassSpec) -> jax.Array:
    """Return for each row whether the noise of a site could not be inferred, in this run or one it depends on."""
    found = jnp.zeros(plan.n_obs, bool)
    for name, possible in ran.possible.items():
        axis = plan.row_axes.get(name)
        others = tuple(i for i in range(possible.ndim) if i != axis)
        found |= ~possible.all(axis=others)
    for one, world in zip(ran.worlds, plan.worlds, strict=True):
        found |= impossible_rows(one, world.plan)
    return found


def effect_of(value: jax.Array, baseline: jax.Array, *, may_be_missing: bool) -> jax.Array:
    """Return a difference, with the missing code of integers where either is missing."""
    found, code = _signed(value) - _signed(baseline), missing_code(value.dtype) if may_be_missing else None
    return found if code is None else jnp.where((value == code) | (baseline == code), code, found)


def _signed(value: jax.Array) -> jax.Array:
    """Cast boolean and unsigned values to a type in which they can be subtracted."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind not in "bu":
        return value
    return value.astype(jnp.int8 if kind == "b" else jnp.int16 if size == 1 else jnp.int32 if size == 2 else float)

"""Links prepared calls whose sites take values, or noise, from other calls, so that one pass computes all of them."""

__all__ = ["check_linked", "is_same", "link_factual", "link_scenarios", "link_scored"]

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax

from aimz.data import KernelArguments
from aimz.engine.abduction_checks import check_abduction, have_same_shape
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.prepared_call import PreparedCall
from aimz.forward import DENSITY, EFFECT, IMPOSSIBLE, OBSERVED_VALUE, World
from aimz.kernel import ValueSource


def link_factual(
    factual: PreparedCall, counterfactual: PreparedCall, coupling: str | None, *, with_effects: bool = False
) -> PreparedCall:
    """Return a counterfactual whose sites have the noise that is inferred from the factual call.

    Raises
    ------
    ValueError
        If the noise of a site cannot be inferred.
    """
    check_abduction(factual, counterfactual, coupling)
    linked = _with_world(counterfactual, factual, "the factual world")
    names, plan = counterfactual.substitution.by_source[ValueSource.ABDUCTED], linked.plan
    axes, discrete = {**plan.row_axes, IMPOSSIBLE: 0}, dict(plan.discrete_sources)
    for name in plan.return_sites if with_effects else ():
        if name in axes:
            axes[EFFECT + name] = axes[name]
        if name in discrete:
            discrete[EFFECT + name] = discrete[name]
    plan = replace(
        plan,
        abducted={name: have_same_shape(counterfactual, name) for name in names},
        row_axes=axes,
        discrete_sources=discrete,
        is_checked=True,
        with_effects=with_effects,
    )
    attrs = {**linked.attrs, **({} if coupling is None else {"coupling": coupling})}
    return replace(linked, plan=plan, attrs=attrs)


def link_scored(prediction: PreparedCall, scored: PreparedCall, site: str | None) -> PreparedCall:
    """Return a prediction whose pass also returns the data of the output, and their log densities at ``site``.

    Without a site, the data have no density for each observation.
    """
    output = scored.spec.param_output
    plan = replace(scored.plan, return_sites=() if site is None else (site,))
    linked = _with_world(prediction, replace(scored, plan=plan), "the observed rows")
    (world,) = linked.plan.worlds
    axes = {**linked.plan.row_axes, OBSERVED_VALUE + output: 0}
    if site is not None:
        axes[DENSITY + output] = plan.row_axes[site]
    plan = replace(linked.plan, worlds=(replace(world, scored=output),), row_axes=axes)
    return replace(linked, plan=plan)


def link_scenarios(
    engine: KernelEngine, prepared: Mapping[Any, PreparedCall], calls: Mapping[Any, KernelArguments]
) -> dict[Any, PreparedCall]:
    """Return scenarios whose sites take the values that they have in other scenarios.

    ``calls`` are the arguments of the scenarios before interventions.

    Raises
    ------
    ValueError
        If a scenario is unknown, or depends on itself.
    """
    linked: dict[Any, PreparedCall] = {}

    def link(name: Hashable, above: tuple[Hashable, ...]) -> PreparedCall:
        if name in above:
            msg = (
                f"Scenarios take values from one another in a circle: {' from '.join(map(repr, (*above, name)))}. "
                "Take the values from a scenario that does not depend on this one."
            )
            raise ValueError(msg)
        if name in linked:
            return linked[name]
        one = prepared[name]
        for (scenario, redrawn), sites in _by_world(one).items():
            if scenario not in prepared:
                msg = (
                    f"Scenario {name!r} takes `{sites[0]}` as in {scenario!r}, which is not one of the scenarios "
                    f"{', '.join(map(repr, prepared))}. Add it, or name one of them."
                )
                raise ValueError(msg)
            world = link(scenario, (*above, name))
            if redrawn:
                world = _redrawn(engine, world, calls[scenario])
            label = f"scenario {scenario}{', redrawn' if redrawn else ''}"
            one = _with_world(one, world, label, sites, own_noise=redrawn)
        linked[name] = one
        return one

    return {name: link(name, ()) for name in prepared}


def check_linked(calls: Iterable[PreparedCall]) -> None:
    """Raise if a call takes a value from another scenario, and there is none.

    Raises
    ------
    ValueError
        If a call was not linked.
    """
    for prepared in calls:
        if prepared.acts.taken and not prepared.plan.taken:
            name, source = next(iter(prepared.acts.taken.items()))
            msg = (
                f"Site `{name}` takes its value as in scenario {source.scenario!r}, and a call with one scenario has "
                "no other. Pass both to `compare_scenarios`."
            )
            raise ValueError(msg)


def _by_world(prepared: PreparedCall) -> dict[tuple[Hashable, bool], tuple[str, ...]]:
    """Return the sites that a scenario takes from each other scenario."""
    found: dict[tuple[Hashable, bool], tuple[str, ...]] = {}
    for site, source in prepared.acts.taken.items():
        key = source.scenario, source.redrawn
        found[key] = (*found.get(key, ()), site)
    return found


def _redrawn(engine: KernelEngine, world: PreparedCall, call: KernelArguments) -> PreparedCall:
    """Return a scenario in which local latents are drawn given the arguments of their rows."""
    if world.settings.with_output or world.acts.taken:
        what = "the noise of observed rows is not drawn" if world.settings.with_output else "it takes values itself"
        msg = (
            f"`as_in(..., redrawn=True)` draws a scenario again, but {what}. Leave `redrawn` out, or take the value "
            "from a scenario without `given` and without `as_in`."
        )
        raise ValueError(msg)
    return engine.prepare(call, replace(world.settings, has_other_index=True))


@dataclass
class _Inputs:
    """Inputs of a call, to which the inputs of another call are added."""

    own: dict[str, Any]
    axes: dict[str, int]

    def add(self, given: Mapping[str, Any], axes: Mapping[str, int], label: str) -> dict[str, str]:
        """Add inputs under names of their own, unless they are the same objects; return the name of each."""
        names = {}
        for name, value in given.items():
            key = name
            if name not in self.own or not is_same(self.own[name], value):
                key = f"{name} in {label}"
                self.own[key] = value
                if name in axes:
                    self.axes[key] = axes[name]
            names[name] = key
        return names


def is_same(one: Any, other: Any) -> bool:
    """Return whether two inputs are the same objects."""
    if one is other:
        return True
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return bool(leaves) and len(leaves) == len(others) and all(a is b for a, b in zip(leaves, others, strict=True))


def _with_world(
    prepared: PreparedCall, world: PreparedCall, label: str, taken: tuple[str, ...] = (), *, own_noise: bool = False
) -> PreparedCall:
    """Return a call that can use the sites of another call, which is computed first in the same pass."""
    for name in taken:
        here, there = prepared.spec[name].traced_shape, world.spec[name].traced_shape
        if here != there:
            msg = (
                f"Site `{name}` has shape {here}, and shape {there} in {label}, so it cannot take its value from "
                "there. Pass both scenarios the same arguments that are not arrays."
            )
            raise ValueError(msg)
    plan, axes = prepared.plan, dict(prepared.plan.row_axes)
    parts = [_Inputs(dict(own), axes) for own in (prepared.draws, prepared.values, prepared.call.arrays)]
    given = zip(parts, (world.draws, world.values, world.call.arrays), strict=True)
    names = [part.add(theirs, world.plan.row_axes, label) for part, theirs in given]
    own = {*prepared.draws, *prepared.values, *prepared.call.arrays}
    keys = {key for each in names for key in each.values()}
    plan = replace(
        plan,
        worlds=(*plan.worlds, World(world.plan, names[0], names[1], names[2], own_noise)),
        foreign=plan.foreign | (keys - own),
        taken={**plan.taken, **dict.fromkeys(taken, len(plan.worlds))},
        row_axes=axes,
    )
    draws, values, arrays = (part.own for part in parts)
    return replace(prepared, plan=plan, draws=draws, values=values, call=replace(prepared.call, arrays=arrays))

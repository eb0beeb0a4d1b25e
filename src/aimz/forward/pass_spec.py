"""The static part of a pass, and the other runs of the kernel that it depends on."""

__all__ = ["DENSITY", "EFFECT", "IMPOSSIBLE", "OBSERVED_VALUE", "PassSpec", "World", "WorldInputs"]

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aimz.forward.densities import joint_density
from aimz.forward.history import History
from aimz.kernel import DrawnArgument, Message, expected_value, freeze, outcome_site

EFFECT = "effect/"
"""Prefix of the outputs of a pass that are differences from the factual world."""
IMPOSSIBLE = "rows of density 0"
"""Output of a pass: whether a value that noise was inferred from has density 0, by row."""
OBSERVED_VALUE, DENSITY = "observed/", "log density/"
"""Prefixes of the outputs of a pass that scores data: their values, and their log densities."""


@dataclass(frozen=True)
class World:
    """A run of the kernel that is computed before the run of a pass, for the same draw and rows."""

    plan: "PassSpec"
    draws: Mapping[str, str]
    """Key of the draws of each site among the inputs of the pass."""
    values: Mapping[str, str]
    """Key of the value of each site that is the same in all draws."""
    arrays: Mapping[str, str]
    """Key of each argument."""
    own_noise: bool = False
    """Whether its noise is independent of the noise of the pass."""
    scored: str | None = None
    """Argument whose values and log densities are outputs of the pass; None for a world that sites take values from."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the pass that belong to this run: data that are scored, and their densities."""
        if self.scored is None:
            return ()
        return (OBSERVED_VALUE + self.scored, *((DENSITY + self.scored,) if self.plan.return_sites else ()))

    def inputs(self, given: "WorldInputs") -> "WorldInputs":
        """Return the inputs of this run among the inputs of the pass."""
        keys = (_other_noise(given.draw_key), _other_noise(given.block_key)) if self.own_noise else given[:2]
        pairs = zip((self.draws, self.values, self.arrays), given[3:], strict=True)
        return WorldInputs(*keys, given.rows, *({name: all_[key] for name, key in own.items()} for own, all_ in pairs))


def _other_noise(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, 0x6E6F6973)


class WorldInputs(NamedTuple):
    """Inputs of one run of the kernel."""

    draw_key: jax.Array
    block_key: jax.Array
    rows: Any
    """Number of each row; None if no plate runs along the rows."""
    draws: Mapping[str, Any]
    values: Mapping[str, Any]
    arrays: Mapping[str, Any]


@dataclass(frozen=True)
class PassSpec:
    """The static part of a pass, for which a program is compiled."""

    n_obs: int
    n_draws: int
    static: Mapping[str, object]
    """Arguments of the kernel that are not arrays."""
    return_sites: tuple[str, ...] = ()
    transforms: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Callable interventions by site."""
    drawn: tuple[DrawnArgument, ...] = ()
    """Arguments and columns whose value differs between draws."""
    unobserve: frozenset[str] = frozenset()
    """Names of observed sites that are drawn although they have data."""
    row_plates: frozenset[str] = frozenset()
    """Names of the plates along the rows of the input."""
    row_axes: Mapping[str, int] = field(default_factory=dict)
    """Row axis of one draw, by site, of the sites that have one."""
    expected: frozenset[str] = frozenset()
    """Names of drawn return sites whose expected value is returned instead of the drawn value."""
    grown: frozenset[str] = frozenset()
    """Names of the sites in plates with more entries than the posterior."""
    discrete_sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Drawn discrete sites that a return site is or depends on; NaN among their parameters makes its value missing."""
    summed: Mapping[str, int] = field(default_factory=dict)
    """Number of values 0, 1, ... of each discrete site over which the only return site, a log density, is summed."""
    factors: tuple[str, ...] = ()
    """Names of the factors whose values are added to the only return site, a log density."""
    marks_unseen: bool = False
    """Whether the log density of an observation that is masked everywhere is ``UNSEEN`` instead of 0."""
    worlds: tuple[World, ...] = ()
    """Runs of the kernel that are computed first; the first one is the factual world if sites are abducted."""
    foreign: frozenset[str] = frozenset()
    """Keys of the inputs that belong to these runs only."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Number of the run in which a site has the value that it takes."""
    abducted: Mapping[str, bool] = field(default_factory=dict)
    """Sites that are recomputed with the noise of the factual world, and whether their shape parameters are equal."""
    is_checked: bool = False
    """Whether rows in which noise could not be inferred are returned as the output ``IMPOSSIBLE``."""
    with_effects: bool = False
    """Whether the differences of the return sites from the factual world are returned, too."""
    history: History | None = None
    """Sites whose first steps are known; None if there are none."""

    def read(self, found: Mapping[str, Message], name: str, read: Callable[[Message], Any]) -> Any:
        """Return the result of a return site."""
        if name in self.expected:
            mean = _expected(found, name)
            return mean if self.history is None else self.history.with_given(name, mean, found[name]["value"])
        if not self.factors and not self.marks_unseen:
            return read(found[name])
        terms = [found[name], *(found[factor] for factor in self.factors)]
        return joint_density(terms, marks_unseen=self.marks_unseen)

    def for_rows(self, n_obs: int) -> "PassSpec":
        """Return the same pass, and the worlds that it depends on, for another number of rows."""
        worlds = tuple(replace(world, plan=world.plan.for_rows(n_obs)) for world in self.worlds)
        return replace(self, n_obs=n_obs, worlds=worlds)

    @cached_property
    def key(self) -> Hashable:
        """Key that passes have in common if their programs are equal for arrays of the same shapes."""
        return (
            self.n_obs,
            self.n_draws,
            self.return_sites,
            self.drawn,
            self.unobserve,
            self.row_plates,
            self.expected,
            self.grown,
            tuple(sorted(self.row_axes.items())),
            tuple(self.summed.items()),
            self.factors,
            self.marks_unseen,
            self.worlds_key,
            None if self.history is None else self.history.key,
            tuple(sorted(self.discrete_sources.items())),
            # The functions themselves and not their `id`, which Python reuses for another object.
            freeze(self.transforms),
            freeze(self.static),
        )

    @cached_property
    def worlds_key(self) -> Hashable:
        """Part of the key that belongs to the worlds of the pass."""
        worlds = tuple(
            (
                world.plan.key,
                world.own_noise,
                world.scored,
                *(frozenset(keys.items()) for keys in (world.draws, world.values, world.arrays)),
            )
            for world in self.worlds
        )
        taken, abducted = tuple(sorted(self.taken.items())), tuple(sorted(self.abducted.items()))
        return worlds, self.foreign, taken, abducted, self.is_checked, self.with_effects

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without cached properties."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of a pass: the return sites, their effects, scored data, and the rows to reject."""
        effects = tuple(EFFECT + name for name in self.return_sites) if self.with_effects else ()
        scored = tuple(name for world in self.worlds for name in world.outputs)
        return (*self.return_sites, *effects, *scored, *((IMPOSSIBLE,) if self.is_checked else ()))

    @property
    def whole_arrays(self) -> dict[str, jax.Array]:
        """Arguments that are arrays without a row axis."""
        return {name: value for name, value in self.static.items() if isinstance(value, jax.Array)}


def _expected(sites: Mapping[str, Message], name: str) -> Any:
    """Return the expected value of a drawn site given the sites it depends on; the value of a site with data."""
    message, value = sites[outcome_site(name, sites)], sites[name]["value"]
    if message["is_observed"]:
        return jnp.asarray(value)
    mean = expected_value(message["fn"])
    assert mean is not None
    return jnp.broadcast_to(mean, jnp.shape(value))

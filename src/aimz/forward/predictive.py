"""One predictive pass: draws of every return site, given posterior draws, parameters and rows."""

__all__ = ["Pass", "Program", "per_draw", "predictive"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from aimz.forward.vectorise import map_draws
from aimz.kernel import Execution, Message
from aimz.types import Kernel

type Program = Callable[..., dict[str, jax.Array]]


@dataclass(frozen=True)
class Pass:
    """What a pass does, apart from numbers: the part a compiled program is made for."""

    n_obs: int
    n_draws: int
    static: Mapping[str, object]
    """Arguments of the kernel that are not arrays."""
    return_sites: tuple[str, ...] = ()
    transforms: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Callable interventions, by site."""
    unobserve: frozenset[str] = frozenset()
    row_plates: frozenset[str] = frozenset()
    """Subsampled plates whose subsample is the rows at hand."""
    """Observed sites that are drawn although there are data."""


def draw_keys(key: jax.Array, n_draws: int) -> jax.Array:
    """Return a key per draw; the keys of the first draws do not depend on how many there are."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n_draws))


def predictive(kernel: Kernel, plan: Pass) -> Program:
    """Return a program that draws the return sites of ``plan``."""
    return per_draw(kernel, plan, lambda message: jnp.asarray(message["value"]))


def per_draw(kernel: Kernel, plan: Pass, read: Callable[[Message], Any]) -> Program:
    """Return ``f(key, draws, values, arrays) -> {site: array of shape (n_draws, ...)}``.

    ``draws`` are values that differ from draw to draw (the posterior's), ``values`` are the same in all
    (fitted parameters, interventions); ``read`` takes what is wanted from the message of a return site.
    The law: the draw ``i`` of a site depends on ``key``, ``i``, the site's name and the values the site depends
    on, and on nothing else.
    """

    def run(
        key: jax.Array, draws: Mapping[str, Any], values: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        def one_draw(draw: tuple[jax.Array, Mapping[str, Any]]) -> dict[str, Any]:
            draw_key, latents = draw
            execution = Execution(
                kernel,
                draw_key,
                n_obs=plan.n_obs,
                values={**latents, **values},
                transforms=plan.transforms,
                unobserve=plan.unobserve,
                row_plates=plan.row_plates,
            )
            sites = execution.run({**plan.static, **arrays})
            return {name: read(sites[name]) for name in plan.return_sites}

        return dict(map_draws(one_draw, (draw_keys(key, plan.n_draws), dict(draws)), plan.n_draws))

    return run

"""Test that later steps do not change the fitted ones."""

__all__ = ["changed_by_later_steps"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

from aimz.data import GENERATOR
from aimz.forward.history import FITTED, History
from aimz.forward.pass_spec import PassSpec, WorldInputs
from aimz.forward.worlds import run_worlds
from aimz.kernel import Message
from aimz.types import Kernel

_TOLERANCE = 1e-3
"""Largest relative difference that rounding may cause."""


def changed_by_later_steps(
    kernel: Kernel, plan: PassSpec, draws: Mapping[str, Any], values: Mapping[str, Any], arrays: Mapping[str, Any]
) -> str | None:
    """Return a site that has another value, or density, in the fitted steps if later steps follow; None if none has.

    The inputs have the values of one draw. A kernel that scales time by the number of steps, or centers by an average
    over them, is not the kernel that was fitted once there are more steps.
    """
    history = plan.history
    assert history is not None
    # A condition may have values of later steps, too; a site may have another number of entries than steps.
    n_fitted = history.n_steps - next(iter(arrays.values())).shape[history.axis]
    alone = replace(plan, history=None, transforms={}, n_obs=history.n_steps if history.axis == 0 else plan.n_obs)

    @jax.jit
    def run(
        draws: Mapping[str, Any], values: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        key = jax.random.key(0, impl=GENERATOR)
        known = {**draws, **values}
        later = run_worlds(kernel, plan, WorldInputs(key, key, None, draws, values, arrays), {}, None).sites
        first = {
            name: lax.slice_in_dim(history.known(name, known[FITTED + name]), 0, n_fitted + size, axis=axis)
            for name, (axis, size) in history.sites.items()
            if FITTED + name in known
        }
        same = {n: v for n, v in known.items() if not n.startswith(FITTED) and n not in history.sites}
        before = {name: known[FITTED + name] if name in history.arguments else array for name, array in arrays.items()}
        given = WorldInputs(key, key, None, {}, {**same, **first}, before)
        fitted = run_worlds(kernel, alone, given, {}, None).sites
        return _compared(fitted, history, frozenset(first)), _compared(later, history, frozenset(first))

    fitted, later = ({name: np.asarray(a) for name, a in side.items()} for side in run(draws, values, arrays))
    for name, one in fitted.items():
        axis = history.sites[name][0]
        other = later[name].take(np.arange(one.shape[axis]), axis)
        scale = np.nanmax(np.abs(np.where(np.isfinite(one), one, 0)), initial=1)
        if not np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True):
            return str(name)
    return None


def _compared(sites: Mapping[str, Message], history: History, known: frozenset[str]) -> dict[str, Any]:
    """Return the values of computed sites along the steps, and the densities of the others."""
    found = {}
    for name, (axis, _) in history.sites.items():
        message = sites[name]
        value = jnp.asarray(message["value"])
        if message["type"] == "sample":
            fn = message["fn"]
            while isinstance(fn, dist.Independent):
                fn = fn.base_dist
            value = fn.log_prob(value if name in known or message["is_observed"] else jnp.zeros_like(value))
        if axis < value.ndim:
            found[name] = value
    return found

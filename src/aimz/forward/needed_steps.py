"""Number of the fitted steps of series on which a forecast depends."""

__all__ = ["n_needed_steps"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
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
from aimz.kernel import Message, strip_wrappers
from aimz.types import Kernel

_TOLERANCE = 1e-5
"""Largest relative difference that rounding may cause."""


def n_needed_steps(
    kernel: Kernel,
    plan: PassSpec,
    draws: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> int:
    """Return how many of the last fitted steps of series a forecast needs: a power of two, or all of them.

    ``draws`` are some of the draws. If earlier steps have other values, all later ones must keep their bits; and a run
    that begins with the needed steps must have the same densities and computed values.
    """
    history = plan.history
    assert history is not None
    n_steps = history.n_steps
    sizes = [2**i for i in range(n_steps.bit_length()) if 2 ** (i + 1) <= n_steps]
    if not sizes:
        return n_steps
    keep = np.ones(len(sizes), bool)
    later = jax.jit(jax.vmap(partial(_later_values, kernel, plan), (0, None, None)))
    for draw in draws:
        found = later(jnp.array([*sizes, n_steps]), {**draw, **values}, arrays).values()
        keep &= [all(_same_bits(value[i], value[-1]) for value in found) for i in range(len(sizes))]
    needed = next((size for i, size in enumerate(sizes) if keep[i:].all()), n_steps)
    if needed == n_steps:
        return n_steps
    opaque = set[str]()
    compared = jax.jit(partial(_compared, kernel, plan, n_steps - needed, opaque))
    for draw in draws:
        whole, cut = compared({**draw, **values}, arrays)
        if opaque or not all(_is_close(cut[name], value) for name, value in whole.items()):
            return n_steps
    return needed


def _later_values(
    kernel: Kernel, plan: PassSpec, size: Any, known: Mapping[str, Any], arrays: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of the later steps if all fitted ones but the last ``size`` had other values."""
    history = plan.history
    assert history is not None
    others = {n: _with_others(history, n, value, size) for n, value in known.items() if n.startswith(FITTED)}
    sites = _run(kernel, plan, {**known, **others}, arrays)
    return {name: history.last(name, jnp.asarray(sites[name]["value"])) for name in _valued(sites)}


def _compared(
    kernel: Kernel, plan: PassSpec, skipped: int, opaque: set[str], known: Mapping[str, Any], arrays: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return results in the later steps of a run over all steps, and of one with the same values without the first."""
    history = plan.history
    assert history is not None
    whole = _run(kernel, plan, known, arrays)
    given = {name: value for name, value in known.items() if not name.startswith(FITTED)}
    for name in _valued(whole):
        if whole[name]["type"] == "sample":
            axis, value = history.sites.get(name, (0, 0))[0], whole[name]["value"]
            given[name] = lax.slice_in_dim(value, skipped, None, axis=axis) if name in history.sites else value
    joined = {name: jnp.concatenate([known[FITTED + name], arrays[name]], axis=1) for name in history.arguments}
    last = {name: lax.slice_in_dim(array, skipped, None, axis=1) for name, array in joined.items()}
    cut = _run(kernel, replace(plan, history=None, transforms={}), given, {**arrays, **last})
    return _in_later_steps(whole, history, opaque), _in_later_steps(cut, history, opaque)


def _run(kernel: Kernel, plan: PassSpec, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Mapping[str, Message]:
    key = jax.random.key(0, impl=GENERATOR)
    return run_worlds(kernel, plan, WorldInputs(key, key, None, {}, values, arrays), {}, None).sites


def _valued(sites: Mapping[str, Message]) -> list[str]:
    return [name for name, message in sites.items() if message["type"] in ("sample", "deterministic")]


def _with_others(history: History, name: str, value: Any, size: Any) -> jax.Array:
    """Return known values with other ones in all steps but the last ``size``."""
    site = name.removeprefix(FITTED)
    axis = history.sites[site][0] if site in history.sites and site not in history.transposed else history.axis
    value = jnp.asarray(value)
    # Numbers between 0 and 1, and above 0, stay there.
    other = 0.75 * value + 1 / 16 if jnp.issubdtype(value.dtype, jnp.inexact) else jnp.flip(value, axis)
    step = lax.broadcasted_iota(jnp.int32, value.shape, axis)
    return jnp.where(step >= value.shape[axis] - size, value, other.astype(value.dtype))


def _in_later_steps(sites: Mapping[str, Message], history: History, opaque: set[str]) -> dict[str, Any]:
    """Return computed values and densities in the later steps; add sites without a density for each to ``opaque``."""
    found = {}
    for name in _valued(sites):
        message, value = sites[name], jnp.asarray(sites[name]["value"])
        if message["type"] == "sample":
            fn = message["fn"]
            if isinstance(strip_wrappers(fn), dist.GaussianRandomWalk):
                continue  # all of its steps have one distribution
            while isinstance(fn, dist.Independent):
                fn = fn.base_dist
            value = fn.log_prob(value)
            if name in history.sites and history.sites[name][0] >= value.ndim:
                opaque.add(name)
                continue
        found[name] = history.last(name, value)
    return found


def _same_bits(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


def _is_close(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    scale = np.nanmax(np.abs(np.where(np.isfinite(other), other, 0)), initial=0)
    return one.shape == other.shape and np.allclose(
        one, other, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True
    )

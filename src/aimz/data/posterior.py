"""Posterior draws, of a fit or passed by the user."""

__all__ = ["Posterior", "read_draws"]

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from mmap import mmap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz._imports import xarray as xr
from aimz.data.arrays import check_array, check_count
from aimz.errors import FitWarning, warn


@dataclass(frozen=True)
class Posterior:
    """Posterior draws of the latent sites, concatenated over chains."""

    draws: Mapping[str, jax.Array]
    """Site name to array of shape ``(n_draws, ...)``; ``n_draws`` counts all chains."""
    num_chains: int = 1
    sample_stats: Mapping[str, np.ndarray] | None = None
    """Sampler statistics of MCMC, by their names in ArviZ's schema, of shape ``(n_chains, n_draws / n_chains)``."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Optimised parameters and mutable state that belong to the draws."""
    support: Any = None
    """Description of the rows of the fit (`statistics.FitSupport`); None without a fit."""

    @cached_property
    def n_draws(self) -> int:
        """Number of draws in all chains."""
        return int(next(iter(self.draws.values())).shape[0])

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Site name to the shape of one draw."""
        return {name: tuple(draws.shape[1:]) for name, draws in self.draws.items()}


def read_draws(samples: Any, *, num_chains: int, param_output: str) -> Posterior:
    """Check posterior draws that the user passes.

    Raises
    ------
    TypeError
        If ``samples`` is neither a posterior of ArviZ nor a mapping of names to numeric arrays.
    ValueError
        If ``samples`` is empty, or if lengths differ or are not a multiple of ``num_chains``.
    """
    given = check_count(num_chains, "num_chains")
    samples, stats = _open_samples(samples)
    arrays = {str(name): _chains_first(value, str(name)) for name, value in samples.items()}
    chains = {value.sizes["chain"] for value in arrays.values() if hasattr(value, "sizes") and "chain" in value.dims}
    by_chain = {name for name, value in arrays.items() if hasattr(value, "sizes") and "chain" in value.dims}
    draws = {name: _on_device(check_array(value, f"samples[{name!r}]")) for name, value in arrays.items()}
    if not by_chain and given > 1 and _are_grouped(draws.values(), given):
        by_chain, chains = set(draws), {given}
    if len(chains) > 1 or (given > 1 and chains and chains != {given}):
        msg = (
            f"`samples` must have the same number of chains in all sites, and as many as `num_chains`; got "
            f"{', '.join(map(str, sorted(chains)))} and `num_chains={num_chains}`. Leave `num_chains` out."
        )
        raise ValueError(msg)
    draws = {name: a.reshape(-1, *a.shape[2:]) if name in by_chain else a for name, a in draws.items()}
    lengths = {name: value.shape[0] if value.ndim else None for name, value in draws.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values() or 0 in lengths.values():
        listed = ", ".join(f"`{name}`: {'a scalar' if length is None else length}" for name, length in lengths.items())
        msg = f"`samples` must have one leading axis of draws, of the same length for each site; got {listed}."
        raise ValueError(msg)
    n_draws, n_chains = next(iter(draws.values())).shape[0], next(iter(chains), given)
    if n_draws % n_chains:
        msg = f"`num_chains` must divide the number of draws, {n_draws}; got {num_chains}."
        raise ValueError(msg)
    if param_output in draws:
        warn(
            f"Draws of the output `{param_output}` were dropped from `samples`: it is what gets predicted.", FitWarning
        )
        draws = {name: value for name, value in draws.items() if name != param_output}
        if not draws:
            msg = f"`samples` must hold another site than the output `{param_output}`."
            raise ValueError(msg)
    shape = n_chains, n_draws // n_chains
    return Posterior(draws, n_chains, {name: array for name, array in stats.items() if array.shape == shape} or None)


def _on_device(array: np.ndarray | jax.Array) -> jax.Array:
    """Return an array on the device: a copy, except of a file that is mapped to memory read-only."""
    owner: Any = array
    while isinstance(base := getattr(owner, "base", None), np.ndarray):
        owner = base
    mapped = isinstance(array, np.ndarray) and isinstance(base, mmap) and not owner.flags.writeable
    return jax.device_put(array, may_alias=True) if mapped else jnp.asarray(array)


def _open_samples(samples: Any) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """Return the draws by site, and the sampler statistics, of a mapping or a posterior in one of ArviZ's types."""
    if isinstance(samples, str | os.PathLike):
        try:
            with xr.open_datatree(samples) as tree:
                samples = tree.load()
        except (OSError, ValueError, ImportError) as error:
            msg = (
                f"`samples` must be a file that xarray can read as a tree of groups; {samples} cannot be read "
                f"({type(error).__name__}: {error}). Pass a file that ArviZ wrote (`tree.to_netcdf`), or the tree."
            )
            raise ValueError(msg) from error
    stats: dict[str, np.ndarray] = {}
    if hasattr(samples, "to_dataset") and hasattr(samples, "children"):  # a tree
        if "posterior" not in samples.children and not samples.data_vars:
            msg = (
                "`samples` must be a tree with a group `posterior`; got groups "
                f"{', '.join(samples.children) or 'none'}. Pass the draws themselves, as a dataset or a dictionary."
            )
            raise ValueError(msg)
        if "sample_stats" in samples.children:
            found = samples["sample_stats"].data_vars
            stats = {str(n): np.asarray(a) for n, a in found.items() if a.dims == ("chain", "draw")}
        samples = (samples["posterior"] if "posterior" in samples.children else samples).to_dataset()
    samples = getattr(samples, "data_vars", samples)
    if not isinstance(samples, Mapping):
        msg = (
            "`samples` must be a mapping of site name to draws, or a posterior of ArviZ (a tree, a dataset or a path); "
            f"got {type(samples).__name__}. Pass `{{'site': array of shape (n_draws, ...)}}`."
        )
        raise TypeError(msg)
    if not samples:
        msg = "`samples` must not be empty; got no site. Pass `{'site': array of shape (n_draws, ...)}`."
        raise ValueError(msg)
    return samples, stats


def _chains_first(value: Any, name: str) -> Any:
    """Return an xarray array with its chains and draws, or its samples, first; anything else unchanged."""
    if not hasattr(value, "dims") or not hasattr(value, "transpose"):
        return value
    for first in (("chain", "draw"), ("sample",), ("draw",)):
        if set(first) <= set(value.dims):
            return value.transpose(*first, ...)
    msg = (
        f"`samples[{name!r}]` must have the dimensions 'chain' and 'draw', or 'sample'; got {tuple(value.dims)}. "
        "Rename its dimensions, or pass `.values` with the draws along the first axis."
    )
    raise ValueError(msg)


def _are_grouped(arrays: Iterable[Any], num_chains: int) -> bool:
    """Return whether all arrays have the shape ``(num_chains, n_draws, ...)`` with the same numbers."""
    shapes = {array.shape[:2] for array in arrays}
    return len(shapes) == 1 and len(shape := next(iter(shapes))) == 2 and shape[0] == num_chains

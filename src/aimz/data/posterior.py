"""Posterior draws, of a fit or passed by the user."""

__all__ = ["Posterior", "read_draws"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

    @property
    def n_draws(self) -> int:
        """Number of draws in all chains."""
        return int(next(iter(self.draws.values())).shape[0])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Site name to the shape of one draw."""
        return {name: tuple(draws.shape[1:]) for name, draws in self.draws.items()}


def read_draws(samples: Mapping[str, Any], *, num_chains: int, param_output: str) -> Posterior:
    """Check posterior draws that the user passes.

    Raises
    ------
    TypeError
        If ``samples`` is not a mapping of names to numeric arrays.
    ValueError
        If ``samples`` is empty, or if lengths differ or are not a multiple of ``num_chains``.
    """
    if not isinstance(samples, Mapping):
        msg = f"`samples` must be a mapping of site name to draws; got {type(samples).__name__}."
        raise TypeError(msg)
    if not samples:
        msg = "`samples` must not be empty; got no site. Pass `{'site': array of shape (n_draws, ...)}`."
        raise ValueError(msg)
    draws = {name: jnp.asarray(check_array(value, f"samples[{name!r}]")) for name, value in samples.items()}
    lengths = {name: value.shape[0] if value.ndim else None for name, value in draws.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values() or 0 in lengths.values():
        listed = ", ".join(f"`{name}`: {'a scalar' if length is None else length}" for name, length in lengths.items())
        msg = f"`samples` must have one leading axis of draws, of the same length for each site; got {listed}."
        raise ValueError(msg)
    n_draws = next(iter(draws.values())).shape[0]
    if n_draws % check_count(num_chains, "num_chains"):
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
    return Posterior(draws, num_chains=int(num_chains))

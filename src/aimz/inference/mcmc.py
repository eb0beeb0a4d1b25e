"""Markov chain Monte Carlo: chains kept apart, and what the sampler says of itself under ArviZ's names."""

__all__ = ["continue_chains", "run_chains"]

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import HMC, MCMC, NUTS

from aimz.inference.posterior import Posterior
from aimz.utils.data import Call

_HMC_FIELDS = ("potential_energy", "energy", "num_steps", "accept_prob", "adapt_state.step_size")


def run_chains(
    mcmc: MCMC, call: Call, key: jax.Array, *, latents: Iterable[str], others: Iterable[str], progress: bool
) -> Posterior:
    """Warm up, sample, and return the draws of the latent sites.

    ``others`` are sites NumPyro would collect besides (deterministic ones); they are recomputed when
    predicting, and those with a row axis would fill the memory.
    """
    fields = [f"~{mcmc.sampler.sample_field}.{name}" for name in others]
    if isinstance(mcmc.sampler, HMC):
        fields += _HMC_FIELDS
    before, mcmc.progress_bar = mcmc.progress_bar, progress
    try:
        mcmc.run(key, extra_fields=tuple(fields), **call.arrays, **call.static)
    finally:
        mcmc.progress_bar = before
    samples = mcmc.get_samples(group_by_chain=True)
    draws = {
        name: jnp.asarray(np.asarray(samples[name])).reshape(-1, *samples[name].shape[2:])
        for name in latents
        if name in samples
    }
    return Posterior(draws, num_chains=mcmc.num_chains, sample_stats=_sample_stats(mcmc))


def continue_chains(
    mcmc: MCMC,
    call: Call,
    key: jax.Array,
    *,
    num_samples: int,
    latents: Iterable[str],
    others: Iterable[str],
    progress: bool,
) -> Posterior:
    """Draw ``num_samples`` more per chain, after thinning, without a new warm-up."""
    before = mcmc.num_samples, mcmc.post_warmup_state
    mcmc.num_samples, mcmc.post_warmup_state = num_samples * mcmc.thinning, mcmc.last_state
    try:
        return run_chains(mcmc, call, key, latents=latents, others=others, progress=progress)
    finally:
        mcmc.num_samples, mcmc.post_warmup_state = before


def _sample_stats(mcmc: MCMC) -> dict[str, np.ndarray]:
    """Return the sampler's fields under ArviZ's names, each of shape ``(n_chains, n_draws / n_chains)``."""
    fields = mcmc.get_extra_fields(group_by_chain=True)
    names = {
        "diverging": "diverging",
        "energy": "energy",
        "num_steps": "n_steps",
        "accept_prob": "acceptance_rate",
        "adapt_state.step_size": "step_size",
    }
    stats = {names[field]: np.asarray(value) for field, value in fields.items() if field in names}
    if "potential_energy" in fields:
        stats["lp"] = -np.asarray(fields["potential_energy"])
    if "n_steps" in stats and isinstance(mcmc.sampler, NUTS):
        stats["tree_depth"] = np.floor(np.log2(np.maximum(stats["n_steps"], 1))).astype(np.int32) + 1
    return stats

"""What the laws about streams have in common: models with several blocks of rows, and how to ask them."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from kernels import BY_NAME, Case, long, long_model

N = 2500  # Two whole blocks and a part of one; two steps.
D = 3
KEY = random.key(21)
MIXING = ("gaussian_process", "state_space")
MEMORY = {"store": "memory", "progress": False, "rng_key": KEY}


def n_rows(case: Case) -> int:
    """How many rows to try a kernel with: few where each sees all others."""
    return len(case.X) if case.fixed_size else 60 if case.name in MIXING else N


@cache
def shared(name: str) -> tuple[Case, ImpactModel]:
    """One model per kernel for the whole file, so that each program is compiled once."""
    case = BY_NAME[name]
    return long(case, n_rows(case)), long_model(case, n_rows(case), n_draws=D)


def arrays(tree) -> dict[str, np.ndarray]:
    """Return the predictions in a tree."""
    group = next(tree[g] for g in tree.children if g not in ("posterior", "observed_data", "constant_data"))
    return {name: array.values for name, array in group.items()}


def assert_equal(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], what: str = "") -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{name} {what}")


def new_model(kernel, posterior: Mapping[str, Any], **options) -> ImpactModel:
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    return ImpactModel(kernel, random.key(0), mcmc).set_posterior_sample(posterior, **options)


def padded_batches(data: Mapping[str, np.ndarray], size: int = 333) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield batches of which the last has rows to be dropped."""
    n_obs = len(data["X"])
    for start in range(0, n_obs, size):
        batch = {name: array[start : start + size] for name, array in data.items()}
        n_pad = 7 if start + size >= n_obs else 0
        yield {name: np.concatenate([array, *[array[-1:]] * n_pad]) for name, array in batch.items()}, n_pad

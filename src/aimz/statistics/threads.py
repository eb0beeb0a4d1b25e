"""Statistics of many rows at once, where the cores of the host have nothing else to do."""

__all__ = ["reduce_rows"]

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aimz.statistics.draws import Reduction

_LEAST = 512
"""Columns for each thread at least."""


def reduce_rows(reduction: Reduction, draws: np.ndarray, n_threads: int) -> np.ndarray:
    """Return the statistics of draws ``(n_draws, ...)``, some columns in each thread.

    NumPy sorts without Python's lock.
    """
    flat = draws.reshape(len(draws), -1)
    n_parts = min(n_threads, flat.shape[1] // _LEAST)
    if n_parts < 2:
        return reduction(draws)
    with ThreadPoolExecutor(n_parts, thread_name_prefix="aimz-statistics") as pool:
        parts = list(pool.map(reduction, np.array_split(flat, n_parts, axis=1)))
    return np.concatenate(parts, axis=1).reshape(-1, *draws.shape[1:])

"""Threads that compute several steps at the same time."""

__all__ = ["n_cpus", "step_pool"]

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax


def n_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def step_pool(n_threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """Yield a pool of threads, or None if steps are computed in the calling thread.

    JAX runs the programs that one thread starts one after the other, and a loop over draws uses one core, so that more
    cores need more threads.  Settings of JAX that hold in the calling thread only, such as ``jax.default_device``,
    would not hold in other threads; steps are then computed in the calling thread.
    """
    if n_threads == 1:
        yield None
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="aimz-step")
    try:
        yield pool if pool.submit(_settings).result() == _settings() else None
    finally:
        pool.shutdown(cancel_futures=True)


def _settings() -> dict[str, Any]:
    """Return the settings of JAX in this thread."""
    return {name: getattr(jax.config, name, None) for name in jax.config.values}

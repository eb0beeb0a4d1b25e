"""Independent tasks on a Dask cluster."""

__all__ = ["compute_tasks"]

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cloudpickle
from distributed import Client, as_completed

from aimz.distributed.dask_client import check_workers
from aimz.distributed.settings import jax_settings, use_jax_settings
from aimz.kernel import LRUCache
from aimz.types import Kernel

_TASKS = LRUCache[Callable[[int], Any]](4)
_LOCK = threading.Lock()
"""Lock of a worker process, which computes one task at a time."""


def compute_tasks(
    client: Client, kernel: Kernel, function: Callable[[int], Any], numbers: Iterable[int]
) -> Iterator[tuple[int, Any]]:
    """Yield each number and what ``function`` returns for it, as the workers of a cluster complete them.

    The function is sent to each worker once and unpickled once, so that its compiled programs are shared by its tasks.

    Raises
    ------
    ClusterError
        If the workers cannot compute with the kernel.
    """
    check_workers(client, kernel)
    content = cloudpickle.dumps(function)
    token, settings = hashlib.sha256(content).hexdigest(), jax_settings()
    shared = client.scatter(content, broadcast=True)
    futures = {client.submit(_run, token, shared, settings, n, pure=False): n for n in numbers}
    try:
        for future, found in as_completed(futures, with_results=True):
            yield futures[future], found
    finally:
        client.cancel(list(futures))


def _run(token: str, content: bytes, settings: Mapping[str, Any], number: int) -> Any:
    """Compute one task; runs on a worker."""
    with _LOCK, use_jax_settings(settings):
        return _TASKS.get(token, lambda: cloudpickle.loads(content))(number)

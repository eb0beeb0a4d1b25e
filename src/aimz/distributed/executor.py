"""Chooses where a call is computed: in this process, on a Dask cluster, or by all processes of `jax.distributed`."""

__all__ = ["check_executable", "choose_executor", "run_tasks"]

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aimz.distributed.collectives import process_group
from aimz.distributed.multihost import MultiHostExecutor
from aimz.engine import (
    Executor,
    InputLayout,
    KernelEngine,
    LocalExecutor,
    OutputSpec,
    PredictionRequest,
    StepRunner,
)
from aimz.errors import PerformanceWarning, warn
from aimz.types import Kernel


def check_executable(request: PredictionRequest) -> None:
    """Check the options of a call before any work.

    Raises
    ------
    TypeError
        If a cluster is given for an iterable, which only this process can read.
    ValueError
        If several processes make the call and a Dask cluster is given, or the result would be in a temporary directory.
    """
    options, source = request.options, request.source
    if options.client and source.reader is not None and source.chunked_table is None:
        msg = (
            "`client` needs rows that workers can read by number; got an iterable of batches. Pass an array (Dask, "
            "Zarr), or `pyarrow.dataset.dataset(path)`; or leave `client` out."
        )
        raise TypeError(msg)
    if process_group.is_single_process:
        return
    if options.client:
        msg = (
            f"`client` sends rows to a Dask cluster, and {process_group.count} processes of `jax.distributed` share "
            "them already. Leave `client` out, or start one process."
        )
        raise ValueError(msg)
    if options.store == "persistent" and options.output_dir is None:
        msg = (
            f"The result would be in a temporary directory, and each of the {process_group.count} processes has its "
            "own. Pass an `output_dir` that all of them reach under one name, or `store='memory'`."
        )
        raise ValueError(msg)


def choose_executor(
    engine: KernelEngine, request: PredictionRequest, runner: StepRunner, output: OutputSpec
) -> Executor:
    """Return the executor of a planned call.

    Raises
    ------
    TypeError
        If several processes would share rows whose number is not known.

    Warns
    -----
    PerformanceWarning
        If all rows have to be computed together, so that workers or other processes cannot share them.
    """
    plan, source, local = runner.plan, request.source, LocalExecutor(runner, output)
    if process_group.is_single_process:
        client = _client_for(request.options.client, runner.spec.layout)
        if client is None or (source.reader is not None and source.chunked_table is None):
            return local
        if plan.axis != "obs":
            if request.options.client:
                warn(
                    "All rows are computed together, in this process: the workers of `client` are not used.",
                    PerformanceWarning,
                )
            return local
        from aimz.distributed.dask_client import dask_executor_for

        return dask_executor_for(client, engine.kernel, runner, output, request)
    if plan.axis != "obs":
        # Waiting for another process to compute all rows could take longer than a collective may.
        warn(
            f"All rows are computed together, so each of the {process_group.count} processes computes all of them.",
            PerformanceWarning,
        )
        return local
    if plan.n_obs is None:
        msg = (
            f"{process_group.count} processes share the rows, and this iterable has no known length. Pass an array, "
            "or `pyarrow.dataset.dataset(path)`; or start one process."
        )
        raise TypeError(msg)
    return MultiHostExecutor(runner, output, request)


def run_tasks(
    client: Any, kernel: Kernel, function: Callable[[int], Any], numbers: Iterable[int]
) -> Iterator[tuple[int, Any]]:
    """Return an iterator over numbers and what ``function`` returns for them, computed on a Dask cluster."""
    from aimz.distributed.tasks import compute_tasks

    return compute_tasks(client, kernel, function, numbers)


def _client_for(client: Any, layout: InputLayout) -> Any:
    """Return the given client; if inputs are Dask arrays and none is given, the active one."""
    if client is not None:
        return client or None
    distributed = sys.modules.get("distributed")  # without it, no client is active
    if distributed is None or not any(leaf.uses_dask for _, rows in layout.row_inputs() for leaf in rows.leaves()):
        return None
    try:
        active = distributed.Client.current()
    except ValueError:
        return None
    return None if active.asynchronous else active

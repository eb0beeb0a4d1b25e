"""Executes a call on a Dask cluster or on several hosts."""

from aimz.distributed.collectives import collective_call, process_group
from aimz.distributed.executor import check_executable, choose_executor, run_tasks
from aimz.distributed.multihost import check_same_call, share_location

__all__ = [
    "check_executable",
    "check_same_call",
    "choose_executor",
    "collective_call",
    "process_group",
    "run_tasks",
    "share_location",
]

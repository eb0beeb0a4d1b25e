"""Executes a call on a Dask cluster or on several hosts."""

from aimz.distributed.collectives import collective_call, process_group
from aimz.distributed.dask_client import DaskExecutor, check_can_be_spread
from aimz.distributed.dask_ranges import AdaptiveRanges
from aimz.distributed.multihost import (
    Guest,
    MultiHostExecutor,
    await_others,
    check_can_be_divided,
    check_same_call,
    choose_executor,
    place_for_all,
)
from aimz.distributed.row_partition import partition_rows

__all__ = [
    "AdaptiveRanges",
    "DaskExecutor",
    "Guest",
    "MultiHostExecutor",
    "await_others",
    "check_can_be_divided",
    "check_can_be_spread",
    "check_same_call",
    "choose_executor",
    "collective_call",
    "partition_rows",
    "place_for_all",
    "process_group",
]

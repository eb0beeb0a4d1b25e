"""Streams computed steps into a store, for any function that computes a step."""

from aimz.stream.pipeline import StreamRequest, run
from aimz.stream.plan import Plan, block_rows, chunk_length, plan_draws, plan_rows, step_rows
from aimz.stream.step_threads import n_cpus

__all__ = [
    "Plan",
    "StreamRequest",
    "block_rows",
    "chunk_length",
    "n_cpus",
    "plan_draws",
    "plan_rows",
    "run",
    "step_rows",
]

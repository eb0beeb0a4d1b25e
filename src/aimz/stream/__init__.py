"""Many steps through a function into a store; what is computed is none of its business."""

from aimz.stream.cluster import Done, LostJobError, Ranges, run_on_cluster
from aimz.stream.plan import Plan, block_rows, chunk_length, plan_draws, plan_rows, step_rows
from aimz.stream.rounds import rounds
from aimz.stream.run import Request, run

__all__ = [
    "Done",
    "LostJobError",
    "Plan",
    "Ranges",
    "Request",
    "block_rows",
    "chunk_length",
    "plan_draws",
    "plan_rows",
    "rounds",
    "run",
    "run_on_cluster",
    "step_rows",
]

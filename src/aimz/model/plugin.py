"""What brings a job to every worker of a cluster, to those that come later as well."""

__all__ = ["NAME", "JobPlugin"]

from typing import Any

from distributed import WorkerPlugin

from aimz.model.job import Packed, hold_job

NAME = "aimz-job"
"""One name for all jobs: what a client that was lost has left behind, the next replaces."""


class JobPlugin(WorkerPlugin):  # type: ignore[misc,unused-ignore]
    """Keeps a job in the process of a worker.

    The scheduler sends it once to each; scattered data it would drop from all but one, and lose with that one.
    """

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def setup(self, worker: Any) -> None:  # noqa: ARG002 (Dask's protocol)
        """Keep it until ranges come."""
        hold_job(self._packed)

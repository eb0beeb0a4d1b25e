"""What brings a job to every worker of a cluster, to those that come later as well."""

__all__ = ["JobPlugin", "name_of", "tidy_up"]

from typing import Any

from aimz.distributed.dask_worker import SerializedJob, forget_job, hold_job
from distributed import Client, WorkerPlugin

_PREFIX = "aimz-job"


def name_of(client: Client, packed: SerializedJob) -> str:
    """Return the name of a job's plugin."""
    return f"{_PREFIX} {client.id} {packed.token}"


def tidy_up(client: Client) -> None:
    """Remove the jobs of clients that were lost."""

    def look(dask_scheduler: Any) -> tuple[list[str], list[str]]:
        return list(dask_scheduler.worker_plugins), list(dask_scheduler.clients)

    names, clients = client.run_on_scheduler(look)
    for name in names:
        if name.startswith(_PREFIX) and name.split(" ")[1] not in clients:
            client.unregister_worker_plugin(name)


class JobPlugin(WorkerPlugin):  # type: ignore[misc,unused-ignore]
    """Keeps a job in the process of a worker, until it is removed.

    The scheduler sends it once to each; scattered data it would drop from all but one, and lose with that one.
    """

    def __init__(self, packed: SerializedJob) -> None:
        self._packed = packed

    def setup(self, worker: Any) -> None:  # noqa: ARG002 (Dask's protocol)
        """Keep it until ranges come."""
        hold_job(self._packed)

    async def teardown(self, worker: Any) -> None:  # noqa: ARG002 (Dask's protocol)
        """Let go of it."""
        await forget_job(self._packed.token)

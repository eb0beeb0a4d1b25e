"""Ranges of rows on a Dask cluster: their length, how many run at a time, and retries of lost ranges.

Dask schedules ranges, moves their data and runs a range again if its worker has died.  Ranges are long enough that
scheduling them costs little, and short enough that losing one costs little.
"""

__all__ = ["AdaptiveRanges", "LostJobError", "RangeResult", "run_on_cluster"]

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

from distributed import CancelledError, Client, Future, KilledWorker, as_completed, rejoin, secede

from aimz.progress import ProgressBar

_AHEAD = 2
"""Ranges submitted per worker: one that runs, and the next, whose data are sent in the meantime."""
_SECONDS = 2.0
"""Target duration of a range."""
_TRIES = 3
"""How often a range is submitted again if the cluster has lost its job or data."""
_FETCHED = 30.0
"""Seconds to wait for the result of a finished range before checking that the client is still open."""
_PATIENCE = 60.0
"""Seconds without any worker after which the call fails."""


class RangeResult(NamedTuple):
    """Result of a range on a worker."""

    seconds: float | None
    """Duration; None if it includes something else, such as compilation."""
    found: Any


class LostJobError(RuntimeError):
    """A worker received a range of a job that it does not have."""


@dataclass(frozen=True)
class AdaptiveRanges:
    """Division of rows into ranges whose length follows the speed of the workers."""

    length: int
    unit: int
    """Ranges begin at multiples of this number of rows, so that no two write to one chunk."""
    least: int
    """Smallest number of rows of a range, except at the end; also the length of the first ranges."""
    most: int

    def next(self, at: int, rate: float | None, n_workers: int) -> tuple[int, int]:
        """Return the range that begins at a row; ``rate`` is the number of rows per second of a worker."""
        target = self.least if rate is None else max(self.least, int(rate * _SECONDS))
        # Ranges become shorter towards the end, so that all workers finish at about the same time.
        fair = -(-(self.length - at) // (_AHEAD * n_workers))
        rows = max(1, min(target, self.most, fair))
        return at, min(self.length, at + -(-rows // self.unit) * self.unit)


class _Range(NamedTuple):
    start: int
    stop: int
    tries: int = 0


def run_on_cluster(
    client: Client,
    ranges: AdaptiveRanges,
    *,
    begin: "Callable[[int, int], Future[Any]]",
    receive: Callable[[Any], None],
    renew: Callable[[], None],
    progress: str | None = None,
) -> None:
    """Compute all ranges on the workers; the first exception stops the call and is raised unchanged.

    Parameters
    ----------
    client
        Client of the cluster.
    ranges
        Division of the rows.
    begin
        Submits one range; the result of the future is a :class:`RangeResult`.
    receive
        Receives the results of ranges, in any order.
    renew
        Sends the job to the workers again.
    progress
        Title of the progress bar; None for no bar.
    """
    seceded = False
    with suppress(ValueError):  # this call runs in a task of the cluster, whose thread is needed for the ranges
        secede()
        seceded = True
    running: dict[Future[Any], _Range] = {}
    retries: deque[_Range] = deque()
    at, rate, workers = 0, None, _Workers(client)
    bar = ProgressBar(total=ranges.length, unit=" rows", desc=progress, disable=progress is None)
    with bar:
        try:
            while running or retries or at < ranges.length:
                while (retries or at < ranges.length) and len(running) < _AHEAD * workers.count:
                    if retries:
                        one = retries.popleft()
                    else:
                        one = _Range(*ranges.next(at, rate, workers.count))
                        at = one.stop
                    running[begin(one.start, one.stop)] = one
                for future in _ended(client, running):
                    one = running.pop(future)
                    try:
                        done = _result(client, future, one)
                    finally:  # otherwise the cluster would recompute the range if its worker died later
                        future.release()
                    if done is None:
                        renew()
                        retries.append(one._replace(tries=one.tries + 1))
                        continue
                    rows = one.stop - one.start
                    if done.seconds:
                        rate = rows / done.seconds
                    receive(done.found)
                    bar.update(rows)
                workers.update()
        except (RuntimeError, OSError) as error:
            if client.status == "running":
                raise
            msg = (
                "The connection to the cluster is lost. Connect again (`Client(address)`), and resume with that client."
            )
            raise ConnectionError(msg) from error
        finally:
            if seceded:
                rejoin()
            if running and client.status == "running":  # an error: cancel the ranges that have not begun
                with suppress(Exception):  # the first error is raised
                    client.cancel(list(running), force=True)


class _Workers:
    """Number of workers, updated about once a second."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._alive = self._asked = monotonic()
        self.count = max(1, len(client.nthreads()))

    def update(self) -> None:
        """Count the workers; raise if there have been none for a minute."""
        now = monotonic()
        if now - self._asked < 1:
            return
        self._asked, found = now, len(self._client.nthreads())
        if found:
            self._alive, self.count = now, found
        elif now - self._alive > _PATIENCE:
            msg = f"The cluster has had no worker for {_PATIENCE:.0f} seconds. Start some, and call again."
            raise RuntimeError(msg)


def _ended(client: Client, running: "dict[Future[Any], _Range]") -> "list[Future[Any]]":
    """Wait up to a second for a future; return all that have ended."""
    # `distributed.wait` would use the active client, which may be another one.
    first = as_completed(list(running), loop=client.loop, timeout=1)
    with suppress(TimeoutError):
        next(first)
    first.clear()
    return [future for future in running if future.done()]


def _result(client: Client, future: "Future[Any]", one: _Range) -> RangeResult | None:
    """Return the result of a range; None if the range has to be submitted again."""
    try:
        done: RangeResult = _waited(client, future)
    except (CancelledError, LostJobError) as error:
        if client.status != "running" or one.tries >= _TRIES:
            msg = f"Rows {one.start} to {one.stop} are lost ({error}): workers leave the cluster too often. Call again."
            raise ConnectionError(msg) from error
        return None
    except KilledWorker as error:
        error.add_note(
            f"Each worker that computed rows {one.start} to {one.stop} died. Do they have enough memory? A smaller "
            "`batch_size` needs less."
        )
        raise
    return done


def _waited(client: Client, future: "Future[Any]") -> Any:
    """Return the result of a future that has ended; raise if the client is closed in the meantime."""
    while client.status == "running":
        try:
            return future.result(timeout=_FETCHED)
        except TimeoutError:
            if future.status == "error":  # the error of the range itself
                raise
    msg = "The client was closed."
    raise ConnectionError(msg)

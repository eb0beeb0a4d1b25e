"""Ranges of rows on the workers of a Dask cluster: which, how many at a time, and what to do if some are lost.

Dask schedules, moves data and runs a range again whose worker has died; here ranges are cut, long enough that handing
them out costs little and short enough that losing one costs little.
"""

__all__ = ["AdaptiveRanges", "LostJobError", "RangeResult", "run_on_cluster"]

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from aimz.progress import ProgressBar

if TYPE_CHECKING:
    from distributed import Client, Future

_AHEAD = 2
"""Ranges for each worker: one it works at, and the next, whose data travel meanwhile."""
_SECONDS = 2.0
"""How long a range should take."""
_TRIES = 3
"""How often a range is handed out again whose job or data the cluster has lost."""
_FETCHED = 30.0
"""Seconds in which what was found of a range should have come; if not, it is asked whether there still is a client."""
_PATIENCE = 60.0
"""Seconds without any worker after which to give up."""


class RangeResult(NamedTuple):
    """What a worker says of a range."""

    seconds: float | None
    """How long it took; None if something else, a compilation say, took time as well."""
    found: Any


class LostJobError(RuntimeError):
    """A worker was asked for a range of a job that it does not have."""


@dataclass(frozen=True)
class AdaptiveRanges:
    """How rows are handed out."""

    length: int
    unit: int
    """Ranges begin at multiples of it, so that no two write to one chunk."""
    least: int
    """Rows of the first ranges, and of any but the last ones."""
    most: int

    def next(self, at: int, rate: float | None, n_workers: int) -> tuple[int, int]:
        """Return the range that begins at a row; ``rate`` is how many rows a worker does in a second."""
        wanted = self.least if rate is None else max(self.least, int(rate * _SECONDS))
        # Towards the end they become shorter, so that no worker is alone with a long one.
        fair = -(-(self.length - at) // (_AHEAD * n_workers))
        rows = max(1, min(wanted, self.most, fair))
        return at, min(self.length, at + -(-rows // self.unit) * self.unit)


class _Range(NamedTuple):
    start: int
    stop: int
    tries: int = 0


def run_on_cluster(
    client: "Client",
    ranges: AdaptiveRanges,
    *,
    begin: "Callable[[int, int], Future[Any]]",
    land: Callable[[Any], None],
    renew: Callable[[], None],
    progress: str | None = None,
) -> None:
    """Let the workers do all ranges; the first exception stops everything, and is raised as itself.

    Parameters
    ----------
    client
        Client of the cluster.
    ranges
        How rows are handed out.
    begin
        Hands out one range; the result of the future is :class:`RangeResult`.
    land
        Takes what was found of a range, as they come, in any order.
    renew
        Tells the workers of the job again.
    progress
        Title of the progress bar; None for no bar.
    """
    from distributed import rejoin, secede

    away = False
    with suppress(ValueError):  # in a task of the cluster: its thread is needed for the ranges
        secede()
        away = True
    flying: dict[Future[Any], _Range] = {}
    again: deque[_Range] = deque()
    at, rate, workers = 0, None, _Workers(client)
    bar = ProgressBar(total=ranges.length, unit=" rows", desc=progress, disable=progress is None, delay=0.5)
    with bar:
        try:
            while flying or again or at < ranges.length:
                while (again or at < ranges.length) and len(flying) < _AHEAD * workers.count:
                    if again:
                        one = again.popleft()
                    else:
                        one = _Range(*ranges.next(at, rate, workers.count))
                        at = one.stop
                    flying[begin(one.start, one.stop)] = one
                for future in _ended(client, flying):
                    one = flying.pop(future)
                    try:
                        done = _result(client, future, one)
                    finally:  # or the cluster would compute it again for us, should the worker die later
                        future.release()
                    if done is None:
                        renew()
                        again.append(one._replace(tries=one.tries + 1))
                        continue
                    rows = one.stop - one.start
                    if done.seconds:
                        rate = rows / done.seconds
                    land(done.found)
                    bar.update(rows)
                workers.look()
        except (RuntimeError, OSError) as error:
            if client.status == "running":
                raise
            msg = (
                "The connection to the cluster is gone. Connect again (`Client(address)`), and go on with that client."
            )
            raise ConnectionError(msg) from error
        finally:
            if away:
                rejoin()
            if flying and client.status == "running":  # something went wrong: what has not begun never will
                with suppress(Exception):  # what is raised says what went wrong
                    client.cancel(list(flying), force=True)


class _Workers:
    """How many there are; asked for now and then."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._alive = self._asked = monotonic()
        self.count = max(1, len(client.nthreads()))

    def look(self) -> None:
        """Ask again; give up if there have been none for long."""
        now = monotonic()
        if now - self._asked < 1:
            return
        self._asked, found = now, len(self._client.nthreads())
        if found:
            self._alive, self.count = now, found
        elif now - self._alive > _PATIENCE:
            msg = f"The cluster has had no worker for {_PATIENCE:.0f} seconds. Start some, and call again."
            raise RuntimeError(msg)


def _ended(client: "Client", flying: "dict[Future[Any], _Range]") -> "list[Future[Any]]":
    """Wait a while for futures; return those that have ended in any way."""
    from distributed import as_completed

    # `wait` would ask the client that happens to be the active one.
    first = as_completed(list(flying), loop=client.loop, timeout=1)
    with suppress(TimeoutError):
        next(first)
    first.clear()
    return [future for future in flying if future.done()]


def _result(client: "Client", future: "Future[Any]", one: _Range) -> RangeResult | None:
    """Return what a worker says; None if the range has to be handed out again."""
    from distributed import CancelledError, KilledWorker

    try:
        done: RangeResult = _waited(client, future)
    except (CancelledError, LostJobError) as error:
        if client.status != "running" or one.tries >= _TRIES:
            msg = f"Rows {one.start} to {one.stop} are lost ({error}): workers come and go too often. Call again."
            raise ConnectionError(msg) from error
        return None
    except KilledWorker as error:
        error.add_note(
            f"Each worker that was given rows {one.start} to {one.stop} died. Have they enough memory? A smaller "
            "`batch_size` takes less."
        )
        raise
    return done


def _waited(client: "Client", future: "Future[Any]") -> Any:
    """Return the result of a future that has ended; a client that is closed meanwhile would let us wait for ever."""
    while client.status == "running":
        try:
            return future.result(timeout=_FETCHED)
        except TimeoutError:
            if future.status == "error":  # which is what the block raised
                raise
    msg = "the client was closed"
    raise ConnectionError(msg)

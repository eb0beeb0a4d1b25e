"""Threads that write pieces to a store while the device computes."""

__all__ = ["Writer"]

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aimz.stream.rechunking import Piece

if TYPE_CHECKING:
    from aimz.store import ResultStore, StorePart


class Writer:
    """Writes pieces to a store from as many threads as the store allows, with a bounded queue.

    The queue holds at most ``max_bytes``, and half as much more for each thread beyond the first.  Files are written by
    one thread: on a CPU it competes with the computation, and more threads were not faster.  The first error stops all
    threads and is raised by the next call of ``put`` or at the exit of the context; the threads have then ended.
    """

    def __init__(self, store: "ResultStore | StorePart", max_bytes: int = 24 * 2**20) -> None:
        self._store = store
        self._max_bytes = max_bytes * (1 + store.max_writers) // 2
        self._queue: deque[Piece] = deque()
        self._queued_bytes = 0
        self._closing = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name="aimz-writer", daemon=True) for _ in range(store.max_writers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def put(self, piece: Piece) -> None:
        """Add a piece to the queue; wait while the queue is full."""
        with self._changed:
            while self._error is None and self._queued_bytes and self._queued_bytes + piece.nbytes > self._max_bytes:
                self._changed.wait()
            self._raise()
            self._queue.append(piece)
            self._queued_bytes += piece.nbytes
            self._changed.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all pieces are written; after an error, drop the pieces still in the queue."""
        with self._changed:
            if error is not None:
                self._queue.clear()
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if error is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                piece = self._queue.popleft()
            try:
                for name in piece.arrays:
                    self._store.write(name, piece.joined(name), piece.start)
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
                    self._queue.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._queued_bytes -= piece.nbytes
                self._changed.notify_all()

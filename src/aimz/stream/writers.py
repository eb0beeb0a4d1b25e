"""Threads that write while the device computes."""

__all__ = ["Writer"]

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aimz.stream.rechunking import Piece

if TYPE_CHECKING:
    from aimz.store import ResultStore, StorePart


class Writer:
    """Hands pieces to a sink from as many threads as it takes, and holds few of them.

    At most ``most_bytes`` wait, and half as much for each thread beyond the first.  One thread for a disk: on a CPU it
    competes with the computation, and more did not help.  The first error stops everything and is raised, as itself,
    by the next call from outside; on leaving, the threads have ended whatever happened.
    """

    def __init__(self, sink: "ResultStore | StorePart", most_bytes: int = 24 * 2**20) -> None:
        self._sink = sink
        self._most_bytes = most_bytes * (1 + sink.writers) // 2
        self._queue: deque[Piece] = deque()
        self._held = 0
        self._closing = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name="aimz-writer", daemon=True) for _ in range(sink.writers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def put(self, piece: Piece) -> None:
        """Hand over a piece; waits while too much is held."""
        with self._changed:
            while self._error is None and self._held and self._held + piece.nbytes > self._most_bytes:
                self._changed.wait()
            self._raise()
            self._queue.append(piece)
            self._held += piece.nbytes
            self._changed.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is written; after an error what was not begun is dropped."""
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
                    self._sink.write(name, piece.joined(name), piece.start)
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
                    self._queue.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._held -= piece.nbytes
                self._changed.notify_all()

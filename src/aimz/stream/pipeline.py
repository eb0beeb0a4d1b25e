"""Pipeline of steps: compute on the device, fetch to the host, cut into chunks, write."""

__all__ = ["Part", "StreamRequest", "run"]

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.progress import ProgressBar
from aimz.stream.plan import Plan
from aimz.stream.rechunking import Chunker, Piece
from aimz.stream.writers import Writer

if TYPE_CHECKING:
    from aimz.store import ResultStore, StorePart

type Part = tuple[int, int, dict[str, np.ndarray]]
"""Start and stop of a range of rows or draws, and its arrays."""

_IN_FLIGHT = 1
"""Number of steps that the device computes while the host fetches another."""


@dataclass(frozen=True)
class StreamRequest:
    """A plan, and the functions that compute its steps."""

    plan: Plan
    axes: Mapping[str, int]
    """Name of each array that ``fetch`` returns to its axis of rows or draws."""
    begin: Callable[[int, int], Any]
    """Starts computing the step from ``start`` to ``stop``; returns a handle, or None if there are no more rows."""
    fetch: Callable[[Any], Iterable[Part]]
    """Waits for a handle; returns its parts in order, without padding."""
    once: Callable[[Any], dict[str, np.ndarray]]
    """Returns the arrays that are the same in every step, from the handle of the first one."""
    select: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    """Returns the arrays to write, from the arrays of ``fetch`` or ``once``."""
    wanted: Callable[[int, int], bool] | None = None
    """Returns whether a step has to be computed; ``skip`` is called for any other. None for all steps."""
    skip: Callable[[int, int], object] = lambda _start, _stop: None
    on_rows_read: Callable[[], None] = lambda: None
    """Called after ``begin`` and after ``skip``."""
    progress: str | None = None
    """Title of the progress bar; None for no bar."""


def run(request: StreamRequest, store: "ResultStore | StorePart", start: int = 0, stop: int | None = None) -> int:
    """Compute all steps and write their arrays; return the row or draw that was reached.

    With ``start`` and ``stop``, which must be ends of chunks, only these rows are computed.  Arrays that are the same
    in every step are written with the first rows.  Exceptions are raised unchanged once the writer threads have ended.
    The caller completes the store.
    """
    plan = request.plan
    per_chain = plan.n_draws // plan.n_chains if plan.axis == "draw" else None
    chunker = Chunker(plan.chunk, request.axes, per_chain)
    running: deque[Any] = deque()
    reached, begun = start, start > 0
    unit = "rows" if plan.axis == "obs" else "draws"
    hidden = request.progress is None
    bar = ProgressBar(total=plan.length, unit=f" {unit}", desc=request.progress, disable=hidden)
    with bar, Writer(store) as writer:

        def write_all_but(kept: int) -> None:
            """Write the oldest steps until ``kept`` are running; if none is, also the last pieces."""
            nonlocal reached
            while len(running) > kept:
                for first, last, found in request.fetch(running.popleft()):
                    arrays = request.select(found)
                    if store.whole_chunks:
                        for piece in chunker.add(first, last, arrays):
                            writer.put(piece)
                    else:
                        writer.put(Piece(first, last, {name: [array] for name, array in arrays.items()}, request.axes))
                    bar.update(last - first)
                    reached = last
            for piece in () if kept else chunker.end():
                writer.put(piece)

        for first, last in plan.steps(start, stop):
            if request.wanted is not None and not request.wanted(first, last):
                write_all_but(0)
                request.skip(first, last)
                request.on_rows_read()
                bar.update(last - first)
                reached = last
                continue
            handle = request.begin(first, last)
            request.on_rows_read()
            if handle is None:
                break
            constants = {} if begun else request.select(request.once(handle))
            if constants:
                writer.put(Piece(0, 0, {name: [array] for name, array in constants.items()}, request.axes))
            begun = True
            running.append(handle)
            write_all_but(_IN_FLIGHT)
        write_all_but(0)
    return reached

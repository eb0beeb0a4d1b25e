"""Many steps, one after the other, each stage ahead of the next by a bounded amount."""

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

type Part = tuple[int, int, Mapping[str, np.ndarray]]
"""Start, stop and arrays of a stretch of the axis that is cut."""

_IN_FLIGHT = 1
"""Steps the device works at while the host fetches another."""


@dataclass(frozen=True)
class StreamRequest:
    """What to stream, in terms of functions: nothing here knows what is computed."""

    plan: Plan
    axes: Mapping[str, int]
    """Name of an array to the axis of it that is cut, in the arrays that ``fetch`` returns."""
    begin: Callable[[int, int], Any]
    """Start computing the step from ``start`` to ``stop``; return a handle, or None if there are no more rows."""
    fetch: Callable[[Any], Iterable[Part]]
    """Wait for a handle; return its parts in order, without padding."""
    once: Callable[[Any], Mapping[str, np.ndarray]]
    """Of the first handle: the arrays that are the same in every step."""
    wanted: Callable[[int, int], bool] = lambda _start, _stop: True
    """Whether a step has to be computed; those that need not are still announced to ``skip``."""
    skip: Callable[[int, int], None] = lambda _start, _stop: None
    progress: str | None = None
    """Title of the progress bar; None for no bar."""


def run(request: StreamRequest, sink: "ResultStore | StorePart", first: int = 0, last: int | None = None) -> int:
    """Compute every step and write it; return how far along the axis that was cut it came.

    Of rows, those from ``first`` to ``last`` only, where they are given; both must be ends of chunks.  What goes wrong
    is raised as itself, after the writer has ended; completing the sink is the caller's.
    """
    plan = request.plan
    every = plan.n_draws // plan.n_chains if plan.axis == "draw" else None
    chunker = Chunker(plan.chunk, request.axes, every)
    flying: deque[Any] = deque()
    total, reached = plan.length, first
    unit = "rows" if plan.axis == "obs" else "draws"
    bar = ProgressBar(total=total, unit=f" {unit}", desc=request.progress, disable=request.progress is None, delay=0.5)
    with bar, Writer(sink) as writer:

        def land() -> None:
            nonlocal reached
            for start, stop, arrays in request.fetch(flying.popleft()):
                if sink.whole_chunks:
                    for piece in chunker.add(start, stop, arrays):
                        writer.put(piece)
                else:
                    parts = {name: [array] for name, array in arrays.items()}
                    writer.put(Piece(start, stop, parts, request.axes))
                bar.update(stop - start)
                reached = stop

        begun = False
        for start, stop in plan.steps(first, last):
            if not request.wanted(start, stop):
                while flying:
                    land()
                for piece in chunker.end():
                    writer.put(piece)
                request.skip(start, stop)
                bar.update(stop - start)
                reached = stop
                continue
            handle = request.begin(start, stop)
            if handle is None:
                break
            if not begun:
                arrays = {name: [array] for name, array in request.once(handle).items()}
                if arrays:
                    writer.put(Piece(0, 0, arrays, request.axes))
                begun = True
            flying.append(handle)
            if len(flying) > _IN_FLIGHT:
                land()
        while flying:
            land()
        for piece in chunker.end():
            writer.put(piece)
    return reached

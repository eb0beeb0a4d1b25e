"""Pipeline of steps: compute on the device, fetch to the host, cut into chunks, write."""

__all__ = ["Part", "StreamRequest", "run"]

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.progress import ProgressBar
from aimz.stream.plan import Plan
from aimz.stream.rechunking import Chunker, Piece
from aimz.stream.step_threads import step_pool
from aimz.stream.writers import Writer

if TYPE_CHECKING:
    from aimz.store import ResultStore, StorePart

type Part = tuple[int, int, Mapping[str, np.ndarray]]
"""Start and stop of a range of rows or draws, and its arrays."""


@dataclass(frozen=True)
class StreamRequest:
    """A plan, and the functions that compute its steps."""

    plan: Plan
    axes: Mapping[str, int]
    """Name of each array that ``fetch`` returns to its axis of rows or draws."""
    read: Callable[[int, int], Any]
    """Returns the inputs of the step from ``start`` to ``stop``, or None if there are no more rows."""
    begin: Callable[[Any], Any]
    """Starts computing a step from its inputs; returns a handle."""
    fetch: Callable[[Any], Iterable[Part]]
    """Waits for a handle; returns its parts in order, without padding."""
    once: Callable[[Any], dict[str, np.ndarray]]
    """Returns the arrays that are the same in every step, from the handle of the first one."""
    select: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    """Returns the arrays to write, from the arrays of ``fetch`` or ``once``."""
    wanted: Callable[[int, int], bool] | None = None
    """Returns whether a step has to be computed; ``skip`` is called for any other. None for all steps."""
    skip: Callable[[int, int], object] = lambda _start, _stop: None
    on_rows_read: Callable[[], None] = lambda: None
    """Called after ``read`` and after ``skip``."""
    progress: str | None = None
    """Title of the progress bar; None for no bar."""
    n_threads: int = 1
    """Number of threads that call ``begin``, ``fetch``, ``once`` and ``select``."""

    def finish(self, handle: Any, *, with_constants: bool) -> tuple[Mapping[str, np.ndarray], list[Part]]:
        """Return the arrays to write: the ones that are the same in every step, and the parts of this step."""
        constants = self.select(self.once(handle)) if with_constants else {}
        return constants, [(first, last, self.select(found)) for first, last, found in self.fetch(handle)]

    def compute(self, inputs: Any, *, with_constants: bool) -> tuple[Mapping[str, np.ndarray], list[Part]]:
        """Compute a step and return its arrays."""
        return self.finish(self.begin(inputs), with_constants=with_constants)


def run(request: StreamRequest, store: "ResultStore | StorePart", start: int = 0, stop: int | None = None) -> int:
    """Compute all steps and write their arrays; return the row or draw that was reached.

    With ``start`` and ``stop``, which must be ends of chunks, only these rows are computed.  Arrays that are the same
    in every step are written with the first rows.  Exceptions are raised unchanged once the writer threads have ended.
    The caller completes the store.
    """
    plan = request.plan
    per_chain = plan.n_draws // plan.n_chains if plan.axis == "draw" else None
    chunker = Chunker(plan.chunk, request.axes, per_chain)
    running: deque[Callable[[], tuple[Mapping[str, np.ndarray], list[Part]]]] = deque()
    reached, begun = start, start > 0
    unit = "rows" if plan.axis == "obs" else "draws"
    hidden = request.progress is None
    bar = ProgressBar(total=plan.length, unit=f" {unit}", desc=request.progress, disable=hidden)
    with bar, Writer(store) as writer, step_pool(request.n_threads) as pool:

        def write_all_but(kept: int) -> None:
            """Write the oldest steps until ``kept`` are running; if none is, also the last pieces."""
            nonlocal reached
            while len(running) > kept:
                constants, parts = running.popleft()()
                if constants:
                    writer.put(Piece(0, 0, {name: [array] for name, array in constants.items()}, request.axes))
                for first, last, arrays in parts:
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
            inputs = request.read(first, last)
            request.on_rows_read()
            if inputs is None:
                break
            # The device computes a step that was begun while the host finishes the one before.
            if pool is None:
                running.append(partial(request.finish, request.begin(inputs), with_constants=not begun))
            else:
                running.append(pool.submit(request.compute, inputs, with_constants=not begun).result)
            begun = True
            write_all_but(request.n_threads)
        write_all_but(0)
    return reached

"""What becomes of what steps compute, on its way into a sink; the same here and on a worker."""

__all__ = ["OutputSpec", "missing_steps"]

import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from aimz.engine.runner import StepRunner
from aimz.statistics import Reduction, reduce_rows

if TYPE_CHECKING:
    from aimz.store import Variable
    from aimz.stream import Plan, StreamRequest


@dataclass(frozen=True)
class OutputSpec:
    """Names, axes, and statistics in place of draws."""

    names: Mapping[str, str]
    """Site to its name in the sink."""
    axes: Mapping[str, int]
    """Name in the sink to the axis of an array that is cut."""
    statistics: Reduction | None = None
    """Where a step has all draws of its rows, these can take their place at once."""

    def kept(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what is kept of arrays, under the names it is kept by."""
        reduction = self.statistics
        if reduction is None:
            return {self.names[n]: a for n, a in arrays.items()}
        # The cores of a CPU compute the next step meanwhile; beside another device they are free.
        n_threads = 1 if jax.default_backend() == "cpu" else os.cpu_count() or 1
        return {self.names[n]: reduce_rows(reduction, a, n_threads) for n, a in arrays.items()}

    def request(
        self,
        plan: "Plan",
        runner: StepRunner,
        *,
        noting: Callable[[], None] = lambda: None,
        wanted: Callable[[int, int], bool] | None = None,
        once: bool = True,
        progress: str | None = None,
    ) -> "StreamRequest":
        """Return what is to be streamed; ``noting`` is called after rows were read."""
        from aimz.stream import StreamRequest

        def noted(act: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
            def act_and_note(start: int, stop: int) -> Any:
                done = act(start, stop)
                noting()
                return done

            return act_and_note

        return StreamRequest(
            plan=plan,
            axes=self.axes,
            begin=noted(runner.begin),
            fetch=lambda handle: [(start, stop, self.kept(part)) for start, stop, part in runner.fetch(handle)],
            once=(lambda handle: self.kept(runner.once(handle))) if once else (lambda _handle: {}),
            wanted=wanted or (lambda _start, _stop: True),
            skip=noted(runner.skip),
            progress=progress,
        )


class _Stored(Protocol):
    def length(self, name: str) -> int: ...

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Any: ...


def missing_steps(
    plan: "Plan",
    variables: "Mapping[str, Variable]",
    stored: _Stored,
    start: int = 0,
    stop: int | None = None,
    seen: Container[int] | None = None,
) -> Callable[[int, int], bool]:
    """Return which steps have something to compute, going by the chunks that are there; of some rows only, if given.

    ``seen`` are the stretches of rows, by first row, whose data are known; what was made of others is made again.
    """
    chunk, streamed = plan.chunk, {name: v for name, v in variables.items() if v.axis is not None}
    reached = plan.length or max(map(stored.length, streamed), default=0)
    missing: set[int] = set()
    for name, variable in variables.items():
        if variable.axis is None:
            missing |= {0} if start == 0 and any(True for _ in stored.missing(name)) else set()
            continue
        per_chain = plan.n_draws // plan.n_chains
        for position in stored.missing(name, start, stop):
            chain = position[0] * per_chain if plan.axis == "draw" else 0
            missing.add(chain + position[variable.axis] * chunk)
        if plan.length is None:  # one variable may have been written further than another
            missing |= set(range(stored.length(name) // chunk * chunk, reached, chunk))
    starts, note = sorted(missing), plan.note

    def is_wanted(begin: int, end: int) -> bool:
        if end > reached or any(at < end and begin < at + chunk for at in starts):
            return True
        return seen is not None and any(at not in seen for at in range(begin // note * note, end, note))

    return is_wanted

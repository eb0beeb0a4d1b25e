"""Compiled programs of one kernel, kept so that a second call of the same shape neither traces nor compiles."""

__all__ = ["Programs"]

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from aimz.forward.likelihood import log_density
from aimz.forward.predictive import Pass, Program, predictive
from aimz.kernel import freeze
from aimz.types import Kernel

_BUILDERS: dict[str, Callable[[Kernel, Pass], Program]] = {
    "predictive": predictive,
    "log_density": log_density,
}
_MOST = 64


class Programs:
    """A bounded store of compiled programs; the least recently used goes first."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._programs: OrderedDict[Hashable, Program] = OrderedDict()

    def run(
        self,
        kind: str,
        plan: Pass,
        key: jax.Array,
        draws: Mapping[str, Any],
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> dict[str, jax.Array]:
        """Run the program of ``kind`` ("predictive" or "log_density") that ``plan`` asks for."""
        handle = (
            kind,
            plan.n_obs,
            plan.n_draws,
            plan.return_sites,
            plan.unobserve,
            freeze(plan.transforms),
            freeze(plan.static),
        )
        program = self._programs.get(handle)
        if program is None:
            program = jax.jit(_BUILDERS[kind](self._kernel, plan))
            self._programs[handle] = program
            if len(self._programs) > _MOST:
                self._programs.popitem(last=False)
        self._programs.move_to_end(handle)
        return program(key, dict(draws), dict(values), dict(arrays))

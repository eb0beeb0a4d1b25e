"""Compiled programs of one kernel, kept so that a second call of the same shape neither traces nor compiles."""

__all__ = ["Programs"]

from collections.abc import Callable, Mapping
from typing import Any

import jax

from aimz.forward.likelihood import log_density
from aimz.forward.predictive import Pass, Program, predictive
from aimz.kernel import Recent, freeze
from aimz.types import Kernel

_BUILDERS: dict[str, Callable[[Kernel, Pass], Program]] = {
    "predictive": predictive,
    "log_density": log_density,
}


class Programs:
    """The compiled programs of a kernel that were used last."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._programs = Recent[Program]()

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
            plan.row_plates,
            tuple(sorted((name, id(function)) for name, function in plan.transforms.items())),
            freeze(plan.static),
        )
        program = self._programs.get(handle, lambda: jax.jit(_BUILDERS[kind](self._kernel, plan)))
        return program(key, dict(draws), dict(values), dict(arrays))

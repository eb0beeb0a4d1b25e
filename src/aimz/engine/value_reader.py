"""Values of interventions and conditions, checked and matched with the rows and columns of a call."""

__all__ = ["ValueReader"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.data import KernelArguments, KernelParameters, RowReader, check_aligned, check_array
from aimz.engine.callables import checked_callable
from aimz.engine.prepared_call import PredictionSettings
from aimz.kernel import KernelSignature, KernelSpec, ResolvedIntervention, read_condition, read_intervention
from aimz.types import Intervention, Kernel


@dataclass(frozen=True)
class ValueReader:
    """Reads values of sites and arguments of one kernel."""

    kernel: Kernel
    signature: KernelSignature
    parameters: KernelParameters

    def intervention(
        self, intervention: Intervention | None, spec: KernelSpec, call: KernelArguments
    ) -> ResolvedIntervention:
        """Return the checked intervention."""
        if isinstance(intervention, Mapping):
            intervention = {name: self._read_act(name, value, call) for name, value in intervention.items()}
        return read_intervention(
            intervention,
            kernel=self.kernel,
            signature=self.signature,
            spec=spec,
            arrays=call.arrays,
            static=call.static,
            columns=call.columns,
        )

    def condition(
        self, settings: PredictionSettings, spec: KernelSpec, call: KernelArguments, intervened: Collection[str]
    ) -> dict[str, Any]:
        """Return the checked values of the conditioned sites."""
        condition = settings.condition
        if isinstance(condition, Mapping):
            condition = {
                name: value if callable(value) else self._read_value(f"condition[{name!r}]", name, value, call)
                for name, value in condition.items()
            }
        return read_condition(
            condition,
            signature=self.signature,
            spec=spec,
            posterior=() if settings.posterior is None else settings.posterior.draws.keys(),
            intervened=intervened,
        )

    def _read_act(self, name: str, value: Any, call: KernelArguments) -> Any:
        """Check one value of an intervention; a callable on streamed rows is applied as they are read."""
        if callable(value):
            rows, act = call.arrays.get(name), checked_callable(value, name)
            if isinstance(rows, RowReader):
                acted = rows.apply(act)
                return acted if isinstance(acted, RowReader) else check_array(acted, f"intervention[{name!r}]")
            if rows is None and name not in call.columns:
                return value
            return lambda array: check_array(act(array), f"intervention[{name!r}]")
        if name in call.static:
            return value
        return self._read_value(f"intervention[{name!r}]", name, value, call)

    def _read_value(self, what: str, name: str, value: Any, call: KernelArguments) -> Any:
        """Check a given value of a site or an argument; labels are matched with the rows and columns of the call."""
        check_aligned({what: value}, {self.signature.param_input: call.index})
        value = self.parameters.matched(name, value)
        return check_array(np.asarray(value) if hasattr(value, "columns") else value, what)

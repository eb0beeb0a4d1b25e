"""Values of interventions and conditions, checked and matched with the rows and columns of a call."""

__all__ = ["ValueReader"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.data import (
    KernelArguments,
    KernelParameters,
    RowReader,
    axis_labels,
    check_aligned,
    check_array,
    label_codes,
    warn_if_rounded,
)
from aimz.engine.callables import checked_callable
from aimz.engine.prepared_call import PredictionSettings
from aimz.kernel import (
    AsIn,
    DrawValues,
    KernelSignature,
    KernelSpec,
    ResolvedIntervention,
    read_condition,
    read_intervention,
)
from aimz.types import Kernel

SAMPLE_DIMS = ("chain", "draw")


def is_by_draw(value: Any) -> bool:
    """Return whether a value is an xarray array with a dimension of the draws."""
    return bool(axis_labels(value)) and not set(SAMPLE_DIMS).isdisjoint(value.dims)


@dataclass(frozen=True)
class ValueReader:
    """Reads values of sites and arguments of one kernel."""

    kernel: Kernel
    signature: KernelSignature
    parameters: KernelParameters

    def intervention(
        self, settings: PredictionSettings, spec: KernelSpec, call: KernelArguments
    ) -> ResolvedIntervention:
        """Return the checked intervention."""
        intervention = settings.intervention
        if isinstance(intervention, Mapping):
            intervention = {
                name: self._read_draws(name, value, call, settings)
                if is_by_draw(value)
                else value
                if isinstance(value, AsIn)
                else self._read_act(name, value, call)
                for name, value in intervention.items()
            }
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
        self, settings: PredictionSettings, spec: KernelSpec, call: KernelArguments, acts: ResolvedIntervention
    ) -> tuple[dict[str, Any], dict[str, tuple[int, Any]]]:
        """Return the checked values of the conditioned sites, and of those with values of their first steps only.

        If the output is given, too, they are evidence, and sites that descend from the intervention are computed again.
        """
        condition = settings.condition
        if isinstance(condition, Mapping):
            condition = {
                name: value if callable(value) else self._read_value(f"condition[{name!r}]", name, value, call)
                for name, value in condition.items()
            }
        values, first = read_condition(
            condition,
            signature=self.signature,
            spec=spec,
            posterior=() if settings.posterior is None else settings.posterior.draws.keys(),
            intervened=acts.set_sites | acts.transforms.keys(),
        )
        recomputed = acts.downstream if settings.with_output else ()
        return {name: value for name, value in values.items() if name not in recomputed}, first

    def _read_draws(self, name: str, value: Any, call: KernelArguments, settings: PredictionSettings) -> DrawValues:
        """Check values that differ between draws, given by an xarray array with the dimensions of the draws."""
        dims = [dim for dim in SAMPLE_DIMS if dim in value.dims]
        # Labels may be in another order; only the number of draws is known.
        for dim in dims:
            value = value.sortby(dim) if dim in value.indexes else value
        value = value.transpose(*dims, ...)
        chains = 1 if settings.posterior is None else settings.posterior.num_chains
        sizes, n_draws = {"chain": chains, "draw": settings.n_draws // chains}, settings.n_draws
        found = {dim: value.sizes[dim] for dim in dims}
        if found not in (sizes, {"draw": n_draws}):
            msg = (
                f"`intervention[{name!r}]` must have one value for each draw, {sizes}; got {found}. Pass an array with "
                "dimensions ('chain', 'draw') of these lengths."
            )
            raise ValueError(msg)
        if value.ndim == len(dims):
            return DrawValues(np.asarray(check_array(value.values.reshape(-1), f"intervention[{name!r}]")))
        each = value.stack({"__draw": dims}, create_index=False).transpose("__draw", ...)
        parts = (self._read_value(f"intervention[{name!r}]", name, each[i], call) for i in range(n_draws))
        return DrawValues(np.stack([np.asarray(part) for part in parts]))

    def _read_act(self, name: str, value: Any, call: KernelArguments) -> Any:
        """Check one value of an intervention; a callable on streamed rows is applied as they are read."""
        if callable(value):
            rows, act = call.arrays.get(name), checked_callable(value, name)
            if isinstance(rows, RowReader):
                acted = rows.apply(act)
                return acted if rows.is_lazy else check_array(acted, f"intervention[{name!r}]")
            if rows is None and name not in call.columns:
                return value
            return lambda array: check_array(act(array), f"intervention[{name!r}]")
        if name in call.static:
            return value
        if isinstance(value, str) and name in self.parameters.categories:
            return label_codes([value], f"intervention[{name!r}]", self.parameters.categories[name])[0]
        return self._read_value(f"intervention[{name!r}]", name, value, call)

    def _read_value(self, what: str, name: str, value: Any, call: KernelArguments) -> Any:
        """Check a given value of a site or an argument; labels are matched with the rows and columns of the call."""
        check_aligned({what: value}, {self.signature.param_input: call.index})
        value = self.parameters.matched(name, value)
        with warn_if_rounded():
            return check_array(np.asarray(value) if hasattr(value, "columns") else value, what)

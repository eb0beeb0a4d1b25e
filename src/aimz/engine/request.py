"""A call as one value: the prepared scenarios, the source of their rows, and the options."""

__all__ = ["PredictionRequest"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax

from aimz.data import KernelArguments, key_to_text
from aimz.engine.inputs import InputSource
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.options import StreamingOptions
from aimz.engine.prepared_call import PreparedCall
from aimz.engine.warnings import warn_about_missing
from aimz.engine.worlds import link_scenarios
from aimz.forward import IMPOSSIBLE, Derivative
from aimz.kernel import Scored
from aimz.statistics import Groups


@dataclass(frozen=True)
class PredictionRequest:
    """A call that has been checked and prepared; nothing has been computed yet."""

    method: str
    group: str
    """Name of the group of the result."""
    scenarios: Mapping[Any, PreparedCall]
    """Prepared prediction, or the scenarios to compare, by name."""
    arguments: Mapping[Any, KernelArguments]
    """Arguments of each scenario before interventions."""
    baseline: Any = None
    """Name of the baseline among several scenarios."""
    source: InputSource = InputSource()  # noqa: RUF009 (frozen)
    options: StreamingOptions = StreamingOptions()  # noqa: RUF009 (frozen)
    scored: str | None = None
    """Name of the site that is scored; None for predictions."""
    groups: Groups | None = None
    """Groups of rows to average over; None to keep rows."""
    derivative: Derivative | None = None
    """Derivatives that are summed over rows instead of scenarios."""
    panel_axes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Axis of each return site with rows along each dimension that is averaged over together with the rows."""
    key: jax.Array | None = None
    """None if nothing is drawn."""
    prepare_again: Callable[[Mapping[Any, KernelArguments]], dict[Any, PreparedCall]] | None = field(
        default=None, compare=False
    )
    """Prepares the scenarios for other arguments; None if each is prepared alone and then linked."""
    resumable: list[str] = field(default_factory=list, compare=False)
    """Location of the result in ``output_dir`` once it exists: after a failure the call can be resumed there."""

    @cached_property
    def first(self) -> PreparedCall:
        """The baseline, or the only scenario."""
        return self.scenarios[self.baseline] if len(self.scenarios) > 1 else next(iter(self.scenarios.values()))

    @cached_property
    def last(self) -> PreparedCall:
        """The intervention of an effect, or the only scenario."""
        return list(self.scenarios.values())[-1]

    @property
    def n_obs(self) -> int | None:
        """Number of rows; None if it is known only when all rows are read."""
        return self.first.call.n_obs if self.source.n_obs_known else None

    @cached_property
    def key_text(self) -> str | None:
        """The key as text, as results record it."""
        return None if self.key is None else key_to_text(self.key)

    @cached_property
    def names(self) -> dict[str, str]:
        """Return site to its name in the result; scores have the name of the output."""
        output = self.first.spec.param_output
        outputs = (site for site in self.first.plan.outputs if site != IMPOSSIBLE)
        return {site: output if site == self.scored else site for site in outputs}

    def with_all_rows(self, engine: KernelEngine) -> "PredictionRequest":
        """Return the same request with the rows of an iterable in memory."""
        if self.source.reader is None:
            return self
        rows = self.source.read_all()
        n_obs = len(next(iter(rows.values())))
        length = None if self.groups is None else self.groups.length
        if length not in (None, n_obs):
            msg = f"The iterable has {n_obs} rows, and `by` or `weights` has {length} values. Pass as many."
            raise ValueError(msg)
        calls = {}
        for name, prepared in self.scenarios.items():
            call = self.arguments[name]
            arrays = {**call.arrays, **{field: rows[field] for field in call.batch_fields}}
            call = calls[name] = replace(call, arrays=arrays, n_obs=n_obs)
            if self.scored is not None or prepared.settings.with_output:
                allow_nan = prepared.settings.scored is not Scored.ALL
                engine.check_output(call, prepared.spec, allow_nan=allow_nan)
        if self.prepare_again is None:
            alone = {name: engine.prepare(call, self.scenarios[name].settings) for name, call in calls.items()}
            scenarios = link_scenarios(engine, alone, calls)
        else:
            scenarios = self.prepare_again(calls)
        for name, prepared in self.scenarios.items():
            if "support" in prepared.attrs:
                scenarios[name].attrs["support"] = prepared.attrs["support"]
        warn_about_missing(scenarios.values(), names=self.first.call.batch_fields)
        self.source.reader.rounding.warn({rows.name: rows.columns for rows in self.first.call.rows.values()})
        return replace(self, scenarios=scenarios, source=InputSource())

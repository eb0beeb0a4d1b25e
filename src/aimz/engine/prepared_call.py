"""A call that has been checked: its arguments, where the value of each site comes from, and a record of both."""

__all__ = ["PredictionSettings", "PreparedCall", "SharedResampling", "call_attrs"]

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from aimz.data import KernelArguments, Posterior
from aimz.engine.known_steps import FittedSteps
from aimz.forward import PassSpec
from aimz.kernel import AsIn, InputColumns, KernelSpec, ResolvedIntervention, Scored, Substitution, ValueSource
from aimz.types import Intervention


@dataclass(frozen=True)
class SharedResampling:
    """Sites that every compared scenario resamples because one of them does."""

    downstream: frozenset[str] = frozenset()
    """Sites that descend from an intervention."""
    new_rows: frozenset[str] = frozenset()
    """Local latents of rows that are not the fitted ones."""

    transformed: frozenset[str] = frozenset()
    """Sites that a callable intervention changes, whose drawn outcomes are then averaged."""

    @staticmethod
    def of(prepared: "Iterable[PreparedCall]", recorded: frozenset[str] = frozenset()) -> "SharedResampling":
        """Return the union over scenarios and the sites that a stored result records as resampled."""
        prepared = list(prepared)
        substitutions = [one.substitution for one in prepared]
        return SharedResampling(
            recorded.union(*(s.by_source[ValueSource.RESAMPLED_DOWNSTREAM] for s in substitutions)),
            frozenset().union(*(s.by_source[ValueSource.RESAMPLED_NEW_ROWS] for s in substitutions)),
            frozenset().union(*(one.plan.transforms for one in prepared)),
        )


@dataclass(frozen=True)
class PredictionSettings:
    """Options of a prediction that do not depend on its rows."""

    n_draws: int
    params: Mapping[str, Any]
    """Fitted parameters."""
    posterior: Posterior | None = None
    """Posterior draws; None to predict from the prior."""
    return_sites: str | Iterable[str] | None = None
    intervention: Intervention | None = None
    condition: Mapping[str, Any] | None = None
    """Values of sites that are given without an intervention."""
    in_sample: bool = True
    """Whether the rows are the fitted observations."""
    named_new: bool = False
    """Whether the caller passed ``in_sample=False``, so that the group of the result is ``predictions``."""
    changed: frozenset[str] = frozenset()
    """Arguments whose data differ from the fit; local latents that descend from them are resampled."""
    has_other_index: bool = False
    """Whether the row labels differ from the fitted labels, so that all local latents are resampled."""
    shared: SharedResampling = SharedResampling()
    scored: Scored | None = None
    kind: str | None = None
    """Whether drawn return sites have their "expected" value or their drawn "outcome" in an effect."""

    with_output: bool = False
    """Whether the data of the output are values that noise is inferred from."""
    follows_fit: bool = False
    """Whether the rows are later steps of the fitted series."""
    fitted_steps: FittedSteps | None = None
    """Steps of the fit that a forecast continues."""

    def resampled_latents(self, spec: KernelSpec, known: KernelSpec) -> frozenset[str]:
        """Return the local latents whose rows are not the fitted ones; ``known`` is the structure over all calls."""
        local = frozenset(spec.local_sites).union(site.name for site in spec.sites if site.maybe_rows)
        if self.has_other_index or not local:
            return local
        # An argument of the fit that this call leaves out is known from earlier calls only.
        reached = spec.descendants(self.changed) | known.descendants(self.changed)
        return local & (reached | self.shared.new_rows)


@dataclass(frozen=True)
class PreparedCall:
    """A call that has been checked; nothing has been computed yet."""

    settings: PredictionSettings
    spec: KernelSpec
    call: KernelArguments
    """Arguments of the kernel, interventions on arguments included."""
    substitution: Substitution
    plan: PassSpec
    draws: Mapping[str, jax.Array | np.ndarray]
    """Posterior draws that are substituted, and values of the intervention that differ between draws."""
    values: Mapping[str, Any]
    """Fitted parameters and interventions on sites."""
    attrs: dict[str, Any]
    """Attributes of the result's group that record the decisions."""
    columns: InputColumns | None = None
    """Columns of the input, and the axes of sites along them."""
    groups: Mapping[str, InputColumns] = field(default_factory=dict)
    """Categories of arguments, and the axes of sites along them."""
    new_entries: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    """First new entry and size of each plate that has more entries than the posterior, by site."""
    acts: ResolvedIntervention = field(default_factory=ResolvedIntervention)
    """The intervention."""
    step_labels: Mapping[str, Any] = field(default_factory=dict)
    """Labels of the later steps of series, by dimension."""

    @cached_property
    def intervened_arguments(self) -> frozenset[str]:
        """Names of the arguments that the intervention changes."""
        return frozenset({*self.acts.arrays, *self.acts.static})

    @property
    def needs_key(self) -> bool:
        """Whether a site other than the output, which may be scored, is drawn."""
        drawn = self.substitution.sites_from(
            ValueSource.RESAMPLED_NEW_ROWS,
            ValueSource.POSTERIOR_GROWN,
            ValueSource.CONTINUED,
            ValueSource.PRIOR_MISSING,
            ValueSource.RESAMPLED_DOWNSTREAM,
            ValueSource.DRAWN,
        )
        output = self.spec.param_output
        return bool(set(drawn) - {output, f"{output}_observed"})

    @cached_property
    def n_chains(self) -> int:
        """Number of chains of the draws."""
        return 1 if self.settings.posterior is None else self.settings.posterior.num_chains


def call_attrs(
    substitution: Substitution,
    settings: PredictionSettings,
    grown: Mapping[str, Mapping[str, tuple[int, int]]],
    drawn_outcomes: list[str],
) -> dict[str, Any]:
    """Return the attributes that record the decisions: strings and lists of strings, which every format stores."""
    attrs: dict[str, Any] = {"intervention": _as_json(settings.intervention)}
    if settings.condition:
        attrs["condition"] = _as_json(settings.condition)
    if settings.posterior is not None:
        attrs["observations"] = "fitted" if settings.in_sample else "new"
    if settings.kind is not None:
        attrs["kind"] = settings.kind
    if settings.kind is not None and drawn_outcomes and not settings.with_output:
        attrs["drawn_outcomes"] = drawn_outcomes
    if substitution.resampled:
        attrs["drawn_anew"] = list(substitution.resampled)
    abducted = substitution.by_source[ValueSource.ABDUCTED]
    if abducted:
        attrs["abducted"] = list(abducted)
    if grown:
        texts = {
            name: {
                plate: str(start) if stop == start + 1 else f"{start} to {stop - 1}"
                for plate, (start, stop) in plates.items()
            }
            for name, plates in grown.items()
        }
        attrs["new_entries"] = json.dumps(texts)
    ways = {ValueSource.POSTERIOR_ROWS: "posterior", ValueSource.RESAMPLED_NEW_ROWS: "drawn anew"}
    found = [way for source, way in ways.items() if substitution.by_source[source]]
    if found:
        attrs["local_latents"] = " and ".join(found)
    return attrs


def _as_json(values: Mapping[str, Any] | None) -> str:
    """Return the values of an intervention or a condition as JSON."""
    return json.dumps({name: _plain(value) for name, value in (values or {}).items()})


def _plain(value: Any) -> Any:
    """Return a value of an intervention as JSON."""
    if callable(value):
        return f"callable {getattr(value, '__name__', type(value).__name__)}"
    if isinstance(value, AsIn):
        return f"as in {value.scenario}{', redrawn' if value.redrawn else ''}"
    if isinstance(value, str) or value is None:
        return value
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else f"array of shape {array.shape}"

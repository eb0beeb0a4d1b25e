"""Attributes of a result that record the decisions about a call."""

__all__ = ["call_attrs"]

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from aimz.engine.prepared_call import PredictionSettings
from aimz.kernel import AsIn, Substitution, ValueSource


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

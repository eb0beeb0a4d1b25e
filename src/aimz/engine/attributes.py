"""Attributes of a result that record the decisions about a call."""

__all__ = ["kind_attrs", "substitution_attrs"]

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from aimz.kernel import Substitution, ValueSource
from aimz.types import Intervention


def substitution_attrs(
    substitution: Substitution,
    intervention: Intervention | None,
    condition: Mapping[str, Any] | None,
    grown: Mapping[str, Mapping[str, tuple[int, int]]],
) -> dict[str, Any]:
    """Return the attributes that record the substitution: strings and lists of strings, which every format stores."""
    attrs: dict[str, Any] = {"intervention": json.dumps({k: _plain(v) for k, v in (intervention or {}).items()})}
    if condition:
        attrs["condition"] = json.dumps({name: _plain(value) for name, value in condition.items()})
    if substitution.resampled:
        attrs["drawn_anew"] = list(substitution.resampled)
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
    found = [way for source, way in ways.items() if substitution.sites_from(source)]
    if found:
        attrs["local_latents"] = " and ".join(found)
    return attrs


def kind_attrs(kind: str | None, drawn: list[str]) -> dict[str, Any]:
    """Return the attributes of an effect that record which sites are averages of drawn outcomes."""
    return ({} if kind is None else {"kind": kind}) | ({"drawn_outcomes": drawn} if kind and drawn else {})


def _plain(value: Any) -> Any:
    """Return a value of an intervention as JSON."""
    if callable(value):
        return f"callable {getattr(value, '__name__', type(value).__name__)}"
    if isinstance(value, str) or value is None:
        return value
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else f"array of shape {array.shape}"

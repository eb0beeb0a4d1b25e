"""The parameters of a request, which are numbers and JSON."""

__all__ = ["DEFAULT_STATISTICS", "Asked", "names_of", "read_asked"]

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.statistics import read_statistics

DEFAULT_STATISTICS = '["mean", "sd", 0.05, 0.5, 0.95]'
_KNOWN = ("statistics", "intervention", "baseline", "num_samples", "seed")


@dataclass(frozen=True)
class Asked:
    """What a request wants."""

    statistics: tuple[Any, ...]
    intervention: Mapping[str, Any] | None
    baseline: Mapping[str, Any] | None
    """The scenario to compare with; an effect is wanted if there is one."""
    num_samples: int | None
    seed: int


def read_asked(params: Mapping[str, Any] | None) -> Asked:
    """Check the parameters of a request.

    Raises
    ------
    TypeError, ValueError
        If one is unknown, is no JSON, or of the wrong kind.
    """
    given = {name: value for name, value in (params or {}).items() if value is not None}
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        msg = f"`params` got {unknown[0]!r}, which is not a parameter of this model. Known: {', '.join(_KNOWN)}."
        raise ValueError(msg)
    example = '["mean", "sd", 0.05, 0.95]'
    statistics = _parsed("statistics", given.get("statistics", DEFAULT_STATISTICS), list, f"a list, as in {example}")
    read_statistics(statistics)
    scenarios = {name: _scenario(name, given.get(name)) for name in ("intervention", "baseline")}
    return Asked(
        statistics=tuple(statistics),
        num_samples=None if "num_samples" not in given else _count("num_samples", given["num_samples"], 1),
        seed=_count("seed", given.get("seed", 0), 0),
        **scenarios,
    )


def _parsed(name: str, value: Any, kind: type, wanted: str) -> Any:
    """Return what a JSON text says; what is parsed already is taken as it is."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError as error:
            msg = f"`{name}` must be JSON; got {value!r}, which is not ({error}). Send {wanted}."
            raise ValueError(msg) from error
    if not isinstance(found, kind):
        msg = f"`{name}` must be JSON of {wanted}; got {value!r}. Send it as a text."
        raise TypeError(msg)
    return found


def _scenario(name: str, value: Any) -> dict[str, Any] | None:
    if value is None or value == "":
        return None
    example = '{"price": 1.2}'
    found = _parsed(name, value, dict, f"names and values, as in {example}")
    return {key: np.asarray(one) if isinstance(one, list) else one for key, one in found.items()}


def _count(name: str, value: Any, least: int) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or value >= 2**63:
        msg = f"`{name}` must be a whole number from {least}; got {value!r}. Leave it out for the default."
        raise ValueError(msg)
    return int(value)


def names_of(statistics: Any) -> list[str]:
    """Return what the numbers of a row are called: quantiles ``q0.05``, the others as in a result."""
    read = read_statistics(statistics)
    assert read is not None
    names = []
    for part in read.parts:
        prefix = "q" if part.kind == "quantile" else ""
        names += [f"{prefix}{label.replace(' ', '_')}" for label in part.labels]
    return names

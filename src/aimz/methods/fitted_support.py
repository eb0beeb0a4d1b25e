"""Description of the data of a fit, kept with its posterior."""

__all__ = ["observe_support", "read_support", "with_support_of_fit", "write_support"]

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aimz.data import Batches, Posterior
from aimz.statistics import FitSupport

_PREFIX = "support/"


def observe_support(
    batches: Batches, output: str, columns: Mapping[str, tuple[str, ...]], categories: Collection[str]
) -> None:
    """Set the description to which the first epoch of a fit adds its rows, unless they cannot be described."""
    arguments = {name: rows for name, rows in batches.templates.items() if name != output}
    found = FitSupport.of(arguments, columns, categories)
    batches.description, batches.observe = found, None if found is None else found.add


def with_support_of_fit[P: (Posterior, Posterior | None)](posterior: P, support: FitSupport | None) -> P:
    """Return a posterior with the description of the data of its fit."""
    return posterior if posterior is None or support is None else replace(posterior, support=support)


def write_support(support: FitSupport | None, arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the JSON node of a description; its numbers are added to ``arrays``."""
    if support is None:
        return None
    arrays.update({f"{_PREFIX}{name}": array for name, array in support.to_arrays().items()})
    node = {"names": list(support.names), "places": [list(place) for place in support.places]}
    return {**node, "categories": list(support.categories)} if support.categories else node


def read_support(node: Any, arrays: Mapping[str, np.ndarray]) -> FitSupport | None:
    """Return the description that a saved model contains; None in files of earlier versions."""
    if node is None:
        return None
    places = [(str(argument), None if column is None else int(column)) for argument, column in node["places"]]
    names = [str(name) for name in node["names"]]
    if len(names) != len(places):
        msg = "The description of the data of the fit must have a name for each of its columns."
        raise ValueError(msg)
    own = {name.removeprefix(_PREFIX): np.array(array) for name, array in arrays.items() if name.startswith(_PREFIX)}
    return FitSupport.from_arrays(names, places, node.get("categories", ()), own)

"""Arguments of the kernel that are text or categorical: their categories, and the parameters for the number of them."""

__all__ = [
    "check_known",
    "check_used",
    "declared_categories",
    "encode_lists",
    "read_groups",
    "with_counts",
    "without_counts",
]

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from aimz.data import (
    Categories,
    KernelArguments,
    KernelParameters,
    is_text,
    plain_labels,
)
from aimz.kernel import InputColumns, KernelReader, KernelSignature, count_parameters, plural_names


def declared_categories(signature: KernelSignature, coords: Any) -> dict[str, Categories]:
    """Return the categories of arguments that the model's ``coords`` declare, by the argument's name or its plural."""
    if not isinstance(coords, Mapping):
        return {}
    dims = {name: next((dim for dim in (name, *plural_names(name)) if dim in coords), None) for name in signature.extra}
    return {name: plain_labels(coords[dim]) for name, dim in dims.items() if dim is not None}


def encode_lists(
    extra: Mapping[str, Any], parameters: KernelParameters, n_obs: tuple[int, ...], unchanged: Container[str]
) -> dict[str, Any]:
    """Return arguments in which lists of texts with one entry for each row are encoded."""
    found = dict(extra)
    for name, value in extra.items():
        if isinstance(value, list) and name not in unchanged and (len(value),) == n_obs and is_text(value):
            found[name] = parameters.encoded(name, np.asarray(value, object))
    return found


def with_counts(
    extra: Mapping[str, Any], categories: Mapping[str, Categories], signature: KernelSignature
) -> dict[str, Any]:
    """Return arguments with the numbers of categories that the kernel takes and that were not passed."""
    counts = {
        count: len(labels) for name, labels in categories.items() for count in count_parameters(name, signature.extra)
    }
    return {**counts, **extra}


def without_counts(
    static: Mapping[str, Any], categories: Mapping[str, Categories], signature: KernelSignature
) -> dict[str, Any]:
    """Return arguments without the numbers of the categories of the fit."""
    counts = with_counts({}, categories, signature)
    return {name: value for name, value in static.items() if name not in counts}


def read_groups(call: KernelArguments, reader: KernelReader) -> dict[str, InputColumns]:
    """Return the categories of each argument of a call, and the axes of sites along them."""
    found = {}
    for name, labels in call.categories.items():
        counts = count_parameters(name, reader.signature.extra)
        count = next((one for one in counts if call.static.get(one) == len(labels)), None)
        found[name] = reader.categories(name, labels, count, call.arrays, call.static)
    return found


def check_used(call: KernelArguments, reader: KernelReader) -> KernelArguments:
    """Return a call after checking that the kernel has groups of each categorical argument, not numbers.

    Raises
    ------
    TypeError
        If the kernel has neither a parameter for the number of categories nor a plate of the argument's name.
    """
    for name, group in read_groups(call, reader).items():
        if not group.axes and not count_parameters(name, reader.signature.extra):
            msg = (
                f"`{name}` must be numeric; got dtype str, and kernel `{reader.signature.kernel}` has no groups of it. "
                f"Encode it as numbers first; or let the kernel take the number of categories, `num_{name}`, or name "
                f"the plate over its {len(group.names)} categories {name!r}."
            )
            raise TypeError(msg)
    return call


def check_known(call: KernelArguments, known: Container[str]) -> None:
    """Raise if an argument has categories, but the posterior belongs to unknown ones.

    Raises
    ------
    ValueError
        If the fit had no categories of an argument.
    """
    unknown = next((name for name in call.categories if name not in known), None)
    if unknown is not None:
        msg = (
            f"`{unknown}` has categories, but the posterior belongs to codes, and their order is not known. Declare "
            f"the categories in the order of the codes, `ImpactModel(..., coords={{{unknown!r}: [...]}})`, or pass "
            "codes."
        )
        raise ValueError(msg)

"""Checks of the sites that a call returns or scores."""

__all__ = ["check_factors", "read_names"]

from collections.abc import Iterable
from typing import Any

from aimz.errors import KernelValidationError
from aimz.kernel import KernelSpec, Site


def check_factors(spec: KernelSpec, scored: Site, *, one_by_one: bool) -> None:
    """Raise if a factor belongs to the likelihood, and its values cannot be assigned to observations."""
    batch = scored.traced_shape[: len(scored.traced_shape) - scored.event_dim]
    for name in spec.row_factors:
        shape = spec[name].traced_shape[: len(spec[name].traced_shape) - spec[name].event_dim]
        if shape != batch:
            msg = (
                f"Factor `{name}` has values of shape {shape}, and the observations of `{spec.param_output}` have "
                f"shape {batch}, so that its values cannot be added to their log densities. Give both the same shape."
            )
            raise KernelValidationError(msg)
    if one_by_one and spec.joint_factors:
        msg = (
            f"`loo` needs a density for each observation, but factor `{spec.joint_factors[0]}` has one value for the "
            "data of all rows. Write it with one value for each row: `numpyro.factor(name, values)` inside of the "
            "plate, without a sum over rows."
        )
        raise KernelValidationError(msg)


def read_names(return_sites: Any, known: Iterable[str], what: str) -> tuple[str, ...]:
    """Return the names of the sites to return, without duplicates; raise if one is unknown."""
    known = tuple(known)
    if not isinstance(return_sites, Iterable):
        msg = (
            f"`return_sites` must be a name or names of {what}; got {return_sites!r}. "
            f"Known: {', '.join(known) or 'none'}."
        )
        raise TypeError(msg)
    names = (return_sites,) if isinstance(return_sites, str) else tuple(return_sites)
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = (
            f"`return_sites` must name {what} of the kernel; got {', '.join(map(repr, unknown))}. "
            f"Known: {', '.join(known) or 'none'}."
        )
        raise ValueError(msg)
    return tuple(dict.fromkeys(names))

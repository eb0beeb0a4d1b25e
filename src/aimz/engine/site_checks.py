"""Checks of the sites that a call returns or scores."""

__all__ = ["check_factors", "check_known"]

from collections.abc import Iterable

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


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise if a return site is unknown."""
    known = tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = (
            f"`return_sites` must name {what} of the kernel; got {', '.join(map(repr, unknown))}. "
            f"Known: {', '.join(known) or 'none'}."
        )
        raise ValueError(msg)

"""Which argument of a model is the input and which the output, whatever they are called."""

__all__ = ["Roles", "guess", "told_by_data"]

from dataclasses import dataclass

from aimz.kernel import KernelSpec, Role
from aimz.primitives.arguments import Bound


@dataclass(frozen=True)
class Roles:
    """Parameters of a model."""

    input: str | None
    output: str | None

    def n_obs(self, bound: Bound) -> int:
        """Return the number of rows: those of the input, else of the output; 0 if neither has any."""
        for role in (self.input, self.output):
            for name, array in bound.arrays.items():
                if array.shape and bound.parameter_of(name) == role:
                    return int(array.shape[0])
        return 0


def guess(bound: Bound) -> Roles:
    """Go by the names of the parameters, then by their defaults: what is left out to predict has the default None."""
    named = [p for p in bound.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [p.name for p in named]
    left_out = [p.name for p in named if p.default is None and p.name != "X"]
    output = "y" if "y" in names else next(iter(left_out), None)
    return Roles(_input(bound, names, output), output)


def told_by_data(roles: Roles, bound: Bound, spec: KernelSpec) -> Roles:
    """Go by which argument is observed, where no parameter is called `y`."""
    if "y" in bound.parameters:
        return roles
    observed = [bound.parameter_of(name) for site in spec.sites if site.role is Role.OBSERVED for name in site.data]
    if not observed or roles.output in observed:
        return roles
    names = [p.name for p in bound.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Roles(_input(bound, names, observed[0]), observed[0])


def _input(bound: Bound, names: list[str], output: str | None) -> str | None:
    if "X" in names:
        return "X"
    others = [name for name in names if name != output and bound.parameters[name].default is not None]
    with_rows = {bound.parameter_of(name) for name, array in bound.arrays.items() if array.shape}
    arrays = [name for name in others if name in with_rows]
    return next(iter(arrays or others), None)

"""Which argument of a model is the input and which the output, whatever they are called."""

__all__ = ["Roles", "guess", "left_out", "observed_argument", "with_output"]

from dataclasses import dataclass

from aimz.kernel import KernelSpec, Role
from aimz.primitives.example_arguments import Bound


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
    return with_output(bound, "y" if "y" in bound.parameters else next(iter(left_out(bound)), None))


def left_out(bound: Bound) -> list[str]:
    """Return the parameters that may be the output, since the model can be called without them."""
    return [name for name, p in bound.parameters.items() if p.default is None and name != "X"]


def with_output(bound: Bound, output: str | None) -> Roles:
    """Return the roles in a model whose output is known."""
    names = [p.name for p in bound.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Roles(_input(bound, names, output), output)


def observed_argument(bound: Bound, spec: KernelSpec) -> str | None:
    """Return the first argument that is data of a site, or None."""
    for site in spec.sites:
        if site.role is Role.OBSERVED and site.data:
            return bound.parameter_of(min(site.data))
    return None


def _input(bound: Bound, names: list[str], output: str | None) -> str | None:
    if "X" in names:
        return "X"
    others = [name for name in names if name != output and bound.parameters[name].default is not None]
    with_rows = {bound.parameter_of(name) for name, array in bound.arrays.items() if array.shape}
    arrays = [name for name in others if name in with_rows]
    return next(iter(arrays or others), None)

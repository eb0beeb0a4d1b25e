"""A model with data and without: what each abstract run shows."""

__all__ = ["DATA", "Traced", "spec_with_data_apart", "trace_model"]

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from aimz.kernel import KernelSignature, KernelSpec, Role, kernel_name, read_kernel
from aimz.primitives.example_arguments import Bound
from aimz.primitives.recording import Recorded, record
from aimz.primitives.result import PlateInfo, SiteInfo
from aimz.primitives.roles import Roles
from aimz.types import Kernel

DATA = "(data) "
"""Begins the names of the output's data, where they must not be taken for the site of that name."""
_ROWS = "(rows)"
"""Stands for the rows among the arguments: a model may have no input, or one of another name."""


@dataclass(frozen=True)
class Traced:
    """A model in one kind of call."""

    bound: Bound
    roles: Roles
    recorded: Recorded
    spec: KernelSpec | None
    """Its structure; None if it raised."""
    faults: tuple[str, ...]
    """What is wrong with its names."""
    raised: Exception | None

    @property
    def n_obs(self) -> int:
        """Number of rows, 0 if there are none."""
        return self.roles.n_obs(self.bound)

    @property
    def kernel(self) -> Kernel:
        """The model, called with its arrays by name."""
        return _with_rows(self.bound.kernel)

    @property
    def arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What it is called with, the rows as such among it."""
        return {_ROWS: jax.ShapeDtypeStruct((self.n_obs,), "float32"), **self.bound.arrays}

    def reaches(self, names: frozenset[str]) -> bool:
        """Whether the output is among these arguments."""
        return any(self.bound.parameter_of(name) == self.roles.output for name in names if name != _ROWS)

    @property
    def sites(self) -> dict[str, SiteInfo]:
        """The sites, with what the structure adds to them."""
        if self.spec is None:
            return self.recorded.sites
        order = [*self.bound.arrays, *self.recorded.sites]

        def full(info: SiteInfo) -> SiteInfo:
            site = self.spec.get(info.name) if self.spec is not None else None
            if site is None:
                return info
            local = site.role is Role.LATENT and site.row_axes
            return replace(
                info,
                role="local" if local else str(site.role),
                # The value of a factor is empty: NumPyro gives it an axis of length 0.
                shape=site.shape[:-1] if site.role is Role.FACTOR else site.shape,
                parents=tuple(sorted((str(p) for p in site.parents if str(p) in order), key=order.index)),
            )

        return {name: full(info) for name, info in self.recorded.sites.items()}

    @property
    def plates(self) -> list[PlateInfo]:
        """The plates, with which of them run along the rows."""
        along = {
            plate
            for site in (self.spec.sites if self.spec is not None else ())
            for plate, axis in site.plates
            if axis in site.row_axes
        }
        return [replace(plate, is_rows=plate.name in along) for plate in self.recorded.plates]


def trace_model(bound: Bound, roles: Roles) -> Traced:
    """Run a model abstractly, at its number of rows and at another one; nothing is raised."""
    arrays, n_obs = bound.arrays, roles.n_obs(bound)
    recorded = record(bound.kernel, arrays, n_obs)
    if recorded.raised is not None:
        return Traced(bound, roles, recorded, None, (), recorded.raised)
    if recorded.twice:
        return Traced(bound, roles, recorded, None, tuple(_named_twice(name) for name in recorded.twice), None)
    others = tuple(name for name in bound.parameters if name != roles.output)
    signature = KernelSignature(kernel_name(bound.function), _ROWS, roles.output or "", others, ())
    given: dict[str, Any] = {_ROWS: jax.ShapeDtypeStruct((n_obs,), "float32"), **arrays}
    faults: list[str] = []
    try:
        spec = read_kernel(_with_rows(bound.kernel), signature, given, {}, faults)
    except Exception as error:  # noqa: BLE001, RUF100 (a model may raise anything)
        return Traced(bound, roles, recorded, None, tuple(faults), error)
    return Traced(bound, roles, recorded, spec, tuple(faults), None)


def spec_with_data_apart(traced: Traced) -> KernelSpec | None:
    """Return the structure with the data of the output called :data:`DATA`, which tells them from their site.

    Nothing depends on them for where a parameter starts or what is masked.  None if it cannot be read.
    """
    bound, output = traced.bound, traced.roles.output
    names = {name: DATA + name for name in bound.arrays if bound.parameter_of(name) == output}
    back = {new: name for name, new in names.items()}

    def call(**arrays: Any) -> Any:
        with _Distributions():
            return traced.kernel(**{back.get(name, name): array for name, array in arrays.items()})

    given: dict[str, Any] = {names.get(name, name): array for name, array in traced.arrays.items()}
    others = tuple(name for name in given if name != _ROWS)
    signature = KernelSignature(kernel_name(bound.function), _ROWS, output or "", others, ())
    try:
        return read_kernel(call, signature, given, {}, [])
    except Exception:  # noqa: BLE001, RUF100 (a model may raise anything)
        return None


class _Distributions(Messenger):
    """Leaves of each site what its distribution is computed from: no mask, and of a parameter only the shape."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            msg["fn"] = _unmasked(msg["fn"])
        elif msg["type"] == "param":
            start = msg["fn"]
            msg["fn"] = lambda *args, **kwargs: jax.tree.map(jnp.zeros_like, start(*args, **kwargs))


def _unmasked(fn: Any) -> Any:
    """Return a distribution without its masks, which may be inside others."""
    if isinstance(fn, dist.MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, dist.ExpandedDistribution | dist.Independent):
        base = _unmasked(fn.base_dist)
        if base is not fn.base_dist:
            expanded = isinstance(fn, dist.ExpandedDistribution)
            return base.expand(fn.batch_shape) if expanded else base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def _with_rows(kernel: Kernel) -> Kernel:
    """Return a model that is told how many rows there are, and does not listen."""

    def call(**arrays: Any) -> Any:
        return kernel(**{name: array for name, array in arrays.items() if name != _ROWS})

    return call


def _named_twice(name: str) -> str:
    return f"Two sites are named `{name}`. Give each site a name of its own."

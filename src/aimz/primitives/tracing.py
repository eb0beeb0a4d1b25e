"""Abstract runs of a model with and without data."""

__all__ = ["DATA_PREFIX", "TracedModel", "spec_with_renamed_data", "trace_model"]

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from aimz.kernel import KernelSignature, KernelSpec, Role, kernel_name, read_kernel
from aimz.primitives.example_arguments import BoundCall, Roles
from aimz.primitives.recording import Recording, record, visible_shape
from aimz.primitives.result import PlateInfo, SiteInfo
from aimz.types import Kernel

DATA_PREFIX = "(data) "
"""Prefix of the names of the output's data, which distinguishes them from the site of the same name."""
_ROWS = "(rows)"
"""Name of an additional argument with the rows, since a model may have no input."""


@dataclass(frozen=True)
class TracedModel:
    """A model, traced for one kind of call."""

    call: BoundCall
    roles: Roles
    recording: Recording
    spec: KernelSpec | None
    """Structure of the model; None if it raised."""
    faults: tuple[str, ...]
    """Errors in the names of its sites and plates."""
    raised: Exception | None

    @property
    def n_obs(self) -> int:
        """Number of rows; 0 if there are none."""
        return self.roles.n_obs(self.call)

    @property
    def kernel(self) -> Kernel:
        """The model as a kernel that takes its arrays and the rows by name."""
        return _ignoring_rows(self.call.kernel)

    @property
    def arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the arguments, including the rows."""
        return {_ROWS: jax.ShapeDtypeStruct((self.n_obs,), "float32"), **self.call.arrays}

    def has_output(self, names: frozenset[str]) -> bool:
        """Return whether the output is among these arguments."""
        return any(self.call.parameter_of(name) == self.roles.output for name in names if name != _ROWS)

    @property
    def sites(self) -> dict[str, SiteInfo]:
        """The recorded sites, with roles, shapes and parents from the structure."""
        if self.spec is None:
            return self.recording.sites
        order = [*self.call.arrays, *self.recording.sites]

        def full(info: SiteInfo) -> SiteInfo:
            site = self.spec.get(info.name) if self.spec is not None else None
            if site is None:
                return info
            local = site.role is Role.LATENT and site.row_axes
            return replace(
                info,
                role="local" if local else str(site.role),
                shape=visible_shape(site.role, site.shape),
                parents=tuple(sorted((str(p) for p in site.parents if str(p) in order), key=order.index)),
            )

        return {name: full(info) for name, info in self.recording.sites.items()}

    @property
    def plates(self) -> list[PlateInfo]:
        """The recorded plates, with whether they run along the rows."""
        along = {
            plate
            for site in (self.spec.sites if self.spec is not None else ())
            for plate, axis in site.plates
            if axis in site.row_axes
        }
        return [replace(plate, is_rows=plate.name in along) for plate in self.recording.plates]


def trace_model(call: BoundCall, roles: Roles) -> TracedModel:
    """Run a model abstractly at its number of rows and at another one, without raising its exceptions."""
    recording = record(call.kernel, call.arrays, roles.n_obs(call))
    faults = [f"Two sites are named `{name}`. Give each site its own name." for name in recording.duplicates]
    traced = TracedModel(call, roles, recording, None, tuple(faults), recording.raised)
    if recording.raised is not None or faults:
        return traced
    try:
        spec = _read(traced, traced.kernel, traced.arrays, tuple(call.parameters), faults)
    except Exception as error:  # noqa: BLE001, RUF100 (a model may raise anything)
        return replace(traced, faults=tuple(faults), raised=error)
    return replace(traced, spec=spec, faults=tuple(faults))


def _read(
    traced: TracedModel, kernel: Kernel, arrays: dict[str, Any], parameters: tuple[str, ...], faults: list[str]
) -> KernelSpec:
    """Return the structure of a kernel whose input is the rows; errors in names are added to ``faults``."""
    output = traced.roles.output
    others = tuple(name for name in parameters if name not in (_ROWS, output))
    signature = KernelSignature(kernel_name(traced.call.function), _ROWS, output or "", others, ())
    return read_kernel(kernel, signature, arrays, {}, faults)


def spec_with_renamed_data(traced: TracedModel) -> KernelSpec | None:
    """Return the structure with :data:`DATA_PREFIX` in the names of the output's data, or None if it cannot be read.

    Initial values of parameters and masks do not count as dependencies.
    """
    call, output = traced.call, traced.roles.output
    names = {name: DATA_PREFIX + name for name in call.arrays if call.parameter_of(name) == output}
    back = {new: name for name, new in names.items()}

    def run(**arrays: Any) -> Any:
        with _DistributionsOnly():
            return traced.kernel(**{back.get(name, name): array for name, array in arrays.items()})

    arrays: dict[str, Any] = {names.get(name, name): array for name, array in traced.arrays.items()}
    try:
        return _read(traced, run, arrays, tuple(arrays), [])
    except Exception:  # noqa: BLE001, RUF100 (a model may raise anything)
        return None


class _DistributionsOnly(Messenger):
    """Removes masks from distributions, and the initial values of parameters."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            msg["fn"] = _unmasked(msg["fn"])
        elif msg["type"] == "param":
            start = msg["fn"]
            msg["fn"] = lambda *args, **kwargs: jax.tree.map(jnp.zeros_like, start(*args, **kwargs))


def _unmasked(fn: Any) -> Any:
    """Return a distribution without its masks, also inside other wrappers."""
    if isinstance(fn, dist.MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, dist.ExpandedDistribution | dist.Independent):
        base = _unmasked(fn.base_dist)
        if base is not fn.base_dist:
            expanded = isinstance(fn, dist.ExpandedDistribution)
            return base.expand(fn.batch_shape) if expanded else base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def _ignoring_rows(kernel: Kernel) -> Kernel:
    """Return a kernel that accepts the argument with the rows and ignores it."""

    def run(**arrays: Any) -> Any:
        return kernel(**{name: array for name, array in arrays.items() if name != _ROWS})

    return run

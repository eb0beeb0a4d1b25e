"""Sites whose first steps are known: of the fit that a forecast continues, or of a condition."""

__all__ = ["FittedSteps", "KnownSteps", "read_known_steps"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.data import KernelArguments
from aimz.forward import FITTED, History
from aimz.kernel import KernelReader, KernelSpec, ResolvedIntervention, Role, Site


@dataclass(frozen=True)
class FittedSteps:
    """Steps of the fit that precede the steps of a call."""

    axis: int
    """Axis of the arguments along the steps: 0 if each row is a step, 1 if each row is a series."""
    n_steps: int
    call: KernelArguments
    """Arguments of the fit, with its output if there is one in memory."""


@dataclass(frozen=True)
class KnownSteps:
    """Inputs of a pass with the values of known steps."""

    history: History | None = None
    draws: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    row_axes: Mapping[str, int] = field(default_factory=dict)
    """Row axis of one draw of these inputs, if each row is a series."""
    continued: frozenset[str] = frozenset()
    """Latents that keep their posterior draws of the known steps."""


def read_known_steps(
    reader: KernelReader,
    spec: KernelSpec,
    call: KernelArguments,
    fitted: FittedSteps | None,
    draws: Mapping[str, Any],
    first: Mapping[str, tuple[int, Any]],
    acts: ResolvedIntervention,
) -> KnownSteps:
    """Return the sites of a call whose first steps are known.

    ``fitted`` are the steps of the fit that precede the steps of the call, ``draws`` are the posterior draws, and
    ``first`` are the values of first steps in a condition.

    Raises
    ------
    ValueError
        If a site cannot be continued.
    """
    if fitted is not None:
        axes = _axes_along_steps(reader, spec, call, fitted)
        return _continue_fit(reader, spec, call, fitted, axes, draws, first, acts)
    if not first:
        return KnownSteps()
    by_row = {axis in spec[name].row_axes for name, (axis, _) in first.items()}
    if len(by_row) > 1:
        texts = ", ".join(f"`{name}` along axis {axis}" for name, (axis, _) in first.items())
        msg = (
            f"Conditions must be shorter than their sites along the same axis of the data; they are shorter for "
            f"{texts}. Give the first rows of each, or the first steps of each series."
        )
        raise ValueError(msg)
    axis = 0 if by_row.pop() else 1
    sites = {name: (at, spec[name].traced_shape[at]) for name, (at, _) in first.items()}
    kept = {}
    for site in spec.sites:
        at = _shorter_axis(site, draws, axis) if site.role is Role.LATENT else None
        if at is not None:
            sites[site.name] = at, site.traced_shape[at]
            kept[site.name] = draws[site.name]
    _check_sites(spec, sites)
    for name, (at, value) in first.items():
        for latent in kept:
            known = kept[latent].shape[1 + sites[latent][0]]
            if value.shape[at] > known + sites[name][1] - sites[latent][1] and name in spec.descendants([latent]):
                msg = (
                    f"The condition on `{name}` has {value.shape[at]} steps, and the posterior of `{latent}`, on which "
                    f"it depends, has {known}; `condition` does no inference about later ones. Fit the model to all "
                    "of these values, or pass the fitted steps only."
                )
                raise ValueError(msg)
    values = {FITTED + name: value for name, (_, value) in first.items()}
    return KnownSteps(
        History(0, axis, sites=sites, given={name: value.shape[at] for name, (at, value) in first.items()}),
        {FITTED + name: value for name, value in kept.items()},
        values,
        _row_axes(spec, [*first, *kept]) if axis else {},
        frozenset(kept),
    )


def _continue_fit(
    reader: KernelReader,
    spec: KernelSpec,
    call: KernelArguments,
    fitted: FittedSteps,
    axes: Mapping[str, int],
    draws: Mapping[str, Any],
    first: Mapping[str, tuple[int, Any]],
    acts: ResolvedIntervention,
) -> KnownSteps:
    """Return the sites of a forecast that continue the fit."""
    sites = {name: (axis, spec[name].traced_shape[axis]) for name, axis in axes.items()}
    there = reader.read(fitted.call.arrays, fitted.call.static)
    latents = [name for name in axes if spec[name].role is Role.LATENT]
    missing = [name for name in latents if name not in draws and name not in acts.set_sites]
    if missing:
        msg = (
            f"`forecast` continues the fitted values of `{missing[0]}`, and the posterior has no draws of it. Fit by a "
            "method whose posterior contains it, or set its draws with `set_posterior_sample`."
        )
        raise ValueError(msg)
    kept = {name: draws[name] for name in latents if name in draws}
    for name, value in kept.items():
        if value.shape[1:] != there[name].traced_shape:
            msg = (
                f"The posterior draws of `{name}` have shape {value.shape[1:]}, and the fitted steps need "
                f"{there[name].traced_shape}. Pass the rows of the fit in `history`."
            )
            raise ValueError(msg)
    values: dict[str, Any] = {}
    for name in axes:
        site = there.get(name)
        data = next(iter(site.data)) if site is not None and len(site.data) == 1 else None
        if data in fitted.call.arrays and data not in call.arrays:
            values[name] = fitted.call.arrays[data]
    _check_outcome(spec, axes, values)
    transposed = {name: (_row_axis(spec[name]), axes[name]) for name in values} if fitted.axis else {}
    for name, (axis, value) in first.items():
        if axes.get(name) != axis or name not in values:
            msg = f"A condition on `{name}` must be shorter than the site along its steps, axis {axes.get(name)}."
            raise ValueError(msg)
        known = np.asarray(values[name])
        if name in transposed:
            known = np.moveaxis(known, (0, 1), transposed.pop(name))
        values[name] = np.concatenate([known, np.asarray(value)], axis=axis)
    _check_sites(spec, {name: sites[name] for name in {*kept, *values}})
    arguments = tuple(
        name
        for name, array in call.arrays.items()
        if array.ndim > fitted.axis and name in fitted.call.arrays and _has_steps(array, fitted, call)
    )
    given = {FITTED + name: _in_memory(value, fitted.axis) for name, value in values.items()}
    given |= {FITTED + name: _in_memory(fitted.call.arrays[name], fitted.axis) for name in arguments}
    row_axes: dict[str, int] = {}
    if fitted.axis:
        row_axes = {**dict.fromkeys(given, 0), **_row_axes(spec, [*kept, *(set(values) - set(transposed))])}
    history = History(fitted.n_steps, fitted.axis, arguments, sites, transposed)
    return KnownSteps(history, {FITTED + n: value for n, value in kept.items()}, given, row_axes, frozenset(kept))


def _check_outcome(spec: KernelSpec, axes: Mapping[str, int], values: Mapping[str, Any]) -> None:
    """Raise if later steps depend on the outcome of the fitted ones, and it is not known."""
    output = spec.get(spec.param_output)
    if output is None or output.name not in axes:
        return
    along_event = axes[output.name] >= len(output.traced_shape) - output.core_event_dim
    if not (output.in_control_flow or along_event or spec.descendants([output.name])):
        return
    known = values.get(output.name)
    if known is None:
        msg = (
            f"Later steps depend on `{output.name}` in the fitted steps, which `history` does not have. Pass it: "
            f"`history={{{spec.param_input!r}: X, {output.name!r}: y}}`."
        )
        raise ValueError(msg)
    if getattr(known, "is_stored", False):
        return
    missing = np.argwhere(np.isnan(np.asarray(known)))
    if len(missing):
        msg = (
            f"Later steps depend on `{output.name}` in the fitted steps, which is NaN {len(missing)} time(s), first in "
            f"row {missing[0][0]}. Fill these values, or make the latent state alone depend on earlier steps."
        )
        raise ValueError(msg)


def _axes_along_steps(
    reader: KernelReader, spec: KernelSpec, call: KernelArguments, fitted: FittedSteps
) -> dict[str, int]:
    """Return the axis along the steps of each site that has one."""
    sampled = [site for site in spec.sites if site.is_sample or site.role is Role.DETERMINISTIC]
    if fitted.axis:
        names = [n for n, array in call.arrays.items() if array.ndim > 1 and _has_steps(array, fitted, call)]
        grown = reader.growing_axes(call.arrays, call.static, names, 1)
        return {site.name: grown[site.name] for site in sampled if site.name in grown}
    several = [site.name for site in sampled if len(site.row_axes) > 1]
    if several:
        msg = (
            f"`forecast` continues sites along one axis; site `{several[0]}` has several axes of rows. Leave it out, "
            "or compute it from sites with one axis of rows."
        )
        raise ValueError(msg)
    return {site.name: site.row_axes[0] for site in sampled if site.row_axes}


def _has_steps(array: Any, fitted: FittedSteps, call: KernelArguments) -> bool:
    """Return whether an argument of a call has an axis along the steps."""
    if fitted.axis == 0:
        return True
    later = next(iter(call.arrays.values())).shape[1]
    return bool(array.ndim > 1 and array.shape[1] == later)


def _shorter_axis(site: Site, draws: Mapping[str, Any], axis: int) -> int | None:
    """Return the axis along which the posterior has fewer entries of a latent, if it is an axis along the steps."""
    shape = draws[site.name].shape[1:] if site.name in draws else ()
    if len(shape) != len(site.traced_shape):
        return None
    pairs = enumerate(zip(shape, site.traced_shape, strict=True))
    shorter = [i for i, (here, there) in pairs if here < there and (i in site.row_axes) == (axis == 0)]
    return shorter[0] if len(shorter) == 1 else None


def _check_sites(spec: KernelSpec, sites: Mapping[str, tuple[int, int]]) -> None:
    """Raise if the later steps of a site cannot be drawn given its first ones."""
    for name, (axis, _) in sites.items():
        obstacle = _obstacle(spec[name], axis)
        if obstacle is not None:
            msg = (
                f"Later steps of site `{name}` cannot be drawn given its first ones: {obstacle}. Write it as "
                "`numpyro.contrib.control_flow.scan`, as a cumulative sum of independent innovations, or as "
                "`GaussianRandomWalk`."
            )
            raise ValueError(msg)


_CAUSAL = ("GaussianRandomWalk", "MultivariateNormal", "GaussianStateSpace", "TransformedDistribution")
"""Names of the distributions whose later steps can be drawn given the first ones."""


def _obstacle(site: Site, axis: int) -> str | None:
    """Return why the later steps of a site along ``axis`` cannot be drawn given its first ones, or None."""
    if site.in_control_flow and axis != 0:
        return f"its steps are along axis {axis} inside of a `scan`, whose own steps are along axis 0"
    along_event = axis >= len(site.traced_shape) - site.core_event_dim
    if along_event and not site.in_control_flow and site.distribution not in _CAUSAL:
        return f"its steps are along an event axis of {site.distribution}"
    return None


def _row_axis(site: Site) -> int:
    return site.row_axes[0] if site.row_axes else 0


def _row_axes(spec: KernelSpec, names: Any) -> dict[str, int]:
    """Return the row axis of the inputs with known steps, by key."""
    return {FITTED + name: spec[name].row_axes[0] for name in names if spec[name].row_axes}


def _in_memory(value: Any, axis: int) -> Any:
    """Return known steps as an array, unless they are read by rows."""
    return value[:] if axis == 0 else value

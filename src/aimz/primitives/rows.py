"""Checks of a traced model, without data, for interaction between its rows."""

__all__ = ["density_obstacle", "predictive_obstacle"]

from typing import Any

import jax

from aimz.engine import InputLayout
from aimz.forward import CompiledPrograms, PassSpec
from aimz.kernel import KernelSpec, Role, site_obstacle
from aimz.primitives.tracing import TracedModel


def predictive_obstacle(traced: TracedModel, spec: KernelSpec) -> str | None:
    """Return why predictions must be computed for all rows together, or None, for the model without data."""
    # The unobserved half of a partially observed output is drawn with the output.
    latents = set(spec.names(Role.LATENT)) - {f"{spec.param_output}_unobserved"}
    drawn = frozenset(spec.sample_sites) - latents
    obstacle = site_obstacle(spec, drawn=drawn, returned=spec.return_sites, scored=False)
    if obstacle is not None or not spec.return_sites:
        return obstacle
    return _program_obstacle(traced, spec, "predictive", spec.return_sites, latents)


def density_obstacle(traced: TracedModel, spec: KernelSpec) -> str | None:
    """Return why the density of a minibatch is not a sum over its rows, or None, for the model with data.

    A model with mutable state takes statistics of each batch on purpose, so only its sites are checked.
    """
    scored = tuple(site.name for site in spec.sites if site.is_sample or site.role is Role.FACTOR)
    with_rows = frozenset(site.name for site in spec.sites if site.row_axes)
    obstacle = site_obstacle(spec, drawn=with_rows, returned=scored, scored=False)
    if obstacle is not None or not scored or spec.names(Role.MUTABLE):
        return obstacle
    return _program_obstacle(traced, spec, "batch_density", scored, set(spec.names(Role.LATENT)))


def _program_obstacle(
    traced: TracedModel, spec: KernelSpec, kind: str, sites: tuple[str, ...], latents: set[str]
) -> str | None:
    """Return how rows interact in the program of a pass, from a comparison at two numbers of rows, or None."""
    size, larger, axes = traced.n_obs, 2 * traced.n_obs, spec.row_axes
    plan = PassSpec(n_obs=size, n_draws=1, static={}, return_sites=sites, row_plates=spec.row_plates, row_axes=axes)
    programs = CompiledPrograms(traced.kernel)
    draws: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((1, *spec[name].traced_shape), spec[name].dtype) for name in latents
    }
    arrays: dict[str, Any] = dict(traced.arrays)
    by_row = {name for name, array in arrays.items() if array.shape[:1] == (size,)}
    layout = InputLayout(
        draws={name: value for name, value in draws.items() if name not in axes},
        row_draws={name: value for name, value in draws.items() if name in axes},
        values={name: traced.recording.sites[name].value for name in spec.param_sites if name not in axes},
        row_values={},
        arrays={name: array for name, array in arrays.items() if name not in by_row},
        row_arrays={name: array for name, array in arrays.items() if name in by_row},
        row_axes=axes,
        with_rows=bool(spec.row_plates),
    )
    try:
        step = programs.step(kind, plan, layout.one_block(size))
        if step.own_noise and kind == "batch_density":
            return None  # such as dropout, which is intended
        return programs.use(kind, plan, layout.one_block, larger).obstacle
    except Exception as error:  # noqa: BLE001, RUF100 (a model may raise anything at a size of our choosing)
        return f"for {larger} rows it raises {type(error).__name__}"

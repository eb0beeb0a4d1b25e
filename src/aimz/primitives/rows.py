"""Do the rows of a model see one another?  Asked of its traced program, with no data at hand."""

__all__ = ["density_obstacle", "predictive_obstacle"]

from collections.abc import Mapping
from typing import Any

import jax

from aimz.forward import CompiledPrograms, PassSpec, RowBlock
from aimz.kernel import KernelSpec, Role, site_obstacle
from aimz.primitives.tracing import Traced


def predictive_obstacle(traced: Traced) -> str | None:
    """Return why predictions must see all rows at once, or None; ``traced`` is the model without data."""
    spec = traced.spec
    assert spec is not None
    latents = {name for name in spec.names(Role.LATENT) if not _given_up(spec, name)}
    drawn = frozenset(spec.sample_sites) - latents
    obstacle = site_obstacle(spec, drawn=drawn, returned=spec.return_sites, scored=False)
    if obstacle is not None or not spec.return_sites:
        return obstacle
    return _mixing(traced, "predictive", spec.return_sites, latents)


def density_obstacle(traced: Traced) -> str | None:
    """Return why the density of a batch is not a sum over its rows, or None; ``traced`` is the model with data.

    One with mutable state takes statistics of each batch on purpose, and is taken as it is but for its sites.
    """
    spec = traced.spec
    assert spec is not None
    scored = tuple(site.name for site in spec.sites if site.is_sample or site.role is Role.FACTOR)
    with_rows = frozenset(site.name for site in spec.sites if site.row_axes)
    obstacle = site_obstacle(spec, drawn=with_rows, returned=scored, scored=False)
    if obstacle is not None or not scored or spec.names(Role.MUTABLE):
        return obstacle
    return _mixing(traced, "batch_density", scored, set(spec.names(Role.LATENT)))


def _given_up(spec: KernelSpec, name: str) -> bool:
    """Whether a latent site is half of an output that is observed in part, which is drawn with it."""
    return name == f"{spec.param_output}_unobserved"


def _mixing(traced: Traced, kind: str, sites: tuple[str, ...], latents: set[str]) -> str | None:
    """Compare the program at two numbers of rows."""
    spec = traced.spec
    assert spec is not None
    axes = {site.name: site.row_axes[0] for site in spec.sites if site.row_axes}
    sizes = (traced.n_obs, 2 * traced.n_obs)
    plan = PassSpec(n_obs=sizes[0], n_draws=1, static={}, return_sites=sites, row_plates=spec.row_plates, row_axes=axes)
    programs = CompiledPrograms(traced.kernel)
    one, two = (_inputs(traced, spec, size, latents, axes) for size in sizes)
    try:
        step = programs.step(kind, plan, one)
        if step.own_noise and kind == "batch_density":
            return None  # dropout, say, which is meant
        return programs.use(kind, plan, one, two, sizes[1]).obstacle
    except Exception as error:  # noqa: BLE001, RUF100 (a user's model may raise anything at a size of our choosing)
        return f"for {sizes[1]} rows it raises {type(error).__name__}"


def _inputs(
    traced: Traced, spec: KernelSpec, size: int, latents: set[str], axes: Mapping[str, int]
) -> tuple[Any, Any, Any, RowBlock]:
    """Return abstract inputs of a pass over one block of ``size`` rows."""
    draws, row_draws = {}, {}
    for name in latents:
        shape = spec[name].traced_shape
        if name in axes:
            axis = axes[name]
            row_draws[name] = jax.ShapeDtypeStruct((*shape[:axis], size, *shape[axis + 1 :]), spec[name].dtype)
        else:
            draws[name] = jax.ShapeDtypeStruct(shape, spec[name].dtype)
    values = {name: traced.recorded.sites[name].value for name in spec.param_sites if name not in axes}
    arrays, row_arrays = {}, {}
    for name, array in traced.arrays.items():
        if array.shape[:1] == (traced.n_obs,):
            row_arrays[name] = jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype)
        else:
            arrays[name] = array
    rows = jax.ShapeDtypeStruct((size,), "int32") if spec.row_plates else None
    return draws, values, arrays, RowBlock(jax.ShapeDtypeStruct((), "int32"), rows, row_draws, {}, row_arrays)

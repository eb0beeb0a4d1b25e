"""Check that minibatch SVI is unbiased for a kernel and its guide, and list the sites to scale."""

__all__ = ["batch_scale", "check_batch"]

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from numpyro.infer.autoguide import AutoGuide

from aimz.data import KernelArguments
from aimz.engine import InputLayout, KernelEngine
from aimz.forward import CompiledPrograms, PassSpec
from aimz.inference import SVIFit, abstract_sites
from aimz.kernel import KernelSpec, Role, freeze, site_obstacle


def batch_scale(
    engine: KernelEngine, fit: SVIFit, call: KernelArguments, spec: KernelSpec, n_obs: int
) -> frozenset[str]:
    """Return the sites to scale if ``call`` is a batch of ``n_obs`` rows, cached by shapes and static arguments."""
    if n_obs <= call.n_obs:
        return frozenset()
    shapes = tuple((name, array.shape, str(array.dtype)) for name, array in sorted(call.arrays.items()))
    return fit.scalings.get((shapes, freeze(call.static), n_obs), lambda: check_batch(engine, fit, call, spec, n_obs))


def check_batch(
    engine: KernelEngine, fit: SVIFit, call: KernelArguments, spec: KernelSpec, n_obs: int
) -> frozenset[str]:
    """Return the sites to scale; raise if the loss of a batch is not an unbiased estimate of that of all rows.

    Raises
    ------
    ValueError
        If a site cannot be scaled, or the density combines values of several rows.
    """
    size, other = _sizes(call.n_obs)
    names = fit.check_minibatches(spec, (_shapes(call, size), _shapes(call, other)), call.static, n_obs)
    reason = _row_coupling(engine, fit, call, spec)
    if reason is not None:
        msg = (
            f"Kernel `{engine.signature.kernel}` cannot be fitted in minibatches ({reason}): a batch would not stand "
            "for its share of the data. Fit all rows with `fit_on_batch`, or write the kernel so that each row counts "
            "for itself."
        )
        raise ValueError(msg)
    return names


def _sizes(n_rows: int) -> tuple[int, int]:
    """Return the number of rows of a batch, and another one to compare with."""
    return n_rows, max(1, n_rows // 2) if n_rows > 1 else 2


def _shapes(call: KernelArguments, n_rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the arrays of a call with ``n_rows`` rows."""
    return {
        name: jax.ShapeDtypeStruct((n_rows, *array.shape[1:]) if array.ndim else (), array.dtype)
        for name, array in call.arrays.items()
    }


def _row_coupling(engine: KernelEngine, fit: SVIFit, call: KernelArguments, spec: KernelSpec) -> str | None:
    """Return why the density of a batch is not a sum over its rows, or None.

    Only the sites are checked of kernels with mutable state, which compute statistics of each batch on purpose, and of
    kernels with noise of their own (dropout).
    """
    scored = tuple(site.name for site in spec.sites if site.is_sample or site.role is Role.FACTOR)
    with_rows = frozenset(site.name for site in spec.sites if site.row_axes)
    obstacle = site_obstacle(spec, drawn=with_rows, returned=scored, scored=False)
    if obstacle is not None:
        return obstacle
    latent = {name: jax.ShapeDtypeStruct(spec[name].traced_shape, spec[name].dtype) for name in spec.names(Role.LATENT)}
    params = engine.reader.param_shapes(_shapes(call, call.n_obs), call.static, spec)
    if not spec.names(Role.MUTABLE):
        obstacle = _program_coupling(engine.programs, call, spec, _Function(scored, latent, params, spec.row_axes))
    guide = fit.inference.guide
    if obstacle is not None or isinstance(guide, AutoGuide):
        return obstacle
    one, other = (abstract_sites(guide, _shapes(call, rows), call.static) for rows in _sizes(call.n_obs))
    drawn = {name: site.value for name, site in one.items() if site.kind == "sample"}
    params = {name: site.value for name, site in one.items() if site.kind == "param"}
    axes = {
        name: next(i for i, (a, b) in enumerate(zip(shape.shape, other[name].value.shape, strict=True)) if a != b)
        for name, shape in drawn.items()
        if name in other and shape.shape != other[name].value.shape
    }
    obstacle = _program_coupling(CompiledPrograms(guide), call, spec, _Function(tuple(drawn), drawn, params, axes))
    return None if obstacle is None else f"in its guide: {obstacle}"


class _Function(NamedTuple):
    """Sites and parameters of a model or a guide, as shapes."""

    scored: tuple[str, ...]
    latent: Mapping[str, jax.ShapeDtypeStruct]
    """Shapes of its sites in one batch."""
    params: Mapping[str, Any]
    axes: Mapping[str, int]
    """Row axis of each site that has one."""


def _program_coupling(
    programs: CompiledPrograms, call: KernelArguments, spec: KernelSpec, function: _Function
) -> str | None:
    """Return how the density of a model or a guide combines rows of a batch, or None."""
    size, other = _sizes(call.n_obs)
    latent = function.latent.items()
    draws: dict[str, Any] = {n: jax.ShapeDtypeStruct((1, *shape.shape), shape.dtype) for n, shape in latent}
    arrays: dict[str, Any] = _shapes(call, size)
    layout = InputLayout(
        draws={name: shape for name, shape in draws.items() if name not in function.axes},
        row_draws={name: shape for name, shape in draws.items() if name in function.axes},
        values=function.params,
        row_values={},
        arrays={name: array for name, array in arrays.items() if not array.shape},
        row_arrays={name: array for name, array in arrays.items() if array.shape},
        row_axes=function.axes,
        with_rows=bool(spec.row_plates),
    )
    plan = PassSpec(
        n_obs=size,
        n_draws=1,
        static=call.static,
        return_sites=function.scored,
        row_plates=spec.row_plates,
        row_axes=function.axes,
    )
    try:
        if programs.step("batch_density", plan, layout.one_block(size)).own_noise:
            return None
        use = programs.use("batch_density", plan, layout.one_block, other)
    except Exception as error:  # noqa: BLE001, RUF100 (a kernel may raise anything at this size)
        return f"for {other} rows it raises {type(error).__name__}"
    if use.obstacle is None and spec.row_plates and (use.uses_local_index or use.uses_global_index):
        return "the row numbers of its plate are drawn at random and differ from the rows of the batch"
    return use.obstacle

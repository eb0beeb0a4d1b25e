"""How a call is cut: along its rows if no row sees another, else along its draws."""

__all__ = ["cut_draws", "cut_rows", "shapes_of"]

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aimz.forward import Cut, Program, Step
from aimz.kernel import Source, site_obstacle
from aimz.model.asked import Order
from aimz.model.engine import Engine, Prepared
from aimz.model.steps import Feed, Layout, Runner

if TYPE_CHECKING:
    from aimz.stream import Plan

_BLOCKS_PER_DEVICE = {"cpu": 2}
"""Blocks a device computes at once: enough to be worth a dispatch, few enough to stay in the cache of a CPU."""


def _mesh() -> Mesh | None:
    """Return all local devices in a row, or None if there is but one."""
    devices = jax.local_devices()
    return None if len(devices) == 1 else Mesh(np.array(devices), ("share",))


def _n_devices(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def _bytes_by_row(prepared: Prepared) -> int:
    """Return what one draw of all sites takes for one row; the same for whatever is returned of them."""
    n_obs = prepared.call.n_obs
    return sum(
        prod(site.traced_shape) // n_obs * jnp.dtype(site.dtype).itemsize
        for site in prepared.spec.sites
        if site.row_axes and site.dtype and (site.is_sample or site.name in prepared.spec.deterministic_sites)
    )


def cut_rows(engine: Engine, order: Order, layout: Layout) -> "tuple[Plan, Runner, Step] | str":
    """Return how to compute a call block by block, or why that cannot be done."""
    from aimz.stream import block_rows, plan_draws, plan_rows

    prepared, options = order.prepared, order.streaming
    drawn = prepared.substitution.having(
        Source.PRIOR, Source.ABSENT, Source.OTHER_ROWS, Source.DOWNSTREAM, Source.DRAWN, Source.DATA
    )
    obstacle = site_obstacle(
        prepared.spec,
        drawn=frozenset(drawn),
        returned=prepared.plan.return_sites,
        scored=order.kind == "log_density",
    )
    if obstacle is not None:
        return obstacle
    n_draws, n_obs = prepared.plan.n_draws, prepared.call.n_obs if order.n_obs_known else None
    block = block_rows(_bytes_by_row(prepared), n_draws, n_obs)
    try:
        step = engine.programs.step(
            order.kind, replace(prepared.plan, n_obs=block), layout.one_block(block), layout.one_block(2 * block)
        )
    except Exception:
        return f"it takes {n_obs} rows and not {block}"
    if step.use.obstacle is not None:
        return step.use.obstacle
    feed = Feed(layout.row_arrays, n_obs, order.reader, None if options.output_dir is None else [])
    mesh, n_devices = _mesh(), _n_devices(_mesh())
    sizes = _sizes(step, prepared)
    if options.shard_axis == "draw":
        assert n_obs is not None  # all rows are there
        # At most an eighth of the draws together, on however many devices, so that these do not show in the numbers.
        group = min(step.group, -(-n_draws // 8))
        plan = plan_draws(
            block=block,
            n_obs=n_obs,
            n_draws=n_draws,
            n_chains=_n_chains(prepared),
            group=group,
            draw_bytes=sum(sizes.values()),
            n_devices=n_devices,
            batch_size=options.batch_size,
        )
        cut = Cut.DRAWS
    else:
        group, cut = step.group, Cut.ROWS
        plan = plan_rows(
            block=block,
            n_obs=n_obs,
            n_draws=n_draws,
            n_chains=_n_chains(prepared),
            site_bytes=max((size // prepared.call.n_obs for size in sizes.values()), default=1),
            n_devices=n_devices,
            blocks_per_device=_BLOCKS_PER_DEVICE.get(jax.default_backend(), 16),
            batch_size=options.batch_size,
        )
    program = engine.programs.compiled(step, group=group, cut=cut, mesh=mesh)
    runner = _runner(program, step, layout, feed, order, plan, cut, mesh)
    seen = runner.try_first(lambda *given: engine.programs.apart(step, *given), next(plan.steps())[1])
    if seen is not None:
        if order.reader is not None:
            order.reader.rewind()
        return f"a row of site `{seen}` changes with other rows"
    return plan, runner, step


def cut_draws(engine: Engine, order: Order, layout: Layout) -> "tuple[Plan, Runner, Step]":
    """Return how to compute a call with all rows together, some draws at a time."""
    from aimz.stream import plan_draws

    prepared = order.prepared
    n_draws = prepared.plan.n_draws
    step = engine.programs.step(order.kind, prepared.plan, layout.one_pass(), None)
    mesh = _mesh()
    plan = plan_draws(
        block=None,
        n_obs=prepared.call.n_obs,
        n_draws=n_draws,
        n_chains=_n_chains(prepared),
        group=min(step.group, -(-n_draws // 8)),
        draw_bytes=sum(_sizes(step, prepared).values()),
        n_devices=_n_devices(mesh),
        batch_size=order.streaming.batch_size if order.streaming.shard_axis == "draw" else None,
    )
    group = min(step.group, -(-n_draws // 8))
    program = engine.programs.compiled(step, group=group, cut=Cut.DRAWS, mesh=mesh)
    feed = Feed(layout.row_arrays, prepared.call.n_obs)
    return plan, _runner(program, step, layout, feed, order, plan, Cut.DRAWS, mesh), step


def _runner(
    program: Program,
    step: Step,
    layout: Layout,
    feed: Feed,
    order: Order,
    plan: "Plan",
    cut: Cut,
    mesh: Mesh | None,
) -> Runner:
    key = jax.random.key(0) if order.key is None else order.key
    return Runner(
        program,
        step,
        layout,
        feed,
        key,
        n_draws=plan.n_draws,
        span=plan.step,
        block=plan.block,
        cut=cut,
        mesh=mesh,
    )


def _n_chains(prepared: Prepared) -> int:
    return 1 if prepared.posterior is None else prepared.posterior.num_chains


def shapes_of(step: Step, prepared: Prepared, n_obs: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return the shape of one draw of each return site for ``n_obs`` rows, and the type it is stored as."""
    avals = jax.tree.unflatten(step.traced.outputs, step.traced.jaxpr.out_avals)
    axes = prepared.plan.row_axes if step.by_block else {}
    found = {}
    for name, aval in avals.items():
        shape = tuple(n_obs if axes.get(name) == i else size for i, size in enumerate(aval.shape))
        narrow = jnp.issubdtype(aval.dtype, jnp.floating) and aval.dtype.itemsize < 4
        found[name] = shape, np.dtype(np.float32) if narrow else np.dtype(aval.dtype)
    return found


def _sizes(step: Step, prepared: Prepared) -> dict[str, int]:
    """Return the bytes of one draw of each return site."""
    shapes = shapes_of(step, prepared, prepared.call.n_obs)
    return {name: max(1, prod(shape)) * dtype.itemsize for name, (shape, dtype) in shapes.items()}

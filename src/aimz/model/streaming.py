"""From an order to a stored result: plan, check, stream, and put the tree together."""

__all__ = ["stream"]

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.errors import warn
from aimz.forward import Step
from aimz.model.asked import Order
from aimz.model.cutting import cut_draws, cut_rows, shapes_of
from aimz.model.engine import Engine
from aimz.model.place import Place
from aimz.model.results import Results
from aimz.model.resume import fingerprint_of
from aimz.model.steps import Layout, Runner

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import Sink, Variable
    from aimz.stream import Plan


def stream(engine: Engine, results: Results, order: Order) -> "xr.DataTree":
    """Compute and store one call."""
    if order.streaming.shard_axis == "draw" and order.reader is not None:
        order = order.with_all_rows()
    layout = Layout.of(order.prepared)
    cuttable = cut_rows(engine, order, layout)
    if isinstance(cuttable, str):
        warn(
            f"Kernel `{engine.signature.kernel}` cannot be split along its rows ({cuttable}), so all rows are "
            "computed together, some draws at a time (`shard_axis='draw'`)."
        )
        if order.reader is not None:
            order = order.with_all_rows()
            layout = Layout.of(order.prepared)
        cuttable = cut_draws(engine, order, layout)
    plan, runner, step = cuttable
    return _run(results, order, plan, runner, step)


def _variables(order: Order, plan: "Plan", step: Step, dims: Mapping[str, tuple[str, ...]]) -> "dict[str, Variable]":
    """Return what the sink is to make room for."""
    from aimz.store import Variable
    from aimz.stream import chunk_length

    prepared = order.prepared
    per_chain = plan.n_draws // plan.n_chains
    found = {}
    for site, (shape, dtype) in shapes_of(step, prepared, prepared.call.n_obs).items():
        row = prepared.plan.row_axes.get(site)
        row = None if row is None or row >= len(shape) else row  # one score may be of all rows together
        whole: list[int | None] = [plan.n_chains, per_chain, *shape]
        chunks = [plan.n_chains, per_chain, *shape]
        axis = None
        if plan.axis == "draw":
            axis, chunks[0], chunks[1] = 1, 1, plan.chunk
            if row is not None:
                row_bytes = max(1, prod(shape) // shape[row]) * dtype.itemsize * plan.chunk
                chunks[2 + row] = min(shape[row], chunk_length(1, row_bytes, shape[row], None))
        elif row is not None:
            axis = 2 + row
            chunks[axis] = min(plan.chunk, plan.n_obs or plan.chunk)
            whole[axis] = plan.n_obs
        name = order.names[site]
        found[name] = Variable(dims[name], tuple(whole), dtype, tuple(chunks), axis)
    return found


def _run(results: Results, order: Order, plan: "Plan", runner: Runner, step: Step) -> "xr.DataTree":
    """Stream the steps into the sink, complete it, and return the tree."""
    from aimz.output import make_tree
    from aimz.store import Group, MemorySink

    prepared, names, options = order.prepared, order.names, order.streaming

    def shapes(n_obs: int) -> dict[str, tuple[int, ...]]:
        return {names[n]: (plan.n_draws, *s) for n, (s, _) in shapes_of(step, prepared, n_obs).items()}

    label = partial(results.frame, key=order.key_text, row_block=plan.block or 0)
    frame = label(prepared, shapes(prepared.call.n_obs))
    variables = _variables(order, plan, step, frame.dims)
    place = None
    if options.store == "persistent":
        known = partial(
            fingerprint_of, prepared, plan, step, method=order.asked.method, group=order.asked.group, key=order.key_text
        )
        home = order.home() if options.output_dir is None else None
        place = Place(options, order.asked.method, order.asked.group, known, plan, home)
    sink: Sink = MemorySink() if place is None else place.sink
    own = {} if place is None else place.attrs
    beside = order.beside()
    if not options.complete:
        row_dim = None if order.n_obs_known else results.row_dim(prepared)
        coords = {name: coord for name, coord in frame.packed_coords().items() if name != row_dim}
        try:
            sink.open(Group(variables, coords, {**frame.attrs, **own}))
            if place is not None:
                place.write_beside(beside)
            length = _fill(order, plan, runner, sink, place, variables)
            sink.finish(length)
        except BaseException as error:
            better = sink.fail(error)
            if place is not None:
                place.leave()
            if better is error:
                raise
            raise better from error
    elif place is not None and order.reader is not None:
        place.check_same_rows(runner.skip, runner.digests, options.rows)
    arrays = {name: sink.read(name) for name in variables}
    if not order.n_obs_known:
        name, axis = next((n, v.axis) for n, v in variables.items() if v.axis is not None)
        length = arrays[name].shape[axis or 0]
        prepared = replace(prepared, call=replace(prepared.call, n_obs=length))
        frame = label(prepared, shapes(length), created_at=frame.attrs["created_at"])
    beside = {name: dataset.assign_attrs(own) if own else dataset for name, dataset in beside.items()}
    return make_tree(
        {**beside, order.asked.group: frame.filled(arrays, **own)}, **({} if place is None else place.root_attrs)
    )


def _fill(
    order: Order,
    plan: "Plan",
    runner: Runner,
    sink: "Sink",
    place: Place | None,
    variables: "Mapping[str, Variable]",
) -> int:
    """Compute what is missing from the sink; return the length of the axis that was cut."""
    from aimz.stream import Request, run

    names, row_axes = order.names, order.prepared.plan.row_axes

    def noting(act: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        def noted(start: int, stop: int) -> Any:
            done = act(start, stop)
            if place is not None:
                place.note(runner.digests)
            return done

        return noted

    request = Request(
        plan=plan,
        axes={names[n]: 0 if plan.axis == "draw" else 1 + row_axes.get(n, 0) for n in names},
        begin=noting(runner.begin),
        fetch=lambda handle: [(start, stop, _renamed(part, names)) for start, stop, part in runner.fetch(handle)],
        once=lambda handle: _renamed(runner.once(handle), names),
        wanted=(lambda _start, _stop: True) if place is None else place.wanted(variables),
        skip=noting(runner.skip),
        progress=order.asked.method if order.streaming.progress else None,
    )
    length = run(request, sink)
    if plan.axis == "obs":
        runner.check_rows(length)
    if place is not None:
        place.check_end(length)
    return length


def _renamed(arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {names[name]: array for name, array in arrays.items()}

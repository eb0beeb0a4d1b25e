"""From an order to a stored result: plan, check, stream, and put the tree together."""

__all__ = ["stream", "stream_effect"]

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.distributed import (
    DaskExecutor,
    Guest,
    MultiHostExecutor,
    await_others,
    check_can_be_divided,
    check_can_be_spread,
    check_same_call,
    choose_executor,
    place_for_all,
    process_group,
)
from aimz.engine import (
    Given,
    InputLayout,
    KernelEngine,
    Order,
    OutputSpec,
    ResultDirectory,
    ScenarioRequest,
    StepRunner,
    fingerprint_of,
    plan_by_draws,
    plan_by_rows,
    shapes_of,
)
from aimz.errors import warn
from aimz.forward import TracedStep
from aimz.model.averages import cut_effect
from aimz.model.results import ResultBuilder
from aimz.statistics import Reduction

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import ResultStore, Variable
    from aimz.stream import Plan


def stream(engine: KernelEngine, results: ResultBuilder, order: Order) -> "xr.DataTree":
    """Compute and store one call."""
    _check_options(order)
    if order.streaming.shard_axis == "draw" and order.reader is not None:
        order = order.with_all_rows()
    layout = InputLayout.of(order.prepared)
    cuttable = plan_by_rows(engine, order, layout)
    if isinstance(cuttable, str):
        warn(
            f"Kernel `{engine.signature.kernel}` cannot be split along its rows ({cuttable}), so all rows are "
            "computed together, some draws at a time (`shard_axis='draw'`)."
        )
        if order.reader is not None:
            order = order.with_all_rows()
            layout = InputLayout.of(order.prepared)
        cuttable = plan_by_draws(engine, order, layout)
    plan, runner, step = cuttable
    spread = choose_executor(engine, order.streaming, runner, plan, _landing(order, plan), order.asked.given)
    return _run(results, order, plan, runner, step, spread)


def stream_effect(engine: KernelEngine, results: ResultBuilder, order: Order) -> "xr.DataTree":
    """Compute and store what a scenario changes against another, row by row, as statistics over draws."""
    assert order.against is not None
    assert order.key is not None
    spec, n_obs, options = order.prepared.spec, order.prepared.call.n_obs, order.streaming
    assert options.statistics is not None
    _check_options(order)
    comparison = ScenarioRequest(
        prepared={"baseline": order.against.prepared, "intervention": order.prepared},
        baseline="baseline",
        groups=None,
        reader=order.reader,
        n_obs=n_obs if order.n_obs_known else None,
        batch_size=options.batch_size,
        resumable=options.output_dir is not None,
        given={"baseline": order.against.given, "intervention": order.asked.given},
        prepare={"baseline": order.against.prepare, "intervention": order.asked.prepare},
    )
    numbers = max(prod(spec[name].traced_shape) for name in order.prepared.plan.return_sites) // n_obs
    row_bytes = max(1, numbers) * 8 * len(options.statistics.labels)
    prepared, plan, runner, step = cut_effect(engine, comparison, order.key, row_bytes)
    about = {"contrast": "intervention - baseline", "baseline": order.against.prepared.attrs["intervention"]}
    given = order.asked.given if plan.axis == "obs" else Given(prepared.call)
    asked = replace(order.asked, given=given, prepared=replace(prepared, attrs={**prepared.attrs, **about}))
    order = replace(order, asked=asked)
    spread = choose_executor(engine, options, runner, plan, _landing(order, plan), given)
    return _run(results, order, plan, runner, step, spread)


def _check_options(order: Order) -> None:
    """Refuse what neither a cluster nor several hosts could do."""
    options = order.streaming
    check_can_be_spread(options.client, order.asked.given)
    at_home = options.store == "persistent" and options.output_dir is None
    check_can_be_divided(options.client, stored_at_home=at_home)


def _variables(
    order: Order, plan: "Plan", step: TracedStep, dims: Mapping[str, tuple[str, ...]], statistics: Reduction | None
) -> "dict[str, Variable]":
    """Return what a sink is to make room for."""
    from aimz.store import Variable
    from aimz.stream import chunk_length

    prepared = order.prepared
    per_chain = plan.n_draws // plan.n_chains
    head = [plan.n_chains, per_chain] if statistics is None else [len(statistics.labels)]
    found = {}
    for site, (shape, drawn) in shapes_of(step, prepared, prepared.call.n_obs).items():
        dtype = drawn if statistics is None else np.dtype(np.float64)
        row = prepared.plan.row_axes.get(site)
        row = None if row is None or row >= len(shape) else row  # one score may be of all rows together
        whole: list[int | None] = [*head, *shape]
        chunks = [*head, *shape]
        axis = None
        if plan.axis == "draw":
            if statistics is None:
                axis, chunks[0], chunks[1] = 1, 1, plan.chunk
            if row is not None:
                row_bytes = max(1, prod(shape) // shape[row]) * dtype.itemsize * prod(chunks[: len(head)])
                chunks[len(head) + row] = min(shape[row], chunk_length(1, row_bytes, shape[row], None))
        elif row is not None:
            axis = len(head) + row
            chunks[axis] = min(plan.chunk, plan.n_obs or plan.chunk)
            whole[axis] = plan.n_obs
        name = order.names[site]
        found[name] = Variable(dims[name], tuple(whole), dtype, tuple(chunks), axis)
    return found


def _run(
    results: ResultBuilder,
    order: Order,
    plan: "Plan",
    runner: StepRunner,
    step: TracedStep,
    spread: DaskExecutor | MultiHostExecutor | None,
) -> "xr.DataTree":
    """Stream the steps into the sink, complete it, and return the tree."""
    from aimz.output import make_tree
    from aimz.store import Group, InMemoryStore

    prepared, names, options = order.prepared, order.names, order.streaming

    def shapes(n_obs: int) -> dict[str, tuple[int, ...]]:
        return {names[n]: (plan.n_draws, *s) for n, (s, _) in shapes_of(step, prepared, n_obs).items()}

    statistics = options.statistics
    label = partial(results.frame, key=order.key_text, row_block=plan.block or 0, statistics=statistics)
    frame = label(prepared, shapes(prepared.call.n_obs), **_agree(order, plan, step))
    variables = _variables(order, plan, step, frame.dims, statistics)
    device = None if spread is None else spread.device
    place = place_for_all(partial(_place, order, plan, step, device), order.asked.group, options.journal)
    sink: ResultStore = InMemoryStore() if place is None else place.sink
    own = {} if place is None else place.attrs
    beside = order.beside()
    if not options.complete:
        row_dim = None if order.n_obs_known else results.row_dim(prepared)
        coords = {name: coord for name, coord in frame.packed_coords().items() if name != row_dim}
        try:
            sink.open(Group(variables, coords, {**frame.attrs, **own}))
            if place is not None:
                place.write_beside(beside)
            if statistics is not None and plan.axis == "draw":
                length = _fill_from_draws(order, plan, runner, sink, step, statistics)
            else:
                length = _fill(order, plan, runner, sink, place, variables, spread)
            sink.finish(length)
        except BaseException as error:
            better = sink.fail(error)
            if place is not None:
                place.leave()
            if better is error:
                raise
            raise better from error
        await_others("whether the result is complete")
    elif place is not None and runner.notes is not None and (order.reader is not None or options.rows):
        if spread is None:
            place.look(runner.skip, runner.notes)
        else:
            spread.run(sink, note=place.restore, look=True)
        place.check_same_rows(options.rows)
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


def _place(order: Order, plan: "Plan", step: TracedStep, device: str | None) -> ResultDirectory | None:
    """Return the directory of the call, made now; None if it stays in memory.

    ``device`` is the kind of device that others compute it on.
    """
    options, asked = order.streaming, order.asked
    if options.store != "persistent":
        return None

    home = order.home() if options.output_dir is None else None
    before = {} if options.journal is None else options.journal.fingerprint
    known = partial(_fingerprint, order, plan, step, device, before)
    return ResultDirectory(options, asked.method, asked.group, known, plan, home)


def _fingerprint(
    order: Order,
    plan: "Plan",
    step: TracedStep,
    device: str | None = None,
    before: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return what a call is known by; ``before`` is what the call was known by that is to be finished."""
    options, asked = order.streaming, order.asked
    one = partial(
        fingerprint_of,
        plan=plan,
        step=step,
        method=asked.method,
        group=asked.group,
        key=order.key_text,
        statistics=() if options.statistics is None else options.statistics.labels,
        device=device,
    )
    if order.against is None:
        return one(order.prepared, before=before)
    end = " (baseline)"
    theirs = {name.removesuffix(end): text for name, text in before.items() if name.endswith(end)}
    against = one(order.against.prepared, before=theirs)
    return {**one(order.prepared, before=before), **{name + end: text for name, text in against.items()}}


def _agree(order: Order, plan: "Plan", step: TracedStep) -> dict[str, Any]:
    """Make sure that all processes make the same call; return the attributes that are to be the same in all."""
    options, calls = order.streaming, [order.prepared.call]
    if order.against is not None:
        calls.append(order.against.prepared.call)

    def known() -> dict[str, str]:
        where = {name: str(getattr(options, name)) for name in ("store", "output_dir", "resume", "complete")}
        return {**_fingerprint(order, plan, step), **where}

    began = check_same_call(known, calls, order.reader)
    return {} if began is None else {"created_at": began}


def _fill(
    order: Order,
    plan: "Plan",
    runner: StepRunner,
    sink: "ResultStore",
    place: ResultDirectory | Guest | None,
    variables: "Mapping[str, Variable]",
    spread: DaskExecutor | MultiHostExecutor | None = None,
) -> int:
    """Compute what is missing from the sink; return the length of the axis that was cut."""
    from aimz.stream import run

    title = order.asked.method if order.streaming.progress and process_group.is_coordinator else None
    notes = runner.notes
    if spread is not None:
        length = spread.run(
            sink,
            note=None if place is None else place.note,
            variables=variables if place is not None and place.resumed else None,
            seen=None if place is None else place.seen(notes),
            progress=title,
        )
        if place is not None:
            place.check_end(length)
        return length
    request = _landing(order, plan).request(
        plan,
        runner,
        noting=lambda: None if place is None or notes is None else place.note(notes.take()),
        wanted=None if place is None else place.wanted(variables, notes),
        progress=title,
    )
    length = run(request, sink)
    if plan.axis == "obs":
        runner.check_rows(length)
    if place is not None:
        place.check_end(length)
    return length


def _landing(order: Order, plan: "Plan") -> OutputSpec:
    """Return what is kept of each step."""
    names, row_axes = order.names, order.prepared.plan.row_axes
    by_draws = plan.axis == "draw"
    axes = {name: 0 if by_draws else 1 + row_axes.get(site, 0) for site, name in names.items()}
    return OutputSpec(names, axes, None if by_draws else order.streaming.statistics)


def _fill_from_draws(
    order: Order, plan: "Plan", runner: StepRunner, sink: "ResultStore", step: TracedStep, statistics: Reduction
) -> int:
    """Compute all draws into a file of their own, where draws are cut, and write the statistics over them."""
    from aimz.store import Group, TemporaryFileStore

    dims: dict[str, tuple[str, ...]] = dict.fromkeys(order.names.values(), ())
    with TemporaryFileStore() as spill:
        drawn = _variables(order, plan, step, dims, None)
        spill.open(Group(drawn))
        length = _fill(order, plan, runner, spill, None, drawn)
        for name in drawn:
            draws = spill.read(name)
            flat = draws.reshape(plan.n_draws, -1)
            # As many columns as fit beside the model, with all their draws.
            wide = max(1, _SPILLED // (plan.n_draws * draws.dtype.itemsize))
            parts = [
                statistics(np.ascontiguousarray(flat[:, start : start + wide]))
                for start in range(0, flat.shape[1], wide)
            ]
            sink.write(name, np.concatenate(parts, axis=1).reshape(-1, *draws.shape[2:]), 0)
    return length


_SPILLED = 2**25
"""Bytes of draws to look at together."""

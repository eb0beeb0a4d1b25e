"""The scenarios of an effect or a comparison, as a user may give them."""

__all__ = [
    "Scenario",
    "check_alike",
    "check_columns",
    "check_inputs",
    "check_same_sites",
    "check_sites",
    "open_sources",
    "read_pair",
    "read_requests",
    "read_scenario",
    "share_labels",
    "share_rows",
]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.data import (
    KernelArguments,
    check_key,
    is_array,
    is_batches,
    is_plain_range,
    is_shuffled,
    key_from_text,
    key_to_text,
    open_table,
    read_rows,
)
from aimz.engine.inputs import Given, RowSource, open_source
from aimz.engine.kernel_engine import KernelEngine, PreparedCall
from aimz.engine.options import StreamingOptions, read_streaming
from aimz.utils.data import ArrayLoader

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Scenario:
    """One side of an effect: a tree, or what to predict one from."""

    tree: Any
    """The tree; None where there are arguments."""
    request: dict[str, Any] | None
    """What to predict: ``X``, ``intervention``, ``in_sample``, ``return_sites``, ``streaming`` (None for one pass in
    memory) and, as ``kwargs``, the rest."""
    key: Any
    """The key the tree was drawn with, or that came with the arguments; None if neither says."""
    anew: frozenset[str] = frozenset()
    """Sites the tree's maker drew anew."""
    in_blocks: bool = True
    """Whether the tree's rows were drawn in blocks, as a stream does, or all together."""


def read_scenario(
    name: str, tree: "xr.DataTree | None", args: Any, param_input: str, *, on_batch: bool, beside: Any
) -> Scenario:
    """Return the one of a tree and keyword arguments that was given for the scenario ``name``.

    ``beside`` is the tree it will be compared with, if there is one: noise is common only where rows are drawn alike.

    Raises
    ------
    TypeError
        If both or neither are given, or the arguments are no mapping with the input among them.
    ValueError
        If the arguments ask for something else than a tree.
    """
    if (tree is None) == (args is None):
        given = "neither" if tree is None else "both"
        msg = f"Exactly one of `output_{name}` and `args_{name}` must be given; got {given}."
        raise TypeError(msg)
    if tree is not None:
        from aimz.output import recorded

        key, anew, in_blocks = recorded(tree, f"output_{name}")
        return Scenario(tree, None, None if key is None else key_from_text(key), anew, in_blocks)
    if not isinstance(args, Mapping) or param_input not in args:
        got = sorted(args) if isinstance(args, Mapping) else type(args).__name__
        method = "predict_on_batch" if on_batch else "predict"
        msg = (
            f"`args_{name}` must be a mapping of keyword arguments of `{method}` "
            f"with `{param_input}` among them; got {got}."
        )
        raise TypeError(msg)
    rest = dict(args)
    if not rest.pop("return_datatree", True):
        msg = f"`args_{name}` must leave `return_datatree` as it is; the effect is taken between trees."
        raise ValueError(msg)
    if rest.get("statistics") is not None:
        msg = (
            f"`args_{name}` must leave `statistics` out: an effect is taken draw by draw, and the difference of two "
            "quantiles is no quantile of the difference. For averages over rows call `compare_scenarios`."
        )
        raise ValueError(msg)
    key = rest.pop("rng_key", None)
    if beside is not None and not _STREAMING.keys() & rest.keys():
        from aimz.output import recorded

        on_batch = on_batch or not recorded(beside, f"the scenario beside `args_{name}`")[2]
    options = None if on_batch else {option: rest.pop(option, default) for option, default in _STREAMING.items()}
    request = {
        "X": rest.pop(param_input),
        "intervention": rest.pop("intervention", None),
        "in_sample": rest.pop("in_sample", True),
        "return_sites": rest.pop("return_sites", None),
        "streaming": None if options is None else read_streaming(**options),
        "kwargs": rest,
    }
    return Scenario(None, request, None if key is None else check_key(key))


def check_columns(calls: Iterable[KernelArguments]) -> None:
    """Refuse tables whose columns are not in one order.

    Raises
    ------
    ValueError
        If two scenarios have tables with other columns.
    """
    orders = {call.columns for call in calls if call.columns}
    if len(orders) > 1:
        one, other = sorted(orders)[:2]
        msg = f"The data frames of all scenarios must have the same columns, in one order; got {one} and {other}."
        raise ValueError(msg)


def share_labels(givens: Mapping[Any, Given]) -> dict[Any, Given]:
    """Return scenarios of which those without labels of rows have those of the others.

    Raises
    ------
    ValueError
        If two have different labels: what a scenario changes would be the difference of two observations.
    """
    labels = {name: given.call.index for name, given in givens.items()}
    told = {name: index for name, index in labels.items() if index is not None and not is_plain_range(index)}
    first = next(iter(told), None)
    for name, index in told.items():
        if not index.equals(told[first]):
            msg = (
                f"The rows of all scenarios must have the same labels, in one order; those of {name!r} differ from "
                f"those of {first!r}. Put both in one order, or pass the values alone."
            )
            raise ValueError(msg)
    if first is None:
        return dict(givens)
    return {name: replace(given, call=replace(given.call, index=told[first])) for name, given in givens.items()}


def check_inputs(inputs: Iterable[Any]) -> None:
    """Refuse rows that cannot be matched with those of the other scenario.

    Raises
    ------
    ValueError
        If a loader shuffles them, or one iterator would have to serve both.
    """
    given = [value for value in inputs if is_batches(value) or isinstance(value, ArrayLoader)]
    if any(is_shuffled(value) for value in given):
        msg = "The rows of a loader that shuffles cannot be matched with others. Pass arrays, or one that does not."
        raise ValueError(msg)
    if len(given) == 2 and given[0] is given[1] and iter(given[0]) is given[0]:
        msg = "One iterator cannot serve both scenarios: what the first reads is gone. Pass arrays, or two iterators."
        raise ValueError(msg)


_STREAMING = {
    "shard_axis": "obs",
    "batch_size": None,
    "store": "persistent",
    "output_dir": None,
    "resume": None,
    "progress": True,
    "statistics": None,
    "client": None,
}


def check_alike(baseline: PreparedCall | None, intervention: PreparedCall | None) -> None:
    """Refuse, before any work, two predictions whose difference could not be taken."""
    if baseline is None or intervention is None:
        return
    rows = baseline.call.n_obs, intervention.call.n_obs
    if rows[0] != rows[1] or baseline.in_sample != intervention.in_sample:
        msg = (
            f"The scenarios must have the same rows; got {rows[0]} in the baseline (in_sample={baseline.in_sample}) "
            f"and {rows[1]} with the intervention (in_sample={intervention.in_sample}). Make both from the same rows."
        )
        raise ValueError(msg)


def read_requests(scenarios: Any, baseline: Any, shared: Mapping[str, Any], param_input: str) -> dict[str, Any]:
    """Return what to predict for each scenario: the arguments all share, and those of its own.

    Raises
    ------
    TypeError, ValueError
        If there are no scenarios, ``baseline`` is none of them, or one asks for what is the same for all.
    """
    if not isinstance(scenarios, Mapping) or not all(isinstance(args, Mapping) for args in scenarios.values()):
        got = "arguments that are no mapping" if isinstance(scenarios, Mapping) else type(scenarios).__name__
        msg = (
            "`scenarios` must map names to arguments of `predict`, such as {'as is': {}, 'free': {'intervention': "
            f"{{'price': 0.0}}}}}}; got {got}."
        )
        raise TypeError(msg)
    if len(scenarios) < 2 or baseline not in scenarios:
        listed = ", ".join(map(repr, scenarios)) or "none"
        msg = f"`scenarios` must be two or more, `baseline` one of them; got {listed}, and {baseline!r} as `baseline`."
        raise ValueError(msg)
    found = {}
    for name, args in scenarios.items():
        given = {**shared, **args}
        common = sorted(_COMMON & given.keys())
        if common:
            msg = (
                f"Scenario {name!r} must not say `{common[0]}`: it is the same for all scenarios. Pass it to "
                "`compare_scenarios` itself, if it takes it."
            )
            raise ValueError(msg)
        if given.get(param_input) is None:
            msg = (
                f"Scenario {name!r} has no `{param_input}`. Put it among the scenario's arguments, or pass "
                f"`{param_input}=` to `compare_scenarios` for all of them."
            )
            raise TypeError(msg)
        found[name] = {
            "X": given.pop(param_input),
            "intervention": given.pop("intervention", None),
            "in_sample": given.pop("in_sample", True),
            "kwargs": given,
        }
    return found


_COMMON = frozenset(
    {
        "rng_key",
        "return_sites",
        "batch_size",
        "progress",
        "statistics",
        "shard_axis",
        "store",
        "output_dir",
        "resume",
        "client",
    }
)
"""Options of a prediction that are not a scenario's own."""


def share_rows(requests: Mapping[str, dict[str, Any]], param_input: str) -> None:
    """Make one object of arrays that several scenarios were given: they are then read, and known again, once."""
    known: dict[int, Any] = {}

    def shared(value: Any, name: str) -> Any:
        if not is_array(value) or not np.ndim(value) or open_table(value, name):
            return value
        return known.setdefault(id(value), read_rows(value, name))

    for request in requests.values():
        request["X"] = shared(request["X"], param_input)
        request["kwargs"] = {name: shared(value, name) for name, value in request["kwargs"].items()}


def read_pair(sides: Sequence[Scenario]) -> tuple[dict[str, dict[str, Any]], StreamingOptions]:
    """Return what to predict for both sides of an effect that is computed in one pass, and how to stream it.

    Raises
    ------
    TypeError, ValueError
        If a side is no arguments of `predict`, or they want different keys or places.
    """
    requests: dict[str, dict[str, Any]] = {}
    streaming: list[StreamingOptions] = []
    for name, side in zip(("baseline", "intervention"), sides, strict=True):
        options = None if side.request is None else side.request["streaming"]
        if side.request is None or options is None:
            msg = (
                "`statistics` of an effect are computed in one pass over both scenarios, so both must be arguments of "
                f"`predict`; the {name} is {'a tree' if side.request is None else 'of `predict_on_batch`'}. Pass "
                "`args_baseline` and `args_intervention`."
            )
            raise TypeError(msg)
        requests[name] = {key: value for key, value in side.request.items() if key != "streaming"}
        streaming.append(options)
    if streaming[0] not in (streaming[1], StreamingOptions(), StreamingOptions(progress=False)):
        msg = "Where and how to store statistics of an effect is said once. Say it in `args_intervention`."
        raise ValueError(msg)
    texts = {key_to_text(side.key) for side in sides if side.key is not None}
    if len(texts) > 1:
        msg = "Both scenarios must have one `rng_key`, so that their noise is common. Pass it in one of them."
        raise ValueError(msg)
    return requests, streaming[1]


def check_sites(return_sites: Any) -> None:
    """Refuse to compare nothing.

    Raises
    ------
    ValueError
        If no site is to be returned.
    """
    if return_sites is not None and not isinstance(return_sites, str) and not list(return_sites):
        msg = "`return_sites` must name a site to compare; got none. Leave it out for the output and what is computed."
        raise ValueError(msg)


def check_same_sites(baseline: PreparedCall, intervention: PreparedCall) -> None:
    """Refuse scenarios that return different sites.

    Raises
    ------
    ValueError
        If they do.
    """
    if baseline.plan.return_sites != intervention.plan.return_sites:
        msg = (
            f"Both scenarios must return the same sites; got {list(baseline.plan.return_sites)} and "
            f"{list(intervention.plan.return_sites)}. Pass the same `return_sites` in both."
        )
        raise ValueError(msg)


def open_sources(
    engine: KernelEngine, requests: Mapping[str, dict[str, Any]], expected: int | None
) -> dict[str, Given]:
    """Return the arguments of each scenario; rows that several share are read once.

    Raises
    ------
    ValueError
        If rows come from an iterable in one scenario, and from elsewhere in another.
    """
    sources: dict[int, RowSource] = {}
    for request in requests.values():
        if id(request["X"]) not in sources:
            sources[id(request["X"])] = open_source(engine, request["X"], request["kwargs"], expected)
    if len(sources) > 1 and any(source.reader is not None for source in sources.values()):
        msg = (
            "Scenarios whose rows come from an iterable must share it, so that it is read once. Pass it to "
            "`compare_scenarios` itself, and let the scenarios intervene."
        )
        raise ValueError(msg)
    givens = {
        name: sources[id(request["X"])].given(engine, request["kwargs"], scored=False)
        for name, request in requests.items()
    }
    check_columns(given.call for given in givens.values())
    return share_labels(givens)

"""Scenarios of an effect or a comparison: arguments read from the user and checked against one another."""

__all__ = [
    "Scenario",
    "check_columns",
    "check_inputs",
    "check_nan_policy",
    "check_return_sites",
    "check_same_rows",
    "check_same_sites",
    "open_arguments",
    "read_kind",
    "read_pair",
    "read_scenario",
    "read_scenarios",
    "share_labels",
    "share_rows",
]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

import aimz
from aimz.data import (
    KernelArguments,
    KernelParameters,
    check_flag,
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
from aimz.engine.inputs import InputSource, open_source
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.options import OPTION_NAMES, StreamingOptions, pop_options
from aimz.engine.prepared_call import PreparedCall
from aimz.kernel import KernelSignature
from aimz.types import EffectKind
from aimz.utils.data import ArrayLoader


@dataclass(frozen=True)
class Scenario:
    """A side of an effect: a result, or the arguments of a prediction."""

    tree: Any
    """The result; None if arguments are given."""
    arguments: dict[str, Any] | None
    """Arguments of the prediction: ``X``, ``intervention``, ``condition``, ``in_sample``, ``return_sites``,
    ``kwargs`` and ``options`` (None for one pass in memory)."""
    key: Any
    """Key of the result or of the arguments; None if neither has one."""
    resampled: frozenset[str] = frozenset()
    """Sites that the result records as resampled."""


def read_scenario(
    name: str, tree: Any, args: Any, signature: KernelSignature, *, on_batch: bool, other: Any
) -> Scenario:
    """Return the scenario ``name``, from a result or from keyword arguments.

    ``other`` is the result to compare with, if there is one.  Without streaming options the rows are then drawn as in
    that result, in blocks or all together, since only then is the noise common.

    Raises
    ------
    TypeError
        If both or neither are given, or the arguments are not a mapping with the input among them.
    ValueError
        If the arguments ask for something other than a tree of draws.
    """
    check_flag(on_batch, "on_batch")
    if (tree is None) == (args is None):
        given = "neither" if tree is None else "both"
        msg = f"Exactly one of `output_{name}` and `args_{name}` must be given; got {given}."
        raise TypeError(msg)
    if tree is not None:
        key, resampled, _ = aimz.output.recorded(tree, f"output_{name}")
        return Scenario(tree, None, None if key is None else key_from_text(key), resampled)
    param_input = signature.param_input
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
    key, further = rest.pop("rng_key", None), rest.pop("args", None)
    if other is not None and not rest.keys() & set(OPTION_NAMES):
        on_batch = on_batch or not aimz.output.recorded(other, f"the result compared with `args_{name}`")[2]
    arguments = {
        "X": rest.pop(param_input),
        "intervention": rest.pop("intervention", None),
        "condition": rest.pop("condition", None),
        "in_sample": rest.pop("in_sample", None),
        "return_sites": rest.pop("return_sites", None),
        "options": None if on_batch else pop_options(rest),
        "kwargs": signature.merge(rest, further),
    }
    return Scenario(None, arguments, None if key is None else check_key(key))


def check_columns(calls: Iterable[KernelArguments]) -> None:
    """Check that the tables of all scenarios have the same columns, in the same order.

    Raises
    ------
    ValueError
        If two scenarios have tables with different columns.
    """
    orders = {call.columns for call in calls if call.columns}
    if len(orders) > 1:
        one, other = sorted(orders)[:2]
        msg = f"The data frames of all scenarios must have the same columns, in one order; got {one} and {other}."
        raise ValueError(msg)


def share_labels(calls: Mapping[Any, KernelArguments]) -> dict[Any, KernelArguments]:
    """Return the arguments of all scenarios with the row labels that at least one of them has.

    Raises
    ------
    ValueError
        If two scenarios have different labels: an effect would be the difference of two observations.
    """
    labels = {n: c.index for n, c in calls.items() if c.index is not None and not is_plain_range(c.index)}
    first = next(iter(labels), None)
    for name, index in labels.items():
        if not index.equals(labels[first]):
            msg = (
                "The rows of all scenarios must have the same labels, in the same order; got other labels for "
                f"{name!r} than for {first!r}. Reorder the rows of one, or pass the values alone."
            )
            raise ValueError(msg)
    if first is None:
        return dict(calls)
    return {name: replace(call, index=labels[first]) for name, call in calls.items()}


def check_inputs(inputs: Iterable[Any]) -> None:
    """Check that the rows of two scenarios can be matched.

    Raises
    ------
    ValueError
        If a loader shuffles its rows, or one iterator is given for both scenarios.
    """
    given = [value for value in inputs if is_batches(value) or isinstance(value, ArrayLoader)]
    if any(is_shuffled(value) for value in given):
        msg = "The rows of a loader that shuffles cannot be matched with others. Pass arrays, or one that does not."
        raise ValueError(msg)
    if len(given) == 2 and given[0] is given[1] and iter(given[0]) is given[0]:
        msg = "One iterator cannot be read for both scenarios. Pass arrays, or two iterators."
        raise ValueError(msg)


def check_same_rows(calls: Iterable[KernelArguments], in_sample: Iterable[bool | None]) -> None:
    """Check, before any work, that scenarios have the same rows.

    Raises
    ------
    ValueError
        If their numbers of rows differ, or only one of them has the fitted observations.
    """
    rows = [(call.n_obs, fitted is None or fitted) for call, fitted in zip(calls, in_sample, strict=True)]
    other = next((one for one in rows if one != rows[0]), None)
    if other is not None:
        msg = (
            f"The scenarios must have the same rows; got {rows[0][0]} in the baseline (in_sample={rows[0][1]}) and "
            f"{other[0]} with the intervention (in_sample={other[1]}). Make both from the same rows."
        )
        raise ValueError(msg)


def read_scenarios(
    scenarios: Any, baseline: Any, shared: Mapping[str, Any], args: Mapping[str, Any] | None, signature: KernelSignature
) -> dict[str, Any]:
    """Return the arguments of each scenario: the shared ones, overridden by its own.

    ``args`` are shared arguments of the kernel, by name.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two scenarios, ``baseline`` is not one of them, or one sets a shared option.
    """
    if not isinstance(scenarios, Mapping) or not all(isinstance(own, Mapping) for own in scenarios.values()):
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
    param_input, found = signature.param_input, {}
    signature.merge(shared, args)
    for name, own in scenarios.items():
        given = {**shared, **own}
        own_args = given.pop("args", None)
        signature.merge({option: value for option, value in own.items() if option != "args"}, own_args)
        common = sorted(_COMMON & given.keys())
        if common:
            msg = (
                f"Scenario {name!r} must not set `{common[0]}`, which is the same for all scenarios. Pass it to "
                "`compare_scenarios` itself, if it is one of its parameters."
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
            "condition": given.pop("condition", None),
            "in_sample": given.pop("in_sample", None),
            "kwargs": {**(args or {}), **given, **(own_args or {})},
        }
    return found


_COMMON = frozenset({"rng_key", "return_sites", *OPTION_NAMES})
"""Options of a prediction that all scenarios of a comparison share."""


def share_rows(scenarios: Mapping[Any, dict[str, Any]], parameters: KernelParameters) -> None:
    """Wrap arrays that several scenarios share in one object each, so that they are read and digested once."""
    known: dict[tuple[int, str], Any] = {}

    def shared(value: Any, name: str) -> Any:
        if not is_array(value) or not np.ndim(value) or open_table(value, name):
            return value
        if (id(value), name) not in known:
            known[id(value), name] = read_rows(parameters.aligned(name, value), name)
        return known[id(value), name]

    for one in scenarios.values():
        one["X"] = shared(one["X"], parameters.input)
        one["kwargs"] = {name: shared(value, name) for name, value in one["kwargs"].items()}


def read_pair(sides: Sequence[Scenario]) -> tuple[dict[Any, dict[str, Any]], StreamingOptions]:
    """Return the arguments of both sides of an effect that is computed in one pass, and their options.

    Raises
    ------
    TypeError, ValueError
        If a side is not given by arguments of `predict`, or the sides have different keys or options.
    """
    scenarios: dict[Any, dict[str, Any]] = {}
    options: list[StreamingOptions] = []
    for name, side in zip(("baseline", "intervention"), sides, strict=True):
        if side.arguments is None or side.arguments["options"] is None:
            msg = (
                "`statistics` of an effect are computed in one pass over both scenarios, so both must be arguments of "
                f"`predict`; the {name} is {'a tree' if side.arguments is None else 'of `predict_on_batch`'}. Pass "
                "`args_baseline` and `args_intervention`."
            )
            raise TypeError(msg)
        scenarios[name] = dict(side.arguments)
        options.append(scenarios[name].pop("options"))
    if options[0] not in (options[1], StreamingOptions(), StreamingOptions(progress=False)):
        msg = "Streaming options of an effect must be given once. Pass them in `args_intervention`."
        raise ValueError(msg)
    texts = {key_to_text(side.key) for side in sides if side.key is not None}
    if len(texts) > 1:
        msg = "Both scenarios must have one `rng_key`, so that their noise is common. Pass it in one of them."
        raise ValueError(msg)
    return scenarios, options[1]


def read_kind(kind: Any, *, of_draws: bool = False) -> EffectKind:
    """Return whether an effect is one of expected values or of drawn outcomes, checked.

    Raises
    ------
    ValueError
        If `kind` is neither, or is "expected" for an effect of draws.
    """
    if kind is None:
        return "outcome" if of_draws else "expected"
    if not isinstance(kind, str) or kind not in get_args(EffectKind.__value__):
        msg = f"`kind` must be 'expected' or 'outcome'; got {kind!r}. Omit it for expected values."
        raise ValueError(msg)
    if of_draws and kind == "expected":
        msg = (
            "`kind='expected'` needs `statistics`: without them, an effect is the difference of two predictions, which "
            "are drawn outcomes. Pass `statistics`, or return a deterministic site with the expected value."
        )
        raise ValueError(msg)
    return "expected" if kind == "expected" else "outcome"


def check_nan_policy(nan_policy: Any) -> None:
    """Raise ``ValueError`` if the treatment of rows with NaN is unknown."""
    if nan_policy not in ("propagate", "omit"):
        msg = f"`nan_policy` must be 'propagate' or 'omit'; got {nan_policy!r}. Omit it to average all rows."
        raise ValueError(msg)


def check_return_sites(return_sites: Any) -> None:
    """Check that there is a site to compare.

    Raises
    ------
    ValueError
        If `return_sites` is empty.
    """
    if isinstance(return_sites, Iterable) and not isinstance(return_sites, str) and not list(return_sites):
        msg = (
            "`return_sites` must name a site to compare; got none. Leave it out for the output and deterministic sites."
        )
        raise ValueError(msg)


def check_same_sites(baseline: PreparedCall, intervention: PreparedCall) -> None:
    """Check that two scenarios return the same sites.

    Raises
    ------
    ValueError
        If they return different sites.
    """
    if baseline.plan.return_sites != intervention.plan.return_sites:
        msg = (
            f"Both scenarios must return the same sites; got {list(baseline.plan.return_sites)} and "
            f"{list(intervention.plan.return_sites)}. Pass the same `return_sites` in both."
        )
        raise ValueError(msg)


def open_arguments(
    engine: KernelEngine, scenarios: Mapping[Any, dict[str, Any]], expected: int | None
) -> tuple[dict[Any, InputSource], dict[Any, KernelArguments]]:
    """Return the source of the rows and the arguments of each scenario; equal arguments are read once.

    Raises
    ------
    ValueError
        If rows come from an iterable in one scenario, and from another source in the other.
    """
    opened: dict[int, InputSource] = {}
    for one in scenarios.values():
        if id(one["X"]) not in opened:
            opened[id(one["X"])] = open_source(engine, one["X"], one["kwargs"], expected)
    if len(opened) > 1 and any(source.reader is not None for source in opened.values()):
        msg = (
            "Scenarios whose rows come from an iterable must share it, so that it is read once. Pass it to "
            "`compare_scenarios` itself, and let the scenarios intervene."
        )
        raise ValueError(msg)
    sources = {name: opened[id(one["X"])] for name, one in scenarios.items()}
    read: dict[Any, KernelArguments] = {}
    calls = {}
    for name, one in scenarios.items():
        given = id(one["X"]), frozenset((argument, id(value)) for argument, value in one["kwargs"].items())
        if given not in read:
            read[given] = sources[name].arguments(engine, one["kwargs"], scored=False)
        calls[name] = read[given]
    check_columns(calls.values())
    return sources, share_labels(calls)

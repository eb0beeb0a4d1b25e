"""The two scenarios of an effect, as a user may give them."""

__all__ = ["Scenario", "check_alike", "check_inputs", "read_scenario"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aimz.data import is_batches, is_shuffled, read_key
from aimz.model.engine import Prepared
from aimz.model.keys import parse_key
from aimz.model.options import read_streaming
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
        return Scenario(tree, None, None if key is None else parse_key(key), anew, in_blocks)
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
    return Scenario(None, request, None if key is None else read_key(key))


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
}


def check_alike(baseline: Prepared | None, intervention: Prepared | None) -> None:
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

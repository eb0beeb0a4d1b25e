"""The two scenarios of an effect, as a user may give them."""

__all__ = ["read_scenario"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def read_scenario(name: str, tree: "xr.DataTree | None", args: Any, param_input: str) -> "xr.DataTree | dict[str, Any]":
    """Return the one of a tree and keyword arguments that was given for the scenario ``name``.

    Raises
    ------
    TypeError
        If both or neither are given, or the arguments are no mapping with the input among them.
    ValueError
        If the arguments ask for something else than a tree.
    """
    if tree is not None and args is None:
        return tree
    if args is None or tree is not None:
        given = "neither" if tree is None else "both"
        msg = f"Exactly one of `output_{name}` and `args_{name}` must be given; got {given}."
        raise TypeError(msg)
    if not isinstance(args, Mapping) or param_input not in args:
        got = sorted(args) if isinstance(args, Mapping) else type(args).__name__
        msg = (
            f"`args_{name}` must be a mapping of keyword arguments of `predict_on_batch` with `{param_input}` among "
            f"them; got {got}."
        )
        raise TypeError(msg)
    if not args.get("return_datatree", True):
        msg = f"`args_{name}` must leave `return_datatree` as it is; the effect is taken between trees."
        raise ValueError(msg)
    return dict(args)

"""The state of a variational fit that was read from a file, and whether it is that of the objects at hand."""

__all__ = ["names_of", "read_state"]

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any

import jax
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from aimz.errors import SavedModelError
from aimz.inference.fit import Known
from aimz.persistence import NOTHING, Unlike, read_tree, unlike_leaves


def names_of(svi: SVI) -> dict[str, str]:
    """Return what guide, optimizer and loss are called."""
    return {
        what: getattr(part, "__name__", type(part).__name__)
        for what, part in (("guide", svi.guide), ("optimizer", svi.optim), ("loss", svi.loss))
    }


def read_state(
    svi: SVI, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], known: Known
) -> tuple[dict[str, Any], SVIState | None]:
    """Return the parameters, and the state if there is one.

    Raises
    ------
    SavedModelError
        If they are of another guide, kernel or optimizer; what differs is named.
    """
    state_here, params_here = (NOTHING, NOTHING) if known.example is None else _abstract_state(svi, known)
    try:
        params = read_tree(node["params"], arrays, params_here)
    except Unlike as error:
        raise _other("parameters", [str(error)], node, svi) from error
    if params_here is not NOTHING:
        # Parameters that were set by hand, without a state, need not be all there are.
        here = params_here if node["state"] else {name: v for name, v in params_here.items() if name in params}
        unlike = unlike_leaves(params, here)
        if unlike:
            raise _other("parameters", unlike, node, svi)
    if node["state"] is None:
        return params, None
    try:
        state = read_tree(node["state"], arrays, state_here)
    except Unlike as error:
        raise _other("state of the optimizer", [str(error)], node, svi) from error
    unlike = unlike_leaves(state, state_here)
    if unlike:
        raise _other("state of the optimizer", unlike, node, svi)
    return params, state


def _abstract_state(svi: SVI, known: Known) -> tuple[Any, Any]:
    """Return the shapes of the state and the parameters a fit would begin with; the objects stay as they are."""
    example = known.example
    assert example is not None
    own = copy(svi)
    own.guide = deepcopy(svi.guide)  # it is set up by being run

    def begin(key: jax.Array, arrays: Mapping[str, Any]) -> tuple[Any, Any]:
        state = own.init(key, **arrays, **known.static)
        return state, own.get_params(state)

    try:
        found: tuple[Any, Any] = jax.eval_shape(begin, jax.random.key(0), dict(example.arrays))
    except Exception as error:
        msg = (
            "The guide cannot be run for data like those the model was saved with, to compare the two: "
            f"{type(error).__name__}: {error}. Pass inference made as for the fit, or none, to predict only."
        )
        raise SavedModelError(msg) from error
    return found


def _other(what: str, unlike: list[str], node: Mapping[str, Any], svi: SVI) -> SavedModelError:
    here = names_of(svi)
    names = ", ".join(f"{kind} {node[kind]} (here {here[kind]})" for kind in ("guide", "optimizer"))
    more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
    return SavedModelError(
        f"The model was saved with other {what}: {', '.join(unlike[:5])}{more}. It was fitted with {names}. Pass "
        "inference made as for the fit, or none, to predict only."
    )

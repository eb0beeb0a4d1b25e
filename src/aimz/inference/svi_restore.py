"""The state of a variational fit that was read from a file, and whether it is that of the objects at hand."""

__all__ = ["as_new", "names_of", "read_state"]

from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from typing import Any

import jax
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from aimz.errors import SavedModelError, warn
from aimz.inference.base import Known
from aimz.inference.minibatch_scaling import parts_of
from aimz.inference.svi_steps import forget_data
from aimz.persistence import NOTHING, Unlike, needs_like, read_tree, unlike_leaves


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
    state_here, params_here = NOTHING, NOTHING
    if known.example is not None and (node["state"] is not None or needs_like(node["params"])):
        words = {} if node["state"] is None else dict(node["state"]["fields"])["rng_key"]
        state_here, params_here = _abstract_state(svi, known, impl=words.get("key"))
    try:
        params = read_tree(node["params"], arrays, params_here)
    except Unlike as error:
        raise _other("parameters", [str(error)], node, svi) from error
    if params_here is not NOTHING:
        # Parameters that were set by hand need not be all there are; those of the state are.
        unlike = unlike_leaves(params, {name: v for name, v in params_here.items() if name in params})
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


def as_new(svi: SVI) -> SVI:
    """Return the object, or a copy of one that is set up for data, which would count and not those that are to come."""
    parts = list(parts_of(svi.guide))
    if svi.constrain_fn is None and not any(getattr(part, "prototype_trace", None) for part in parts):
        return svi
    own = copy(svi)
    own.guide = deepcopy(svi.guide)
    forget_data(own)
    return own


def _abstract_state(svi: SVI, known: Known, impl: str | None) -> tuple[Any, Any]:
    """Return the shapes of the state and the parameters a fit would begin with; the objects stay as they are.

    Warns
    -----
    UserWarning
        If bounds depend on the data, so that the set-up after a load does.
    """
    example = known.example
    assert example is not None
    own, bounded = copy(svi), list[str]()
    own.guide = deepcopy(svi.guide)  # it is set up by being run

    def begin(key: jax.Array, arrays: Mapping[str, Any]) -> tuple[Any, Any]:
        state = own.init(key, **arrays, **known.static)
        bounded.extend(_bounded_by_data(own))
        return state, own.get_params(state)

    try:
        found: tuple[Any, Any] = jax.eval_shape(begin, jax.random.key(0, impl=impl), dict(example.arrays))
    except Exception as error:
        msg = (
            "The guide cannot be run for data like those the model was saved with, to compare the two: "
            f"{type(error).__name__}: {error}. Pass inference made as for the fit, or none, to predict only."
        )
        raise SavedModelError(msg) from error
    if bounded:
        warn(
            f"The bounds of {', '.join(f'`{name}`' for name in bounded)} are computed while the fit begins, maybe from "
            "the data. A loaded model computes them from the first data it is fitted to: go on with those of the fit."
        )
    return found


def _bounded_by_data(svi: SVI) -> Iterator[str]:
    """Yield the parameters and the latents whose bounds are no constants."""

    def varies(bounds: Any) -> bool:
        return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(bounds))

    (transforms,) = svi.constrain_fn.args
    yield from (name for name, transform in transforms.items() if varies(transform))
    for part in parts_of(svi.guide):
        for name, site in (getattr(part, "prototype_trace", None) or {}).items():
            if site["type"] == "sample" and not site["is_observed"] and varies(site["fn"].support):
                yield name


def _other(what: str, unlike: list[str], node: Mapping[str, Any], svi: SVI) -> SavedModelError:
    here = names_of(svi)
    names = ", ".join(f"{kind} {node[kind]} (here {here[kind]})" for kind in ("guide", "optimizer"))
    more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
    return SavedModelError(
        f"The model was saved with other {what}: {', '.join(unlike[:5])}{more}. It was fitted with {names}. Pass "
        "inference made as for the fit, or none, to predict only."
    )

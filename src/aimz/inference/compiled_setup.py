"""Initial state of a variational fit, computed in one compiled program."""

__all__ = ["initial_state"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import Any

import jax
from jax.core import Tracer
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIState

from aimz.inference.minibatch_scaling import guide_parts
from aimz.kernel import isolated


def initial_state(svi: SVI, key: jax.Array, arrays: Mapping[str, Any], static: Mapping[str, object]) -> SVIState:
    """Return the state that ``svi.init`` returns, with one compilation instead of one for each operation.

    Guides keep intermediate values, which are tracers in a compiled program. The program returns them as well, and the
    guide gets the numbers. A model or guide that needs numbers while it is set up is run operation by operation.
    """
    with suppress(Exception), _forgetting_after_error(svi):
        return _compiled_init(svi, key, arrays, static)
    with _forgetting_after_error(svi):
        state: SVIState = isolated(svi.init)(key, **arrays, **static)
        return state


def _compiled_init(svi: SVI, key: jax.Array, arrays: Mapping[str, Any], static: Mapping[str, object]) -> SVIState:
    kept: list[Tracer] = []

    def keep(tracer: Tracer) -> Tracer:
        kept.append(tracer)
        return tracer

    @jax.jit
    @isolated
    def init(key: jax.Array, arrays: Mapping[str, Any]) -> tuple[SVIState, list[Tracer]]:
        state = svi.init(key, **arrays, **static)
        _replace_tracers(svi, keep)
        return state, kept

    state, values = init(key, arrays)
    numbers = {id(tracer): value for tracer, value in zip(kept, values, strict=True)}
    _replace_tracers(svi, lambda tracer: numbers[id(tracer)])
    return state


@contextmanager
def _forgetting_after_error(svi: SVI) -> Iterator[None]:
    """Reset ``svi`` after an error, since its guide may have kept tracers, or a part of what it needs."""
    try:
        yield
    except BaseException:
        forget_data(svi)
        raise


def forget_data(svi: SVI) -> None:
    """Reset guide and constraints, so that ``svi`` is set up again for other data."""
    svi.constrain_fn = None
    for part in guide_parts(svi.guide):
        if isinstance(part, AutoGuide):
            part.prototype_trace = None


def _replace_tracers(svi: SVI, replace: Callable[[Tracer], Any]) -> None:
    """Replace each tracer that ``svi`` and its guide keep."""
    done: dict[int, Any] = {id(svi.model): svi.model}
    svi.constrain_fn = _replaced(svi.constrain_fn, replace, done)
    for part in guide_parts(svi.guide):
        if isinstance(part, AutoGuide):
            done[id(part.model)] = part.model
            _replaced(part, replace, done)


def _replaced(node: Any, replace: Callable[[Tracer], Any], done: dict[int, Any]) -> Any:
    """Return a value without tracers; containers that can change are changed in place."""
    if isinstance(node, Tracer):
        return replace(node)
    if id(node) in done or isinstance(node, type | str | jax.Array):
        return node
    done[id(node)] = node  # objects that are alive keep their number
    recur = partial(_replaced, replace=replace, done=done)
    if isinstance(node, dict):
        for name, value in node.items():
            node[name] = recur(value)
    elif isinstance(node, list):
        node[:] = map(recur, node)
    elif isinstance(node, tuple):
        values = [recur(value) for value in node]
        if any(new is not old for new, old in zip(values, node, strict=True)):
            return type(node)(*values) if hasattr(node, "_fields") else tuple(values)
    elif isinstance(node, partial):
        return partial(recur(node.func), *recur(node.args), **recur(node.keywords))
    elif isinstance(node, FunctionType):
        for cell in node.__closure__ or () if node.__module__.startswith("numpyro.") else ():
            cell.cell_contents = recur(cell.cell_contents)
    elif hasattr(node, "__dict__"):
        recur(vars(node))
    return node

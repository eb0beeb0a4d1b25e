"""Initial states of variational fits and of chains, computed in one compiled program each.

NumPyro sets up a guide or a sampler operation by operation, with a compilation for each, and keeps intermediate values
in it.  In a compiled program these are tracers.  The program returns them as well, and numbers then replace the
tracers.  A model that needs numbers while it is set up is run operation by operation.
"""

__all__ = ["forget_data", "initial_chains", "initial_state"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.infer import HMC, NUTS, SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIState

from aimz.inference.minibatch_scaling import guide_parts
from aimz.kernel import isolated


def initial_state(svi: SVI, key: jax.Array, arrays: Mapping[str, Any], static: Mapping[str, object]) -> SVIState:
    """Return the state that ``svi.init`` returns."""
    with suppress(Exception), _forgetting_after_error(svi):
        return _run_compiled(lambda inputs: svi.init(inputs[0], **inputs[1], **static), (key, arrays), svi, _svi_parts)
    with _forgetting_after_error(svi):
        state: SVIState = isolated(svi.init)(key, **arrays, **static)
        return state


def initial_chains(
    sampler: Any, key: jax.Array, num_warmup: int, init_params: Any, model_args: Any, model_kwargs: Mapping[str, Any]
) -> Any:
    """Return the state that ``sampler.init`` returns, where ``init`` is the method of its class."""
    init = partial(type(sampler).init, sampler)
    if type(sampler) in (HMC, NUTS) and not isinstance(key, Tracer):
        before = dict(vars(sampler))
        arrays = {name: value for name, value in model_kwargs.items() if isinstance(value, np.ndarray | jax.Array)}
        static = {name: value for name, value in model_kwargs.items() if name not in arrays}

        def compiled(inputs: Any) -> Any:
            key, params, args, arrays = inputs
            return init(key, num_warmup, params, args, {**arrays, **static})

        with suppress(Exception):
            state = _run_compiled(compiled, (key, init_params, model_args, arrays), sampler, _sampler_parts)
            # NumPyro checks the initial values only if they are numbers.
            if bool(jnp.isfinite(state.potential_energy).all()):
                return state
        vars(sampler).clear()
        vars(sampler).update(before)
    return isolated(init)(key, num_warmup, init_params, model_args, model_kwargs)


type _Parts = Callable[[Any], tuple[list[Any], list[Any]]]
"""Function of an object that returns the parts that may keep tracers, and parts that do not."""


def _svi_parts(svi: SVI) -> tuple[list[Any], list[Any]]:
    guides = [part for part in guide_parts(svi.guide) if isinstance(part, AutoGuide)]
    return [svi, *guides], [svi.model, svi.guide, svi.optim, svi.loss, *(guide.model for guide in guides)]


def _sampler_parts(sampler: Any) -> tuple[list[Any], list[Any]]:
    return [sampler], [sampler.model]


def _run_compiled[T](function: Callable[[Any], T], inputs: Any, owner: Any, parts: _Parts) -> T:
    """Return the result of a function that sets up ``owner``, computed in one program."""
    kept: list[jax.Array] = []

    def keep(tracer: jax.Array) -> jax.Array:
        kept.append(tracer)
        return tracer

    @jax.jit
    @isolated
    def run(inputs: Any) -> tuple[T, list[jax.Array]]:
        result = function(inputs)
        _replace_tracers(parts(owner), keep)
        return result, kept

    result: T
    result, values = run(inputs)
    numbers = {id(tracer): value for tracer, value in zip(kept, values, strict=True)}
    _replace_tracers(parts(owner), lambda tracer: numbers[id(tracer)])
    return result


@contextmanager
def _forgetting_after_error(svi: SVI) -> Iterator[None]:
    """Reset ``svi`` after an error, since its guide may have kept tracers, or a part of what it needs."""
    try:
        yield
    except BaseException:
        forget_data(svi)
        raise


def forget_data(svi: SVI) -> None:
    """Reset guide and constraints, so that ``svi`` is set up again for the data of the next fit."""
    svi.constrain_fn = None
    for part in guide_parts(svi.guide):
        if isinstance(part, AutoGuide):
            part.prototype_trace = None


def _replace_tracers(parts: tuple[list[Any], list[Any]], replace: Callable[[jax.Array], Any]) -> None:
    """Replace each tracer in the attributes of some objects; other objects are left alone."""
    done = {id(part): part for some in parts for part in some}
    for part in parts[0]:
        _replaced(vars(part), replace, done)


def _replaced(node: Any, replace: Callable[[jax.Array], Any], done: dict[int, Any]) -> Any:
    """Return a value without tracers; containers that can change are changed in place."""
    if isinstance(node, Tracer):
        return replace(node)
    if id(node) in done or isinstance(node, type | str | ModuleType | jax.Array):
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
        recur(vars(node))
        for cell in node.__closure__ or () if node.__module__.startswith("numpyro.") else ():
            cell.cell_contents = recur(cell.cell_contents)
    elif hasattr(node, "__dict__"):
        recur(vars(node))
    return node

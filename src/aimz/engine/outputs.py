"""Selects, renames and reduces step outputs before they are written; used locally and on workers."""

__all__ = ["OutputSpec", "missing_steps", "output_shapes", "output_variables"]

import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import aimz
import aimz.stream
from aimz.engine.prepared_call import PreparedCall
from aimz.forward import EFFECT, IMPOSSIBLE, TracedStep
from aimz.statistics import Reduction, reduce_rows, with_nan

if TYPE_CHECKING:
    from aimz.store import Variable
    from aimz.stream import Plan


@dataclass(frozen=True)
class OutputSpec:
    """Names and axes of the outputs in the result, and the statistics that replace draws."""

    names: Mapping[str, str]
    """Site to its name in the result."""
    axes: Mapping[str, int]
    """Name in the result to the axis of an output along which steps follow one another."""
    statistics: Reduction | None = None
    """Statistics over draws, if each step has all draws of its rows."""
    may_be_missing: frozenset[str] = frozenset()
    """Sites of which the least integer represents NaN."""

    def select(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return outputs as they are stored, by their names in the result."""
        reduction = self.statistics
        if reduction is None:
            return {self.names[n]: a for n, a in arrays.items()}
        # On a CPU the other cores compute the next step; next to an accelerator they are free.
        n_threads = 1 if jax.default_backend() == "cpu" else os.cpu_count() or 1
        return {
            self.names[n]: reduce_rows(reduction, with_nan(a) if n in self.may_be_missing else a, n_threads)
            for n, a in arrays.items()
        }


def output_shapes(step: TracedStep, prepared: PreparedCall, n_obs: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape of one draw and stored dtype of each return site, for ``n_obs`` rows."""
    avals = jax.tree.unflatten(step.traced.outputs, step.traced.jaxpr.out_avals)
    axes = prepared.plan.row_axes if step.by_block else {}
    found = {}
    for name, aval in avals.items():
        if name == IMPOSSIBLE:
            continue
        shape = tuple(n_obs if axes.get(name) == i else size for i, size in enumerate(aval.shape))
        narrow = jnp.issubdtype(aval.dtype, jnp.floating) and aval.dtype.itemsize < 4
        found[name] = shape, np.dtype(np.float32) if narrow else np.dtype(aval.dtype)
    return found


def output_variables(
    prepared: PreparedCall,
    names: Mapping[str, str],
    plan: "Plan",
    step: TracedStep,
    dims: Mapping[str, tuple[str, ...]],
    statistics: Reduction | None,
) -> "dict[str, Variable]":
    """Return shape, dtype and chunks of each array of the result."""
    per_chain = plan.n_draws // plan.n_chains
    head = [plan.n_chains, per_chain] if statistics is None else [len(statistics.labels)]
    found = {}
    for site, (shape, drawn) in output_shapes(step, prepared, prepared.call.n_obs).items():
        dtype = drawn if statistics is None else np.dtype(np.float64)
        row = prepared.plan.row_axes.get(site)
        row = None if row is None or row >= len(shape) else row  # one score may belong to all rows together
        whole: list[int | None] = [*head, *shape]
        chunks = [*head, *shape]
        axis = None
        if plan.axis == "draw":
            if statistics is None:
                axis, chunks[0], chunks[1] = 1, 1, plan.chunk
            if row is not None:
                row_bytes = max(1, prod(shape) // shape[row]) * dtype.itemsize * prod(chunks[: len(head)])
                chunks[len(head) + row] = min(shape[row], aimz.stream.chunk_length(1, row_bytes, shape[row], None))
        elif row is not None:
            axis = len(head) + row
            chunks[axis] = min(plan.chunk, plan.n_obs or plan.chunk)
            whole[axis] = plan.n_obs
        name, path = names[site], site if site.startswith(EFFECT) else None
        missing = site in prepared.plan.discrete_sources
        found[name] = aimz.store.Variable(dims[name], tuple(whole), dtype, tuple(chunks), axis, missing, path)
    return found


class _StoredChunks(Protocol):
    """Arrays whose chunks may be stored already."""

    def length(self, name: str) -> int: ...

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Any: ...


def missing_steps(
    plan: "Plan",
    variables: "Mapping[str, Variable]",
    stored: _StoredChunks,
    start: int = 0,
    stop: int | None = None,
    digested: Container[int] | None = None,
) -> Callable[[int, int], bool]:
    """Return a predicate for the steps still to compute: missing chunks, or chunks whose input rows have no digest.

    ``start`` and ``stop`` restrict it to some rows; ``digested`` are the first rows of ranges with a digest, or None
    if every stored chunk counts.
    """
    chunk, streamed = plan.chunk, {name: v for name, v in variables.items() if v.axis is not None}
    reached = plan.length or max(map(stored.length, streamed), default=0)
    missing: set[int] = set()
    for name, variable in variables.items():
        if variable.axis is None:
            missing |= {0} if start == 0 and any(True for _ in stored.missing(name)) else set()
            continue
        per_chain = plan.n_draws // plan.n_chains
        for position in stored.missing(name, start, stop):
            chain = position[0] * per_chain if plan.axis == "draw" else 0
            missing.add(chain + position[variable.axis] * chunk)
        if plan.length is None:  # one variable may have been written further than another
            missing |= set(range(stored.length(name) // chunk * chunk, reached, chunk))
    starts, length = sorted(missing), plan.note

    def is_missing(begin: int, end: int) -> bool:
        if end > reached or any(at < end and begin < at + chunk for at in starts):
            return True
        return digested is not None and any(at not in digested for at in range(begin // length * length, end, length))

    return is_missing

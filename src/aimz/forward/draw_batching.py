"""Map a function of one draw over all draws, as many at a time as the hardware likes.

One draw at a time leaves vector units idle; all at once spills every intermediate out of the cache.  The best
group is the one whose largest intermediate just fits, and the jaxpr of one draw says how large that is.
"""

__all__ = ["TracedFunction", "group_size", "map_draws", "trace"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

_BUDGET_BYTES = {"cpu": 2**19, "gpu": 2**29, "tpu": 2**29}
"""Bytes the largest intermediate of a group may take: a share of the L2 cache, or of an accelerator's memory."""


@dataclass(frozen=True)
class TracedFunction:
    """A function whose Python has run; calling it runs what was recorded."""

    jaxpr: Any
    """A closed jaxpr."""
    outputs: Any
    """Structure of what it returns."""

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns for arguments of the traced structure."""
        return jax.tree.unflatten(self.outputs, core.jaxpr_as_fun(self.jaxpr)(*jax.tree.leaves(args)))


def trace(function: Callable[..., Any], *args: Any) -> TracedFunction:
    """Run ``function`` once on abstract arguments, with random numbers at half the work.

    JAX's default hashes a 64-bit counter for each 32 bits, so that a compiler may cut one array among devices and get
    the same bits.  Here each device has whole blocks or whole draws, with keys of their own: the same bits come out
    without it.  A 32-bit counter and two words a hash, the default before JAX 0.5, is the same generator (Threefry,
    Salmon et al. 2011) and takes 0.4 of the time.  What is in force when an operation is traced counts.
    """
    with jax.threefry_partitionable(False):  # noqa: FBT003 (its name is not public)
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return TracedFunction(jaxpr, jax.tree.structure(shapes))


def _intermediates(jaxpr: core.Jaxpr) -> Iterator[int]:
    """Yield the size in bytes of every value computed in ``jaxpr``, also inside loops and calls."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            aval = variable.aval
            if hasattr(aval, "shape"):
                itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 8)
                yield int(np.prod(aval.shape, dtype=np.int64)) * itemsize
    for inner in core.subjaxprs(jaxpr):
        yield from _intermediates(inner)


def group_size(jaxpr: Any, n_draws: int, backend: str) -> int:
    """Return how many draws to compute side by side.

    A divisor of ``n_draws`` is preferred where one is near, so that the loop has no odd last turn.
    """
    largest = max(_intermediates(jaxpr.jaxpr), default=1)
    fits = max(1, min(n_draws, _BUDGET_BYTES.get(backend, 2**29) // max(largest, 1)))
    return next((g for g in range(fits, fits // 2, -1) if n_draws % g == 0), fits)


def map_draws(one_draw: Callable[[Any], Any], draws: Any, n_draws: int, group: int) -> Any:
    """Apply ``one_draw`` to each element along the leading axis of ``draws`` and stack what it returns.

    Equals ``jax.vmap(one_draw)(draws)`` up to the last bits, which depend on ``group`` alone.
    """
    if group >= n_draws:
        return jax.vmap(one_draw)(draws)
    return lax.map(one_draw, draws, batch_size=group)

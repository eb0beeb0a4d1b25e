"""Map a function of one draw over all draws, as many at a time as the hardware likes.

One draw at a time leaves vector units idle; all at once spills every intermediate out of the cache.  The best
group is the one whose largest intermediate just fits, and the jaxpr of one draw says how large that is.
"""

__all__ = ["group_size", "map_draws"]

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

_BUDGET_BYTES = {"cpu": 2**19, "gpu": 2**29, "tpu": 2**29}
"""Bytes the largest intermediate of a group may take: a share of the L2 cache, or of an accelerator's memory."""


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


def map_draws(one_draw: Callable[[Any], Any], draws: Any, n_draws: int) -> Any:
    """Apply ``one_draw`` to each element along the leading axis of ``draws`` and stack what it returns.

    Equals ``jax.vmap(one_draw)(draws)`` up to the last bits.  The kernel is traced once, for the group size
    and the computation alike.
    """
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), draws)
    jaxpr, shapes = jax.make_jaxpr(one_draw, return_shape=True)(first)
    tree = jax.tree.structure(shapes)
    compute = core.jaxpr_as_fun(jaxpr)

    def from_leaves(draw: Any) -> Any:
        return jax.tree.unflatten(tree, compute(*jax.tree.leaves(draw)))

    size = group_size(jaxpr, n_draws, jax.default_backend())
    if size == n_draws:
        return jax.vmap(from_leaves)(draws)
    return lax.map(from_leaves, draws, batch_size=size)

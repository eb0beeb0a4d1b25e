"""What a program is known by, from one process to the next."""

__all__ = ["digest_program"]

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


def digest_program(closed: Any, *more: object) -> str:
    """Return a digest of a traced program: it changes with the arithmetic, and with the arrays written into it.

    ``more`` are values whose text counts too.
    """
    # Addresses of functions change from process to process, and say nothing.
    text = re.sub(r"0x[0-9a-f]+", "", " ".join([*map(str, more), str(closed.jaxpr)]))
    digest = hashlib.sha256(text.encode())
    for value in [*closed.consts, *_arrays_within(closed.jaxpr)]:
        plain = value
        if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
            plain = jax.random.key_data(value)
        digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.hexdigest()


def _arrays_within(jaxpr: Any) -> Iterator[Any]:
    """Yield arrays that are written into a program, whose text is cut short; also inside loops and calls."""
    for equation in jaxpr.eqns:
        yield from (atom.val for atom in equation.invars if isinstance(atom, core.Literal) and np.ndim(atom.val))
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                yield from getattr(item, "consts", ())
                inner = getattr(item, "jaxpr", item)
                if isinstance(inner, core.Jaxpr):
                    yield from _arrays_within(inner)

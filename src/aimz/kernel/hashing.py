"""Digests of programs and kernels that are the same in every process."""

__all__ = ["AbstractCall", "digest_program", "kernel_digest"]

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.extend import core
from numpyro import handlers

from aimz.kernel.handler_stack import isolated
from aimz.kernel.spec import KernelSpec
from aimz.types import Arrays, Kernel


class AbstractCall(NamedTuple):
    """The arguments of a call, abstractly, and the structure of the kernel in that call."""

    arrays: Mapping[str, jax.ShapeDtypeStruct]
    """Shapes and dtypes of the array arguments."""
    static: Mapping[str, Any]
    """Plain values of the other arguments."""
    left_out: tuple[str, ...]
    """Names of arguments that are neither arrays nor plain values, and cannot be stored."""
    spec: KernelSpec
    """Structure of the kernel."""

    @staticmethod
    def of(
        arrays: Arrays, static: Mapping[str, object], spec: KernelSpec, is_plain: Callable[[object], bool]
    ) -> "AbstractCall":
        """Return the abstract form of a call, without its data."""
        return AbstractCall(
            {name: jax.ShapeDtypeStruct(tuple(array.shape), array.dtype) for name, array in arrays.items()},
            {name: value for name, value in static.items() if is_plain(value)},
            tuple(sorted(name for name, value in static.items() if not is_plain(value))),
            spec,
        )


def kernel_digest(kernel: Kernel, example: AbstractCall, static: Mapping[str, Any]) -> str | None:
    """Return a digest of all the arithmetic of a kernel, or None if one of its sites cannot be drawn."""

    @isolated
    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        trace = handlers.trace(handlers.seed(kernel, random.key(0))).get_trace(**arrays, **static)
        found: dict[str, Any] = {}
        for name, site in trace.items():
            if site["type"] == "sample":
                found[name] = site["value"], site["fn"].log_prob(site["value"])
            elif site["type"] in ("deterministic", "param", "mutable"):
                found[name] = [leaf for leaf in jax.tree.leaves(site["value"]) if hasattr(leaf, "dtype")]
        return found

    try:
        return digest_program(jax.make_jaxpr(run)(dict(example.arrays)))
    except Exception:  # noqa: BLE001, RUF100 (an improper prior has no sampler, and a kernel may raise anything)
        return None


def digest_program(closed: Any, *more: object) -> str:
    """Return a digest of a jaxpr, of the arrays it contains, and of the text of the values in ``more``."""
    # Addresses of functions differ between processes and carry no information.
    text = re.sub(r"0x[0-9a-f]+", "", " ".join([*map(str, more), str(closed.jaxpr)]))
    digest = hashlib.sha256(text.encode())
    for value in [*closed.consts, *_arrays_within(closed.jaxpr)]:
        plain = value
        if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
            plain = jax.random.key_data(value)
        digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.hexdigest()


def _arrays_within(jaxpr: Any) -> Iterator[Any]:
    """Yield the literal arrays of a jaxpr, whose text JAX abbreviates, also those inside loops and calls."""
    for equation in jaxpr.eqns:
        yield from (atom.val for atom in equation.invars if isinstance(atom, core.Literal) and np.ndim(atom.val))
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                yield from getattr(item, "consts", ())
                inner = getattr(item, "jaxpr", item)
                if isinstance(inner, core.Jaxpr):
                    yield from _arrays_within(inner)

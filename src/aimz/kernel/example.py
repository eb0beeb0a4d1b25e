"""A call of the kernel without its data, by which the kernel can be known again."""

__all__ = ["AbstractCall", "kernel_digest"]

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import random
from numpyro import handlers

from aimz.kernel.hashing import digest_program
from aimz.kernel.spec import KernelSpec
from aimz.types import Arrays, Kernel


class AbstractCall(NamedTuple):
    """The arguments of a call, abstractly, and the structure the kernel had in it."""

    arrays: Mapping[str, jax.ShapeDtypeStruct]
    static: Mapping[str, Any]
    """Plain values of arguments that are no arrays."""
    left_out: tuple[str, ...]
    """Arguments that are neither: objects that only code can make."""
    spec: KernelSpec

    @staticmethod
    def of(
        arrays: Arrays, static: Mapping[str, object], spec: KernelSpec, is_plain: Callable[[object], bool]
    ) -> "AbstractCall":
        """Remember a call; nothing of the size of the data is kept."""
        return AbstractCall(
            {name: jax.ShapeDtypeStruct(tuple(array.shape), array.dtype) for name, array in arrays.items()},
            {name: value for name, value in static.items() if is_plain(value)},
            tuple(sorted(name for name, value in static.items() if not is_plain(value))),
            spec,
        )


def kernel_digest(kernel: Kernel, example: AbstractCall, static: Mapping[str, Any]) -> str | None:
    """Return a digest of all the arithmetic of a kernel; None if it cannot draw all of its sites."""

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
    except Exception:  # noqa: BLE001, RUF100 (an improper prior cannot be drawn from, and a kernel may raise anything)
        return None

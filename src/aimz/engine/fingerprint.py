"""What a stored call is known by, so that only the same call may finish it."""

__all__ = ["check_resumable", "fingerprint_of", "versions"]

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from aimz.data import differences, is_plain_range
from aimz.engine.kernel_engine import PreparedCall
from aimz.forward import TracedStep
from aimz.kernel import digest_program

if TYPE_CHECKING:
    from aimz.stream import Plan


def fingerprint_of(
    prepared: PreparedCall,
    plan: "Plan",
    step: TracedStep,
    *,
    method: str,
    group: str,
    key: str | None,
    statistics: tuple[str, ...],
    before: Mapping[str, str],
    device: str | None = None,
) -> dict[str, str]:
    """Return texts that are the same for the same call, by what they are of.

    ``before`` are those of the call that is to be finished.
    """
    call = prepared.call
    found = {
        "kernel": _of_program(step),
        "posterior": _of_arrays({**prepared.draws}),
        "parameters and interventions": _of_arrays({**prepared.values}),
        "rng_key": key or "",
        "number of rows": str(plan.n_obs),
        "batching": json.dumps([plan.axis, plan.block, plan.chunk, plan.n_draws, plan.n_chains]),
        "sites": json.dumps(list(prepared.plan.return_sites)),
        "method": method,
        "statistics": json.dumps(statistics),
        "in_sample": group,
        "versions": versions(),
        "device": device or jax.default_backend(),
    }
    # Rows of an iterable, and rows that are read from their source, are digested while they are streamed; but the
    # interrupted call may have had them in memory.
    streamed = set(call.batch_fields)
    if plan.axis == "obs":
        streamed |= {n for n, rows in call.rows.items() if rows.by_reference and f"data of `{n}`" not in before}
    found |= {f"data of `{name}`": call.fingerprint(name) for name in call.arrays if name not in streamed}
    if call.index is not None and not is_plain_range(call.index):
        found["labels of rows"] = hashlib.sha256("\n".join(map(str, call.index)).encode()).hexdigest()
    return found


@cache
def versions() -> str:
    """Return what the bits of a result depend on besides the call."""
    return ", ".join(f"{name} {version(name)}" for name in ("aimz", "jax", "jaxlib", "numpyro"))


def check_resumable(here: Mapping[str, str], there: Mapping[str, str], place: object) -> None:
    """Refuse to finish what another call began.

    Raises
    ------
    ValueError
        If something differs; it is named.
    """
    unlike = differences(here, there)
    if unlike:
        msg = (
            f"The call in {place} cannot be resumed by this one: {', '.join(unlike)} differ(s). Make the call that "
            "was interrupted, or predict anew."
        )
        raise ValueError(msg)


_DIGESTS: WeakKeyDictionary[TracedStep, str] = WeakKeyDictionary()


def _of_program(step: TracedStep) -> str:
    """Digest the arithmetic itself, once: it changes whenever the kernel does, and with what it closes over."""
    found = _DIGESTS.get(step)
    if found is None:
        found = _DIGESTS[step] = digest_program(step.traced.jaxpr, step.group)
    return found


def _of_arrays(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tree in sorted(arrays.items()):
        for leaf in jax.tree.leaves(tree):
            host = np.ascontiguousarray(leaf)
            digest.update(f"{name} {host.dtype} {host.shape}".encode())
            digest.update(host.view(np.uint8).reshape(-1).data if host.size else b"")
    return digest.hexdigest()

"""Identity of a call: fingerprints of its inputs, and digests of rows that are read while they are streamed."""

__all__ = [
    "RowDigests",
    "check_resumable",
    "digests_for",
    "fingerprint_of",
    "known_digests",
    "versions",
    "without_copies",
]

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from aimz._distribution import VERSION
from aimz.data import BatchReader, RowReader, differences, fingerprint, is_plain_range
from aimz.engine.prepared_call import PreparedCall
from aimz.forward import TracedStep
from aimz.kernel import digest_program

if TYPE_CHECKING:
    from aimz.store import Journal
    from aimz.stream import Plan


class RowDigests:
    """Digests of ranges of rows, computed while the rows are streamed (for data too expensive to read twice).

    Parameters
    ----------
    names
        Names of the arguments that are digested.
    plan
        Plan of the call, which sets the length of a range: one block, or several chunks if there are very many blocks.
    """

    def __init__(self, names: frozenset[str], plan: "Plan") -> None:
        self.names = names
        self._plan = plan
        self._reached: int | None = None
        """Row up to which the current range was read."""
        self._current = hashlib.sha256()
        self._finished: list[tuple[int, str]] = []

    def add(self, start: int, stop: int, rows: Mapping[str, np.ndarray]) -> None:
        """Digest rows that were read."""
        block, length, n_obs = self._plan.block or 1, self._plan.note, self._plan.n_obs
        arrays = [rows[name] for name in sorted(self.names)]
        for at in range(start, stop, block):
            end = min(at + block, stop)
            if at % length == 0:
                self._current, self._reached = hashlib.sha256(), at
            if self._reached != at:  # the range began in another process, which digests it
                continue
            self._current.update(fingerprint(array[at - start : end - start] for array in arrays).encode())
            self._reached = end
            if end % length == 0 or end == n_obs or n_obs is None:
                self._finished.append((at // length * length, self._current.hexdigest()))

    def take(self) -> list[tuple[int, str]]:
        """Return the first row and the digest of each range finished since the last call."""
        finished, self._finished = self._finished, []
        return finished


def digests_for(arrays: Mapping[str, RowReader], reader: BatchReader | None, plan: "Plan") -> RowDigests | None:
    """Return digests of the arguments that are read lazily; None if there are none."""
    names = frozenset(name for name, array in arrays.items() if reader is not None or array.by_reference)
    return RowDigests(names, plan) if names else None


def known_digests(journal: "Journal | None", digests: RowDigests | None) -> Mapping[int, str] | None:
    """Return the digests that an interrupted run recorded, by first row; None if every stored chunk counts.

    Chunks whose rows have no digest do not count, unless the data were fingerprinted beforehand: a run that was killed
    may have written them from other data before it recorded the digest.
    """
    if journal is None or digests is None or all(f"data of `{n}`" in journal.fingerprint for n in digests.names):
        return None
    return journal.rows


def fingerprint_of(
    scenarios: Iterable[tuple[str, PreparedCall]],
    plan: "Plan",
    step: TracedStep,
    *,
    method: str,
    group: str,
    key: str | None,
    statistics: tuple[str, ...] = (),
    before: Mapping[str, str] | None = None,
    device: str | None = None,
) -> dict[str, str]:
    """Return what identifies a call, as texts that are equal for equal calls.

    ``scenarios`` are pairs of a suffix for the names and a prepared call; ``before`` is the fingerprint of the call to
    resume, if there is one; ``device`` is the kind of device that computes the call, if not this process.
    """
    found: dict[str, str] = {}
    for suffix, prepared in scenarios:
        texts = {
            "kernel": _of_program(step),
            "posterior": _of_arrays({name: without_copies(value) for name, value in prepared.draws.items()}),
            "parameters and interventions": _of_arrays(prepared.values),
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
        call = prepared.call
        # Rows that are read from batches or from their source are digested while they are streamed, but the call to
        # resume may have had them in memory.
        streamed = set(call.batch_fields)
        if plan.axis == "obs":
            known = before or {}
            streamed |= {
                n for n, rows in call.rows.items() if rows.by_reference and f"data of `{n}`{suffix}" not in known
            }
        texts |= {f"data of `{name}`": call.fingerprint(name) for name in call.arrays if name not in streamed}
        if call.index is not None and not is_plain_range(call.index):
            texts["labels of rows"] = hashlib.sha256("\n".join(map(str, call.index)).encode()).hexdigest()
        found |= {name + suffix: text for name, text in texts.items()}
    return found


@cache
def versions() -> str:
    """Return the versions of the packages that the bits of a result depend on."""
    return ", ".join([f"aimz {VERSION}", *(f"{name} {version(name)}" for name in ("jax", "jaxlib", "numpyro"))])


def check_resumable(here: Mapping[str, str], there: Mapping[str, str], location: object) -> None:
    """Raise if a call differs from the interrupted call that it should finish.

    Raises
    ------
    ValueError
        Naming the inputs that differ.
    """
    unlike = differences(here, there)
    if unlike:
        msg = (
            f"The call in {location} cannot be resumed by this one: {', '.join(unlike)} differ(s). Repeat the "
            "interrupted call, or predict again without `resume`."
        )
        raise ValueError(msg)


_DIGESTS: WeakKeyDictionary[TracedStep, str] = WeakKeyDictionary()


def _of_program(step: TracedStep) -> str:
    """Digest the traced program, which changes with the kernel and with everything it closes over."""
    found = _DIGESTS.get(step)
    if found is None:
        found = _DIGESTS[step] = digest_program(step.traced.jaxpr, step.group)
    return found


def without_copies(array: Any) -> Any:
    """Return one entry along each axis along which a view of NumPy repeats its entries."""
    if not isinstance(array, np.ndarray):
        return array
    return array[tuple(slice(0, 1 if stride == 0 else None) for stride in array.strides)]


def _of_arrays(arrays: Mapping[str, Any]) -> str:
    """Digest trees of arrays by name."""
    digest = hashlib.sha256()
    for name, tree in sorted(arrays.items()):
        for leaf in jax.tree.leaves(tree):
            host = np.ascontiguousarray(leaf)
            digest.update(f"{name} {host.dtype} {host.shape}".encode())
            digest.update(host.view(np.uint8).reshape(-1).data if host.size else b"")
    return digest.hexdigest()

"""What rows are known by that are read once: digests, taken as they come by."""

__all__ = ["RowDigests", "digests_for"]

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from aimz.data import BatchReader, RowReader, fingerprint

if TYPE_CHECKING:
    from aimz.stream import Plan


class RowDigests:
    """Digests of stretches of rows, in order.

    Parameters
    ----------
    names
        The arguments they are of.
    plan
        How the call is cut, and with it how long a stretch is: a block, or where there are very many some chunks.
    """

    def __init__(self, names: frozenset[str], plan: "Plan") -> None:
        self.names = names
        self._plan = plan
        self._at: int | None = None
        """The row up to which the stretch under way was read."""
        self._under_way = hashlib.sha256()
        self._taken: list[tuple[int, str]] = []

    def see(self, start: int, stop: int, rows: Mapping[str, np.ndarray]) -> None:
        """Look at rows that were read."""
        block, length, n_obs = self._plan.block or 1, self._plan.note, self._plan.n_obs
        arrays = [rows[name] for name in sorted(self.names)]
        for at in range(start, stop, block):
            end = min(at + block, stop)
            if at % length == 0:
                self._under_way, self._at = hashlib.sha256(), at
            if self._at != at:  # it was begun elsewhere, and who has read the beginning will note it
                continue
            self._under_way.update(fingerprint(array[at - start : end - start] for array in arrays).encode())
            self._at = end
            if end % length == 0 or end == n_obs or n_obs is None:
                self._taken.append((at // length * length, self._under_way.hexdigest()))

    def take(self) -> list[tuple[int, str]]:
        """Return first row and digest of each stretch that was read since this was last asked."""
        taken, self._taken = self._taken, []
        return taken


def digests_for(arrays: Mapping[str, RowReader], reader: BatchReader | None, plan: "Plan") -> RowDigests | None:
    """Return notes of the arguments whose rows it would cost a pass to know beforehand; None if there are none."""
    names = frozenset(name for name, array in arrays.items() if reader is not None or array.by_reference)
    return RowDigests(names, plan) if names else None

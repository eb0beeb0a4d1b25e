"""Sizes of the blocks, steps and chunks of a stream, as integers only.

The kernel is run on one *block* of rows at a time.  A *step* has as many blocks as the devices compute at once, and a
*chunk* is a file of the store.  The numbers drawn depend on the blocks only: on the kernel, the number of draws and the
number of rows, but not on ``batch_size`` or the devices.
"""

__all__ = ["Plan", "block_rows", "chunk_length", "plan_draws", "plan_rows", "step_rows"]

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

_BLOCK = 1024
"""Number of rows of a block, unless rows are large."""
_BLOCK_BYTES = 16 * 2**20
_CHUNK_BYTES = 8 * 2**20
"""Target size of a chunk: below 1 MB the overhead of files dominates, and buffers from 32 MiB on are always mapped."""
_LONG_CHUNK_BYTES = 24 * 2**20
_MANY_CHUNKS = 4096
_MAX_DIGESTS = 2**16


@dataclass(frozen=True)
class Plan:
    """Sizes of the blocks, steps and chunks of one call."""

    axis: str
    """"obs": each step has some rows and all draws; "draw": each step has some draws and all rows."""
    n_obs: int | None
    """Number of rows; None if it is known only when the rows end."""
    n_draws: int
    n_chains: int
    block: int | None
    """Number of rows of a block; None if the kernel is run on all rows at once."""
    step: int
    """Number of rows, or draws, of a step."""
    chunk: int
    """Number of rows, or draws, of a chunk."""

    @cached_property
    def length(self) -> int | None:
        """Length of the axis that is split, of rows or draws."""
        return self.n_obs if self.axis == "obs" else self.n_draws

    @property
    def note(self) -> int:
        """Number of rows per digest: a block, or several chunks if there are more than 65,536 blocks."""
        if self.block is None or self.n_obs is None or self.n_obs <= self.block * _MAX_DIGESTS:
            return self.block or 1
        return self.chunk * ceil(self.n_obs / (self.chunk * _MAX_DIGESTS))

    def steps(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield start and stop of each step, without an end if the number of rows is not known.

        Each step begins where the previous one ended.  No step has draws of two chains.  With ``first`` and ``last``,
        only these rows are covered.
        """
        if self.axis == "obs":
            start, end = first, self.n_obs if last is None else last
            while end is None or start < end:
                stop = start + self.step if end is None else min(start + self.step, end)
                yield start, stop
                start = stop
        else:
            per_chain = self.n_draws // self.n_chains
            for chain in range(self.n_chains):
                for start in range(0, per_chain, self.step):
                    yield chain * per_chain + start, chain * per_chain + min(start + self.step, per_chain)


def _power_below(n: int) -> int:
    return 1 << (max(1, n).bit_length() - 1)


def block_rows(row_bytes: int, n_draws: int, n_obs: int | None) -> int:
    """Return the number of rows of a block, a power of two.

    The number is 1,024, or less if the draws of these rows would take more than 16 MiB, and not above the next power of
    two from ``n_obs``.  ``row_bytes`` is the size of one draw of one row, over all sites.
    """
    rows = min(_BLOCK, _power_below(_BLOCK_BYTES // max(1, row_bytes * n_draws)))
    return rows if n_obs is None else min(rows, 1 << (n_obs - 1).bit_length())


def chunk_length(unit: int, unit_bytes: int, length: int | None, target: int | None) -> int:
    """Return the length of a chunk, a multiple of ``unit``.

    With ``target``, the length is rounded up from it, up to 24 MiB.  ``unit_bytes`` is the size of one unit in the
    largest array.
    """
    n_units = None if length is None else ceil(length / unit)
    most = max(1, _LONG_CHUNK_BYTES // max(1, unit_bytes))
    if target is not None:
        units = min(ceil(target / unit), most)
    else:
        units = max(1, _CHUNK_BYTES // max(1, unit_bytes))
        if n_units is not None and n_units > _MANY_CHUNKS * units:
            units = min(most, ceil(n_units / _MANY_CHUNKS))
        units = _power_below(units)
    return unit * (units if n_units is None else min(units, n_units))


def plan_rows(
    *,
    block: int,
    n_obs: int | None,
    n_draws: int,
    n_chains: int,
    row_bytes: int,
    n_devices: int,
    blocks_per_device: int,
    batch_size: int | None,
) -> Plan:
    """Return the plan of a call that is split by rows.

    ``row_bytes`` is the size of one row in the largest stored array, with its draws or the statistics over them.
    """
    return Plan(
        axis="obs",
        n_obs=n_obs,
        n_draws=n_draws,
        n_chains=n_chains,
        block=block,
        step=step_rows(block, n_obs, n_devices, blocks_per_device, batch_size),
        chunk=chunk_length(block, block * row_bytes, n_obs, batch_size),
    )


def step_rows(block: int, n_obs: int | None, n_devices: int, blocks_per_device: int, batch_size: int | None) -> int:
    """Return the number of rows of a step: the same number of whole blocks on each device."""
    each = blocks_per_device
    if batch_size is not None:
        each = min(each, ceil(batch_size / block))
    if n_obs is not None:
        each = min(each, ceil(ceil(n_obs / block) / n_devices))
    return block * each * n_devices


def plan_draws(
    *,
    block: int | None,
    n_obs: int,
    n_draws: int,
    n_chains: int,
    group: int,
    draw_bytes: int,
    n_devices: int,
    batch_size: int | None,
) -> Plan:
    """Return the plan of a call that is split by draws.

    ``group`` is the number of draws computed in one vectorised call, and every device gets whole groups.
    ``draw_bytes`` is the size of one draw of all sites.
    """
    unit = group * n_devices
    per_chain = n_draws // n_chains
    step = chunk_length(unit, unit * draw_bytes, per_chain, batch_size)
    return Plan("draw", n_obs, n_draws, n_chains, block, step, min(step, per_chain))

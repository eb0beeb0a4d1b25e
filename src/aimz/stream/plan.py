"""How a stream is cut up: integers only.

Rows are cut into *blocks*, which the kernel sees one at a time; blocks travel in *steps*, as many as a device computes
at once; and land in *chunks*, the files of a store.  The numbers drawn depend on the blocks alone, which depend on the
kernel, the number of draws and the number of rows: neither on ``batch_size`` nor on the devices.
"""

__all__ = ["Plan", "block_rows", "chunk_length", "plan_draws", "plan_rows", "step_rows"]

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

_BLOCK = 1024
"""Rows of a block, where rows are small."""
_BLOCK_BYTES = 16 * 2**20
_CHUNK_BYTES = 8 * 2**20
"""Chunks of about this size: below 1 MB the overhead of files wins, and from 32 MiB on every buffer is mapped anew."""
_LONG_CHUNK_BYTES = 24 * 2**20
_MANY_CHUNKS = 4096
_MANY_NOTES = 2**16


@dataclass(frozen=True)
class Plan:
    """How one call is cut."""

    axis: str
    """"obs": rows are cut, and each step has all draws; "draw": the other way round."""
    n_obs: int | None
    """None where it is known only when the rows have ended."""
    n_draws: int
    n_chains: int
    block: int | None
    """Rows of a block; None where the kernel sees all rows at once."""
    step: int
    """Rows, or draws, of a step."""
    chunk: int
    """Rows, or draws, of a chunk."""

    @property
    def length(self) -> int | None:
        """Length of the axis that is cut."""
        return self.n_obs if self.axis == "obs" else self.n_draws

    @property
    def note(self) -> int:
        """Rows that are known by one digest: a block, or some chunks where there are more than 65,536 blocks."""
        if self.block is None or self.n_obs is None or self.n_obs <= self.block * _MANY_NOTES:
            return self.block or 1
        return self.chunk * ceil(self.n_obs / (self.chunk * _MANY_NOTES))

    def steps(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield start and stop of each step; without an end where the number of rows is not known.

        Steps tile the axis: each begins where the one before it ended.  Draws of two chains are never in one step.
        Of rows, those from ``first`` to ``last`` only, where they are given.
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
    """Return the number of rows of a block.

    ``row_bytes`` is what one draw of all sites takes for one row.  A power of two: 1,024, or fewer where their draws
    take more than 16 MiB; and no more than the next one from ``n_obs``.
    """
    rows = min(_BLOCK, _power_below(_BLOCK_BYTES // max(1, row_bytes * n_draws)))
    return rows if n_obs is None else min(rows, 1 << (n_obs - 1).bit_length())


def chunk_length(unit: int, unit_bytes: int, length: int | None, wanted: int | None) -> int:
    """Return how long a chunk is: whole units, ``wanted`` long if something is, but never over 24 MiB for it.

    ``unit_bytes`` is the size of one unit in the largest array.
    """
    n_units = None if length is None else ceil(length / unit)
    most = max(1, _LONG_CHUNK_BYTES // max(1, unit_bytes))
    if wanted is not None:
        units = min(ceil(wanted / unit), most)
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
    """Return the plan of a call that is cut along its rows.

    ``row_bytes`` is what the largest array keeps of one row: its draws, or statistics over them.
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
    """Return how many rows are computed at once: whole blocks, as many on each device."""
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
    """Return the plan of a call that is cut along its draws.

    ``group`` is the number of draws computed side by side, and every device gets whole groups; ``draw_bytes`` is what
    one draw of all sites takes.
    """
    unit = group * n_devices
    per_chain = n_draws // n_chains
    step = chunk_length(unit, unit * draw_bytes, per_chain, batch_size)
    return Plan("draw", n_obs, n_draws, n_chains, block, step, min(step, per_chain))

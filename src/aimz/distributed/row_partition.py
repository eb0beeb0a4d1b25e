"""Rows divided among processes, and where on their way these meet: integers only."""

__all__ = ["partition_rows"]

from itertools import pairwise
from math import gcd

from aimz.stream import Plan

_ROUNDS = 32
"""How often processes that store or add up tell each other how far they are, at most."""
_STEPS = 8
"""Steps between, at least."""
_CHUNKS = 16
"""Chunks of a result in memory that all processes together send at once."""


def partition_rows(plan: Plan, index: int, count: int, *, stored: bool, sent: bool) -> list[tuple[int, int]]:
    """Return the rows of one of ``count`` processes, cut where all processes meet; as many stretches in each.

    A process has neighbouring rows: whole chunks, and what is known by one digest, if the result is ``stored``, else
    whole blocks.  Where rows are ``sent``, stretches are short, so that few wait to be sent; elsewhere they are long,
    so that meeting costs little.  Some may be empty.
    """
    assert plan.n_obs is not None
    assert plan.block is not None
    unit = max(plan.chunk, plan.note) if stored else plan.block
    n_units = -(-plan.n_obs // unit)
    longest = -(-n_units // count)
    if sent:
        least = max(plan.step, plan.chunk * max(1, _CHUNKS // count))
    else:
        least = max(_STEPS * plan.step, longest * unit // _ROUNDS)
    whole = plan.step // gcd(plan.step, unit)  # units that are whole steps, so that only the last one is padded
    each = -(-least // (unit * whole)) * whole
    first, last = (number * n_units // count for number in (index, index + 1))
    ends = [min(last, first + number * each) for number in range(-(-longest // each) + 1)]
    return list(pairwise(min(plan.n_obs, end * unit) for end in ends))

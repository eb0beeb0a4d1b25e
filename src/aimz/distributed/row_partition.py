"""Division of rows among processes, and the points at which the processes synchronise: integers only."""

__all__ = ["partition_rows"]

from itertools import pairwise
from math import gcd

from aimz.stream import Plan

_ROUNDS = 32
"""Largest number of collectives of a call that stores rows or sums over them."""
_STEPS = 8
"""Smallest number of steps between two collectives."""
_CHUNKS = 16
"""Chunks of a result in memory that all processes together send in one collective."""


def partition_rows(plan: Plan, index: int, count: int, *, stored: bool, sent: bool) -> list[tuple[int, int]]:
    """Return the ranges of rows of one of ``count`` processes, separated by collectives; every process has as many.

    A process computes contiguous rows: whole chunks and whole digested ranges if the result is ``stored``, else whole
    blocks.  If rows are ``sent``, ranges are short, so that little memory is needed; otherwise they are long, so that
    collectives cost little.  Some ranges may be empty.
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

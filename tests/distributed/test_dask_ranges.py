"""Ranges of rows that are handed out to workers: they tile the rows, whatever the workers' pace."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from aimz.distributed.dask_ranges import AdaptiveRanges

few = settings(max_examples=200, deadline=None)

units = st.sampled_from([1, 5, 256, 1024, 4096])
paces = st.none() | st.floats(1, 1e7)


@st.composite
def plans(draw) -> AdaptiveRanges:
    unit = draw(units)
    most = unit * draw(st.integers(1, 300))
    least = draw(st.integers(1, most))
    return AdaptiveRanges(draw(st.integers(1, 300 * unit)), unit, least, most)


def handed_out(ranges: AdaptiveRanges, asked: st.DataObject) -> list[tuple[int, int]]:
    """Return all ranges, where the pace and the number of workers change from one to the next."""
    found, at = [], 0
    while at < ranges.length:
        found.append(ranges.next(at, asked.draw(paces), asked.draw(st.integers(1, 8))))
        at = found[-1][1]
    return found


@given(ranges=plans(), asked=st.data())
@few
def test_ranges_tile_the_rows_in_whole_units(ranges, asked):
    found = handed_out(ranges, asked)
    assert found[0][0] == 0
    assert found[-1][1] == ranges.length
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert all(start % ranges.unit == 0 for start, _ in found)
    assert all(0 < stop - start <= ranges.most for start, stop in found)


@given(ranges=plans(), rate=paces, n_workers=st.integers(1, 64))
@few
def test_ranges_become_shorter_towards_the_end(ranges, rate, n_workers):
    lengths, at = [], 0
    while at < ranges.length:
        start, at = ranges.next(at, rate, n_workers)
        lengths.append(at - start)
        # Never more than a worker's share of what is left, but for the rounding up to a whole unit.
        assert at - start < -(-(ranges.length - start) // n_workers) + ranges.unit
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] <= ranges.unit


@given(unit=units, rate=st.floats(1, 1e6), n_workers=st.integers(1, 8))
@few
def test_a_range_takes_about_two_seconds_at_the_pace_of_the_last(unit, rate, n_workers):
    """Far from the end, and with room for it."""
    ranges = AdaptiveRanges(10**9, unit, unit, unit * 10**7)
    start, stop = ranges.next(0, rate, n_workers)
    assert max(unit, int(2 * rate)) <= stop - start < max(unit, 2 * rate) + unit


def test_ranges_of_a_common_call():
    """A million rows in chunks of 2,048: a quarter of what is left each, until the pace is known."""
    ranges = AdaptiveRanges(1_000_000, 2048, 65_536, 10**6)
    assert ranges.next(0, None, 2) == (0, 65_536)
    assert ranges.next(65_536, 100_000.0, 2) == (65_536, 65_536 + 200_704)
    assert ranges.next(994_000 // 2048 * 2048, 100_000.0, 2) == (993_280, 995_328)
    assert ranges.next(999_424, 100_000.0, 2) == (999_424, 1_000_000)

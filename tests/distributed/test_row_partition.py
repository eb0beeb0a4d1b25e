"""Rows divided among processes: each row once, whole chunks, and as many meetings in each."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aimz.distributed.row_partition import partition_rows
from aimz.stream import plan_rows

plans = st.builds(
    plan_rows,
    block=st.integers(0, 10).map(lambda power: 2**power),
    n_obs=st.integers(1, 10**6),
    n_draws=st.just(1000),
    n_chains=st.just(1),
    row_bytes=st.integers(1, 2**20),
    n_devices=st.sampled_from([1, 2, 4]),
    blocks_per_device=st.sampled_from([2, 16]),
    batch_size=st.none() | st.integers(1, 10**6),
)


@given(plans, st.integers(1, 70), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_shares_tile_the_rows_and_processes_meet_as_often(plan, n_processes, stored, sent):
    shares = [partition_rows(plan, index, n_processes, stored=stored, sent=sent) for index in range(n_processes)]
    at = 0
    for share in shares:
        assert len(share) == len(shares[0]) > 0
        for start, stop in share:
            assert start == at <= stop
            at = stop
    assert at == plan.n_obs


@given(plans, st.integers(1, 70), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_stretches_are_whole_chunks_or_blocks_and_shares_are_even(plan, n_processes, stored, sent):
    unit = max(plan.chunk, plan.note) if stored else plan.block
    lengths = []
    for index in range(n_processes):
        share = partition_rows(plan, index, n_processes, stored=stored, sent=sent)
        assert all(start % unit == 0 or start == plan.n_obs for start, _ in share)
        lengths.append(-(-(share[-1][1] - share[0][0]) // unit))
    assert max(lengths) - min(lengths) <= 1


def test_rows_that_are_sent_are_so_in_small_parts_and_sums_seldom():
    plan = plan_rows(
        block=1024,
        n_obs=10**8,
        n_draws=1000,
        n_chains=1,
        row_bytes=4000,
        n_devices=1,
        blocks_per_device=2,
        batch_size=None,
    )
    assert max(stop - start for start, stop in partition_rows(plan, 1, 4, stored=False, sent=True)) * 4000 <= 2**26
    assert len(partition_rows(plan, 1, 4, stored=True, sent=False)) <= 33

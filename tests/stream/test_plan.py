"""Plans: steps partition the axis, sizes are within the budget, and blocks depend on rows and draws only."""

from itertools import islice, pairwise
from math import ceil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aimz.stream import Plan, block_rows, chunk_length, plan_draws, plan_rows

MIB = 2**20
few = settings(max_examples=200, deadline=None)

counts = st.integers(1, 5000)
sizes = st.integers(1, 2**26)
batch_sizes = st.none() | st.integers(1, 10**6)
devices = st.sampled_from([1, 2, 3, 4, 8])
blocks = st.integers(0, 10).map(lambda power: 2**power)


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


# ---------------------------------------------------------------------------------------------------- blocks


@given(row_bytes=sizes, n_draws=counts, n_obs=st.none() | st.integers(1, 10**9))
@few
def test_block_is_the_largest_power_of_two_within_the_budget(row_bytes, n_draws, n_obs):
    rows = block_rows(row_bytes, n_draws, n_obs)

    def fits(n: int) -> bool:
        return n <= 1024 and n * row_bytes * n_draws <= 16 * MIB and (n_obs is None or n < 2 * n_obs)

    assert is_power_of_two(rows)
    assert fits(rows) or rows == 1
    assert not fits(2 * rows)


def test_blocks_of_common_sizes():
    assert block_rows(4, 1000, 10**8) == 1024
    assert block_rows(4, 1000, None) == 1024
    assert block_rows(4, 1000, 12) == 16
    assert block_rows(4, 1000, 1) == 1
    assert block_rows(0, 1000, 100) == 128
    assert block_rows(4 * 3072, 1000, 10**6) == 1  # an image in every draw
    assert block_rows(4 * 100, 1000, 10**6) == 32


# ---------------------------------------------------------------------------------------------------- chunks


@given(unit=st.integers(1, 4096), unit_bytes=sizes, length=st.none() | st.integers(1, 10**9), target=batch_sizes)
@few
def test_chunks_are_multiples_of_the_unit_within_the_budget(unit, unit_bytes, length, target):
    chunk = chunk_length(unit, unit_bytes, length, target)
    assert chunk > 0
    assert chunk % unit == 0
    units = chunk // unit
    assert units * unit_bytes <= 24 * MIB or units == 1
    if unit_bytes < 32 * MIB:
        assert units * unit_bytes < 32 * MIB
    if length is not None:
        assert chunk < length + unit


@given(unit=st.integers(1, 4096), unit_bytes=sizes, length=st.integers(1, 10**9))
@few
def test_default_chunks(unit, unit_bytes, length):
    endless = chunk_length(unit, unit_bytes, None, None) // unit
    assert is_power_of_two(endless)
    assert endless * unit_bytes <= 8 * MIB or endless == 1
    assert 2 * endless * unit_bytes > 8 * MIB
    chunk = chunk_length(unit, unit_bytes, length, None)
    units, n_units = chunk // unit, ceil(length / unit)
    assert is_power_of_two(units) or units == n_units
    assert units >= min(endless, n_units)  # longer for long streams, shorter only for short streams
    if ceil(n_units / units) > 2 * 4096:
        assert 2 * units * unit_bytes > 24 * MIB  # very many files only if larger files would exceed the budget


@given(
    unit=st.integers(1, 4096), unit_bytes=sizes, length=st.none() | st.integers(1, 10**9), target=st.integers(1, 10**6)
)
@few
def test_chunks_with_a_target_length(unit, unit_bytes, length, target):
    chunk = chunk_length(unit, unit_bytes, length, target)
    assert chunk < target + unit
    too_large = (chunk // unit + 1) * unit_bytes > 24 * MIB
    whole = length is not None and chunk >= length
    assert chunk >= target or too_large or whole


# ------------------------------------------------------------------------------------------------------ rows


@st.composite
def row_plans(draw):
    block = draw(blocks)
    n_obs = draw(st.none() | st.integers(1, 500 * block))
    n_chains = draw(st.integers(1, 4))
    given = {
        "block": block,
        "n_obs": n_obs,
        "n_draws": n_chains * draw(st.integers(1, 1000)),
        "n_chains": n_chains,
        "row_bytes": draw(st.integers(1, 4096 * 1000)),
        "blocks_per_device": draw(st.sampled_from([1, 2, 16])),
    }
    return given, draw(batch_sizes), draw(devices)


@given(row_plans())
@few
def test_steps_partition_the_rows(planned):
    given, batch_size, n_devices = planned
    plan = plan_rows(**given, batch_size=batch_size, n_devices=n_devices)
    block, n_obs = given["block"], given["n_obs"]
    assert plan.axis == "obs"
    assert plan.length == n_obs
    steps = list(islice(plan.steps(), 1000))
    assert steps[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(steps))
    assert all(stop - start == plan.step for start, stop in steps[:-1])
    if n_obs is None:
        assert len(steps) == 1000
        assert steps[-1][1] - steps[-1][0] == plan.step
    else:
        assert steps[-1][1] == n_obs
        assert 0 < steps[-1][1] - steps[-1][0] <= plan.step
    # Whole blocks, the same number on each device, and not more than a device computes at once.
    each, odd = divmod(plan.step, block * n_devices)
    assert odd == 0
    assert 1 <= each <= given["blocks_per_device"]
    if batch_size is not None:
        assert (each - 1) * block < batch_size
    if n_obs is not None:
        assert (each - 1) * block * n_devices < n_obs
    assert plan.chunk % block == 0


@given(row_plans())
@few
def test_row_chunks_are_within_the_budget(planned):
    given, batch_size, n_devices = planned
    plan = plan_rows(**given, batch_size=batch_size, n_devices=n_devices)
    row = given["row_bytes"]
    assert plan.chunk * row <= 24 * MIB or plan.chunk == plan.block
    assert plan.chunk * row < 32 * MIB or plan.block * row >= 32 * MIB


@given(row_plans(), batch_sizes, devices)
@few
def test_blocks_do_not_depend_on_batch_size_or_devices(planned, other_batch, other_devices):
    given, batch_size, n_devices = planned
    one = plan_rows(**given, batch_size=batch_size, n_devices=n_devices)
    other = plan_rows(**given, batch_size=other_batch, n_devices=other_devices)
    assert one.block == other.block == given["block"]
    # Every step begins with a block, so the numbering of the blocks is the same.
    for plan in (one, other):
        assert all(start % plan.block == 0 for start, _ in islice(plan.steps(), 100))
    # Chunks do not depend on the devices, so that a call can be resumed on other devices.
    assert plan_rows(**given, batch_size=batch_size, n_devices=other_devices).chunk == one.chunk


@given(row_bytes=st.integers(1, 2**20), n_draws=counts, n_obs=st.integers(1, 10**6), batch_size=batch_sizes)
@few
def test_plan_of_a_kernel_is_within_the_budget(row_bytes, n_draws, n_obs, batch_size):
    block = block_rows(row_bytes, n_draws, n_obs)
    plan = plan_rows(
        block=block,
        n_obs=n_obs,
        n_draws=n_draws,
        n_chains=1,
        row_bytes=row_bytes * n_draws,  # one site
        n_devices=1,
        blocks_per_device=2,
        batch_size=batch_size,
    )
    assert plan.chunk * row_bytes * n_draws <= 24 * MIB or plan.chunk == 1


# ----------------------------------------------------------------------------------------------------- draws


@st.composite
def draw_plans(draw):
    n_chains = draw(st.integers(1, 4))
    given = {
        "block": draw(st.none() | blocks),
        "n_obs": draw(st.integers(1, 10**6)),
        "n_draws": n_chains * draw(st.integers(1, 1000)),
        "n_chains": n_chains,
        "group": draw(st.integers(1, 32)),
        "draw_bytes": draw(sizes),
    }
    return given, draw(batch_sizes), draw(devices)


@given(draw_plans())
@few
def test_steps_partition_the_draws_of_each_chain(planned):
    given, batch_size, n_devices = planned
    plan = plan_draws(**given, batch_size=batch_size, n_devices=n_devices)
    per_chain = given["n_draws"] // given["n_chains"]
    assert plan.axis == "draw"
    assert plan.length == given["n_draws"]
    steps = list(plan.steps())
    assert steps[0][0] == 0
    assert steps[-1][1] == given["n_draws"]
    assert all(one[1] == other[0] for one, other in pairwise(steps))
    for start, stop in steps:
        assert 0 < stop - start <= plan.step
        assert start // per_chain == (stop - 1) // per_chain
        # A step is one chunk: it begins and ends with a chunk of its chain.
        assert start % per_chain % plan.chunk == 0
        assert stop - start == min(plan.chunk, per_chain - start % per_chain)


@given(draw_plans())
@few
def test_steps_of_draws_are_whole_groups_within_the_budget(planned):
    given, batch_size, n_devices = planned
    plan = plan_draws(**given, batch_size=batch_size, n_devices=n_devices)
    unit, per_chain = given["group"] * n_devices, given["n_draws"] // given["n_chains"]
    assert plan.step % unit == 0
    assert plan.step < per_chain + unit
    assert plan.chunk == min(plan.step, per_chain)
    assert plan.step * given["draw_bytes"] <= 24 * MIB or plan.step == unit
    assert plan.step * given["draw_bytes"] < 32 * MIB or unit * given["draw_bytes"] >= 32 * MIB
    if batch_size is not None:
        assert plan.step < batch_size + unit
    assert plan.block == given["block"]


@given(st.integers(1, 10**4), st.integers(1, 300), st.sampled_from(["obs", "draw"]))
@few
def test_steps_of_any_plan_partition_the_axis(length, step, axis):
    assume(length // step < 2000)
    plan = Plan(axis, length, length, 1, None, step, step)
    covered = [i for start, stop in plan.steps() for i in range(start, stop)]
    assert covered == list(range(length))


@pytest.mark.parametrize(("row_bytes", "chunk"), [(4 * 1000, 4 * 1024), (2 * 5 * 4, 512 * 1024)])
def test_ten_billion_rows(row_bytes, chunk):
    """The numbers in the documentation: 1,000 draws in single precision, or five statistics in double."""
    plan = plan_rows(
        block=1024,
        n_obs=10**10,
        n_draws=1000,
        n_chains=1,
        row_bytes=row_bytes,
        n_devices=1,
        blocks_per_device=16,
        batch_size=None,
    )
    assert plan.chunk == chunk
    assert plan.note % plan.chunk == 0
    assert 10**10 / plan.note <= 2**16

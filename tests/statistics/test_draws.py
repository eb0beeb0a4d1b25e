"""Statistics in several threads are those of one."""

import threading

import numpy as np
import pytest

from aimz.statistics import LeaveOneOut, read_statistics, reduce_rows


@pytest.mark.parametrize("shape", [(5000,), (3, 700), (40, 2, 30), (100,), ()])
def test_columns_are_shared_out_and_the_numbers_stay(shape):
    draws = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    asked = read_statistics(("mean", "sd", 0.05, ("hdi", 0.8)))
    assert asked is not None
    found = reduce_rows(asked, draws, 4)
    np.testing.assert_array_equal(found, asked(draws))
    np.testing.assert_allclose(found[0], draws.mean(0, dtype=np.float64))


def test_every_thread_has_some_and_none_is_left():
    seen = set()

    class Told(LeaveOneOut):
        def __call__(self, draws):
            seen.add((threading.current_thread().name.rpartition("_")[0], draws.shape))
            return super().__call__(draws)

    reduce_rows(Told(1.0), np.random.default_rng(0).normal(size=(50, 2000)), 8)
    assert seen == {("aimz-statistics", (50, n)) for n in (666, 667)}
    assert not [thread for thread in threading.enumerate() if "aimz-statistics" in thread.name]

"""Statistics computed in several threads."""

import threading

import numpy as np
import pytest

from aimz.statistics import LeaveOneOut, read_statistics, reduce_rows


@pytest.mark.parametrize("shape", [(5000,), (3, 700), (40, 2, 30), (100,), ()])
def test_threads_do_not_change_results(shape):
    draws = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    statistics = read_statistics(("mean", "sd", 0.05, ("hdi", 0.8)))
    assert statistics is not None
    result = reduce_rows(statistics, draws, 4)
    np.testing.assert_array_equal(result, statistics(draws))
    np.testing.assert_allclose(result[0], draws.mean(0, dtype=np.float64))


def test_columns_are_divided_evenly_and_threads_end():
    calls = set()

    class Recording(LeaveOneOut):
        def __call__(self, draws):
            calls.add((threading.current_thread().name.rpartition("_")[0], draws.shape))
            return super().__call__(draws)

    reduce_rows(Recording(1.0), np.random.default_rng(0).normal(size=(50, 2000)), 8)
    assert calls == {("aimz-statistics", (50, n)) for n in (666, 667)}
    assert not [thread for thread in threading.enumerate() if "aimz-statistics" in thread.name]

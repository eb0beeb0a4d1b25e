"""Settings every test shares."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def _local_latents_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Local latent site", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Site\(s\) .* inside a `scan` or `cond`", category=UserWarning)
        warnings.filterwarnings("ignore", message="Kernel .* cannot be split along its rows", category=UserWarning)
        yield


@pytest.fixture
def quiet_local_latents():
    """For laws over the catalogue: what is said of local latents, and of rows that mix, has tests of its own."""
    with _local_latents_may_warn():
        yield


KNOWN_GAPS = {
    # Rows that are kept apart although they should not be, in kernels few would write; streaming must refuse them yet.
    "test_rows_stay_together[their number, chosen]",
    "test_rows_stay_together[their number, out of a function]",
    "test_rows_stay_together[noise of a fixed key, sampled]",
    "test_rows_of_latents_stay_together[until all have converged-in sample]",
    "test_rows_of_latents_stay_together[until all have converged-drawn anew]",
    "test_rows_of_latents_stay_together[solved by conjugate gradients-drawn anew]",
    "test_rows_of_latents_stay_together[sorted by the host-drawn anew]",
    "test_rows_of_latents_stay_together[noise of a fixed key added in a loop-drawn anew]",
    "test_kernels_that_stay_together[row numbers looked up]",
    "test_kernels_that_stay_together[own rows and others, by one function]",
    # A finished call from an iterable is returned without a look at its data.
    "test_other_batches_are_refused_for_a_call_that_did_finish",
    # A disk that is full before the first array is made: the error does not name the path.
    "test_a_disk_that_is_full_from_the_beginning[0]",
}
"""Tests of what does not hold yet, by name; each is a defect to be mended, and to be struck off here."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect known gaps to fail."""
    for item in items:
        if item.name in KNOWN_GAPS:
            item.add_marker(pytest.mark.xfail(reason="known gap", strict=False))

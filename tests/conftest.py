"""Settings every test shares."""

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # which ignores Ctrl-C, and tests press it
    signal.signal(signal.SIGINT, signal.default_int_handler)


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

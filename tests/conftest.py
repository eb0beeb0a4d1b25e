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
        yield


@pytest.fixture
def quiet_local_latents():
    """For laws over the catalogue: what is said of local latents has a test of its own."""
    with _local_latents_may_warn():
        yield

"""Settings every test shares."""

import gc
import os
import resource
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Compiled programs are cached for all test processes and for the next run, which then takes a third of the time.  JAX
# identifies a program by its text, its options and its own version.
USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(USER_CACHE / "aimz-tests" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # tests tell nobody

MOST_KILOBYTES = 2_500_000
"""Memory of a test process from which on it releases compiled programs."""

if "PYTEST_XDIST_WORKER" in os.environ:  # which ignores Ctrl-C, and tests press it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _local_latents_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*local latent site", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*site\(s\) .* inside a `scan` or `cond`", category=UserWarning)
        warnings.filterwarnings("ignore", message="Kernel .* cannot be split along its rows", category=UserWarning)
        warnings.filterwarnings("ignore", message="Rows depend on one another", category=UserWarning)
        yield


@pytest.fixture
def quiet_local_latents():
    """For laws over the catalogue: what is said of local latents, and of rows that mix, has tests of its own."""
    with _local_latents_may_warn():
        yield


def pytest_collection_finish():
    """Exempt what imports and collection have made, most of the objects, from later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _release_programs():
    """Once a process has become large, release its programs after each module: it would grow to 5 GB."""
    yield
    import jax  # not before the settings above, which it reads when it is imported

    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST_KILOBYTES:
        jax.clear_caches()


@pytest.fixture(scope="module")
def plain_code():
    """Machine code is not optimised: for files that compare numbers with a witness, not bits with bits.

    Compiling is most of their time.  What XLA may do to a sum is seen by the laws of equal bits (streams, comparisons,
    effects, devices, checkpoints), by the fits and by the documents, whose programs are those that users have.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def compilations():
    """Count the programs XLA compiles."""
    import jax  # not before the settings above, which it reads when it is imported

    seen: list[str] = []

    def listen(event: str, _seconds: float, **_details: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)

"""Settings every test shares."""

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Programs are compiled once and kept, a directory for each worker: half of the suite's time would go into compiling the
# same again.  JAX knows a program by its text, its options and its own version.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache" / _WORKER))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # tests tell nobody

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

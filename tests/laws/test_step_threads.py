"""Steps that are computed by several threads: the same bits, and functions of the user are called by one thread."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import aimz
from kernels import BY_NAME, long_model
from stream_helpers import KEY, MEMORY, arrays, assert_equal, new_model, shared


@pytest.fixture
def steps(monkeypatch):
    """Names of the threads that computed steps."""
    found = set()
    begin = aimz.engine.StepRunner.begin

    def recorded(runner, inputs):
        found.add(threading.current_thread().name.rsplit("_", 1)[0])
        return begin(runner, inputs)

    monkeypatch.setattr(aimz.engine.StepRunner, "begin", recorded)
    return found


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_numbers_do_not_depend_on_the_number_of_threads(shard_axis, monkeypatch, tmp_path, steps):
    if shard_axis == "obs":
        case, model = shared("linear")
    else:
        case = BY_NAME["linear"]
        model = long_model(case, len(case.X), n_draws=2000)
    given = {**case.arguments(), "rng_key": KEY, "progress": False, "batch_size": 500, "shard_axis": shard_axis}
    results = []
    for n_threads in (1, 3):
        monkeypatch.setattr(aimz.stream, "n_cpus", lambda n=n_threads: n)
        stored = arrays(model.predict(**given, output_dir=tmp_path))
        means = {} if shard_axis == "draw" else arrays(model.predict(**given, statistics=(0.1,), store="memory"))
        results.append({f"{kind} {n}": v for kind, found in enumerate((stored, means)) for n, v in found.items()})
        assert ("aimz-step" in steps) == (n_threads > 1)
    assert_equal(*results)


def test_threads_are_fewer_if_steps_do_not_fit_in_memory(monkeypatch, steps):
    monkeypatch.setattr(aimz.stream, "n_cpus", lambda: 3)
    monkeypatch.setattr(aimz.engine.runner, "_MAX_BYTES", 1)
    case, model = shared("linear")
    model.predict(**case.arguments(), **MEMORY)
    assert steps == {"MainThread"}


def test_threads_compile_a_step_once(monkeypatch, steps, compilations):
    """No step ran before the threads start: draws are split, and no row is tested. JAX compiles for one and lets the
    others wait."""
    counts = []
    for n_threads in (1, 4):
        monkeypatch.setattr(aimz.stream, "n_cpus", lambda n=n_threads: n)
        case = BY_NAME["linear"]
        model = long_model(case, len(case.X), n_draws=2000)
        jax.clear_caches()
        compilations.clear()
        model.predict(**case.arguments(), shard_axis="draw", batch_size=500, **MEMORY)
        counts.append(len(compilations))
    assert "aimz-step" in steps
    assert counts[0] == counts[1]


def test_function_that_is_called_back_is_not_called_at_the_same_time(monkeypatch, steps):
    monkeypatch.setattr(aimz.stream, "n_cpus", lambda: 4)
    running, most = 0, 0

    def doubled(x):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.001)
        running -= 1
        return 2 * np.asarray(x)

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        mean = jax.pure_callback(
            doubled, jax.ShapeDtypeStruct((X.shape[0],), jnp.float32), X[:, 0] * b, vmap_method="sequential"
        )
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 1e-6), obs=y)

    X, b = np.ones((3000, 1), np.float32), np.linspace(1, 2, 100, dtype=np.float32)
    model = new_model(kernel, {"b": b})
    with pytest.warns(aimz.PerformanceWarning):
        found = arrays(model.predict(X, batch_size=10, shard_axis="draw", **MEMORY))["y"]
    np.testing.assert_allclose(found.reshape(100, 3000)[:, 0], 2 * b, atol=1e-4)
    assert most == 1
    assert steps == {"MainThread"}

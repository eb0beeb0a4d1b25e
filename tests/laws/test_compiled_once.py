"""Law 8, as far as batches in memory go: a second call of the same shape neither traces nor compiles."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel


@pytest.fixture
def compilations():
    """Count the programs XLA compiles."""
    seen: list[str] = []

    def listen(event: str, _seconds: float, **_details: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def counted_kernel():
    calls: list[tuple[int, ...]] = []

    def kernel(X, y=None):
        calls.append(X.shape)
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X), obs=y)

    return kernel, calls


def methods(model, X, y):
    return {
        "predict_on_batch": lambda: model.predict_on_batch(X),
        "intervention": lambda: model.predict_on_batch(X, intervention={"b": np.float32(random.key(0).size)}),
        "another dose": lambda: model.predict_on_batch(X, intervention={"b": np.float32(2 * random.key(0).size)}),
        "prior": lambda: model.sample_prior_predictive_on_batch(X, num_samples=7),
        "log_likelihood": lambda: model.log_likelihood(X, y),
        "fit_on_batch": lambda: model.fit_on_batch(X, y, num_steps=30, num_samples=7, progress=False),
        "more steps": lambda: model.fit_on_batch(X, y, num_steps=70, num_samples=7, progress=False),
    }


def test_second_call_neither_traces_nor_compiles(compilations):
    kernel, calls = counted_kernel()
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi)
    X = np.linspace(0, 1, 11, dtype=np.float32)
    all_methods = methods(model, X, 2 * X)
    model.fit_on_batch(X, 2 * X, num_steps=30, num_samples=7, progress=False)
    for call in all_methods.values():
        call()
    assert calls
    assert compilations

    calls.clear()
    compilations.clear()
    for name, call in all_methods.items():
        call()
        assert not calls, f"{name} ran the kernel's Python again"
        assert not compilations, f"{name} compiled again"


def test_another_dose_is_the_same_program(compilations):
    kernel, calls = counted_kernel()
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"b": np.ones(5, np.float32)})
    X = np.linspace(0, 1, 11, dtype=np.float32)
    model.predict_on_batch(X, intervention={"b": 0.5})
    calls.clear()
    compilations.clear()
    for dose in (1.0, 1.5, 3):
        tree = model.predict_on_batch(X, intervention={"b": dose}, return_sites="b")
        del tree
        model.predict_on_batch(X, intervention={"b": dose})
    assert len(calls) <= 1  # `return_sites="b"` is a program of its own, made once


def test_an_object_changed_in_place_is_not_served_an_old_program():
    """A list passed as an argument is part of what a program is made for."""

    def kernel(X, weights, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("scaled", b * sum(weights) * X)
        numpyro.sample("y", dist.Normal().expand([X.shape[0]]), obs=y)

    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"b": np.ones(2, np.float32)})
    weights = [1.0, 2.0]
    X = np.ones(3, np.float32)
    first = model.predict_on_batch(X, weights=weights, return_datatree=False)["scaled"]
    weights[0] = 5.0
    second = model.predict_on_batch(X, weights=weights, return_datatree=False)["scaled"]
    np.testing.assert_allclose(first, 3.0)
    np.testing.assert_allclose(second, 7.0)

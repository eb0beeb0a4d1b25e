"""Law 8: a second call of the same shape neither traces nor compiles; a stream has one program for all sizes."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel


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


STREAMED = {"store": "memory", "progress": False, "rng_key": random.key(3)}
# More rows than a step has on a CPU, which is two blocks of 1,024.
SIZES = (2049, 2048 + 512, 3000, 3001, 3072, 4096, 4099, 5000, 7777, 10240)
BATCHES = (1025, 1500, 1999, 2047, 2048, 2049, 3000, 4096, 5000, 10**9)


def streaming_methods(model, **options):
    """The streaming methods as functions of the data."""
    return {
        "predict": lambda X: model.predict(X, **STREAMED, **options),
        "draws": lambda X: model.predict(X, **STREAMED, **options, shard_axis="draw"),
        "prior": lambda X: model.sample_prior_predictive(X, num_samples=7, **STREAMED, **options),
        "log_likelihood": lambda X: model.log_likelihood(X, 2 * X, **STREAMED, **options),
    }


@pytest.mark.parametrize("method", ["predict", "prior", "log_likelihood"])
def test_one_program_for_every_size_and_every_batch_size(method, compilations):
    kernel, calls = counted_kernel()
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"b": np.ones(5, np.float32)})
    X = np.linspace(0, 1, max(SIZES), dtype=np.float32)
    streaming_methods(model)[method](X[:2500])
    assert (1024,) in calls
    calls.clear()
    compilations.clear()
    for size in SIZES:
        streaming_methods(model)[method](X[:size])
        assert not compilations, f"{method} of {size} rows compiled again"
    # The kernel is read at each new number of rows, without arithmetic; at the size of a block it is not run again.
    assert (1024,) not in calls
    calls.clear()
    for batch_size in BATCHES:
        streaming_methods(model, batch_size=batch_size)[method](X[:2500])
        assert not compilations, f"{method} in batches of {batch_size} compiled again"
    assert not calls


def test_small_batches_have_one_program_of_their_own(compilations):
    """One block at a time where so few rows are wanted together, whatever their number."""
    kernel, calls = counted_kernel()
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"b": np.ones(5, np.float32)})
    X = np.linspace(0, 1, 2500, dtype=np.float32)
    model.predict(X, **STREAMED)
    compilations.clear()
    model.predict(X, **STREAMED, batch_size=1024)
    assert len(compilations) <= 1
    compilations.clear()
    calls.clear()
    for batch_size in (1, 3, 100, 777, 1000, 1023):
        model.predict(X, **STREAMED, batch_size=batch_size)
    assert not compilations
    assert not calls


@pytest.mark.parametrize("method", ["predict", "draws", "prior", "log_likelihood"])
def test_a_second_small_stream_compiles_nothing(method, compilations):
    kernel, calls = counted_kernel()
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"b": np.ones(5, np.float32)})
    X = np.linspace(0, 1, 11, dtype=np.float32)
    streaming_methods(model)[method](X)
    assert compilations
    calls.clear()
    compilations.clear()
    streaming_methods(model)[method](X + 1)
    assert not calls, f"{method} ran the kernel's Python again"
    assert not compilations, f"{method} compiled again"
    if method in ("predict", "prior"):  # the same block of sixteen rows
        for size in (9, 12, 15):
            streaming_methods(model)[method](X[:size] if size < 11 else np.resize(X, size))
            assert not compilations, f"{method} of {size} rows compiled again"


def test_another_posterior_and_another_store_are_the_same_program(compilations, tmp_path):
    kernel, calls = counted_kernel()
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi).set_posterior_sample({"b": np.ones(5, np.float32)})
    X = np.linspace(0, 1, 2500, dtype=np.float32)
    model.predict(X, **STREAMED)
    calls.clear()
    compilations.clear()
    model.set_posterior_sample({"b": np.zeros(5, np.float32)}).predict(X, **STREAMED)
    model.predict(X, **{**STREAMED, "store": "persistent"}, output_dir=tmp_path)
    model.predict(({"X": X[i : i + 700]} for i in range(0, 2500, 700)), **STREAMED)
    model.sample_posterior_predictive(X, **STREAMED)
    assert all(shape[0] != 1024 for shape in calls)
    assert not compilations

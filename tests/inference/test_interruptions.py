"""State of a model after fits that fail or are interrupted: state, parameters and posterior change together."""

import threading
from types import SimpleNamespace

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import HMC, MCMC, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta

from aimz import ImpactModel
from aimz.errors import NotFittedError
from aimz.inference.svi import SVIFit

N = 40
X = np.zeros(N, np.float32)
ONE, NINE = np.full(N, 1.0, np.float32), np.full(N, 9.0, np.float32)
QUIET = {"progress": False, "num_samples": 5}

pytestmark = pytest.mark.filterwarnings("ignore:The draws are not from the posterior yet")


def kernel(X, y=None):
    """The mean is the sum of a parameter and a latent site."""
    a = numpyro.param("a", 0.0)
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(numpyro.deterministic("mu", a + b + X), 0.1), obs=y)


def new_model():
    svi = SVI(kernel, AutoDelta(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi)


@pytest.fixture(scope="module")
def fitted():
    """Return a model fitted to an outcome of 1."""
    return new_model().fit_on_batch(X, ONE, num_steps=400, **QUIET)


@pytest.fixture
def model(fitted):
    """Return a copy of the fitted model."""
    return fitted.thin_posterior(5)


def mean(model):
    """Return the mean of the predictions."""
    found = model.predict_on_batch(X, return_datatree=False, return_sites="mu", rng_key=random.key(1))
    return float(np.mean(found["mu"]))


def everything(model):
    """Return all that a fit changes, by identity of its immutable parts."""
    return model.vi_state, model.vi_result, model._posterior, model._observed, model._engine, model.rng_key


REFITS = {
    "fit_on_batch": lambda model: model.fit_on_batch(X, NINE, num_steps=20, **QUIET),
    "fit": lambda model: model.fit(X, NINE, epochs=1, batch_size=20, **QUIET),
}


@pytest.mark.parametrize("refit", REFITS)
def test_interrupted_draws_never_mix_with_new_parameters(model, refit, monkeypatch):
    assert mean(model) == pytest.approx(1.0, abs=0.1)
    before = everything(model)

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(SVIFit, "sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        REFITS[refit](model)
    assert model.rng_key is before[-1]
    if refit == "fit_on_batch":
        assert all(one is other for one, other in zip(everything(model), before, strict=True))
        assert mean(model) == pytest.approx(1.0, abs=0.1)
    else:  # completed minibatches are kept, without draws
        assert len(model.vi_result.losses) == 402
        monkeypatch.undo()
        check_needs_draws(model)


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
def test_refit_that_fails_in_its_first_batch_changes_nothing(model, error):
    def batches():
        raise error
        yield

    before = everything(model)
    with pytest.raises(type(error)):
        model.fit(batches(), total_size=N, **QUIET)
    assert all(one is other for one, other in zip(everything(model), before, strict=True))
    assert mean(model) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
def test_refit_that_fails_after_an_epoch_needs_new_draws(model, error):
    def stop(*_):
        raise error

    with pytest.raises(type(error)):
        model.fit(X, NINE, batch_size=20, epochs=3, on_epoch_end=stop, **QUIET)
    assert len(model.vi_result.losses) == 402
    check_needs_draws(model)


def test_first_fit_that_fails_sets_the_guide_up_again(monkeypatch):
    """A guide with a value for each row accepts other rows after a failed fit."""

    def local(X, y=None):
        with numpyro.plate("obs", X.shape[0]):
            b = numpyro.sample("b", dist.Normal())
            numpyro.sample("y", dist.Normal(b + X, 0.1), obs=y)

    svi = SVI(local, AutoDelta(local), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(local, random.key(0), svi)
    monkeypatch.setattr(SVIFit, "sample", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.fit_on_batch(X, ONE, num_steps=2, **QUIET)
    monkeypatch.undo()
    assert model.vi_state is None
    model.fit_on_batch(X[:7], ONE[:7], num_steps=2, **QUIET)
    assert model.posterior["b"].shape == (5, 7)


def check_needs_draws(model):
    """Check that predictions raise, and that draws of the current parameters are consistent with them."""
    assert not model.is_fitted()
    with pytest.raises(NotFittedError, match=r"draws of the current parameters.*model\.sample\("):
        mean(model)
    with pytest.raises(NotFittedError):
        model.log_likelihood(X, ONE, progress=False)
    model.set_posterior_sample(model.sample(num_samples=3, return_datatree=False))
    a, b = float(model.vi_result.params["a"]), float(np.mean(model.posterior["b"]))
    assert mean(model) == pytest.approx(a + b, rel=1e-5)


def test_posterior_is_dropped_by_a_step(model):
    model.train_on_batch(X, NINE)
    check_needs_draws(model)


def test_posterior_is_kept_by_a_step_that_fails(model, monkeypatch):
    before = everything(model)
    with pytest.raises(ValueError, match="total_size"):
        model.train_on_batch(X, NINE, total_size=5)
    monkeypatch.setattr(SVIFit, "step", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train_on_batch(X, NINE)
    assert all(one is other for one, other in zip(everything(model), before, strict=True))


def test_posterior_is_dropped_by_new_parameters(model):
    model.vi_result = SimpleNamespace(params={**model.vi_result.params, "a": np.float32(50.0)}, losses=[])
    check_needs_draws(model)


def test_copy_keeps_its_parameters_when_the_model_is_refitted(model):
    copy = model.thin_posterior(2)
    model.fit_on_batch(X, NINE, num_steps=300, **QUIET)
    assert mean(model) > 5
    assert mean(copy) == pytest.approx(1.0, abs=0.1)
    assert len(copy.vi_result.losses) == 400


def test_losses_of_steps_belong_to_their_fit():
    model = new_model()
    model.train_on_batch(X, ONE)
    before = model._fit
    model.train_on_batch(X, ONE)
    assert len(before.vi_result.losses) == 1
    assert len(model.vi_result.losses) == 2


def test_failed_chains_keep_the_previous_ones(monkeypatch):
    def centered(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b + X, 1.0), obs=y)

    mcmc = MCMC(HMC(centered, num_steps=1, trajectory_length=None), num_warmup=5, num_samples=5, progress_bar=False)
    model = ImpactModel(centered, random.key(0), mcmc).fit_on_batch(X, ONE, progress=False)
    before = everything(model)
    state, draws = mcmc.last_state, mcmc.get_samples()["b"]
    monkeypatch.setattr("aimz.inference.mcmc._sample_stats", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.fit_on_batch(X, NINE, progress=False)
    assert all(one is other for one, other in zip(everything(model), before, strict=True))
    assert mcmc.last_state is state
    np.testing.assert_array_equal(mcmc.get_samples()["b"], draws)


def test_failed_call_does_not_change_the_key(model, monkeypatch):
    calls = {
        "predict": lambda: model.predict(X, store="memory", progress=False),
        "predict_on_batch": lambda: model.predict_on_batch(X),
        "prior": lambda: model.sample_prior_predictive_on_batch(X, num_samples=2),
        "sample": lambda: model.sample(num_samples=2),
        "compare_scenarios": lambda: model.compare_scenarios({"a": {}, "b": {}}, baseline="a", X=X, progress=False),
        "estimate_effect": lambda: model.estimate_effect(args_baseline={"X": X}, args_intervention={"X": X}),
    }
    before = model.rng_key
    for name in ("_execute", "_execute_on_batch", "_sum_over_rows"):
        monkeypatch.setattr(type(model), name, lambda *_, **__: 1 / 0)
    monkeypatch.setattr(SVIFit, "sample", lambda *_, **__: 1 / 0)
    for call in calls.values():
        with pytest.raises(ZeroDivisionError):
            call()
        assert model.rng_key is before


def test_threads_that_call_without_a_key_get_different_keys(model):
    keys, barrier = [], threading.Barrier(8)

    def work():
        barrier.wait()
        with model._key(None) as key:
            keys.append(random.key_data(key).tobytes())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 8


def test_fit_in_another_thread_does_not_change_a_call_midway(model, monkeypatch):
    """A prediction that has begun uses the posterior, parameters and data with which it began."""
    whole = type(model)._execute_on_batch
    expected = model.predict_on_batch(X, rng_key=random.key(1))

    def refit_first(snapshot, request, key):
        thread = threading.Thread(target=lambda: model.fit_on_batch(X, NINE, num_steps=5, **QUIET))
        thread.start()
        thread.join()
        return whole(snapshot, request, key)

    monkeypatch.setattr(type(model), "_execute_on_batch", refit_first)
    found = model.predict_on_batch(X, rng_key=random.key(1))
    assert len(model.vi_result.losses) == 405
    assert set(found.children) == set(expected.children)
    for group in expected.children:
        for name, array in expected[group].data_vars.items():
            np.testing.assert_array_equal(found[group][name], array)


def test_fits_of_one_model_run_one_after_another():
    model = new_model()
    threads = [threading.Thread(target=lambda: model.fit_on_batch(X, ONE, num_steps=10, **QUIET)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = new_model()
    for _ in range(4):
        alone.fit_on_batch(X, ONE, num_steps=10, **QUIET)
    assert len(model.vi_result.losses) == 40
    for name, value in alone.vi_result.params.items():
        np.testing.assert_array_equal(model.vi_result.params[name], value)


def test_key_of_a_partial_result_is_not_used_again(model, tmp_path, monkeypatch):
    """The key moves if the result that has it can be resumed, and otherwise not."""
    before = model.rng_key
    monkeypatch.setattr("aimz.store.zarr_store.ZarrStore.finish", lambda *_: 1 / 0)
    options = {"progress": False, "batch_size": 1}
    with pytest.raises(ZeroDivisionError):
        model.predict(X, **options)
    assert model.rng_key is before
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        model.predict(X, output_dir=tmp_path / "file", **options)
    assert model.rng_key is before
    with pytest.raises(ZeroDivisionError):
        model.predict(X, output_dir=tmp_path / "results", **options)
    np.testing.assert_array_equal(random.key_data(model.rng_key), random.key_data(random.split(before)[0]))

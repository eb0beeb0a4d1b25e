"""Saved models: equal bits, training that continues, and errors that name the differences."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
import xarray as xr
from flax import linen
from jax import random
from numpyro.contrib.module import flax_module
from numpyro.infer import HMC, MCMC, NUTS, SVI, DiscreteHMCGibbs, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from aimz import ImpactModel
from aimz.errors import AimzWarning, NotFittedError, SavedModelError
from aimz.persistence import read_bundle, write_bundle
from kernels import linear as kernel

QUIET = {"progress": False}
X = np.asarray(random.normal(random.key(0), (40, 3)))
Y = X @ np.array([1.0, -2.0, 0.5], "float32") + 0.1


def other_sites(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    beta = numpyro.sample("beta", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy())
    mu = numpyro.deterministic("mu", a + X @ beta)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def other_prior(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", a + X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def local(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(X[:, 0], 1.0))
        numpyro.sample("y", dist.Normal(z, 0.5), obs=y)


class Net(linen.Module):
    """Batch normalisation, with parameters and mutable state."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(linen.BatchNorm(use_running_average=False, momentum=0.5)(x))[:, 0]


def normalised(X, y=None):
    net = flax_module("net", Net(), mutable=["batch_stats"], input_shape=(1, X.shape[1]))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(net(X), sigma), obs=y)


def svi(kernel, optimizer=None, guide=AutoNormal):
    return SVI(kernel, guide(kernel), optimizer or numpyro.optim.Adam(0.01), Trace_ELBO())


def chains(kernel, sampler=NUTS, num_chains=2):
    return MCMC(sampler(kernel), num_warmup=20, num_samples=10, num_chains=num_chains, chain_method="vectorized")


def assert_same_draws(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = (random.key_data(x) if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else x for x in (a, b))
        np.testing.assert_array_equal(a, b)


def assert_same_tree(one, other):
    """Assert that two results are equal, except for their time of creation."""
    for tree in (one, other):
        for node in tree.subtree:
            node.attrs.pop("created_at", None)
    xr.testing.assert_identical(one, other)


SCHEDULED = optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(0.02, 100)))


@pytest.mark.parametrize(
    ("of", "make"),
    [
        (kernel, svi),
        pytest.param(kernel, partial(svi, optimizer=SCHEDULED, guide=AutoMultivariateNormal), marks=pytest.mark.slow),
        (normalised, svi),
        (local, svi),
    ],
    ids=["adam", "optax", "mutable", "local"],
)
def test_svi_continues_with_same_bits(of, make, tmp_path):
    model = ImpactModel(of, random.key(1), make(of))
    model.fit_on_batch(X, Y, num_steps=30, num_samples=7, **QUIET)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", of, make(of))
    assert_same_draws(loaded.vi_state, model.vi_state)
    assert_same_draws(dict(loaded.posterior), dict(model.posterior))
    np.testing.assert_array_equal(loaded.vi_result.losses, model.vi_result.losses)
    assert loaded.vi_result.losses.dtype == model.vi_result.losses.dtype
    for one in (model, loaded):
        one.fit_on_batch(X, Y, num_steps=30, num_samples=7, **QUIET)  # each with its own key
    assert_same_draws(loaded.vi_state, model.vi_state)
    assert_same_draws(dict(loaded.posterior), dict(model.posterior))
    np.testing.assert_array_equal(loaded.vi_result.losses, model.vi_result.losses)


def test_minibatches_and_single_steps_continue(tmp_path):
    model = ImpactModel(kernel, random.key(1), svi(kernel))
    model.fit(X, Y, batch_size=10, epochs=2, num_samples=5, **QUIET)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", kernel, inference=svi(kernel))
    for one in (model, loaded):
        one.train_on_batch(X[:10], Y[:10], total_size=40)
        one.fit(X, Y, batch_size=10, epochs=1, num_samples=5, **QUIET)
    assert_same_draws(loaded.vi_state, model.vi_state)
    assert_same_draws(dict(loaded.posterior), dict(model.posterior))


def test_chains_continue(tmp_path):
    model = ImpactModel(kernel, random.key(1), chains(kernel))
    model.fit_on_batch(X, Y, **QUIET)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", kernel, chains(kernel))
    again = ImpactModel.load(tmp_path / "model", kernel)  # without inference, and through it once more
    again.save(tmp_path / "again")
    twice = ImpactModel.load(tmp_path / "again", kernel, chains(kernel))
    drawn = [m.sample(num_samples=4, X=X, y=Y) for m in (model, loaded, twice)]
    assert_same_tree(drawn[0], drawn[1])
    assert_same_tree(drawn[0], drawn[2])
    trees = [m.predict_on_batch(X) for m in (model, loaded, twice)]
    assert trees[0]["posterior"].sizes["chain"] == 2
    assert_same_tree(trees[0], trees[1])
    assert_same_tree(trees[0], trees[2])


def test_model_without_inference_only_predicts(tmp_path):
    model = ImpactModel(normalised, random.key(1), svi(normalised))
    model.fit_on_batch(X, Y, num_steps=20, num_samples=5, **QUIET).save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", normalised)
    assert loaded.inference is None
    assert "loaded to predict" in repr(loaded)
    np.testing.assert_array_equal(loaded.vi_result.losses, model.vi_result.losses)
    assert_same_tree(loaded.predict_on_batch(X), model.predict_on_batch(X))
    for call in (
        lambda: loaded.fit_on_batch(X, Y, **QUIET),
        lambda: loaded.fit(X, Y, **QUIET),
        lambda: loaded.train_on_batch(X, Y),
        lambda: loaded.sample(),
        lambda: loaded.diagnose(),
    ):
        with pytest.raises(NotFittedError, match="inference="):
            call()
    with pytest.raises(NotFittedError, match="Setting `vi_result`"):
        loaded.vi_result = model.vi_result
    # A model that is loaded and saved again is complete.
    loaded.save(tmp_path / "again")
    twice = ImpactModel.load(tmp_path / "again", normalised, svi(normalised))
    assert_same_draws(twice.vi_state, model.vi_state)


def test_labels_columns_and_fit_data_are_saved(tmp_path):
    index = pd.date_range("2024-03-30", periods=40, freq="h", tz="Europe/Berlin", name="hour")
    frame = pd.DataFrame(X, columns=["price", "rain", "wind"], index=index)
    model = ImpactModel(local, random.key(1), svi(local), coords={"region": ["n", "s"]})
    model.fit_on_batch(frame, Y, num_steps=20, num_samples=5, **QUIET).save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", local, svi(local))
    given = frame[["wind", "price", "rain"]]
    with pytest.warns(UserWarning, match="local latent"):
        here, there = (m.predict_on_batch(given) for m in (model, loaded))
    assert_same_tree(there, here)
    assert there["posterior_predictive"].attrs["local_latents"] == here["posterior_predictive"].attrs["local_latents"]
    np.testing.assert_array_equal(there["observed_data"]["y"], Y)
    with pytest.warns(UserWarning, match="resampled"):
        loaded.predict_on_batch(frame.set_axis(index + pd.Timedelta("1D")))
    with pytest.raises(ValueError, match="rain"):
        loaded.predict_on_batch(frame[["wind", "price"]])


def test_load_in_new_process(tmp_path):
    model = ImpactModel(kernel, random.key(1), svi(kernel)).fit_on_batch(X, Y, num_steps=20, num_samples=5, **QUIET)
    model.save(tmp_path / "model")
    program = f"""
import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
import numpy as np
from test_saved_models import X, ImpactModel, kernel, svi
loaded = ImpactModel.load({str(tmp_path / "model")!r}, kernel, svi(kernel))
np.save({str(tmp_path / "y.npy")!r}, loaded.predict_on_batch(X, return_datatree=False)["y"])
loaded.sample()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert "TypeError: `AutoNormal` has seen no data since the model was loaded" in ended.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model.predict_on_batch(X, return_datatree=False)["y"])


def test_sample_from_guide_set_up_on_data(tmp_path):
    model = ImpactModel(kernel, random.key(1), svi(kernel)).fit_on_batch(X, Y, num_steps=20, num_samples=5, **QUIET)
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", kernel, svi(kernel))
    one, other = (m.sample(X=X, y=Y, num_samples=6, return_datatree=False) for m in (model, loaded))
    assert_same_draws(other, one)
    pd.testing.assert_frame_equal(loaded.diagnose(X, Y), model.diagnose(X, Y))
    with pytest.raises(ValueError, match="`y` differs from the fit"):
        loaded.diagnose(X, Y + 5)
    with pytest.raises(ValueError, match="`X` differs from the fit"):
        loaded.diagnose(X + 5, Y)
    again = ImpactModel.load(tmp_path / "model", kernel, svi(kernel))
    with pytest.raises(TypeError, match="missing: `y`"):
        again.sample(X=X)
    assert_same_draws(
        again.sample(X=X, y=Y, rng_key=random.key(3), return_datatree=False)["a"],
        model.sample(rng_key=random.key(3), return_datatree=False)["a"],
    )


class Link:
    """Argument that cannot be saved without code."""

    def __call__(self, value):
        return jnp.tanh(value)


def linked(X, y=None, *, link, power=(1, 2.0), name="a"):
    b = numpyro.sample(name, dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(link(b * X[:, 0]) ** power[0], power[1]), obs=y)


def test_static_arguments(tmp_path):
    model = ImpactModel(linked, random.key(1), svi(linked))
    model.fit_on_batch(X, Y, link=Link(), name="c", num_steps=5, num_samples=5, **QUIET).save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"`link`, which cannot be saved .* arguments=\{'link': ...\}"):
        ImpactModel.load(tmp_path / "model", linked)
    loaded = ImpactModel.load(tmp_path / "model", linked, svi(linked), arguments={"link": Link()})
    with pytest.raises(TypeError, match="got `name`, which was saved with the model"):
        ImpactModel.load(tmp_path / "model", linked, arguments={"link": Link(), "name": "d"})
    assert loaded.kernel_spec.latent_sites == ("c",)
    assert_same_draws(loaded.vi_state, model.vi_state)


def test_key_implementations(tmp_path):
    with pytest.warns(AimzWarning, match="A key of the generator `rbg` was converted"):
        model = ImpactModel(kernel, random.key(1, impl="rbg"), svi(kernel))
    model.fit_on_batch(X, Y, num_steps=5, num_samples=5, **QUIET).save(tmp_path / "model")
    assert_same_draws(ImpactModel.load(tmp_path / "model", kernel, svi(kernel)).vi_state, model.vi_state)


def with_param(X, y=None):
    w = numpyro.param("w", 1.0)
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(w + b * X[:, 0], 1.0), obs=y)


def test_parameters_set_by_user_without_kernel_call(tmp_path):
    model = ImpactModel(with_param, random.key(1), svi(with_param))
    model.vi_result = SimpleNamespace(params={"w": 7.0}, losses=None)
    model.set_posterior_sample({"b": np.zeros(500)}).save(tmp_path / "model")
    for inference in (None, svi(with_param)):
        loaded = ImpactModel.load(tmp_path / "model", with_param, inference)
        assert_same_tree(
            loaded.predict_on_batch(X, rng_key=random.key(2)), model.predict_on_batch(X, rng_key=random.key(2))
        )


def bounded(X, y=None):
    a = numpyro.sample("a", dist.Uniform(0, jnp.abs(X).max()))
    like = numpyro.sample("like", dist.Normal())  # also a word of the format
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + like * X[:, 0], 1.0), obs=y)


def test_data_dependent_bounds_warn(tmp_path):
    model = ImpactModel(bounded, random.key(1), svi(bounded))
    model.fit_on_batch(X, Y, num_steps=5, num_samples=5, **QUIET).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="The bounds of `a` are computed when the fit starts"):
        loaded = ImpactModel.load(tmp_path / "model", bounded, svi(bounded))
    one, other = (m.sample(X=X, y=Y, num_samples=6, return_datatree=False) for m in (model, loaded))
    assert_same_draws(other, one)  # with the data of the fit, draws are equal


def test_inference_object_set_up_on_other_data_is_copied(tmp_path):
    used = svi(bounded)
    ImpactModel(bounded, random.key(1), used).fit_on_batch(100 * X, Y, num_steps=2, num_samples=2, **QUIET)
    model = ImpactModel(bounded, random.key(1), svi(bounded))
    model.fit_on_batch(X, Y, num_steps=2, num_samples=2, **QUIET).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="The bounds of `a`"):
        loaded = ImpactModel.load(tmp_path / "model", bounded, used)
    one, other = (m.sample(X=X, y=Y, num_samples=6, return_datatree=False) for m in (model, loaded))
    assert_same_draws(other, one)
    assert used.guide.prototype_trace is not None  # the object is unchanged


def mixture(X, y=None):
    c = numpyro.sample("c", dist.Bernoulli(0.3))
    like = numpyro.sample("like", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(c + like * X[:, 0], 1.0), obs=y)


def gibbs(kernel):
    return MCMC(DiscreteHMCGibbs(NUTS(kernel)), num_warmup=5, num_samples=5, progress_bar=False)


def test_saved_chains_take_precedence_over_inference_object(tmp_path):
    model = ImpactModel(mixture, random.key(1), gibbs(mixture)).fit_on_batch(X, Y, **QUIET)
    model.save(tmp_path / "model")
    used = gibbs(mixture)
    ImpactModel(mixture, random.key(7), used).fit_on_batch(X, Y + 50, **QUIET)
    loaded = ImpactModel.load(tmp_path / "model", mixture, used)
    for _ in range(2):
        one, other = (m.sample(num_samples=4, X=X, y=Y, return_datatree=False) for m in (model, loaded))
        assert_same_draws(other, one)


# ------------------------------------------------------------------------------------------------ errors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    model = ImpactModel(kernel, random.key(1), svi(kernel))
    model.fit_on_batch(X, Y, num_steps=5, num_samples=5, **QUIET).save(path)
    return path


def test_kernel_with_other_sites_raises(saved):
    with pytest.raises(SavedModelError, match="site `b` is missing; site `sigma` has distribution HalfCauchy"):
        ImpactModel.load(saved, other_sites)
    with pytest.raises(SavedModelError, match="Kernel `local` is not `linear`, saved by aimz"):
        ImpactModel.load(saved, local)


def test_kernel_with_other_prior_warns(saved):
    with pytest.warns(UserWarning, match="computes something else"):
        ImpactModel.load(saved, other_prior)


def test_other_guide_or_optimizer_raises(saved):
    with pytest.raises(SavedModelError, match=r"`a_auto_loc` \(float32 of shape \(\) saved, none here\).*AutoMultiv"):
        ImpactModel.load(saved, kernel, svi(kernel, guide=AutoMultivariateNormal))
    with pytest.raises(SavedModelError, match=r"state of the optimizer.*optimizer Adam"):
        ImpactModel.load(saved, kernel, svi(kernel, numpyro.optim.SGD(0.1)))
    with pytest.raises(SavedModelError, match="state of the optimizer"):
        ImpactModel.load(saved, kernel, svi(kernel, optax.adam(0.1)))


def test_other_inference_method_raises(saved, tmp_path):
    with pytest.raises(SavedModelError, match="fitted by SVI; got MCMC"):
        ImpactModel.load(saved, kernel, chains(kernel))
    model = ImpactModel(kernel, random.key(1), chains(kernel)).fit_on_batch(X, Y, **QUIET)
    model.save(tmp_path / "model")
    with pytest.raises(SavedModelError, match=r"another `num_chains`: 2; got 1"):
        ImpactModel.load(tmp_path / "model", kernel, chains(kernel, num_chains=1))
    with pytest.raises(SavedModelError, match="another `sampler`: NUTS; got HMC"):
        ImpactModel.load(tmp_path / "model", kernel, chains(kernel, HMC))


def test_other_jax_settings_raise(saved, tmp_path):
    with jax.enable_x64(), pytest.raises(SavedModelError, match="`jax_enable_x64` set to False; here it is True"):
        ImpactModel.load(saved, kernel)
    with jax.enable_x64():
        wide = ImpactModel(kernel, random.key(1), chains(kernel, num_chains=1))
        wide.set_posterior_sample({"a": np.full(3, 1 / 3), "b": np.full((3, 3), 0.1), "sigma": np.ones(3)})
        wide.save(tmp_path / "wide")
        assert ImpactModel.load(tmp_path / "wide", kernel).posterior["a"].dtype == "float64"
    with pytest.raises(SavedModelError, match="`jax_enable_x64` set to True"):
        ImpactModel.load(tmp_path / "wide", kernel)


def test_existing_files_are_not_overwritten(saved, tmp_path):
    model = ImpactModel(kernel, random.key(1), svi(kernel))
    model.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path / "model")
    model.fit_on_batch(X, Y, num_steps=5, num_samples=5, **QUIET).save(tmp_path / "model", overwrite=True)
    assert ImpactModel.load(tmp_path / "model", kernel).is_fitted()
    assert len(list((tmp_path / "model").iterdir())) == 2
    for name in ("notes.txt", "arrays", "model.json.partial"):
        (tmp_path / "model" / name).write_text("mine")
        with pytest.raises(FileExistsError, match=name):
            model.save(tmp_path / "model", overwrite=True)
        (tmp_path / "model" / name).unlink()
    for path, error in (
        (3, TypeError),
        ("s3://bucket/model", ValueError),
        (tmp_path / "model" / "model.json", OSError),
    ):
        with pytest.raises(error, match="`path` must be"):
            model.save(path)
    for path, error in ((None, TypeError), ("s3://bucket/model", ValueError)):
        with pytest.raises(error, match="`path` must be"):
            ImpactModel.load(path, kernel)


KILLED = """
import os, signal, sys
import numpy as np
import safetensors.numpy
from aimz.persistence import write_bundle
whole = safetensors.numpy.save_file
def torn(arrays, path):
    whole(arrays, path)
    (path.parent / ".tmpABCDEF").write_bytes(b"of safetensors itself")
    os.kill(os.getpid(), signal.SIGKILL)
safetensors.numpy.save_file = torn
from pathlib import Path
write_bundle(Path(sys.argv[1]), {}, {"a": np.ones(10)}, overwrite=True)
"""


def test_killed_save_does_not_block_next_save(saved, tmp_path):
    model = ImpactModel(kernel, random.key(1), svi(kernel))
    model.save(tmp_path / "model")
    for name in ("model", "new"):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], timeout=240, check=False)
        assert ended.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match=r"no model\.json\. It has files of an unfinished save"):
        ImpactModel.load(tmp_path / "new", kernel)
    model.save(tmp_path / "new")
    assert len(list((tmp_path / "model").iterdir())) == 3
    assert not ImpactModel.load(tmp_path / "model", kernel).is_fitted()
    model.save(tmp_path / "model", overwrite=True)
    assert len(list((tmp_path / "model").iterdir())) == 2


def test_concurrent_save_raises(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    model = ImpactModel(kernel, random.key(1), svi(kernel))
    model.save(tmp_path / "model")
    descriptor = os.open(tmp_path / "model", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="a model is being saved to"):
            model.save(tmp_path / "model", overwrite=True)
    finally:
        os.close(descriptor)
    model.save(tmp_path / "model", overwrite=True)


def test_concurrent_readers_and_writers(tmp_path):
    def write(i):
        with contextlib.suppress(BlockingIOError):
            write_bundle(tmp_path / "model", {"i": i}, {"a": np.full(2**18, i)}, overwrite=True)
            return "wrote"
        return "raised"

    def read(_):
        content, arrays = read_bundle(tmp_path / "model")
        return bool((arrays["a"] == content["i"]).all())

    write(0)
    with ThreadPoolExecutor(4) as pool:
        read_ones, written = pool.map(read, range(40)), pool.map(write, range(40))
        assert all(read_ones)
        assert "wrote" in list(written)
    assert len(list((tmp_path / "model").iterdir())) == 2


def test_interrupted_save_keeps_previous_model(saved, tmp_path, monkeypatch):
    path = tmp_path / "model"
    first = ImpactModel(kernel, random.key(1), svi(kernel)).fit_on_batch(X, Y, num_steps=5, num_samples=5, **QUIET)
    first.save(path)
    second = ImpactModel(kernel, random.key(2), svi(kernel)).fit_on_batch(X, Y, num_steps=5, num_samples=5, **QUIET)
    written = []

    def crash(*args, **kwargs):
        written.append(args)
        msg = "no space left on device"
        raise OSError(msg)

    with monkeypatch.context() as patched:
        patched.setattr("aimz.persistence.bundle.put_file", crash)
        with pytest.raises(OSError, match="no space"):
            second.save(path, overwrite=True)
        with pytest.raises(OSError, match="no space"):
            second.save(tmp_path / "new")
    assert written
    assert_same_draws(dict(ImpactModel.load(path, kernel).posterior), dict(first.posterior))
    second.save(path, overwrite=True)
    assert_same_draws(dict(ImpactModel.load(path, kernel).posterior), dict(second.posterior))
    assert not list((tmp_path / "new").iterdir())  # the draft of the interrupted save is removed
    assert len(list(path.iterdir())) == 2
    with pytest.raises(FileNotFoundError, match=r"has no model\.json\.$"):
        ImpactModel.load(tmp_path / "new", kernel)
    second.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "model.json").read_text())["format_version"] == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.parametrize("n_draws", [4, 500])
def test_full_disk_names_the_path(tmp_path, n_draws):
    """A file that cannot be written completely, as on a full disk: the JSON file, or the arrays before it."""
    import resource

    path, (soft, hard) = tmp_path / "model", resource.getrlimit(resource.RLIMIT_FSIZE)
    model = ImpactModel(kernel, random.key(1), svi(kernel)).set_posterior_sample({"b": np.zeros((n_draws, 2))})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            model.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert "Free some space and save again" in str(caught.value)
    model.save(path)

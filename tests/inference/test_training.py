"""Training in epochs: continuation, stopping, progress reports, and non-finite steps."""

import io
import itertools
import tracemalloc
from contextlib import redirect_stderr
from typing import NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import linen
from jax import Array, random
from numpyro.contrib.module import flax_module
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal

from aimz import ImpactModel, progress
from aimz.utils.data import ArrayDataset, ArrayLoader

N = 240
X = np.asarray(random.normal(random.key(0), (N, 2)))
Y = np.asarray(X @ np.array([1.0, -1.0]) + random.normal(random.key(1), (N,)))


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b), obs=y)


def new_model(kernel=kernel, optimizer=None, key=0):
    return ImpactModel(
        kernel, random.key(key), SVI(kernel, AutoDelta(kernel), optimizer or optax.sgd(1e-3), Trace_ELBO())
    )


def at(model):
    return np.asarray(model.vi_result.params["b_auto_loc"])


def by_hand(steps, update):
    """Return parameters after plain gradient steps on the log joint density, in NumPy."""
    b = None
    for rows, rate in steps:
        x, y = X[rows], Y[rows]
        b = np.zeros(2) if b is None else b
        b = update(b, -b + N / len(x) * x.T @ (y - x @ b), rate)
    return b


def fit(model, *, batch_size=60, epochs=1, **options):
    return model.fit(
        X, Y, batch_size=batch_size, epochs=epochs, **{"shuffle": False, "progress": False, "num_samples": 2} | options
    )


def start(model):
    """Start at zero, like `by_hand`."""
    model.inference.guide.init_loc_fn = numpyro.infer.init_to_value(values={"b": jnp.zeros(2)})
    return model


BATCHES = [slice(i, i + 60) for i in range(0, N, 60)]


def test_steps_follow_gradient_of_scaled_density():
    """Plain gradient ascent in NumPy, with rows scaled by N / B."""
    model = fit(start(new_model()), epochs=3)
    expected = by_hand([(rows, 1e-3) for rows in BATCHES * 3], lambda b, g, rate: b + rate * g)
    np.testing.assert_allclose(at(model), expected, rtol=1e-5)


def test_schedules_count_steps_across_calls():
    rates = [1e-3 * 0.7**i for i in range(11)]
    schedule = optax.exponential_decay(1e-3, 1, 0.7)
    model = start(new_model(optimizer=optax.sgd(schedule)))
    fit(model)
    model.fit_on_batch(X, Y, num_steps=2, num_samples=2, progress=False)
    model.train_on_batch(X[:60], Y[:60], total_size=N)
    fit(model)
    everything = [*BATCHES, slice(None), slice(None), BATCHES[0], *BATCHES]
    expected = by_hand(zip(everything, rates, strict=True), lambda b, g, rate: b + rate * g)
    np.testing.assert_allclose(at(model), expected, rtol=1e-5)
    assert len(model.vi_result.losses) == 11


def test_step_without_total_size_treats_batch_as_full_data():
    model = start(new_model())
    model.train_on_batch(X[:60], Y[:60])
    np.testing.assert_allclose(at(model), 1e-3 * X[:60].T @ Y[:60], rtol=1e-5)


def test_custom_loop_equals_fit():
    """Steps of `train_on_batch` with `total_size` give losses and parameters of `fit`."""
    one, other = start(new_model()), start(new_model())
    fit(one, epochs=2)
    losses = [other.train_on_batch(X[r], Y[r], total_size=N)[1] for r in BATCHES * 2]
    np.testing.assert_allclose(losses, one.vi_result.losses, rtol=1e-6)
    np.testing.assert_allclose(at(other), at(one), rtol=1e-6)
    np.testing.assert_allclose(other.vi_result.losses, losses)


def test_step_noise_depends_on_key():
    def loss(**key):
        model = ImpactModel(
            kernel, random.key(3), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
        )
        model.train_on_batch(X, Y, random.key(1))
        return float(model.train_on_batch(X, Y, **key)[1])

    assert loss(rng_key=random.key(7)) == loss(rng_key=random.key(7)) != loss(rng_key=random.key(8))
    assert loss() == loss() != loss(rng_key=random.key(7))


def test_posterior_depends_on_key():
    def draws(key):
        model = ImpactModel(
            kernel, random.key(key), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
        )
        return np.asarray(model.fit(X, Y, batch_size=50, epochs=3, num_samples=5, progress=False).posterior["b"])

    np.testing.assert_array_equal(draws(0), draws(0))
    assert (draws(0) != draws(1)).any()


@pytest.mark.parametrize("options", [{"on_epoch_end": lambda *_: None}, {"batch_size": 59}])
def test_result_is_independent_of_loop_lengths(options, monkeypatch):
    """Epochs in one loop or in several, and long or short loops, give the same bits."""
    from aimz.inference import svi_epochs as epochs
    from aimz.inference import svi_steps as programs

    def bits(**more):
        model = ImpactModel(
            kernel, random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
        )
        model.fit(X, Y, num_samples=3, progress=False, epochs=7, **{"batch_size": 60} | more)
        return np.r_[model.vi_result.losses, np.asarray(model.posterior["b"]).ravel()]

    expected = bits(batch_size=options.get("batch_size", 60))
    np.testing.assert_array_equal(bits(**options), expected)
    monkeypatch.setattr(epochs, "_STACK_BYTES", 3 * 60 * 12)
    np.testing.assert_array_equal(bits(**options), expected)
    monkeypatch.setattr(programs.Pace, "update", lambda self, *_: setattr(self, "steps", 1 + self.steps % 3))
    np.testing.assert_array_equal(bits(**options), expected)


def test_on_epoch_end_can_stop_the_fit():
    calls = []

    def record(epoch, loss):
        calls.append((epoch, loss))
        return np.bool_(epoch == 2)

    model = fit(new_model(), epochs=10, on_epoch_end=record)
    assert [epoch for epoch, _ in calls] == [0, 1, 2]
    losses = model.vi_result.losses.reshape(3, 4)
    np.testing.assert_allclose([loss for _, loss in calls], losses.mean(1), rtol=1e-6)
    assert model.is_fitted()


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_progress_bar_counts_steps_and_shows_last_loss(monkeypatch, delay):
    """A bar appears after some seconds only; the line about the fit does in any case."""
    monkeypatch.setattr(progress, "_DELAY", delay)
    out = io.StringIO()
    with redirect_stderr(out):
        model = fit(new_model(), epochs=3, progress=True)
    *bars, line = out.getvalue().removesuffix("\n").split("\n")
    assert line.startswith("The fit has NOT settled: SVI, 12 steps, ")
    assert len(bars) == (delay == 0)
    text = "".join(bars)
    if delay:
        return
    assert "Epoch 3/3: 100%" in text
    assert "12/12" in text
    assert f"loss={model.vi_result.losses[-4:].mean():.4g}" in text


def test_progress_bar_redraws_rarely(monkeypatch):
    """A notebook stores every redraw."""
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    out = io.StringIO()
    with redirect_stderr(out):
        fit(new_model(), epochs=400, progress=True)
    text = out.getvalue()
    assert "Epoch 400/400: 100%" in text
    assert text.count("\r") < 100


def fragile(X, y=None):
    """Kernel whose density is not finite for some values of the seventh column."""
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X[:, :2] @ b, X[:, 2]), obs=y)


@pytest.mark.parametrize("together", [True, False])
def test_non_finite_step_ends_run_with_its_epoch(together):
    """The posterior is drawn from the state after the last finite step."""
    bad = np.c_[X, np.ones(N, np.float32)]
    poisoned = bad.copy()
    poisoned[70, 2] = 0.0  # in the second batch of an epoch
    good = ImpactModel(fragile, random.key(0), SVI(fragile, AutoDelta(fragile), optax.sgd(1e-3), Trace_ELBO()))
    options = {"batch_size": 60, "shuffle": False, "progress": False, "num_samples": 2}
    if not together:
        options["on_epoch_end"] = lambda *_: None
    good.fit(bad, Y, epochs=2, **options)
    before = np.asarray(good.vi_result.params["b_auto_loc"])
    with pytest.warns(RuntimeWarning, match="not finite in epoch 1 of 5; the run stops at its end"):
        good.fit(poisoned, Y, epochs=5, **options)
    losses = good.vi_result.losses
    assert len(losses) == 12
    assert (np.flatnonzero(~np.isfinite(losses)) == [9]).all()
    after = np.asarray(good.vi_result.params["b_auto_loc"])
    assert np.isfinite(after).all()
    assert (after != before).any()
    assert np.isfinite(good.posterior["b"]).all()
    # Steps 9, 11 and 12 were finite; computed by hand from the previous state.
    b = before.astype(float)
    for rows in (BATCHES[0], BATCHES[2], BATCHES[3]):
        b = b + 1e-3 * (-b + 4 * X[rows].T @ (Y[rows] - X[rows] @ b))
    np.testing.assert_allclose(after, b, rtol=1e-5)


def test_loader_error_keeps_completed_steps():
    class Breaks:
        def __init__(self):
            self.begun = 0

        def __iter__(self):
            self.begun += 1
            if self.begun == 3:
                raise OSError("gone")
            yield from ({"X": X[rows], "y": Y[rows]} for rows in BATCHES)

    model, data = start(new_model()), Breaks()
    with pytest.raises(OSError, match="gone"):
        model.fit(data, total_size=N, epochs=5, progress=False)
    assert len(model.vi_result.losses) == 8
    stops, data = start(new_model()), Breaks()
    stops.fit(data, total_size=N, epochs=5, progress=False, num_samples=2, on_epoch_end=lambda *_: True)
    assert data.begun == 1


def test_interrupt_keeps_completed_steps():
    model = start(new_model())

    def batches():
        yield from ({"X": X[rows], "y": Y[rows]} for rows in BATCHES)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(batches(), total_size=10 * N, progress=False)
    assert not model.is_fitted()

    def interrupt(epoch, _):
        if epoch == 2:
            raise KeyboardInterrupt

    model = start(new_model())
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=5, on_epoch_end=interrupt)
    expected = by_hand([(rows, 1e-3) for rows in BATCHES * 3], lambda b, g, rate: b + rate * g)
    np.testing.assert_allclose(at(model), expected, rtol=1e-5)
    assert len(model.vi_result.losses) == 12


class _Normed(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
        return linen.Dense(1)(linen.BatchNorm(use_running_average=not train, momentum=0.9)(x))


def normed(X, y=None):
    net = flax_module("nn", _Normed(), input_shape=(1, 2), train=False, mutable=["batch_stats"])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(net(X, train=y is not None)[..., 0]), obs=y)


def test_mutable_state_is_trained():
    """Running means of batches equal a manual computation and change predictions."""
    model = ImpactModel(normed, random.key(0), SVI(normed, lambda X, y=None: None, optax.adam(1e-2), Trace_ELBO()))
    shifted = X + np.array([3.0, -2.0], np.float32)
    model.fit(shifted, Y, batch_size=60, epochs=25, shuffle=False, progress=False, num_samples=2)
    (state,) = model.vi_state.mutable_state.values()
    mean = np.zeros(2)
    for rows in BATCHES * 25:
        mean = 0.9 * mean + 0.1 * shifted[rows].mean(0)
    (found,) = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if "mean" in jax.tree_util.keystr(path)
    ]
    np.testing.assert_allclose(found, mean, rtol=1e-4)


class _Dropping(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(linen.Dropout(0.5, deterministic=False)(x))


def dropping(X, y=None):
    net = flax_module("nn", _Dropping(), input_shape=(1, 2), apply_rng=["dropout"])
    mu = net(X, rngs={"dropout": numpyro.prng_key()})[..., 0]
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def test_dropout_modules_are_trained():
    model = ImpactModel(dropping, random.key(0), SVI(dropping, lambda X, y=None: None, optax.adam(1e-2), Trace_ELBO()))
    model.fit(X, Y, batch_size=60, epochs=60, progress=False, num_samples=2)
    losses = model.vi_result.losses
    assert losses[-40:].mean() < losses[:8].mean()


def test_rows_and_epochs_do_not_recompile():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    model = new_model()
    fit(model, epochs=2)
    before = len(compiled)
    for n_obs in (240, 180, 120):
        for epochs in (2, 3, 50):
            options = {"batch_size": 60, "epochs": epochs, "num_samples": 2, "progress": False}
            model.fit(X[:n_obs], Y[:n_obs], **options)
    assert len(compiled) == before


@pytest.mark.parametrize("lazy", [False, True])
def test_results_include_fit_data(tmp_path, lazy):
    """As after `fit_on_batch`, results for the inputs of the fit include its output."""
    data = [X, Y]
    if lazy:
        for i, name in enumerate(("X", "y")):
            np.save(tmp_path / f"{name}.npy", data[i])
            data[i] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    model = new_model().fit(*data, epochs=1, batch_size=60, num_samples=3, progress=False)
    same, other = (model.predict(x, store="memory", progress=False) for x in (X, X + 1))
    np.testing.assert_array_equal(same["observed_data"]["y"], Y)
    assert "observed_data" not in other.children


def test_pickled_model_continues():
    model = ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO()))
    model.train_on_batch(X, Y)
    fit(model, epochs=2)
    other = cloudpickle.loads(cloudpickle.dumps(model))
    np.testing.assert_array_equal(other.vi_result.losses, model.vi_result.losses)
    for m in (model, other):
        fit(m, epochs=2)
    np.testing.assert_array_equal(other.vi_result.losses, model.vi_result.losses)
    np.testing.assert_array_equal(other.posterior["b"], model.posterior["b"])


def test_memory_is_independent_of_rows(tmp_path):
    """Only the stack being transferred is in memory, measured by tracemalloc (which includes NumPy)."""

    def peak(n_obs):
        for name, shape in (("X", (n_obs, 50)), ("y", (n_obs,))):
            np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, shape).flush()
        files = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "y")]
        model = new_model()
        model.fit(*(array[:2000] for array in files), batch_size=1000, epochs=1, num_samples=2, progress=False)
        tracemalloc.start()
        model.fit(*files, batch_size=1000, epochs=1, num_samples=2, progress=False, shuffle=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(800_000) < 1.1 * peak(400_000) < 150 * 2**20  # the files have 160 and 80 MB


# -------------------------------------------------------------------------------------- the loop of the seed, verbatim


class SVIRunResult(NamedTuple):
    """Final parameters and the losses."""

    params: dict[str, Array]
    losses: list[float]


def loader_of_arrays():
    return ArrayLoader(ArrayDataset(X=X, y=Y), rng_key=random.key(0), batch_size=10, shuffle=True)


def batches_of_arrays(loader):
    for batch, n_pad in loader:
        assert n_pad == 0
        yield batch, batch["X"]


def loader_of_torch():
    import torch
    from torch.utils import data

    torch.manual_seed(0)
    dataset = data.TensorDataset(torch.from_numpy(X.copy()), torch.from_numpy(Y.copy()))
    return data.DataLoader(dataset, batch_size=10, shuffle=True)


def batches_of_torch(loader):
    for X_batch, y_batch in loader:
        yield {"X": jnp.asarray(X_batch), "y": jnp.asarray(y_batch)}, X_batch


@pytest.mark.parametrize(
    ("make", "batches"),
    [
        pytest.param(loader_of_arrays, batches_of_arrays, id="ArrayLoader"),
        pytest.param(loader_of_torch, batches_of_torch, id="PyTorch", marks=pytest.mark.slow),
    ],
)
def test_documented_training_loop(make, batches):
    im = ImpactModel(kernel, rng_key=random.key(0), svi=SVI(kernel, AutoNormal(kernel), optax.adam(0.01), Trace_ELBO()))
    loader = make()
    losses = []
    for _ in range(20):
        for batch, _ in batches(loader):
            _, loss = im.train_on_batch(**batch)
            losses.append(loss)
    im.vi_result = SVIRunResult(im.inference.get_params(im._vi_state), losses)
    posterior_sample = im.sample(return_datatree=False)
    im.set_posterior_sample(posterior_sample)
    assert len(im.vi_result.losses) == len(losses) == 480
    # Without `total_size`, each batch of 10 is the full data: the posterior is that of 10 rows.
    assert 0.15 < float(im.posterior["b"].std(0).mean()) < 0.6
    batch_means = []
    for _, X_batch in itertools.islice(batches(loader), 3):
        preds = im.predict_on_batch(X_batch, return_datatree=False)
        assert preds["y"].shape == (1000, 10)
        batch_means.append(preds["y"].mean(axis=0))
    assert jnp.concatenate(batch_means, axis=0).shape == (30,)

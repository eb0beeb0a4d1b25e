"""Fits in minibatches find the posterior of the full data, for any batch size, kernel and source."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.handlers import scale
from numpyro.infer import MCMC, NUTS, SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoGuideList, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader
from slow_cases import slow_except

N = 10_000
X = np.asarray(random.normal(random.key(0), (N, 3)))
BETA = np.array([1.0, 2.0, -1.0], np.float32)
Y = np.asarray(X @ BETA + random.normal(random.key(1), (N,)))
POSITIVE = dist.constraints.positive


def coefficients(X):
    return X @ numpyro.sample("b", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))


def plated(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def without_plate(X, y=None):
    numpyro.sample("y", dist.Normal(coefficients(X)), obs=y)


def as_event(X, y=None):
    numpyro.sample("y", dist.Normal(coefficients(X)).to_event(1), obs=y)


def knows_its_size(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", N, subsample_size=X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def scaled_by_hand(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]), scale(scale=N / X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def by_factor(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.factor("y_likelihood", -0.5 * (y - mu) ** 2)


def second_site(X, y=None, second=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)
        numpyro.sample("also", dist.Normal(mu, 2.0), obs=second)


def nested(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0], dim=-2), numpyro.plate("twice", 2, dim=-1):
        numpyro.sample("y", dist.Normal(mu[:, None]), obs=y)


def weighted(X, y=None, weight=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]), scale(scale=weight):
        numpyro.sample("y", dist.Normal(mu), obs=y)


ALSO = np.asarray(X @ BETA + 2 * random.normal(random.key(2), (N,)))
CLOSED = {
    "plated": (plated, Y, {}, 1.0, Y),
    "without_plate": (without_plate, Y, {}, 1.0, Y),
    "as_event": (as_event, Y, {}, 1.0, Y),
    "knows_its_size": (knows_its_size, Y, {}, 1.0, Y),
    "scaled_by_hand": (scaled_by_hand, Y, {}, 1.0, Y),
    "by_factor": (by_factor, Y, {}, 1.0, Y),
    "second_site": (second_site, Y, {"second": ALSO}, 1.25, (Y + ALSO / 4) / 1.25),
    "nested": (nested, np.stack([Y, ALSO], 1), {}, 2.0, (Y + ALSO) / 2),
    "weighted": (weighted, Y, {"weight": np.full(N, 3.0, np.float32)}, 3.0, Y),
}
"""Kernel, output, further arguments; precision of a row and its observed value, for the closed form."""


def model_of(kernel, guide=None, optimizer=None, loss=None, key=0):
    svi = SVI(kernel, guide or AutoNormal(kernel), optimizer or optax.adam(0.01), loss or Trace_ELBO())
    return ImpactModel(kernel, random.key(key), svi)


def annealed(steps):
    """Return a decaying learning rate, which reduces the noise of the last steps."""
    return optax.adam(optax.cosine_decay_schedule(0.02, steps))


@pytest.mark.parametrize("name", slow_except(CLOSED, "plated", "without_plate", "by_factor", "second_site", "weighted"))
def test_posterior_equals_closed_form(name):
    """b ~ N(m, S), with S = (precision X'X + I / 100)^-1: mean field finds its mean, and 1 / sqrt(diag(S^-1)) as sd."""
    kernel, y, more, precision, measured = CLOSED[name]
    information = precision * X.T @ X + np.eye(3) / 100
    mean = np.linalg.solve(information, precision * X.T @ measured)
    sd = 1 / np.sqrt(np.diag(information))
    model = model_of(kernel, optimizer=annealed(20_000), loss=Trace_ELBO(num_particles=16)).fit(
        X, y, batch_size=100, epochs=200, num_samples=4000, progress=False, **more
    )
    draws = np.asarray(model.posterior["b"])
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.1)  # 10 times as large if batches are not scaled
    # Monte Carlo error of 4,000 draws and noise of the last steps.
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.3 * sd.max())
    assert model.vi_result.losses.shape == (20_000,)


@pytest.mark.parametrize(
    ("batch_size", "n_steps"), [(33, 61), pytest.param(900, 3, marks=pytest.mark.slow), (2_000, 1), (5_000, 1)]
)
def test_any_batch_size(batch_size, n_steps):
    """Including a shorter last batch, and a single batch."""
    x, y = X[:2_000], Y[:2_000]
    epochs = 12_000 // n_steps
    model = model_of(plated, optimizer=annealed(epochs * n_steps), loss=Trace_ELBO(num_particles=16))
    model.fit(x, y, batch_size=batch_size, epochs=epochs, num_samples=4000, progress=False)
    sd = 1 / np.sqrt(np.diag(x.T @ x + np.eye(3) / 100))
    np.testing.assert_allclose(model.posterior["b"].std(0), sd, rtol=0.1)
    assert model.vi_result.losses.shape == (epochs * n_steps,)


def test_losses_are_comparable_across_batch_sizes():
    ends = []
    for batch_size in (50, 1000, N):
        model = model_of(plated, optimizer=annealed(2_000))
        model.fit(X, Y, batch_size=batch_size, epochs=max(10, 2_000 * batch_size // N), progress=False, num_samples=2)
        ends.append(model.vi_result.losses[-N // batch_size :].mean())
    np.testing.assert_allclose(ends, ends[-1], rtol=0.01)


def logistic(X, y=None):
    logits = coefficients(X)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def test_logistic_regression_agrees_with_nuts():
    x, n = X[:2_000], 2_000
    y = np.asarray(random.bernoulli(random.key(5), jax.nn.sigmoid(x @ BETA)), np.int32)
    mcmc = MCMC(NUTS(logistic), num_warmup=300, num_samples=2_000, progress_bar=False)
    mcmc.run(random.key(1), x, y)
    witness = np.asarray(mcmc.get_samples()["b"])
    model = model_of(logistic, AutoMultivariateNormal(logistic), annealed(20_000))
    draws = np.asarray(
        model.fit(x, y, batch_size=100, epochs=20_000 * 100 // n, num_samples=4000, progress=False).posterior["b"]
    )
    np.testing.assert_allclose(draws.std(0), witness.std(0), rtol=0.1)
    np.testing.assert_allclose(draws.mean(0), witness.mean(0), atol=0.25 * witness.std(0).max())


def hierarchical(X, y=None, group=None):
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 5):
        a = numpyro.sample("a", dist.Normal(0.0, tau))
    mu = coefficients(X) + a[group]
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def with_latent_rows(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def amortised(X, y=None):
    """Guide in which the latent of a row is a function of the row."""
    b_scale = numpyro.param("b_scale", 0.1 * jnp.ones(3), constraint=POSITIVE)
    numpyro.sample("b", dist.Normal(numpyro.param("b_loc", jnp.zeros(3)), b_scale).to_event(1))
    w, v = numpyro.param("w", jnp.zeros(3)), numpyro.param("v", 0.0)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("z", dist.Normal(X @ w + y * v, numpyro.param("z_scale", 1.0, constraint=POSITIVE)))


@pytest.mark.parametrize(
    ("kernel", "guide", "more"),
    [
        (hierarchical, None, {"group": np.arange(2_000, dtype=np.int32) % 5}),
        (with_latent_rows, amortised, {}),
    ],
    ids=["hierarchical", "amortised"],
)
def test_minibatches_agree_with_numpyro_on_all_rows(kernel, guide, more):
    """Parameters equal those of NumPyro's loop on all rows, relative to the guide's scales."""
    x, y = X[:2_000], Y[:2_000]
    steps = 20_000
    whole = SVI(kernel, guide or AutoNormal(kernel), annealed(steps), TraceMeanField_ELBO())
    witness = whole.run(random.key(3), steps, x, y, progress_bar=False, **more).params
    model = model_of(kernel, guide, annealed(steps), TraceMeanField_ELBO())
    model.fit(x, y, batch_size=100, epochs=steps // 20, num_samples=500, progress=False, **more)
    found = model.vi_result.params
    assert found.keys() == witness.keys()
    for name, value in witness.items():
        if name.endswith("scale"):
            np.testing.assert_allclose(found[name], value, rtol=0.1, err_msg=name)
    for name in ("b_loc", "a_auto_loc", "b_auto_loc"):
        if name in witness:
            spread = np.max(witness[name.replace("loc", "scale")])
            np.testing.assert_allclose(found[name], witness[name], atol=0.5 * spread, err_msg=name)
    if guide is not None:
        assert model.posterior["z"].shape == (500, 2_000)  # draws for every row
        centre = x @ np.asarray(found["w"]) + y * np.asarray(found["v"])
        away = np.asarray(model.posterior["z"]).mean(0) - centre
        assert np.abs(away).max() < 6 * float(found["z_scale"]) / np.sqrt(500)


# ------------------------------------------------------------------------------------------------------ errors


def per_row(X, y=None):
    numpyro.sample("b", dist.Normal(numpyro.param("b_loc", jnp.zeros(3)), 0.1).to_event(1))
    loc = numpyro.param("z_loc", jnp.zeros(X.shape[0]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("z", dist.Normal(loc, 1.0))


def reweighted(X, y=None):
    """Guide that weights the latent of a row differently from the model."""
    numpyro.sample("b", dist.Normal(numpyro.param("b_loc", jnp.zeros(3)), 0.1).to_event(1))
    with numpyro.plate("obs", N, subsample_size=X.shape[0]):
        numpyro.sample("z", dist.Normal(X @ numpyro.param("w", jnp.zeros(3)), 1.0))


def centred(X, y=None):
    mu = coefficients(X - X.mean(0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def prior_of_the_data(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1 / X.std()))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


def summed(X, y=None):
    numpyro.factor("likelihood", (-0.5 * (y - coefficients(X)) ** 2).sum())


def normalised_weights(X, y=None, weight=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]), scale(scale=weight / weight.sum()):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def half_scaled(X, y=None):
    mu = coefficients(X)
    with numpyro.plate("obs", X.shape[0]), scale(scale=1 / X.shape[0] ** 0.5):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def reads_the_batch(X, y=None):
    """Guide in which a global site depends on the rows of the batch."""
    loc = numpyro.param("loc", jnp.ones(3)) * (X * y[:, None]).mean(0)
    numpyro.sample("b", dist.Normal(loc, numpyro.param("b_scale", 0.1, constraint=POSITIVE)).to_event(1))


def mixes_rows(X, y=None):
    """Guide in which the latent of a row depends on other rows."""
    numpyro.sample("b", dist.Normal(numpyro.param("b_loc", jnp.zeros(3)), 0.1).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("z", dist.Normal(numpyro.param("w", 1.0) * jnp.cumsum(y), 1.0))


def guide_with_data(kernel):
    guide = AutoGuideList(kernel)
    guide.append(AutoLaplaceApproximation(kernel))
    return guide


def picks_rows(X, y=None):
    """Kernel whose plate draws row numbers of the full data, which are not the rows of the batch."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", N, subsample_size=X.shape[0]) as rows:
        numpyro.sample("y", dist.Normal(b * rows / N), obs=y)


@pytest.mark.parametrize(
    ("kernel", "guide", "more", "reason"),
    [
        (with_latent_rows, None, {}, "`AutoNormal` has a value of `z` for each row"),
        (with_latent_rows, per_row, {}, "`z_loc` of the guide has a value for each row"),
        (with_latent_rows, reweighted, {}, "`z` is proportional to the rows in the model, but constant in the guide"),
        (centred, None, {}, "cannot be fitted in minibatches"),
        (prior_of_the_data, None, {}, "site `b`, which has no row axis, is computed from the rows"),
        (summed, None, {}, "cannot be fitted in minibatches"),
        (normalised_weights, None, {"weight": np.ones(N, np.float32)}, "cannot be fitted in minibatches"),
        (picks_rows, None, {}, "the row numbers of its plate are drawn at random"),
        (half_scaled, None, {}, "neither proportional to the rows nor constant"),
        (plated, reads_the_batch, {}, "in its guide"),
        (with_latent_rows, mixes_rows, {}, "in its guide"),
        (plated, guide_with_data(plated), {}, "computes with the data it was set up with"),
        (plated, AutoLaplaceApproximation(plated), {}, "computes with the data it was set up with"),
    ],
)
def test_biased_minibatch_fits_raise(kernel, guide, more, reason):
    model = model_of(kernel, guide)
    for train in (
        lambda: model.fit(X, Y, epochs=1, batch_size=100, progress=False, **more),
        lambda: model.train_on_batch(X[:100], Y[:100], total_size=N, **{k: v[:100] for k, v in more.items()}),
    ):
        with pytest.raises(ValueError, match=reason) as raised:
            train()
        assert (
            "fit_on_batch" in str(raised.value)
            or "Leave the scaling to `fit`" in str(raised.value)
            or ("under the same plates" in str(raised.value))
        )
        assert model.vi_state is None
        assert (random.key_data(model.rng_key) == random.key_data(random.key(0))).all()


def test_minimize_raises():
    model = ImpactModel(plated, random.key(0), SVI(plated, AutoNormal(plated), numpyro.optim.Minimize(), Trace_ELBO()))
    with pytest.raises(ValueError, match="`Minimize` runs to the optimum of one batch"):
        model.fit(X, Y, epochs=1, batch_size=100, progress=False)


def test_plate_of_other_size_warns():
    """The size of the plate is used, and the warning names it."""
    with pytest.warns(
        UserWarning, match="`y` of the model counts as 10000 rows, by its own scale, but the data have 900"
    ):
        model_of(knows_its_size).fit(X[:900], Y[:900], epochs=1, batch_size=100, num_samples=2, progress=False)


def test_renyi_elbo_raises():
    with pytest.raises(ValueError, match="`RenyiELBO` is not a sum over rows"):
        model_of(plated, loss=RenyiELBO()).fit(X, Y, epochs=1, batch_size=100, progress=False)


def test_single_batch_keeps_row_order():
    """Rows are not shuffled: the latent of a row and its draws stay with the row."""

    def remembers(X, y=None):
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(0.0, 20.0))
            numpyro.sample("y", dist.Normal(z, 0.1), obs=y)

    x, y = X[:40], Y[:40]
    for data in ((x, y), (ArrayLoader(ArrayDataset(X=x, y=y), random.key(3), batch_size=40, shuffle=True),)):
        model = model_of(remembers, optimizer=annealed(3_000))
        model.fit(*data, epochs=3_000, num_samples=200, progress=False)
        np.testing.assert_allclose(model.posterior["z"].mean(0), y, atol=0.1)
    with pytest.raises(ValueError, match="has a value of `z` for each row"):
        model_of(remembers).fit(Whole(x, y), epochs=2, progress=False)


class Whole:
    """Iterable over all rows at once, in an order that may differ."""

    def __init__(self, x, y):
        self.rows = {"X": x, "y": y}

    def __iter__(self):
        yield self.rows


def test_single_batch_of_all_rows_is_not_checked():
    """Minibatch checks do not apply if the batch is the full data."""
    model = model_of(with_latent_rows).fit(X[:50], Y[:50], batch_size=50, epochs=3, num_samples=5, progress=False)
    assert model.posterior["z"].shape == (5, 50)
    assert model_of(centred).fit(X, Y, batch_size=N, epochs=2, num_samples=5, progress=False).is_fitted()


def test_mcmc_in_batches_raises():
    model = ImpactModel(plated, random.key(0), MCMC(NUTS(plated), num_warmup=2, num_samples=2))
    for options in ({"epochs": 1}, {"batch_size": 10}, {"total_size": 3}):
        with pytest.raises(TypeError, match="`fit` in batches requires SVI"):
            model.fit(X, Y, **options)
    with pytest.raises(TypeError, match="`train_on_batch` requires SVI"):
        model.train_on_batch(X, Y)


# ------------------------------------------------------------------------------------------------------- sources

SMALL_X, SMALL_Y = X[:250], Y[:250]


def small_fit(*data, model=None, **options):
    """Fit in batches of 100, 100 and 50 rows and return draws of `b`."""
    model = model or model_of(plated)
    options = {"batch_size": 100, "epochs": 2, "num_samples": 8, "progress": False, "shuffle": False} | options
    return np.asarray(model.fit(*data, **options).posterior["b"])


@pytest.fixture(scope="module")
def small_draws():
    """Draws of a fit to arrays in memory."""
    return small_fit(SMALL_X, SMALL_Y)


class Reiterable:
    """Iterable that can be read repeatedly."""

    def __init__(self, *sizes, make=lambda x, y: {"X": x, "y": y}):
        self.cuts, self.make = np.cumsum([0, *sizes]), make
        self.n_passes = 0

    def __iter__(self):
        self.n_passes += 1
        for start, stop in zip(self.cuts, self.cuts[1:], strict=False):
            yield self.make(SMALL_X[start:stop], SMALL_Y[start:stop])


def on_disk(tmp_path):
    found = []
    for name, array in (("X", SMALL_X), ("y", SMALL_Y)):
        np.save(tmp_path / f"{name}.npy", array)
        found.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    return found


def dask_arrays(_):
    import dask.array as da

    return [da.from_array(SMALL_X, chunks=(64, 3)), da.from_array(SMALL_Y, chunks=50)]


def torch_loader(_):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.from_numpy(SMALL_X.copy()), torch.from_numpy(SMALL_Y.copy()))
    return [DataLoader(data, batch_size=100)]


SOURCES = {
    "on the device": lambda _: [jnp.asarray(SMALL_X), jnp.asarray(SMALL_Y)],
    "files": on_disk,
    "Dask": dask_arrays,
    "float64": lambda _: [SMALL_X.astype(float), SMALL_Y.astype(float)],
    "data set": lambda _: [ArrayDataset(X=SMALL_X, y=SMALL_Y)],
    "loader": lambda _: [ArrayLoader(ArrayDataset(X=SMALL_X, y=SMALL_Y), random.key(9), batch_size=100)],
    "mappings": lambda _: [Reiterable(100, 100, 50)],
    "other batches": lambda _: [Reiterable(100, 1, 49, 90, 10)],
    "pairs with padding": lambda _: [
        Reiterable(100, 100, 50, make=lambda x, y: ({"X": np.r_[x, x[:1]], "y": np.r_[y, y[:1]]}, 1))
    ],
    "tuples": lambda _: [Reiterable(100, 100, 50, make=lambda x, y: (x, y))],
    "PyTorch": torch_loader,
}


@pytest.mark.parametrize(
    "source", [pytest.param(name, marks=pytest.mark.slow if name == "PyTorch" else ()) for name in SOURCES]
)
def test_result_is_independent_of_source(source, tmp_path, small_draws):
    """The same key, rows and batches give the same bits."""
    np.testing.assert_array_equal(small_fit(*SOURCES[source](tmp_path)), small_draws)


def test_files_are_shuffled_like_arrays(tmp_path, monkeypatch, small_draws):
    """With several passes over the file, and with several ranges of it."""
    from aimz.data import minibatches as batches

    expected = small_fit(SMALL_X, SMALL_Y, shuffle=True)
    assert (expected != small_draws).any()
    monkeypatch.setattr(batches, "_WINDOW_BYTES", 16 * 70)
    monkeypatch.setattr(batches, "_PIECE_BYTES", 12 * 30)
    np.testing.assert_array_equal(small_fit(*on_disk(tmp_path), shuffle=True), expected)


def test_each_epoch_permutes_all_rows():
    from aimz.methods.minibatch_fit import _order_of_key

    orders = [_order_of_key((1, 2), 1000, epoch) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert (orders[0] != orders[1]).any()
    assert (orders[1] != orders[2]).any()


def test_shuffling_loader_keeps_its_order():
    """Epochs equal those of another loader with the same key."""
    dataset = ArrayDataset(X=SMALL_X, y=SMALL_Y)
    loaders = [ArrayLoader(dataset, random.key(9), batch_size=100, shuffle=True) for _ in range(3)]
    expected = small_fit(list(loaders[0]) + list(loaders[0]), total_size=250, epochs=1, batch_size=None)
    found = small_fit(loaders[1], batch_size=None)
    assert loaders[1].epoch == 2
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, small_fit(loaders[2], batch_size=None))
    assert (found != small_fit(SMALL_X, SMALL_Y)).any()


def test_iterable_length_is_counted_or_given():
    counted = Reiterable(100, 100, 50)
    expected = small_fit(SMALL_X, SMALL_Y)
    np.testing.assert_array_equal(small_fit(counted), expected)
    assert counted.n_passes == 3  # one pass to count rows, and one per epoch
    iterable = Reiterable(100, 100, 50)
    np.testing.assert_array_equal(small_fit(iterable, total_size=250), expected)
    assert iterable.n_passes == 2
    np.testing.assert_array_equal(
        small_fit(iter(Reiterable(100, 100, 50)), total_size=250, epochs=1), small_fit(SMALL_X, SMALL_Y, epochs=1)
    )


def test_iterator_needs_size_and_one_epoch():
    model = model_of(plated)
    with pytest.raises(ValueError, match="`total_size` must be given with an iterator"):
        model.fit(iter(Reiterable(100)), progress=False)
    with pytest.raises(ValueError, match="`epochs` must be 1 for an iterator"):
        model.fit((batch for batch in Reiterable(100)), epochs=2, total_size=100, progress=False)
    assert model.vi_state is None


def test_invalid_arguments_raise():
    model = model_of(plated)
    for given, match in [
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"num_samples": 0}, "`num_samples` must be a positive integer"),
        ({"total_size": 5}, "`total_size` must be the number of rows"),
        ({"checkpoint_dir": 5}, "`checkpoint_dir` must be a path"),
        ({"on_epoch_end": 5}, "`on_epoch_end` must be a function"),
        ({"nonsense": 5}, "nonsense"),
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            model.fit(X, Y, progress=False, **given)
    with pytest.raises(TypeError, match="`y` must be an array; got None"):
        model.fit(X, progress=False)
    with pytest.raises(TypeError, match="`y` must be given once"):
        model.fit(ArrayDataset(X=X, y=Y), Y, progress=False)
    with pytest.raises(ValueError, match="same number of rows"):
        model.fit(X, Y[:-1], progress=False)
    with pytest.raises(TypeError, match="`weight` has rows, and so has each batch"):
        model_of(weighted).fit(Reiterable(100), weight=np.ones(100, np.float32), progress=False)
    with pytest.raises(ValueError, match="`total_size` must be at least the rows of the batch"):
        model.train_on_batch(X, Y, total_size=5)
    assert model.vi_state is None
    assert (random.key_data(model.rng_key) == random.key_data(random.key(0))).all()

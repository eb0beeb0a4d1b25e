"""The chosen inference: which one, how close it is to the posterior, and that it is saved."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

from aimz import FitWarning, ImpactModel
from aimz.engine import KernelEngine
from aimz.inference.choice import choose_inference

RNG = np.random.default_rng(8)
N = 200
# A column far from zero and one that is tiny: units of the coefficients differ by a factor of a million.
X = np.stack([2000 + 500 * RNG.normal(size=N), 1e-3 * RNG.normal(size=N)], axis=1).astype(np.float32)
Y = (X @ np.array([0.002, 1000.0]) - 4 + 0.5 * RNG.normal(size=N)).astype(np.float32)
PRIOR_SD = np.array([100.0, 1.0, 10_000.0])


def regression(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, PRIOR_SD[0]))
    b = numpyro.sample("b", dist.Normal(0.0, jnp.asarray(PRIOR_SD[1:], jnp.float32)).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X @ b, 0.5), obs=y)


def with_one_latent(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


def with_subsample(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0], subsample_size=5) as rows:
        numpyro.sample("y", dist.Normal(b * X[rows], 1.0), obs=None if y is None else y[rows])


def with_parameter(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    sd = numpyro.param("sd", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, sd), obs=y)


def with_many_latents(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z + X, 1.0), obs=y)


def closed_form():
    """Return mean and sd of intercept and slopes given the data."""
    design = np.column_stack([np.ones(N), X]).astype(np.float64)
    covariance = np.linalg.inv(design.T @ design / 0.25 + np.diag(PRIOR_SD**-2))
    return covariance @ (design.T @ Y.astype(np.float64)) / 0.25, np.sqrt(np.diag(covariance))


def expect_closed_form(model, *, shift=0.15, ratio=1.15):
    """Assert the requirement of the default inference: 0.15 sd for means, 15 per cent for sds."""
    mean, sd = closed_form()
    draws = np.column_stack([model.posterior["a"], model.posterior["b"]]).astype(np.float64)
    assert (np.abs(draws.mean(0) - mean) / sd).max() < shift
    assert np.exp(np.abs(np.log(draws.std(0) / sd))).max() < ratio


@pytest.fixture(scope="module")
def by_svi():
    return ImpactModel(regression, 0, "svi").fit(X, Y, progress=False)


def test_svi_of_badly_scaled_covariates_equals_closed_form(by_svi):
    expect_closed_form(by_svi)
    assert "SVI with a full-rank normal guide (as requested" in repr(by_svi)
    assert "settled (2,000 steps)" in repr(by_svi)
    assert by_svi.describe(as_dict=True)["settled"] is True


def test_nuts_of_badly_scaled_covariates_equals_closed_form():
    model = ImpactModel(regression, 0)
    assert "chosen at the first fit" in repr(model)
    with pytest.warns(FitWarning, match="The fit does not depend on `num_steps=100`") as caught:
        model.fit_on_batch(X, Y, num_steps=100, num_samples=2400, progress=False)
    assert len(caught) == 1
    assert len(model.posterior["a"]) == 2400
    expect_closed_form(model)
    assert "NUTS, 4 vectorized chains (chosen: 3 latent values" in " ".join(repr(model).split())


def test_chosen_inference_is_saved(by_svi, tmp_path):
    by_svi.save(tmp_path / "fitted")
    loaded = ImpactModel.load(tmp_path / "fitted", regression)
    assert repr(loaded).partition("Sites")[0] == repr(by_svi).partition("Sites")[0]
    for model in (by_svi, loaded):
        np.testing.assert_array_equal(
            model.predict_on_batch(X[:3], rng_key=1, return_datatree=False)["y"],
            by_svi.predict_on_batch(X[:3], rng_key=1, return_datatree=False)["y"],
        )
    loaded.fit_on_batch(X, Y, num_steps=1000, progress=False)
    assert len(loaded.vi_result.losses) == len(by_svi.vi_result.losses) + 1000
    ImpactModel(regression, 0, "nuts").save(tmp_path / "deferred")
    assert "NUTS, as requested" in repr(ImpactModel.load(tmp_path / "deferred", regression))


@pytest.mark.parametrize(
    ("kernel", "n_obs", "options", "method", "reason"),
    [
        (with_one_latent, 20, {}, "nuts", "1 latent values and 20 rows are few enough"),
        (with_one_latent, 20, {"in_batches": True}, "svi", "the rows are read in batches"),
        (with_one_latent, 200_000, {}, "svi", "operations, more than 1e+06"),
        (with_parameter, 20, {}, "svi", "`sd` is a parameter to optimize"),
        (with_many_latents, 501, {}, "svi", "501 latent values are more than 500"),
        (with_subsample, 20, {}, "svi", "`obs` is drawn in each evaluation"),
        (with_parameter, 20, {"requested": "nuts"}, "nuts", "`inference='nuts'`"),
    ],
)
def test_choice_of_the_inference(kernel, n_obs, options, method, reason):
    engine = KernelEngine.of(kernel, "X", "y")
    rows = np.zeros(n_obs, np.float32)
    call = engine.read_call(rows, {}, output=rows)
    options = {"requested": None, "in_batches": False} | options
    choice = choose_inference(kernel, options.pop("requested"), call, engine.read_fit(call), **options)
    assert (choice.method, choice.reason[-len(reason) :]) == (method, reason)


def test_guide_of_another_shape_than_the_posterior_warns():
    """A posterior with two modes: the mean of one of them is reported, with a warning."""

    def two_modes(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b**4 * X, 30.0), obs=y)

    x = np.ones(5, np.float32)
    with pytest.warns(FitWarning, match="Means and intervals of `b` may be off"):
        model = ImpactModel(two_modes, random.key(0), "svi").fit(x, x, progress=False)
    assert "NOT settled" in repr(model)


def test_fit_prints_one_line(by_svi, capsys):
    by_svi.fit(X, Y, progress=False)
    assert capsys.readouterr().err == ""
    by_svi.fit(X, Y)
    assert capsys.readouterr().err.startswith("The fit has settled: SVI, 6,000 steps, ")


@pytest.mark.filterwarnings("ignore:The draws are not from the posterior yet", "ignore:.*normal guide")
def test_fit_settles_after_a_short_one():
    """The learning rate of the short fit has a short cycle; a round still has a thousand steps."""
    model = ImpactModel(regression, 0, "svi").fit(X, Y, epochs=1, batch_size=50, progress=False)
    n_steps = len(model.vi_result.losses)
    assert n_steps < 100
    model.fit(X, Y, progress=False)
    assert len(model.vi_result.losses) - n_steps >= 1000
    assert "settled" in repr(model)
    assert "NOT" not in repr(model)

"""Discrete latents: enumerated in a fit, drawn given the data, never treated as noise.

The witnesses are sums over all values, written out in NumPy.
"""

import sys

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate
from numpyro.handlers import block
from numpyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    DiscreteHMCGibbs,
    MixedHMC,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    log_likelihood,
)
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal
from scipy.special import logsumexp
from scipy.stats import norm

from aimz import ImpactModel
from aimz.errors import KernelValidationError

pytestmark = pytest.mark.filterwarnings("ignore:.*local latent site")

SUMMED = {"enumerate": "parallel"}
"""Copied at each use, since NumPyro modifies the dictionary."""
N = 60
WEIGHTS = np.array([0.4, 0.6])
LOC, SD = np.array([-1.0, 1.5]), 0.5


def _mixed(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(LOC[(rng.random(n) < WEIGHTS[1]).astype(int)], 1).astype(np.float32)


X, Y = np.zeros(N, np.float32), _mixed(N, 0)


def mixture(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(jnp.asarray(LOC), SD).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.asarray(WEIGHTS)), infer=dict(SUMMED))
        numpyro.sample("y", dist.Normal(mu[z], 1), obs=y)


def joint(mu, y: np.ndarray) -> np.ndarray:
    """Return ``log p(z, y | mu)``, of shape ``(n_draws, n_obs, 2)``."""
    return np.log(WEIGHTS) + norm.logpdf(y[:, None], np.asarray(mu)[:, None, :], 1)


def check_classes(posterior) -> None:
    """Assert that the share of draws with z = 1 is the mean of P(z = 1 | mu, y) over draws of mu, for each row."""
    log_p = joint(posterior["mu"], Y)
    p = np.exp(log_p[..., 1] - logsumexp(log_p, axis=-1))
    error = np.sqrt((p * (1 - p)).sum(0)) / len(p)
    np.testing.assert_array_less(abs(np.asarray(posterior["z"]).mean(0) - p.mean(0)), 4.5 * error)


def by_svi(kernel, hide, guide=AutoNormal, loss=None, step=0.02) -> ImpactModel:
    guide = guide(block(kernel, hide=hide) if hide else kernel)
    return ImpactModel(kernel, random.key(0), SVI(kernel, guide, numpyro.optim.Adam(step), loss or TraceEnum_ELBO()))


def by_mcmc(kernel, sampler=NUTS, num_warmup=200, num_samples=500) -> ImpactModel:
    mcmc = MCMC(sampler(kernel), num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
    return ImpactModel(kernel, random.key(0), mcmc)


def given(kernel, posterior) -> ImpactModel:
    return by_mcmc(kernel).set_posterior_sample(posterior)


@pytest.fixture(scope="module")
def fitted():
    return by_mcmc(mixture).fit_on_batch(X, Y, progress=False)


# ------------------------------------------------------------------------------------------------ the posterior


def test_mcmc_draws_classes_given_data(fitted):
    assert fitted.posterior["z"].shape == (500, N)
    assert fitted.posterior["z"].dtype == jnp.int32
    check_classes(fitted.posterior)


def test_svi_draws_classes_given_data():
    model = by_svi(mixture, ["z"]).fit_on_batch(X, Y, num_steps=500, progress=False)
    check_classes(model.posterior)
    assert set(model.sample(X=X, y=Y, num_samples=2, return_sites="z", return_datatree=False)) == {"z"}
    with pytest.warns(UserWarning, match="`z` are left out"):
        assert set(model.sample(num_samples=2, return_datatree=False)) == {"mu"}


def test_minibatches_give_posterior_of_all_rows():
    """Mean and sd of two means equal a sum over a grid; the last batch is shorter."""
    y = _mixed(600, 1)
    model = by_svi(mixture, ["z"], AutoMultivariateNormal, step=lambda i: 0.05 / (1 + i / 100))
    model.fit(np.zeros(600), y, batch_size=250, epochs=800, progress=False)
    axes = [np.linspace(c - 0.6, c + 0.6, 81) for c in np.asarray(model.posterior["mu"]).mean(0)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    densities = [logsumexp(joint(part, y), axis=-1).sum(1) for part in np.array_split(grid, 20)]
    log_p = norm.logpdf(grid, LOC, SD).sum(1) + np.concatenate(densities)
    p = np.exp(log_p - logsumexp(log_p))
    mean = p @ grid
    sd = np.sqrt(p @ (grid - mean) ** 2)
    found = np.asarray(model.posterior["mu"])
    assert model.posterior["z"].shape == (1000, 600)
    # 1,000 draws estimate a mean to 0.03 sd and an sd to 2 per cent; the rest is noise of the steps.
    np.testing.assert_array_less(abs(found.mean(0) - mean) / sd, 0.25)
    np.testing.assert_allclose(found.std(0) / sd, 1, atol=0.15)


def test_local_classes_are_omitted_if_rows_cannot_be_read_again():
    model = by_svi(mixture, ["z"])
    batches = ({"X": X[i : i + 20], "y": Y[i : i + 20]} for i in range(0, N, 20))
    with pytest.warns(UserWarning, match="`z` have no posterior draws"):
        model.fit(batches, total_size=N, progress=False)
    assert set(model.posterior) == {"mu"}
    with pytest.warns(UserWarning, match="`z`, which are not in the posterior"):
        model.predict_on_batch(X)
    found = model.log_likelihood(X, Y, store="memory", progress=False)["log_likelihood"]["y"][0]
    np.testing.assert_allclose(found, logsumexp(joint(model.posterior["mu"], Y), axis=-1), rtol=1e-4, atol=1e-4)


def test_change_point_equals_closed_form():
    """With the level integrated out, y given the change point is normal, with 20 possible change points."""
    n, time = 20, np.arange(20.0, dtype=np.float32)
    y = (np.random.default_rng(3).normal(0.3, 1, n) + 1.2 * (time >= 12)).astype(np.float32)

    def change(X, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1))
        when = numpyro.sample("when", dist.DiscreteUniform(0, n - 1), infer=dict(SUMMED))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(level + 1.2 * (when <= X), 1), obs=y)

    model = by_mcmc(change, num_samples=1500).fit_on_batch(time, y, progress=False)
    residuals = y - 1.2 * (np.arange(n)[:, None] <= time)
    # precision of y given `when`: (I + 11')^-1 = I - 11' / (n + 1)
    log_p = -0.5 * ((residuals**2).sum(1) - residuals.sum(1) ** 2 / (n + 1))
    p = np.exp(log_p - logsumexp(log_p))
    when = np.asarray(model.posterior["when"])
    assert when.shape == (1500,)
    share = np.bincount(when, minlength=n) / len(when)
    # Draws of a chain are correlated: half the effective sample size is assumed.
    assert (abs(share - p) <= 4 * np.sqrt(2 * p * (1 - p) / len(when)) + 1e-3).all()
    # Predictions at new times are made from this posterior.
    later = model.predict_on_batch(np.array([11.0, 12.0]), in_sample=False, return_datatree=False)["y"]
    level = p @ (residuals.sum(1) / (n + 1))
    expected = level + 1.2 * np.array([p[:12].sum(), p[:13].sum()])
    assert (abs(later.mean(0) - expected) < 4 * 1.2 * np.sqrt(2 / 1500)).all()


def test_kernel_with_only_discrete_latents():
    """All latents of the kernel are discrete; groups are an axis of the output."""
    y = (np.random.default_rng(4).normal(size=(8, 3)) + 0.5 * np.array([0, 1, 1])).astype(np.float32)

    @config_enumerate
    def grouped(X, y=None):
        groups = numpyro.plate("groups", 3, dim=-1)
        with groups:
            high = numpyro.sample("high", dist.Bernoulli(0.3))
        with numpyro.plate("rows", X.shape[0], dim=-2), groups:
            numpyro.sample("y", dist.Normal(0.5 * high, 1), obs=y)

    model = by_mcmc(grouped, num_warmup=1, num_samples=2000).fit_on_batch(np.zeros(8), y, progress=False)
    odds = 0.3 / 0.7 * np.exp((norm.logpdf(y, 0.5) - norm.logpdf(y)).sum(0))
    p = odds / (1 + odds)
    assert model.posterior["high"].shape == (2000, 3)
    found = np.asarray(model.posterior["high"]).mean(0)
    np.testing.assert_array_less(abs(found - p), 4 * np.sqrt(p * (1 - p) / 2000))


@pytest.mark.parametrize("sampler", [lambda k: DiscreteHMCGibbs(NUTS(k)), lambda k: MixedHMC(HMC(k))])
def test_discrete_samplers_keep_their_draws(sampler):
    def unmarked(X, y=None):
        mu = numpyro.sample("mu", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(mu + z, 1), obs=y)

    model = by_mcmc(unmarked, sampler, num_warmup=5, num_samples=5).fit_on_batch(X[:8], Y[:8], progress=False)
    for name, draws in model.inference.get_samples().items():
        np.testing.assert_array_equal(model.posterior[name], draws)
    assert set(model.posterior) == {"mu", "z"}


# ------------------------------------------------------------------------------------------------ predictions


def test_classes_are_kept_for_fitted_rows_and_resampled_for_others(fitted):
    kept = fitted.predict_on_batch(X, return_sites="z", return_datatree=False)["z"]
    np.testing.assert_array_equal(kept, fitted.posterior["z"])
    resampled = np.asarray(fitted.predict_on_batch(X, in_sample=False, return_sites="z", return_datatree=False)["z"])
    assert abs(resampled.mean() - WEIGHTS[1]) < 4 * np.sqrt(WEIGHTS.prod() / resampled.size)
    blocks = fitted.predict(np.zeros(5000), in_sample=False, store="memory", progress=False)["predictions"]["y"]
    expected = fitted.posterior["mu"] @ WEIGHTS
    sd = np.sqrt(1 + WEIGHTS.prod() * float(np.ptp(fitted.posterior["mu"], axis=1).max()) ** 2)
    assert (abs(blocks.mean("obs")[0].values - expected) < 5 * sd / np.sqrt(5000)).all()


def test_intervention_on_class(fitted):
    for z in (0, 1):
        y = fitted.predict_on_batch(X, intervention={"z": z}, return_datatree=False)["y"]
        assert abs(y.mean() - fitted.posterior["mu"][:, z].mean()) < 4 / np.sqrt(y.size)
    effect = fitted.estimate_effect(
        args_baseline={"X": X, "intervention": {"z": 0}}, args_intervention={"X": X, "intervention": {"z": 1}}
    )
    mu = fitted.posterior["mu"]
    difference = np.broadcast_to((mu[:, 1] - mu[:, 0])[:, None], (500, N))
    np.testing.assert_allclose(effect["posterior_predictive"]["y"][0], difference, atol=1e-5)


def test_effect_through_discrete_mediator():
    def mediated(X, y=None):
        slope = numpyro.sample("slope", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(logits=slope * X), infer=dict(SUMMED))
            numpyro.sample("y", dist.Normal(3.0 * z, 1), obs=y)

    x = np.linspace(-1, 1, 5)
    model = given(mediated, {"slope": np.full(4000, 1.5), "z": np.ones((4000, 5), np.int32)})
    effect = model.estimate_effect(args_baseline={"X": x}, args_intervention={"X": x, "intervention": {"X": x + 1}})
    p, q = (1 / (1 + np.exp(-1.5 * at)) for at in (x, x + 1))
    found = effect["posterior_predictive"]["y"][0]
    # Both scenarios share their noise, so that a class can only rise: 3 times a Bernoulli of q - p.
    error = 3 * np.sqrt((q - p) * (1 - q + p) / 4000)
    np.testing.assert_array_less(abs(found.mean("draw") - 3 * (q - p)), 4 * error)
    assert set(np.unique(found.values.round(4))) == {0.0, 3.0}


# ---------------------------------------------------------------------------------------------------- densities


def test_log_likelihood_conditions_on_or_sums_over_classes(fitted):
    tree = fitted.log_likelihood(X, Y, store="memory", progress=False)
    witness = log_likelihood(mixture, fitted.posterior, X=X, y=Y)["y"]
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0], witness, rtol=1e-5, atol=1e-5)
    # For other rows the density is summed over their classes, also in blocks.
    other = np.tile(Y[::-1], 40)
    tree = fitted.log_likelihood(np.ones(len(other)), other, store="memory", progress=False)
    expected = logsumexp(joint(fitted.posterior["mu"], Y[::-1]), axis=-1)
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0], np.tile(expected, 40), rtol=1e-4, atol=1e-4)


def test_loo_sums_over_classes(fitted):
    """Conditioning on the class would use information about the observation that is left out."""
    summed = given(mixture, {"mu": fitted.posterior["mu"]}).log_likelihood(X, Y, store="memory", progress=False)
    np.testing.assert_allclose(
        fitted.loo(X, Y, progress=False).elpd, arviz_stats.loo(summed, reff=_reff(fitted)).elpd, rtol=1e-4
    )


def _reff(model) -> float:
    from aimz.output import relative_ess

    return relative_ess(model._auxiliary_groups()["posterior"])


def test_two_classes_per_row_are_summed_jointly():
    table = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])

    def two(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.3), infer=dict(SUMMED))
            w = numpyro.sample("w", dist.Categorical(jnp.asarray(table)[z]), infer=dict(SUMMED))
            numpyro.sample("y", dist.Normal(b + z + w, 1), obs=y)

    b = np.array([0.0, 1.0])
    found = given(two, {"b": b}).log_likelihood(X, Y, store="memory", progress=False)["log_likelihood"]["y"][0]
    terms = [
        np.log((0.7, 0.3)[z] * table[z, w]) + norm.logpdf(Y, b[:, None] + z + w) for z in range(2) for w in range(3)
    ]
    np.testing.assert_allclose(found, logsumexp(terms, axis=0), rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- errors


def latent(distribution, plates=(), mark=SUMMED):
    """Return a kernel with a discrete latent ``m`` of this distribution, and observed data."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate_stack("p", plates) if plates else numpyro.handlers.block(hide=[]):
            m = numpyro.sample("m", distribution, infer=dict(mark))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b + jnp.sum(m), 1), obs=y)

    return kernel


def in_scan(X, y=None):
    stay = numpyro.sample("stay", dist.Beta(8, 2))
    table = stay * jnp.eye(2) + (1 - stay) * (1 - jnp.eye(2))

    def step(z, y_now):
        z = numpyro.sample("z", dist.Categorical(table[z]), infer=dict(SUMMED))
        numpyro.sample("y", dist.Normal(jnp.array([-1.0, 1.0])[z], 1), obs=y_now)
        return z, None

    scan(step, 0, y, length=X.shape[0])


def assert_raises_before_fit(model, error, match, method="fit_on_batch", **kwargs):
    with pytest.raises(error, match=match):
        getattr(model, method)(X, Y, **kwargs)
    assert not model.is_fitted()
    assert model.vi_state is None


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (latent(dist.Poisson(2.0), mark={}), "`m` is Poisson, whose values cannot be listed.*Write the marginal"),
        (latent(dist.DiscreteUniform(3, 7)), r"do not start at 0.*`DiscreteUniform\(0, n\)`"),
        (latent(dist.Bernoulli(jnp.full(3, 0.5)).to_event(1)), "`m` is a vector.*in a plate of its own"),
        (latent(dist.Bernoulli(0.5), plates=(3,)), "`m` is in the plate `p_0`, and `y`.*`DiscreteHMCGibbs"),
    ],
    ids=["Poisson", "offset", "vector", "plate"],
)
def test_invalid_enumeration_raises(kernel, match):
    assert_raises_before_fit(by_mcmc(kernel), KernelValidationError, match, progress=False)
    assert_raises_before_fit(by_svi(kernel, ["m"]), KernelValidationError, match, progress=False)


def test_discrete_sampler_checks_values():
    kernel = latent(dist.DiscreteUniform(3, 7), mark={})
    assert_raises_before_fit(
        by_mcmc(kernel, lambda k: DiscreteHMCGibbs(NUTS(k))), KernelValidationError, "do not start at 0"
    )


def unmarked(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(numpyro.param("a", 0.0) + z, 1), obs=y)


def drawing(X, y=None):
    numpyro.sample("mu", dist.Normal(numpyro.param("loc", jnp.zeros(2)), 1).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("z", dist.Categorical(jnp.asarray(WEIGHTS)))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: by_svi(mixture, ["z"], loss=Trace_ELBO()), "`Trace_ELBO` does not sum.*Choose `TraceEnum_ELBO"),
        (lambda: by_svi(mixture, ["z"], loss=TraceGraph_ELBO()), "`TraceGraph_ELBO` does not sum"),
        (lambda: by_svi(mixture, []), r"got the discrete site `z`.*block\(kernel, hide=\['z'\]\)"),
        (lambda: by_svi(unmarked, ["z"]), "not marked for enumeration.*config_enumerate"),
        (lambda: by_svi(mixture, [], lambda _: drawing, Trace_ELBO()), "has no gradient. Choose `TraceGraph_ELBO"),
        (lambda: by_svi(mixture, ["z"], AutoLaplaceApproximation), "evaluates its own model.*Choose `AutoNormal`"),
        (
            lambda: by_svi(mixture, ["z"], AutoDiagonalNormal),
            "`AutoDiagonalNormal` does not support.*Choose `AutoNormal`",
        ),
    ],
    ids=["Trace", "TraceGraph", "not hidden", "unmarked", "drawn", "Laplace", "diagonal"],
)
def test_unsuitable_elbo_or_guide_raises(model, match):
    assert_raises_before_fit(model(), ValueError, match)


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_every_method_raises(method):
    assert_raises_before_fit(by_svi(mixture, ["z"], loss=Trace_ELBO()), ValueError, "`Trace_ELBO` does not sum", method)


def test_minibatches_with_global_class_raise():
    model = by_svi(latent(dist.Bernoulli(0.5)), ["m"])
    assert_raises_before_fit(model, ValueError, "`m` has no row axis.*`fit_on_batch`", "fit", batch_size=20)
    assert_raises_before_fit(
        model, ValueError, "`m` has no row axis.*`fit_on_batch`", "train_on_batch", total_size=2 * N
    )
    model.train_on_batch(X, Y)  # all rows
    assert len(model.vi_result.losses) == 1


@pytest.mark.parametrize("model", [lambda: by_mcmc(mixture), lambda: by_svi(mixture, ["z"])], ids=["MCMC", "SVI"])
def test_missing_funsor_raises(model, monkeypatch):
    made = model()
    monkeypatch.setitem(sys.modules, "funsor", None)
    assert_raises_before_fit(made, ImportError, "`z` must be summed over.*pip install funsor")


def test_log_likelihood_without_class_draws_raises():
    poisson = given(latent(dist.Poisson(2.0), mark={}), {"b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"would be random.*`m`.*cannot be enumerated.*MixtureSameFamily"):
        poisson.log_likelihood(X, Y)
    common = given(latent(dist.Bernoulli(0.5)), {"b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"would be random.*its shape"):
        common.log_likelihood(X, Y)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # NumPyro's, in its sum over time
def test_states_in_scan_are_enumerated_and_omitted():
    model = by_mcmc(in_scan, num_warmup=5, num_samples=5)
    with pytest.warns(UserWarning, match="`z` have no posterior draws.*inside a `scan`"):
        model.fit_on_batch(X[:4], Y[:4], progress=False)
    assert set(model.posterior) == {"stay"}
    with pytest.raises(ValueError, match=r"would be random.*inside a `scan`"):
        model.log_likelihood(X[:4], Y[:4])


# ------------------------------------------------------------------------------------------------- the structure


def test_spec_of_discrete_site(fitted):
    spec = fitted.kernel_spec
    assert spec.discrete_latents == ("z",)
    assert (spec["z"].is_discrete, spec["z"].n_values, spec["z"].row_axes) == (True, 2, (0,))
    assert not spec["mu"].is_discrete
    assert not jax.config.jax_enable_x64

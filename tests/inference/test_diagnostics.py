"""Numbers of `diagnose` against their references, and the verdicts."""

import sys
import warnings
from types import SimpleNamespace

import arviz_stats
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from flax import linen
from jax import random
from numpyro.contrib.module import flax_module
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal
from numpyro.infer.util import log_density
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import aimz.inference.diagnostics
from aimz import ImpactModel
from aimz.errors import NotFittedError
from aimz.inference import draw_guide
from aimz.inference.diagnostics import _trend
from aimz.inference.outcome import judge_chains
from kernels import BY_NAME, fitted_model, new_model
from slow_cases import slow_except

N_OBS = 60
X = np.asarray(random.normal(random.key(1), (N_OBS, 2)), np.float32)
Y = X @ np.array([1.0, -1.0], np.float32) + np.asarray(random.normal(random.key(2), (N_OBS,)))
CORRELATED = X.copy()
CORRELATED[:, 1] = X[:, 0] + 0.3 * X[:, 1]  # so that the two coefficients are correlated by -0.96


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b), obs=y)


@pytest.mark.parametrize(
    ("failed", "num_chains", "words"),
    [
        ("R-hat", 2, r"the chains do not agree on the posterior of `b` \(40 draws in 2 chains, R-hat 1\.200"),
        ("bulk ESS", 1, r"there are too few effective draws of `b` \(40 draws in one chain, without R-hat"),
        ("divergences", 2, r"left out a part of the posterior, as divergences show \(40 draws"),
    ],
)
def test_a_fit_warns_with_the_check_that_failed(failed, num_chains, words):
    posterior = aimz.data.Posterior({"b": jnp.zeros(40)}, num_chains)
    table = pd.DataFrame(
        {"value": [1.2, 30.0, 30.0, 3.0], "site": ["b", "b", "b", ""], "verdict": "ok"},
        index=["R-hat", "bulk ESS", "tail ESS", "divergences"],
    )
    table.loc[failed, "verdict"] = "bad: run longer"
    with pytest.warns(aimz.FitWarning, match=words):
        assert not judge_chains(posterior, table).settled


def by_svi(guide=AutoNormal, function=kernel, rate=0.02, **options):
    guide = guide(function) if isinstance(guide, type) else guide
    return ImpactModel(function, random.key(0), SVI(function, guide, numpyro.optim.Adam(rate), Trace_ELBO(), **options))


def by_mcmc(function=kernel, **options):
    options = {"num_warmup": 300, "num_samples": 400, "num_chains": 2, "chain_method": "vectorized", **options}
    return ImpactModel(function, random.key(0), MCMC(NUTS(function), progress_bar=False, **options))


@pytest.fixture(scope="module")
def settled():
    """A converged mean-field fit."""
    return by_svi().fit_on_batch(X, Y, num_steps=3000, progress=False)


def test_chain_statistics_equal_arviz():
    model = by_mcmc(num_samples=2000)  # R-hat of 400 draws exceeds 1.01 on some processors
    model = ImpactModel(kernel, random.key(0), model.inference, dims={"b": ["col"]}, coords={"col": ["age", "income"]})
    model.fit_on_batch(X, Y, progress=False)
    table = model.diagnose()
    posterior = model.predict_on_batch(X)["posterior"].dataset
    found = {
        "R-hat": arviz_stats.rhat(posterior)["b"],
        "bulk ESS": arviz_stats.ess(posterior, method="bulk")["b"],
        "tail ESS": arviz_stats.ess(posterior, method="tail", prob=(0.05, 0.95))["b"],
    }
    for check, values in found.items():
        worst = np.argmax(values.data) if check == "R-hat" else np.argmin(values.data)
        assert table.loc[check, "value"] == float(values[worst])
        assert table.loc[check, "site"] == f"b[{['age', 'income'][int(worst)]}]"
    assert table.columns.tolist() == ["value", "threshold", "site", "verdict"]
    assert table["verdict"].to_dict() == dict.fromkeys([*found, "divergences"], "ok")
    assert table["threshold"].tolist() == ["< 1.01", ">= 200", ">= 200", "0"]
    assert table.loc["divergences", "value"] == 0


def test_divergences():
    def funnel(X, y=None):
        width = numpyro.sample("width", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(0, jnp.exp(width / 2)).expand([9]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(0, 1), obs=y)

    sampler = NUTS(funnel, step_size=1.0, adapt_step_size=False)
    mcmc = MCMC(sampler, num_warmup=100, num_samples=200, num_chains=2, chain_method="vectorized", progress_bar=False)
    model = ImpactModel(funnel, random.key(0), mcmc).fit_on_batch(X, Y, progress=False)
    line = model.diagnose().loc["divergences"]
    expected = int(model.inference.get_extra_fields()["diverging"].sum())
    assert line["value"] == expected > 0
    assert line["verdict"] == "bad: reparametrise the kernel"


def diagnose_draws(**sites):
    """Return verdicts and table for draws of shape ``(n_chains, n_draws, ...)`` that are set."""
    samples = {name: np.asarray(v, np.float32).reshape(-1, *np.shape(v)[2:]) for name, v in sites.items()}
    model = by_mcmc().set_posterior_sample(samples, num_chains=len(next(iter(sites.values()))))
    table = model.diagnose()
    assert "..." not in str(table)
    return table["verdict"], table


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_chains_that_differ_are_bad():
    apart = noise(2, 500) + np.array([[0.0], [3.0]])
    verdict, table = diagnose_draws(a=noise(2, 500), b=apart)
    assert verdict["R-hat"] == "bad: chains differ; run longer"
    assert verdict["bulk ESS"] == "bad: too few; run longer"
    assert table["site"].tolist() == ["b", "b", table.loc["tail ESS", "site"], ""]
    assert table.loc["R-hat", "value"] == float(arviz_stats.rhat(apart.astype(np.float32)))
    assert verdict["divergences"] == "not checked: not recorded"
    assert np.isnan(table.loc["divergences", "value"])


def test_rhat_needs_two_chains():
    verdict, table = diagnose_draws(a=noise(1, 500))
    assert verdict["R-hat"] == "not checked: one chain, run 4"
    assert verdict["bulk ESS"] == verdict["tail ESS"] == "ok"
    assert table.loc["bulk ESS", "threshold"] == ">= 100"


def test_constant_values_are_excluded():
    factor = np.zeros((2, 500, 2, 2))
    factor[..., 0, 0] = 1  # as in a Cholesky factor
    factor[..., 1, :] = noise(2, 500, 2)
    verdict, _ = diagnose_draws(factor=factor)
    assert verdict["R-hat"] == verdict["tail ESS"] == "ok"
    verdict, table = diagnose_draws(a=noise(2, 500), c=np.ones((2, 500)))
    assert set(verdict.drop("divergences")) == {"ok, but `c` never moves"}
    assert table.loc["R-hat", "site"] == "a"
    verdict, table = diagnose_draws(c=np.ones((2, 500)))
    assert set(verdict.drop("divergences")) == {"bad: the sampler never moves"}
    assert table["value"].isna().all()
    verdict, _ = diagnose_draws(c=np.ones((2, 500)) * np.array([[0.0], [1.0]]))  # each chain is stuck at another value
    assert verdict["R-hat"].startswith("bad")


def test_integer_and_bool_draws():
    coin = np.random.default_rng(0).integers(0, 2, (2, 500))
    verdict, table = diagnose_draws(coin=coin)
    assert verdict["R-hat"] == verdict["bulk ESS"] == "ok"
    model = by_mcmc().set_posterior_sample({"coin": coin.ravel() > 0}, num_chains=2)
    assert model.diagnose().loc["R-hat", "value"] == pytest.approx(table.loc["R-hat", "value"])


def test_draws_that_cannot_be_checked():
    for bad in (np.nan, np.inf):
        draws = noise(2, 500)
        draws[1, 7] = bad
        verdict, table = diagnose_draws(a=noise(2, 500), b=draws)
        assert set(verdict.drop("divergences")) == {"bad: draws are not finite"}
        assert table.loc["R-hat", "site"] == "b"
    verdict, _ = diagnose_draws(a=noise(2, 3))
    assert set(verdict.drop("divergences")) == {"not checked: fewer than 4 draws"}


def test_large_sites_are_subsampled(monkeypatch):
    monkeypatch.setattr(aimz.inference.diagnostics, "_MAX_VALUES", 3)
    many = noise(2, 200, 9)
    verdict, table = diagnose_draws(a=many)
    assert verdict["R-hat"] == "ok, of 3 values a site"
    looked = arviz_stats.rhat(many[:, :, [0, 4, 8]].astype(np.float32))
    assert table.loc["R-hat", "value"] == looked.max()
    assert table.loc["R-hat", "site"] == f"a[{[0, 4, 8][int(looked.argmax())]}]"


# ---------------------------------------------------------------------------------------------- variational


def test_converged_fit_is_ok(settled):
    table = settled.diagnose()
    assert table["verdict"].to_dict() == {
        "ELBO trend": "ok",
        "Pareto k": "ok",
        "effective share": "ok",
        "sd ratio": "ok",
    }
    losses = np.asarray(settled.vi_result.losses)
    assert table.loc["ELBO trend", "value"] == pytest.approx(losses[2400:2700].mean() - losses[2700:].mean(), abs=1e-9)
    assert table.loc["Pareto k", "threshold"] == "< 0.87"
    text = str(table)
    assert "..." not in text
    assert max(map(len, text.splitlines())) <= 80


def test_fit_stopped_early_is_bad():
    table = by_svi(rate=0.002).fit_on_batch(X, Y, num_steps=500, progress=False).diagnose()
    assert table.loc["ELBO trend", "verdict"] == "bad: still rising; take more steps"
    assert table.loc["Pareto k", "verdict"] == "bad: the fit has to settle first"
    assert "..." not in str(table)


def test_elbo_trend():
    steps, white = np.arange(1000), noise(1000, seed=1)

    def verdict(losses):
        line = _trend(np.asarray(losses, float))
        assert line.verdict.startswith("not checked") == (line.verdict != "ok" and not line.verdict.startswith("bad"))
        return line.verdict

    assert verdict(white) == "ok"
    assert verdict(np.zeros(1000)) == "ok"
    assert verdict(white - 0.02 * steps) == "bad: still rising; take more steps"  # 2 nats; the error is 0.1
    assert verdict(white + 0.02 * steps) == "bad: falling; lower the learning rate"
    # Without noise any trend would be significant; trends below a tenth of a nat are ignored.
    assert verdict(-0.0009 * steps) == "ok"
    assert verdict(-0.0011 * steps) == "bad: still rising; take more steps"
    # Noise of 1,000 nats could hide a trend of 100, so that convergence is not confirmed ...
    assert verdict(1000 * white) == "not checked: noisy; take more steps"
    # ... unless it is small compared with the progress so far.
    assert verdict(100 * white + 1e4 * (steps < 300)) == "ok"
    assert verdict(np.where(steps == 900, np.nan, white)) == "bad: not finite; lower learning rate"
    assert verdict([*white, np.inf]) == "bad: not finite; lower learning rate"
    assert verdict(np.where(steps == 500, np.nan, white)) == "ok"  # it has recovered since
    assert verdict(white[:99]) == verdict([]) == "not checked: fewer than 100 steps"
    assert verdict([np.nan]) == "bad: not finite; lower learning rate"
    assert all(verdict(0.2 * noise(100 + i, seed=i)).startswith(("ok", "bad")) for i in range(40))
    # Losses near a million have a spacing of 0.06, which is not a trend.
    assert verdict(np.float32(4e6) + np.where(steps < 900, 0.25, 0)) == "ok"


def test_converged_fits_are_rarely_bad():
    """Noise alone exceeds two standard errors in 4.6 per cent of fits."""
    # Large steps first, so that the noise is small compared with the progress.
    lines = [_trend(10 * noise(1000, seed=seed) + 1e4 * (np.arange(1000) < 100)) for seed in range(200)]
    assert 0 < sum(line.verdict.startswith("bad") for line in lines) <= 20  # more have a probability of 0.1 per cent
    assert all(abs(line.value) < 2 * float(line.threshold[2:]) for line in lines)


def test_pareto_k_of_adequate_and_inadequate_guides():
    """The posterior is normal with a correlation of -0.96, which only one of the guides can represent."""
    exact = by_svi(AutoMultivariateNormal, rate=0.03).fit_on_batch(CORRELATED, Y, num_steps=4000, progress=False)
    lines = exact.diagnose(rng_key=random.key(5))
    assert lines.loc["Pareto k", "value"] < 0.5
    assert lines.loc["Pareto k", "verdict"] == "ok"
    mean_field = by_svi(rate=0.03).fit_on_batch(CORRELATED, Y, num_steps=4000, progress=False)
    lines = mean_field.diagnose(rng_key=random.key(5))
    assert lines.loc["ELBO trend", "verdict"] == "ok"
    assert lines.loc["Pareto k", "value"] > 0.8
    assert lines.loc["Pareto k", "verdict"] == "bad: try a richer guide, or MCMC"


@pytest.mark.parametrize(("width", "k"), [(0.45, 0.7), (0.77, 0.4), (1.5, None)])
def test_pareto_k_equals_theory(width, k):
    """A normal guide ``s`` times as wide as the posterior has weights whose tail has the shape ``1 - s^2``.

    Of 16,000 draws that shape is seen to 0.1.
    """

    def guide(X, y=None):
        numpyro.sample("a", dist.Normal(numpyro.param("a_at", 0.0), width * (1 + N_OBS) ** -0.5))

    model = by_svi(guide, mean_kernel)
    y = Y - Y.mean()
    model.vi_result = SimpleNamespace(params={"a_at": jnp.zeros(())}, losses=[])
    line = model.diagnose(X, y).loc["Pareto k"]
    if k is None:
        assert line["value"] < 0.1  # bounded weights
    else:
        assert line["value"] == pytest.approx(k, abs=0.3)


def mean_kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a), obs=y)


def test_log_ratios_equal_manual_computation():
    """With a kernel parameter, a positive latent, a static argument and a static argument of SVI."""

    def power(X, degree, scale=1.0, *, y=None):
        s = numpyro.sample("s", dist.HalfNormal(2))
        b = numpyro.sample("b", dist.Normal(0, numpyro.param("wide", 1.5)))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X[:, 0] ** degree, scale * s), obs=y)

    def guide(X, degree, scale=1.0, *, y=None):
        at, spread = numpyro.param("at", 0.0), numpyro.param("spread", 0.2, constraint=dist.constraints.positive)
        numpyro.sample("b", dist.Laplace(at, 0.5 * spread))
        numpyro.sample("s", dist.LogNormal(numpyro.param("s_at", 0.1), 0.1))

    model = by_svi(guide, power, scale=0.7).fit_on_batch(X, Y, degree=1, num_steps=100, progress=False)
    key = random.key(9)
    got = model.diagnose(rng_key=key).loc["Pareto k", "value"]
    params = model.vi_result.params
    given = {"X": jnp.asarray(X), "y": jnp.asarray(Y), "degree": 1, "scale": 0.7}

    def ratio(key):
        _, of_guide = random.split(key)
        tracer = numpyro.handlers.trace(
            numpyro.handlers.seed(numpyro.handlers.substitute(guide, params), of_guide)
        ).get_trace(**given)
        theta = {name: tracer[name]["value"] for name in ("b", "s")}
        return log_density(power, (), given, {**params, **theta})[0] - log_density(guide, (), given, params | theta)[0]

    call = model._observed.call
    by_hand = jax.vmap(ratio)(random.split(key, 100))
    np.testing.assert_allclose(draw_guide(model._fit, call, key, num_draws=100).log_ratios, by_hand, atol=1e-3)
    draws = draw_guide(model._fit, call, key, num_draws=16000)
    assert got == pytest.approx(float(array_stats.psislw(-draws.log_ratios.astype(float))[1]), abs=1e-3)
    assert {name: value.shape for name, value in draws.values.items()} == {"s": (16000, 1), "b": (16000, 1)}


@pytest.mark.parametrize(
    "guide", slow_except([AutoLaplaceApproximation, AutoMultivariateNormal], AutoMultivariateNormal)
)
def test_log_ratios_of_exact_guide_equal_evidence(guide):
    model = by_svi(guide).fit_on_batch(X, Y, num_steps=4000, progress=False)
    ratios = draw_guide(model._fit, model._observed.call, random.key(0), num_draws=1000).log_ratios
    evidence = multivariate_normal(np.zeros(N_OBS), np.eye(N_OBS) + 4 * X @ X.T).logpdf(Y)
    assert logsumexp(ratios) - np.log(1000) == pytest.approx(evidence, abs=0.05)
    if guide is AutoLaplaceApproximation:
        np.testing.assert_allclose(ratios, evidence, atol=0.01)
    line = model.diagnose().loc["Pareto k"]
    assert line["verdict"] == "ok"
    assert line["value"] < 0.5


def test_model_key_is_unchanged(settled):
    key = settled.rng_key
    first, second = settled.diagnose(), settled.diagnose()
    assert settled.rng_key == key
    assert first.equals(second)
    other = settled.diagnose(rng_key=random.key(77))
    assert other.loc["Pareto k", "value"] != first.loc["Pareto k", "value"]
    assert other.loc["ELBO trend"].equals(first.loc["ELBO trend"])


def pareto(model, *data):
    return model.diagnose(*data, rng_key=random.key(3)).loc["Pareto k", "verdict"]


def test_fit_data_are_stored_or_required(settled):
    assert pareto(settled) == "ok"
    assert settled.diagnose().equals(settled.diagnose(X.astype(np.float64), Y))
    again = cloudpickle.loads(cloudpickle.dumps(settled))
    assert again._observed.call is None
    assert pareto(again) == "not checked: pass X and y of the fit"
    assert pareto(again, X, Y) == "ok"
    again.train_on_batch(X, Y)
    assert settled._observed.call is not None


def test_other_changes_of_parameters_release_fit_data():
    model = by_svi().fit_on_batch(X, Y, num_steps=10, progress=False)
    assert model._observed.call is not None
    model.train_on_batch(X[:30], Y[:30], total_size=N_OBS)
    assert pareto(model) == "not checked: pass X and y of the fit"
    model.fit_on_batch(X, Y, num_steps=10, progress=False)
    model.vi_result = model.vi_result
    assert pareto(model) == "not checked: pass X and y of the fit"
    assert not model._observed.changed(model._engine.read_call(X, {}))


def test_other_data_raise():
    x, y = X.copy(), Y.copy()
    model = by_svi().fit_on_batch(x, y, num_steps=10, progress=False)
    for data in ((X + 1, Y), (X, Y + 1), (X[:50], Y[:50])):
        with pytest.raises(ValueError, match=r"differs from the fit.*Call `diagnose\(\)`"):
            model.diagnose(*data)
    x += 1
    assert pareto(model) == "not checked: `X` was changed in place"
    local = fitted_model(BY_NAME["local_latents"])
    case = BY_NAME["local_latents"]
    svi = SVI(case.kernel, AutoNormal(case.kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    local = ImpactModel(case.kernel, random.key(0), svi)
    local.fit_on_batch(case.X, case.y, num_steps=10, num_samples=5, progress=False)
    assert local.diagnose().loc["Pareto k", "value"] > -1
    local = cloudpickle.loads(cloudpickle.dumps(local))
    with pytest.raises(ValueError, match="which have 12 rows, as the local latents"):
        local.diagnose(case.X[:5], case.y[:5])


def test_after_fit_in_minibatches(tmp_path):
    key = random.key(3)
    model = by_svi(rate=0.01).fit(X, Y, batch_size=20, epochs=1000, progress=False)
    assert model.diagnose(rng_key=key)["verdict"].tolist() == ["ok", "ok", "ok", "ok"]
    assert model.diagnose(rng_key=key).equals(model.diagnose(X, Y, rng_key=key))
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model.fit(mapped, Y, batch_size=20, epochs=2, progress=False)
    assert pareto(model) == "not checked: pass X and y of the fit"
    assert pareto(model, X, Y) == "ok"
    model.fit([(X[:30], Y[:30]), (X[30:], Y[30:])], epochs=2, progress=False)
    assert pareto(model) == "not checked: pass X and y of the fit"


def test_custom_training_loop():
    model = by_svi()
    for _ in range(3):
        model.train_on_batch(X, Y)
    verdicts = model.diagnose(X, Y)["verdict"]
    assert verdicts["ELBO trend"] == "not checked: fewer than 100 steps"
    assert verdicts["Pareto k"] == "bad: the fit has to settle first"
    assert not model.is_fitted()


# ----------------------------------------------------------------------------------------- not checked


def batch_normal(X, y=None):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.BatchNorm(use_running_average=False)(x))[..., 0]

    net = flax_module("nn", Net(), input_shape=(1, 2), mutable=["batch_stats"])
    s = numpyro.sample("s", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(net(X), s), obs=y)


def dropout(X, y=None):
    kept = random.bernoulli(numpyro.prng_key(), 0.8, X.shape)
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal((X * kept) @ b), obs=y)


def subsampled(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("obs", X.shape[0], subsample_size=20) as rows:
        numpyro.sample("y", dist.Normal(a), obs=None if y is None else y[rows])


def likelihood_only(X, y=None):
    a = numpyro.param("a", 0.0)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a), obs=y)


def _half_guide(X, y=None):
    numpyro.sample("b", dist.Normal(numpyro.param("b_at", 0.0), 1))


def two(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + b), obs=y)


def _point_guide(X, y=None):
    numpyro.sample("a", dist.Normal(numpyro.param("a_at", 0.0), 1))
    numpyro.sample("b", dist.Delta(numpyro.param("b_at", 0.0)))


@pytest.mark.parametrize(
    ("function", "guide", "why"),
    [
        (batch_normal, AutoNormal, "mutable state"),
        (dropout, AutoNormal, "the kernel adds noise"),
        (subsampled, AutoNormal, "plate `obs` subsamples"),
        (likelihood_only, lambda X, y=None: None, "the kernel has no latents"),
        (two, _half_guide, "guide has no `a`"),
        (two, _point_guide, "guide is a point at `b`"),
        (kernel, AutoDelta, "guide is a point at `b`"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_undefined_ratios_are_not_checked(function, guide, why):
    model = by_svi(guide, function)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found vars in model but not guide")
        model.fit_on_batch(X, Y, num_steps=4, num_samples=2, progress=False)
    state = jax.tree.map(np.asarray, model.vi_state.mutable_state)
    table = model.diagnose()
    assert table.loc["Pareto k", "verdict"] == f"not checked: {why}"
    assert np.isnan(table.loc["Pareto k", "value"])
    assert "..." not in str(table)
    jax.tree.map(np.testing.assert_array_equal, state, model.vi_state.mutable_state)


def test_missing_parameters_are_named():
    case = BY_NAME["param_site"]
    verdict = fitted_model(case).diagnose(case.X, case.y)["verdict"]["Pareto k"]
    assert verdict == "not checked: `vi_result` has no `b_auto_loc`"


def test_densities_not_finite(settled):
    model = by_svi()
    params = {**settled.vi_result.params, "b_auto_scale": jnp.full(2, np.inf)}
    model.vi_result = SimpleNamespace(params=params, losses=None)
    line = model.diagnose(X, Y).loc["Pareto k"]
    assert line["verdict"] == "bad: densities are not finite"


def test_rounding_is_not_taken_for_tail(settled):
    """With log densities near ten million, the spacing of float32 numbers is one nat."""
    model = by_svi()
    model.vi_result = SimpleNamespace(params=settled.vi_result.params, losses=[])
    assert model.diagnose(X, Y + 1e3).loc["Pareto k", "verdict"] == "not checked: too many rows for 32 bits"


def test_not_fitted_raises():
    with pytest.raises(NotFittedError, match=r"Call `fit\(X, y\)`"):
        by_svi().diagnose()
    with pytest.raises(NotFittedError, match="draws that were set are not its result"):
        by_svi().set_posterior_sample({"b": np.zeros((4, 2))}).diagnose()
    with pytest.raises(NotFittedError, match="`diagnose` needs a posterior"):
        by_mcmc().diagnose()


def test_arguments_are_validated(settled):
    key = settled.rng_key
    for model in (settled, by_mcmc().set_posterior_sample({"b": noise(4, 2)})):
        for arguments, error, match in (
            ({"X": X}, TypeError, "`y` must be an array; got None"),
            ({"y": Y}, TypeError, "`X` must be an array; got None"),
            ({"X": X, "y": Y[:4]}, ValueError, "same number of rows"),
            ({"X": X, "y": Y, "exposure": Y}, TypeError, r"Unknown kernel argument\(s\) `exposure`"),
            ({"rng_key": 0.5}, TypeError, "must be one typed JAX key"),
        ):
            with pytest.raises(error, match=match):
                model.diagnose(**arguments)
    assert settled.rng_key == key
    unobserved = new_model(BY_NAME["linear"])
    with pytest.raises(NotFittedError):
        unobserved.diagnose(BY_NAME["linear"].X, BY_NAME["linear"].y)


def test_missing_arviz_raises(settled, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_stats", None)
    with pytest.raises(ImportError, match=r"`diagnose` .* not installed. Call `pip install arviz-base arviz-stats`"):
        settled.diagnose()

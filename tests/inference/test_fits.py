"""Every kind of guide, optimizer and sampler finds a posterior with a closed form."""

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import HMC, MCMC, NUTS, SA, SVI, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from aimz import ImpactModel
from slow_cases import slow_except

N = 200
X = np.asarray(random.normal(random.key(0), (N, 2)))
Y = X @ np.array([1.0, -2.0]) + 0.5 + np.asarray(random.normal(random.key(1), (N,)))

# y ~ N(Z w, 1), w ~ N(0, 2^2): the posterior of w is N(m, S).
Z = np.c_[np.ones(N), X]
S = np.linalg.inv(Z.T @ Z + np.eye(3) / 4)
M = S @ Z.T @ Y
SD = np.sqrt(np.diag(S))


def kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]).to_event(1))
    mu = numpyro.deterministic("mu", a + X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def by_hand(X, y=None):
    """Mean-field guide that reads the data: its parameters start at correlations with the output."""
    start = jnp.zeros(2) if y is None else X.T @ y / X.shape[0]
    numpyro.sample("a", dist.Normal(numpyro.param("a_loc", 0.0), numpyro.param("a_scale", 0.1, constraint=_positive)))
    scale = numpyro.param("b_scale", 0.1 * jnp.ones(2), constraint=_positive)
    numpyro.sample("b", dist.Normal(numpyro.param("b_loc", start), scale).to_event(1))


_positive = dist.constraints.positive


def guide_list(kernel):
    guide = AutoGuideList(kernel)
    guide.append(AutoNormal(numpyro.handlers.block(kernel, hide=["b", "mu"])))
    guide.append(AutoDiagonalNormal(numpyro.handlers.block(kernel, hide=["a", "mu"]), prefix="auto2"))
    return guide


GUIDES = {
    "AutoNormal": lambda: AutoNormal(kernel),
    "AutoDiagonalNormal": lambda: AutoDiagonalNormal(kernel),
    "AutoMultivariateNormal": lambda: AutoMultivariateNormal(kernel),
    "AutoLowRankMultivariateNormal": lambda: AutoLowRankMultivariateNormal(kernel),
    "AutoLaplaceApproximation": lambda: AutoLaplaceApproximation(kernel),
    "AutoDelta": lambda: AutoDelta(kernel),
    "AutoGuideList": lambda: guide_list(kernel),
    "by hand": lambda: by_hand,
}


def schedule(step):
    return 0.05 * 0.99 ** (step / 20)


def weights(model) -> np.ndarray:
    return np.c_[model.posterior["a"], model.posterior["b"]]


@pytest.mark.parametrize("name", slow_except(GUIDES, "AutoNormal", "AutoMultivariateNormal", "by hand"))
def test_guides_find_posterior(name):
    svi = SVI(kernel, GUIDES[name](), numpyro.optim.Adam(schedule), Trace_ELBO(num_particles=4))
    model = ImpactModel(kernel, random.key(3), svi).fit_on_batch(X, Y, num_steps=3000, progress=False)
    drawn = weights(model)
    assert drawn.shape == (1000, 3)
    # The design is nearly orthogonal, so that mean field is nearly exact. Noise of the last steps is well below a fifth
    # of a posterior sd, and noise of 1,000 draws a thirtieth.
    assert (np.abs(drawn.mean(0) - M) < 0.3 * SD).all()
    if name == "AutoDelta":
        assert (drawn == drawn[0]).all()
    else:
        assert (np.abs(drawn.std(0) / SD - 1) < 0.2).all()
    assert set(model.posterior) == {"a", "b"}
    assert len(model.vi_result.losses) == 3000
    data = {"X": X, "y": Y} if name == "by hand" else {}
    again = model.sample(num_samples=7, rng_key=random.key(1), return_datatree=False, **data)
    assert {k: v.shape for k, v in again.items()} == {"a": (7,), "b": (7, 2)}
    predicted = model.predict_on_batch(X)["posterior_predictive"]["mu"].mean(("chain", "draw"))
    np.testing.assert_allclose(predicted, Z @ M, atol=0.3)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.05),
        optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(optax.cosine_decay_schedule(0.05, 1500))),
        numpyro.optim.ClippedAdam(0.05),
    ],
    ids=["optax.adam", "optax.chain", "ClippedAdam"],
)
def test_optimizers_find_posterior(optimizer):
    svi = SVI(kernel, AutoMultivariateNormal(kernel), optimizer, TraceMeanField_ELBO())
    model = ImpactModel(kernel, random.key(3), svi).fit_on_batch(X, Y, num_steps=1500, progress=False)
    assert (np.abs(weights(model).mean(0) - M) < 0.5 * SD).all()


def test_minimize_runs_whole_optimisations():
    svi = SVI(kernel, AutoLaplaceApproximation(kernel), numpyro.optim.Minimize(), Trace_ELBO())
    model = ImpactModel(kernel, random.key(3), svi).fit_on_batch(X, Y, num_steps=2, progress=False)
    drawn = weights(model)
    assert (np.abs(drawn.mean(0) - M) < 4.5 * SD / np.sqrt(1000)).all()
    assert (np.abs(drawn.std(0) / SD - 1) < 0.1).all()


def test_steps_equal_numpyro():
    """The compiled loop runs the steps of `svi.update`, whatever its length."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(kernel, random.key(3), svi).fit_on_batch(X, Y, num_steps=1, num_samples=1, progress=False)
    state = model.vi_state
    model.fit_on_batch(X, Y, num_steps=1030, num_samples=1, progress=False, rng_key=random.key(4))
    # The loop starts from the model's state, with a key split from the key of the call.
    state = state._replace(rng_key=random.split(random.key(4))[0])
    losses = []
    update = jax.jit(svi.update)
    for _ in range(1030):
        state, loss = update(state, X=jnp.asarray(X), y=jnp.asarray(Y))
        losses.append(loss)
    np.testing.assert_allclose(model.vi_result.losses[1:], np.asarray(losses), rtol=1e-4)
    ours, theirs = svi.get_params(model.vi_state), svi.get_params(state)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_fit_continues_from_last_state():
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(3), svi)
    for _ in range(3):
        assert model.fit_on_batch(X, Y, num_steps=200, num_samples=5, progress=False) is model
    assert model.vi_result.losses.shape == (600,)
    assert model.vi_result.losses[400:].mean() < model.vi_result.losses[:100].mean()
    assert model._vi_state is model.vi_state


def test_non_finite_loss_stops_the_run():
    def breaks(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        # The density is not finite beyond 2, where the optimum is.
        numpyro.factor("edge", jnp.where(b < 2, 0.0, jnp.nan))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b), obs=y)

    svi = SVI(breaks, AutoDelta(breaks), numpyro.optim.Adam(0.1), Trace_ELBO())
    model = ImpactModel(breaks, random.key(0), svi)
    with pytest.warns(RuntimeWarning, match="The loss or its gradient was not finite at step"):
        model.fit_on_batch(np.zeros(20), np.full(20, 5.0), num_steps=500, num_samples=3, progress=False)
    losses = model.vi_result.losses
    assert len(losses) < 500
    assert np.isfinite(losses[:-1]).all()
    assert not np.isfinite(losses[-1])
    assert np.isfinite(model.posterior["b"]).all()
    assert (model.posterior["b"] < 2.2).all()


def test_local_guide_raises_for_other_rows():
    def local(X, y=None):
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal())
            numpyro.sample("y", dist.Normal(z), obs=y)

    svi = SVI(local, AutoNormal(local), numpyro.optim.Adam(0.1), Trace_ELBO())
    model = ImpactModel(local, random.key(0), svi)
    model.fit_on_batch(X[:20, 0], Y[:20], num_steps=5, progress=False)
    before = model.vi_state
    with pytest.raises(ValueError, match="values of `z` for 20 observations; got 30"):
        model.fit_on_batch(X[:30, 0], Y[:30], num_steps=5, progress=False)
    assert model.vi_state is before


SAMPLERS = {
    "NUTS": (lambda: NUTS(kernel), 1000, 1),
    "HMC": (lambda: HMC(kernel, trajectory_length=1.0), 2000, 2),
    "SA": (lambda: SA(kernel), 60000, 60),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_find_posterior(name):
    make, num_samples, thinning = SAMPLERS[name]
    mcmc = MCMC(make(), num_warmup=num_samples, num_samples=num_samples, thinning=thinning, progress_bar=False)
    model = ImpactModel(kernel, random.key(3), mcmc).fit_on_batch(X, Y, progress=False)
    drawn = weights(model)
    assert drawn.shape == (1000, 3)
    assert set(model.posterior) == {"a", "b"}  # `mu` would be 200 numbers a draw, and is recomputed
    effective = np.array([float(arviz_stats.ess(drawn[None, :, i])) for i in range(3)])
    assert (effective > 50).all()
    assert (np.abs(drawn.mean(0) - M) < 4.5 * SD / np.sqrt(effective)).all()
    more = model.sample(num_samples=11, X=X, y=Y, return_sites="b", return_datatree=False)
    assert {k: v.shape for k, v in more.items()} == {"b": (11, 2)}
    assert mcmc.num_samples == num_samples
    assert mcmc.post_warmup_state is None


def test_mcmc_runs_again_on_other_data():
    mcmc = MCMC(
        NUTS(kernel), num_warmup=100, num_samples=50, num_chains=2, chain_method="vectorized", progress_bar=False
    )
    model = ImpactModel(kernel, random.key(3), mcmc)
    model.fit_on_batch(X, Y, progress=False).fit_on_batch(X[:50].astype(float), Y[:50].astype(float), progress=False)
    assert model.sample(num_samples=5, X=X[:50], y=Y[:50])["posterior"].sizes == {"chain": 2, "draw": 5, "b_dim_0": 2}
    model.fit_on_batch(X, Y, progress=False)
    assert (np.abs(weights(model).mean(0) - M) < SD).all()


def test_num_samples_of_mcmc_object_is_used():
    mcmc = MCMC(NUTS(kernel), num_warmup=5, num_samples=6, progress_bar=False)
    model = ImpactModel(kernel, random.key(3), mcmc)
    with pytest.warns(UserWarning, match="`num_samples=50` was ignored: this MCMC object draws 6"):
        model.fit_on_batch(X, Y, num_samples=50, progress=False)
    assert model.posterior["a"].shape == (6,)
    with pytest.raises(TypeError, match="MCMC continues its chains on the data, and got none"):
        model.sample()


def test_guide_that_reads_data_requires_data():
    svi = SVI(kernel, by_hand, numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(kernel, random.key(3), svi).fit_on_batch(X, Y, num_steps=5, progress=False)
    with pytest.raises(ValueError, match=r"The guide needs `X`; got none\. .*`sample\(X=X, y=y\)`"):
        model.sample()


def test_mutable_state_is_used_by_predictions():
    """A running mean, as in batch normalisation: predictions use its value at the end of the fit."""
    from numpyro.primitives import mutable

    def running(X, y=None):
        state = mutable("state", {"mean": jnp.zeros(())})
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("seen", state["mean"])
        if y is not None:
            state["mean"] = 0.5 * state["mean"] + 0.5 * X.mean()
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b + state["mean"]), obs=y)

    svi = SVI(running, AutoDelta(running), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(running, random.key(0), svi)
    model.fit_on_batch(np.full(10, 4.0), np.zeros(10), num_steps=200, num_samples=3, progress=False)
    seen = model.predict_on_batch(np.zeros(3), return_datatree=False)["seen"]
    np.testing.assert_allclose(seen, 4.0, rtol=1e-3)


def test_custom_training_loop():
    """Steps by NumPyro, with the result and draws set on the model."""
    from types import SimpleNamespace

    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(schedule), Trace_ELBO(num_particles=4))
    result = svi.run(random.key(0), 1500, jnp.asarray(X), jnp.asarray(Y), progress_bar=False)
    model = ImpactModel(kernel, rng_key=random.key(0), svi=svi)
    model.vi_result = SimpleNamespace(params=svi.get_params(result.state), losses=list(result.losses))
    assert not model.is_fitted()
    model.set_posterior_sample(model.sample(return_datatree=False))
    assert model.is_fitted()
    assert (np.abs(weights(model).mean(0) - M) < 0.5 * SD).all()

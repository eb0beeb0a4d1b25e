"""Law 2 for scores: observations without a likelihood are not counted, and factors of rows are."""

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.handlers import mask
from numpyro.infer import log_likelihood
from scipy import stats

from aimz import KernelValidationError
from stream_helpers import new_model

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

QUIET = {"progress": False}
N_DRAWS = 200
RNG = np.random.default_rng(7)
X = RNG.normal(size=1300).astype(np.float32)  # a whole block, and a part of one
Y = (X + RNG.normal(size=1300)).astype(np.float32)
SEEN = RNG.random(1300) < 0.4
DRAWS = {"b": (1 + 0.03 * RNG.normal(size=N_DRAWS)).astype(np.float32)}


def masked(X, y=None, *, seen=None):
    b = numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("obs", X.shape[0]), mask(mask=True if seen is None else seen):
        numpyro.sample("y", dist.Normal(b * X, 1), obs=y)


def masked_events(X, y=None, *, seen=None):
    b = numpyro.sample("b", dist.Normal(0, 5))
    parts = dist.Normal(jnp.stack([b * X, b * X], 1), 1)
    if seen is not None:
        parts = parts.mask(jnp.stack([seen, jnp.zeros_like(seen)], 1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", parts.to_event(1), obs=y)


def partly_observed(X, y=None, *, seen=None):
    b = numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1), obs=y, obs_mask=seen)


def censored(X, y=None, *, limit=1.0):
    b = numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("obs", X.shape[0]):
        with mask(mask=True if y is None else y < limit):
            numpyro.sample("y", dist.Normal(b * X, 1), obs=y)
        if y is not None:
            numpyro.factor("above", jnp.where(y < limit, 0.0, jax.scipy.stats.norm.logsf(limit, b * X)))


def arviz_loo(log_density):
    return arviz_stats.loo(
        xr.DataTree.from_dict(
            {
                "log_likelihood": xr.Dataset({"y": (("chain", "draw", "obs"), log_density[None].astype(np.float64))}),
                "posterior": xr.Dataset({"b": (("chain", "draw"), DRAWS["b"][None])}),
            }
        ),
        pointwise=True,
    )


@pytest.mark.parametrize("kernel", [masked, masked_events, partly_observed])
def test_loo_counts_observations_with_likelihood_only(kernel):
    y = np.stack([Y, Y], 1) if kernel is masked_events else Y
    dummies = {"y_unobserved": np.zeros((N_DRAWS, len(X)), np.float32)} if kernel is partly_observed else {}
    scores = new_model(kernel, DRAWS | dummies).loo(X, y, seen=SEEN, **QUIET)
    witness = arviz_loo(stats.norm.logpdf(Y[SEEN], DRAWS["b"][:, None] * X[SEEN]))
    assert scores.n_data_points == SEEN.sum()
    np.testing.assert_allclose([scores.elpd, scores.se, scores.p], [witness.elpd, witness.se, witness.p], rtol=2e-3)
    np.testing.assert_allclose(scores.elpd_i.values[SEEN], witness.elpd_i.values, rtol=1e-3, atol=1e-5)
    assert np.isnan(scores.elpd_i.values[~SEEN]).all()
    assert np.isnan(scores.pareto_k.values[~SEEN]).all()


def test_log_likelihood_of_masked_rows_equals_numpyros():
    found = new_model(masked, DRAWS).log_likelihood(X, Y, seen=SEEN, store="memory", **QUIET)["log_likelihood"]["y"]
    witness = log_likelihood(masked, {"b": jnp.asarray(DRAWS["b"])}, X=X, y=Y, seen=SEEN)["y"]
    np.testing.assert_allclose(found.values[0], witness, rtol=1e-5, atol=1e-6)


def test_loo_without_any_likelihood_raises_error():
    with pytest.raises(ValueError, match="No observation of `y` has a likelihood: masks exclude all 1300"):
        new_model(masked, DRAWS).loo(X, Y, seen=np.zeros(1300, bool), **QUIET)


@pytest.mark.parametrize("n_obs", [300, 1300])
def test_factor_of_rows_is_part_of_their_density(n_obs):
    x, y = X[:n_obs], np.minimum(Y[:n_obs], 1)
    b = DRAWS["b"][:, None]
    exact = np.where(y < 1, stats.norm.logpdf(y, b * x), stats.norm.logsf(1, b * x))
    model = new_model(censored, DRAWS)
    found = model.log_likelihood(x, y, store="memory", **QUIET)["log_likelihood"]["y"].values[0]
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)
    scores, witness = model.loo(x, y, **QUIET), arviz_loo(exact)
    assert scores.n_data_points == n_obs
    np.testing.assert_allclose([scores.elpd, scores.se], [witness.elpd, witness.se], rtol=1e-3)


def test_factor_of_local_latents_alone_is_not_part_of_density():
    def kernel(X, y=None):
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal())
            numpyro.factor("prior", -(z**2))
            numpyro.sample("y", dist.Normal(z, 1), obs=y)

    z = RNG.normal(size=(9, 20)).astype(np.float32)
    found = new_model(kernel, {"z": z}).log_likelihood(X[:20], Y[:20], store="memory", **QUIET)
    np.testing.assert_allclose(found["log_likelihood"]["y"].values[0], stats.norm.logpdf(Y[:20], z), rtol=1e-4)


def test_factor_that_cannot_be_assigned_to_observations_raises_error():
    def of_all(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 5))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X, 1), obs=y)
        numpyro.factor("sum", -jnp.sum((X - b) ** 2))

    def of_rows(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 5))
        with numpyro.plate("obs", X.shape[0], dim=-2), numpyro.plate("part", 2, dim=-1):
            numpyro.sample("y", dist.Normal(b * X[:, None], 1), obs=y)
        numpyro.factor("row", -((X - b) ** 2))

    with pytest.raises(KernelValidationError, match="factor `sum` has one value for the data of all rows"):
        new_model(of_all, DRAWS).loo(X, Y, **QUIET)
    with pytest.raises(KernelValidationError, match=r"Factor `row` has values of shape \(30,\)"):
        new_model(of_rows, DRAWS).log_likelihood(X[:30], np.stack([Y, Y], 1)[:30], **QUIET)

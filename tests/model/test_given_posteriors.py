"""Posteriors in ArviZ's types, keys of other generators, and names of the axes of scores."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS
from scipy import stats

from aimz import AimzWarning, ImpactModel
from aimz.data import read_draws

QUIET = {"progress": False}
X = np.asarray([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]], np.float32)
B = np.random.default_rng(5).normal(size=(2, 4, 2)).astype(np.float32)
CHAINS = xr.Dataset({"b": (("chain", "draw", "feature"), B), "y": (("chain", "draw", "obs"), np.zeros((2, 4, 9)))})


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.deterministic("mu", X @ b)
        numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def new(key=None, **options) -> ImpactModel:
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    return ImpactModel(kernel, random.key(0) if key is None else key, mcmc, **options)


@pytest.mark.parametrize(
    "given",
    [
        lambda _: {"b": B.reshape(8, 2)},
        lambda _: {"b": B},
        lambda _: {"b": CHAINS["b"].transpose("feature", "draw", "chain")},
        lambda _: CHAINS[["b"]],
        lambda _: xr.DataTree.from_dict({"posterior": CHAINS[["b"]]}),
        lambda _: xr.DataTree.from_dict({"posterior": CHAINS[["b"]]})["posterior"],
        lambda path: _written(path),
        lambda _: CHAINS[["b"]].stack(sample=("chain", "draw")),
    ],
)
def test_posterior_is_accepted_in_arviz_types(given, tmp_path):
    samples = given(tmp_path / "posterior.nc")
    chains = 2 if isinstance(samples, dict) or "sample" in getattr(samples, "dims", ()) else 1
    model = new().set_posterior_sample(samples, num_chains=chains)
    np.testing.assert_array_equal(model.posterior["b"], B.reshape(8, 2))
    tree = model.predict_on_batch(X, in_sample=False)
    np.testing.assert_allclose(tree["predictions"]["mu"].values, B @ X.T, rtol=1e-5, atol=1e-5)


def _written(path):
    xr.DataTree.from_dict({"posterior": CHAINS[["b"]]}).to_netcdf(path)
    return path


def test_result_of_a_model_is_accepted_with_its_statistics():
    tree = xr.DataTree.from_dict(
        {"posterior": CHAINS, "sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((2, 4)))})}
    )
    with pytest.warns(AimzWarning, match="Draws of the output `y` were dropped"):
        model = new().set_posterior_sample(posterior_sample=tree)
    again = new().set_posterior_sample(model.posterior_tree())
    assert again.posterior_tree()["sample_stats"]["diverging"].shape == (2, 4)
    np.testing.assert_array_equal(again.posterior["b"], B.reshape(8, 2))


@pytest.mark.parametrize(
    ("samples", "options", "error", "match"),
    [
        (xr.DataTree.from_dict({"prior": CHAINS}), {}, ValueError, "group `posterior`; got groups prior"),
        (
            {"b": CHAINS["b"].rename(draw="step", chain="walker")},
            {},
            ValueError,
            "'chain' and 'draw', or 'sample'; got",
        ),
        (CHAINS[["b"]], {"num_chains": 3}, ValueError, "as many as `num_chains`; got 2 and `num_chains=3`"),
        ("missing.nc", {}, ValueError, "missing.nc cannot be read"),
        (None, {}, TypeError, "got neither"),
        ({"b": B}, {"posterior_sample": {"b": B}}, TypeError, "got both"),
        ({"b": B}, {}, ValueError, r"must have shape \('n_draws', 2\); got \('n_draws', 4, 2\)"),
        ({"beta": B[0]}, {}, ValueError, "draws of latent sites of the kernel, `b`; got `beta`"),
    ],
)
def test_unsuitable_posterior_raises_error_at_once(samples, options, error, match):
    model = new().set_posterior_sample({"b": B[0]})
    model.predict_on_batch(X, in_sample=False)
    with pytest.raises(error, match=match):
        model.set_posterior_sample(samples, **options)
    np.testing.assert_array_equal(model.posterior["b"], B[0])


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_keys_of_other_generators_are_converted(generator):
    with pytest.warns(AimzWarning, match=f"generator `{generator}` was converted"):
        model = new(random.key(1, impl=generator))
    with pytest.warns(AimzWarning, match="was converted"):
        other = new(random.key(2, impl=generator))
    assert jax.random.key_impl(model.rng_key) == jax.random.key_impl(random.key(0, impl="threefry2x32"))
    assert (jax.random.key_data(model.rng_key) != jax.random.key_data(other.rng_key)).any()
    found = model.set_posterior_sample({"b": B[0]}).predict(X, in_sample=False, **QUIET)["predictions"]["y"]
    assert np.isfinite(found.values).all()


def test_dims_of_multivariate_output_name_axes_of_scores():
    def pairs(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X, 1).to_event(1), obs=y)

    mcmc = MCMC(NUTS(pairs), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(pairs, random.key(0), mcmc, dims={"y": ["row", "product"]}, coords={"product": ["A", "B"]})
    draws = np.linspace(0, 1, 40, dtype=np.float32)
    tree = model.set_posterior_sample({"b": draws}).log_likelihood(X, X, store="memory", **QUIET)
    scores = tree["log_likelihood"]["y"]
    assert scores.dims == ("chain", "draw", "row")
    np.testing.assert_allclose(scores[0], stats.norm.logpdf(X, draws[:, None, None] * X).sum(-1), rtol=1e-4)
    assert list(tree["observed_data"]["product"].values) == ["A", "B"]
    assert model.loo(X, X, **QUIET).elpd_i.dims == ("row",)


def test_read_only_map_of_a_file_is_not_copied(tmp_path):
    values = np.random.default_rng(0).normal(size=(10, 300)).astype(np.float32)
    np.save(tmp_path / "draws.npy", values)
    mapped = np.load(tmp_path / "draws.npy", mmap_mode="r")
    writeable = np.load(tmp_path / "draws.npy", mmap_mode="c")
    for given, is_shared in ((mapped, True), (np.asarray(mapped), True), (writeable, False), (values, False)):
        draws = read_draws({"b": given}, num_chains=1, param_output="y").draws["b"]
        assert np.shares_memory(np.asarray(draws), given) == is_shared
        np.testing.assert_array_equal(draws, values)
    cut = read_draws({"b": mapped[:, :7]}, num_chains=1, param_output="y").draws["b"]
    np.testing.assert_array_equal(cut, values[:, :7])

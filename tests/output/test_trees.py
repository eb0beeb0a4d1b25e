"""Result trees: dimensions, labels, attributes, and readability by other packages."""

import json

import arviz_stats
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from kernels import QUICK_CASES, Case, each_kernel, fitted_model

N = 6
X = np.asarray(random.normal(random.key(0), (N, 2)))
GROUP = np.array([0, 1, 2, 0, 1, 2])


def kernel(X, group, y=None):
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("site", 3):
        a = numpyro.sample("a", dist.Normal())
    mu = numpyro.deterministic("mu", a[group] + X @ b)
    numpyro.deterministic("total", mu.sum())
    with numpyro.plate("person", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(mu))
        numpyro.sample("y", dist.Normal(z), obs=y)


DRAWS = {
    "b": np.arange(24.0).reshape(12, 2),
    "a": np.zeros((12, 3)),
    "z": np.zeros((12, N)),
}


def new_model(num_chains=3, **labels):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi, **labels).set_posterior_sample(DRAWS, num_chains=num_chains)


@pytest.fixture
def tree(quiet_local_latents):
    return new_model().predict_on_batch(X, group=GROUP, return_sites=["y", "mu", "total", "z", "a", "b"])


def test_dimensions_are_named_after_plates(tree):
    group = tree["posterior_predictive"]
    assert group["y"].dims == group["mu"].dims == group["z"].dims == ("chain", "draw", "person")
    assert group["a"].dims == ("chain", "draw", "site")
    assert group["b"].dims == ("chain", "draw", "b_dim_0")
    assert group["total"].dims == ("chain", "draw")
    assert tree["posterior"]["z"].dims == ("chain", "draw", "person")
    assert (group["y"] - group["mu"]).shape == (3, 4, N)
    for name in group.dims:
        assert name in group.coords
        np.testing.assert_array_equal(group[name], np.arange(group.sizes[name]))


def test_draws_keep_their_order(tree):
    np.testing.assert_array_equal(tree["posterior"]["b"].values.reshape(12, 2), DRAWS["b"])
    np.testing.assert_array_equal(tree["posterior_predictive"]["b"].values.reshape(12, 2), DRAWS["b"])


def test_user_dims_and_coords():
    people = list("abcdef")
    labelled = new_model(
        dims={"b": ["feature"]}, coords={"feature": ["age", "income"], "site": ["x", "y", "z"], "person": people}
    )
    with pytest.warns(UserWarning, match="keep their posterior"):
        tree = labelled.predict_on_batch(X, group=GROUP)
    assert float(tree["posterior"]["b"].sel(chain=0, draw=0, feature="income")) == 1
    assert tree["posterior"]["a"].sel(site="z").shape == (3, 4)
    assert list(tree["posterior_predictive"]["person"].values) == people
    # Other observations of the same number do not get the labels.
    with pytest.warns(UserWarning, match="resampled"):
        others = labelled.predict_on_batch(X, group=GROUP, in_sample=False)
    assert list(others["predictions"]["person"].values) == list(range(N))


def test_invalid_dims_and_coords_raise():
    for labels, match in (
        ({"dims": {"b": ["feature", "other"]}}, r"`dims\['b'\]` must name each of the 1 axes"),
        ({"coords": {"site": ["x"]}}, r"`coords\['site'\]` must have 3 labels; got 1"),
        ({"dims": {"b": ["site"]}}, "Dimension 'site' would be both"),
    ):
        with pytest.warns(UserWarning, match="local latent"), pytest.raises(ValueError, match=match):
            new_model(**labels).predict_on_batch(X, group=GROUP)


def test_invalid_dims_raise_before_any_work():
    model = new_model(dims={"mu": ["one", "two"]})
    key = model.rng_key
    with pytest.warns(UserWarning, match="local latent"), pytest.raises(ValueError, match=r"`dims\['mu'\]` must name"):
        model.predict_on_batch(X, group=GROUP)
    assert model.rng_key == key


def test_labels_of_fitted_rows_are_not_used_for_other_rows():
    def simple(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X), obs=y)

    svi = SVI(simple, AutoNormal(simple), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(simple, random.key(0), svi, coords={"obs": list("abcde")})
    rows = np.arange(5.0)
    model.fit_on_batch(rows, rows, num_steps=5, num_samples=4, progress=False)
    for same in (rows, rows.astype(int), rows.astype("float16")):
        assert list(model.predict_on_batch(same)["posterior_predictive"]["obs"].values) == list("abcde")
    assert list(model.predict_on_batch(rows + 100)["posterior_predictive"]["obs"].values) == [0, 1, 2, 3, 4]


def test_row_dimension_named_by_dims():
    with pytest.warns(UserWarning, match="local latent"):
        tree = new_model(dims={"y": ["patient"]}).predict_on_batch(X, group=GROUP)
    assert tree["posterior_predictive"]["mu"].dims == ("chain", "draw", "patient")


def test_attributes(tree):
    for group in (tree["posterior"], tree["posterior_predictive"]):
        attrs = group.attrs
        assert attrs["creation_library"] == "aimz"
        assert attrs["inference_library"] == "numpyro"
        assert attrs["inference_library_version"] == numpyro.__version__
        assert attrs["sample_dims"] == ["chain", "draw"]
        assert attrs["created_at"].endswith("+00:00")


def test_interventions_are_recorded():
    model = new_model()
    done = model.predict_on_batch(
        X, group=GROUP, intervention={"mu": 1.5, "b": np.zeros(2), "a": jnp.negative, "group": 1}
    )["posterior_predictive"]
    assert json.loads(done.attrs["intervention"]) == {
        "mu": 1.5,
        "b": "array of shape (2,)",
        "a": "callable negative",
        "group": 1,
    }
    assert done.attrs["drawn_anew"] == ["z"]


def test_same_key_gives_same_numbers(quiet_local_latents):
    one, other = new_model(), new_model()
    first = one.predict_on_batch(X, group=GROUP)
    xr.testing.assert_equal(first, other.predict_on_batch(X, group=GROUP))
    given = one.predict_on_batch(X, group=GROUP, rng_key=random.key(8))
    key = one.rng_key
    again = one.predict_on_batch(X, group=GROUP, rng_key=random.key(8))
    xr.testing.assert_equal(given, again)
    assert one.rng_key == key
    assert not given["posterior_predictive"]["y"].equals(first["posterior_predictive"]["y"])
    assert given["posterior_predictive"].attrs["rng_key"] == again["posterior_predictive"].attrs["rng_key"]


def test_fewer_draws_equal_the_first_draws(quiet_local_latents):
    """Draw i does not depend on the number of draws."""
    whole = new_model(1).predict_on_batch(X, group=GROUP, rng_key=random.key(8))
    cut = new_model(1).set_posterior_sample({name: draws[:5] for name, draws in DRAWS.items()})
    part = cut.predict_on_batch(X, group=GROUP, rng_key=random.key(8))
    expected = whole["posterior_predictive"]["y"].isel(draw=slice(5))
    np.testing.assert_allclose(part["posterior_predictive"]["y"], expected, rtol=1e-6, atol=1e-6)


def test_observed_data_are_included_for_fitted_rows():
    def simple(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X), obs=y)

    svi = SVI(simple, AutoNormal(simple), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(simple, random.key(0), svi)
    rows, y = np.arange(5.0), np.arange(5.0) + 1
    model.fit_on_batch(rows, y, num_steps=5, num_samples=4, progress=False)
    np.testing.assert_array_equal(model.predict_on_batch(rows)["observed_data"]["y"], y)
    assert "observed_data" not in model.predict_on_batch(rows + 1).children
    assert "observed_data" not in model.predict_on_batch(rows, in_sample=False).children
    assert "observed_data" not in model.predict_on_batch(rows[:3]).children
    tree = model.log_likelihood(rows + 1, y)
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)
    assert "rng_key" not in tree["log_likelihood"].attrs


@each_kernel(QUICK_CASES)
@pytest.mark.usefixtures("quiet_local_latents")
def test_results_are_readable_by_arviz_and_netcdf(case: Case, tmp_path):
    model = fitted_model(case, n_draws=8)
    model.set_posterior_sample(model.posterior, num_chains=2)
    tree = model.predict_on_batch(**case.arguments())
    assert arviz_stats.summary(tree, group="posterior").shape[0] > 0
    arviz_stats.ess(tree["posterior"].to_dataset())
    arviz_stats.hdi(tree["posterior_predictive"].to_dataset())
    tree.to_netcdf(tmp_path / "tree.nc")
    with xr.open_datatree(tmp_path / "tree.nc") as back:
        xr.testing.assert_equal(back, tree)


def test_difference_of_unsigned_counts_is_signed():
    def counts(X, y=None):
        rate = numpyro.sample("rate", dist.Exponential())
        numpyro.deterministic("small", (rate < X))
        numpyro.deterministic("unsigned", (rate < X).astype("uint8"))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    svi = SVI(counts, AutoNormal(counts), numpyro.optim.Adam(0.05), Trace_ELBO())
    model = ImpactModel(counts, random.key(0), svi).set_posterior_sample({"rate": np.ones(4)})
    rows = np.array([0.0, 2.0])
    effect = model.estimate_effect(
        args_baseline={"X": rows}, args_intervention={"X": rows, "intervention": {"X": 2 - rows}}
    )["posterior_predictive"]
    for name in ("small", "unsigned"):
        np.testing.assert_array_equal(effect[name].values[0, 0], [1, -1])


def test_difference_raises_for_different_labels():
    model = new_model()
    with pytest.warns(UserWarning, match="local latent"):
        tree = model.predict_on_batch(X, group=GROUP, rng_key=random.key(1))
    has_other_index = tree["posterior_predictive"].to_dataset().assign_coords(person=np.arange(N) + 1)
    other = xr.DataTree.from_dict({"posterior_predictive": has_other_index})
    with pytest.raises(ValueError, match="different labels"):
        model.estimate_effect(tree, other)

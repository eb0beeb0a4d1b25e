"""Labels of axes other than rows and columns: matched by name after a fit, and compared between arguments."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset
from stream_helpers import new_model

QUIET = {"progress": False}
RNG = np.random.default_rng(3)
B = np.asarray([[1.0, 10.0, 100.0]] * 3, np.float32)


def panel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 5).expand([X.shape[2]]).to_event(1))
    with numpyro.plate("week", X.shape[0], dim=-2), numpyro.plate("geo", X.shape[1], dim=-1):
        numpyro.sample("y", dist.Normal(X @ b, 1e-3), obs=y)


X = xr.DataArray(
    RNG.integers(1, 9, (6, 2, 3)).astype(np.float32),
    dims=("week", "geo", "channel"),
    coords={"geo": ["north", "south"], "channel": ["web", "tv", "radio"]},
)
WANT = X.values @ B[0]


def fitted():
    """A model that has seen the labels of a fit, with known draws."""
    mcmc = MCMC(NUTS(panel), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(panel, random.key(0), mcmc).fit_on_batch(X, X.copy(data=X.values)[..., 0], **QUIET)
    return model.set_posterior_sample({"b": B})


@pytest.fixture(scope="module")
def model():
    return fitted()


def means(tree):
    return tree["predictions"]["y"].mean(("chain", "draw")).values


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.sel(channel=["radio", "web", "tv"]),
        lambda x: x.transpose("week", "channel", "geo"),
        lambda x: x.sel(channel=["tv", "radio", "web"]).transpose("geo", "channel", "week").chunk(week=2),
        lambda x: x.drop_vars("channel"),
        lambda x: x.values,
    ],
)
def test_labels_in_another_order_are_matched_by_name(model, change):
    np.testing.assert_allclose(
        means(model.predict(change(X), in_sample=False, client=False, **QUIET)), WANT, rtol=1e-3, atol=0.05
    )
    on_batch = model.predict_on_batch(change(X), in_sample=False)
    np.testing.assert_allclose(means(on_batch), WANT, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("loaded", [False, True])
def test_missing_labels_raise_error(model, tmp_path, loaded):
    if loaded:
        model.save(tmp_path / "model")
        model = ImpactModel.load(tmp_path / "model", panel)
    other = X.assign_coords(channel=["web", "print", "radio"])
    match = (
        r"labels of the fit along 'channel'.*1 missing \('tv'\), 1 not in the fit \('print'\).*drop_vars\('channel'\)"
    )
    for call in (
        lambda: model.predict(other, in_sample=False, **QUIET),
        lambda: model.predict_on_batch(other, in_sample=False),
        lambda: model.predict(ArrayDataset(X=other), in_sample=False, **QUIET),
        lambda: model.predict([{"X": other}], in_sample=False, **QUIET),
        lambda: model.log_likelihood(other, X[..., 0].values, **QUIET),
        lambda: model.predict(X, in_sample=False, intervention={"X": other}, **QUIET),
        lambda: model.compare_scenarios({"a": {"X": other}, "b": {"X": X}}, baseline="b", **QUIET),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_intervention_with_labels_in_another_order(model):
    found = model.predict(
        X * 0,
        in_sample=False,
        intervention={"X": X.sel(geo=["south", "north"], channel=["tv", "web", "radio"])},
        **QUIET,
    )
    np.testing.assert_allclose(means(found), WANT, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("method", ["fit_on_batch", "log_likelihood"])
def test_output_with_other_labels_than_input_raises_error(method):
    y = xr.DataArray(WANT, dims=("week", "geo"), coords={"geo": ["south", "north"]})
    call = getattr(new_model(panel, {"b": B}), method)
    with pytest.raises(ValueError, match=r"`y` has other labels along 'geo' than `X`, or in another order \(2 of 2\)"):
        call(X, y, **QUIET)
    with pytest.raises(ValueError, match="rows of `X` run along 'week', which must be the first axis of `y`"):
        call(X, y.drop_vars("geo").transpose("geo", "week"), **QUIET)


def test_output_is_matched_with_labels_of_fit(model):
    y = xr.DataArray(WANT, dims=("week", "geo"), coords={"geo": ["north", "south"]})
    in_order = model.log_likelihood(X, y, store="memory", **QUIET)["log_likelihood"]["y"].values
    turned = model.log_likelihood(X.sel(geo=["south", "north"]), y.values, store="memory", **QUIET)
    np.testing.assert_array_equal(turned["log_likelihood"]["y"].values, in_order)


def test_plain_numbers_as_column_labels_are_matched():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b, 1e-3), obs=y)

    x = xr.DataArray(X.values[:, 0, :2], dims=("obs", "year"), coords={"year": [0, 1]})
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(kernel, random.key(0), mcmc).fit_on_batch(x, x.values[:, 0], **QUIET)
    model.set_posterior_sample({"b": B[:, :2]})
    found = means(model.predict(x.sel(year=[1, 0]), in_sample=False, **QUIET))
    np.testing.assert_allclose(found, x.values @ B[0, :2], rtol=1e-3, atol=0.05)
    with pytest.raises(ValueError, match="`X` is missing column '0'; got '1', '2'"):
        model.predict(x.assign_coords(year=[1, 2]), in_sample=False, **QUIET)

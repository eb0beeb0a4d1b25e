"""The effect of an event on one of several series that are rows: the outcomes of the others stay in the fit."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam

import aimz
from aimz.timeseries.placebos import placebo_designs

S, T, START, NOISE, LIFT = 6, 40, 30, 0.5, 1.5
RNG = np.random.default_rng(6)
FACTOR = np.stack([np.sin(np.arange(T) / 3), np.cos(np.arange(T) / 5)], 1)
LOADING = RNG.uniform(2.0, 6.0, (S, 2))
PANEL = LOADING @ FACTOR.T + RNG.normal(0.0, NOISE, (S, T))
PANEL[2, START:] += 4.0
CAMPAIGN = np.zeros((S, T))
CAMPAIGN[2, START:] = 1.0
NAMES = ["a", "b", "c", "d", "e", "f"]
EVENT = {"period": np.arange(T), "start": START, "unit": NAMES, "treated": "c", "progress": False}


def factors(X, y=None, *, campaign=None):
    """Two common factors; outcomes that are NaN are missing."""
    common = numpyro.sample("common", dist.Normal(0.0, 1.0).expand([X.shape[1], 2]).to_event(2))
    lift = numpyro.sample("lift", dist.Normal(0.0, 1.0))
    with numpyro.plate("series", X.shape[0]):
        loading = numpyro.sample("loading", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        mean = loading @ common.T + X + lift * (0.0 if campaign is None else campaign)
        seen = True if y is None else ~jnp.isnan(y)
        obs = None if y is None else jnp.nan_to_num(y)
        numpyro.sample("y", dist.Normal(mean, NOISE).mask(seen).to_event(1), obs=obs)


def unmasked(X, y=None):
    level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    with numpyro.plate("series", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + X, NOISE).to_event(1), obs=y)


def new_model(kernel):
    return aimz.ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), Adam(0.01), Trace_ELBO()))


COVARIANCE = NOISE**2 * np.linalg.inv(FACTOR[:START].T @ FACTOR[:START])
FIT = np.linalg.lstsq(FACTOR[:START], PANEL[2, :START])[0]


@pytest.fixture(scope="module")
def model():
    """Return a model with known factors, and the exact posterior of the loadings of the treated series."""
    draws = np.tile(LOADING, (4000, 1, 1))
    draws[:, 2] = FIT + np.random.default_rng(1).normal(size=(4000, 2)) @ np.linalg.cholesky(COVARIANCE).T
    common = np.broadcast_to(FACTOR, (4000, T, 2))
    return new_model(factors).set_posterior_sample({"loading": draws, "common": common, "lift": np.full(4000, LIFT)})


def average_effect(model, **options):
    order = np.random.default_rng(0).permutation(T)
    event = {**EVENT, "period": np.arange(T)[order], "rng_key": random.key(1), **options}
    columns = {} if "campaign" not in options else {"campaign": options["campaign"][:, order]}
    found = model.estimate_impact(np.full((S, T), 100.0), 100.0 + PANEL[:, order], **{**event, **columns})
    return found, found["effect"]["y"].sel(quantity="average")


def test_effect_has_the_error_of_the_loadings_of_the_treated_series(model):
    found, average = average_effect(model)
    ahead = FACTOR[START:].mean(axis=0)
    expected = PANEL[2, START:].mean() - ahead @ FIT
    for reading, noise in (("mean", 0.0), ("outcome", NOISE**2 / (T - START))):
        assert average.sel(reading=reading).mean().item() == pytest.approx(expected, abs=0.015)
        sd = np.sqrt(ahead @ COVARIANCE @ ahead + noise)
        assert average.sel(reading=reading).std().item() == pytest.approx(sd, rel=0.05)
    attrs = found["effect"].attrs
    assert (attrs["n_rows_fitted"], attrs["n_rows_event"]) == (S * T - 10, 10)
    assert abs(expected - 4.0) < 3 * sd
    np.testing.assert_allclose(found["observed_data"]["y"].values.squeeze(), 100.0 + PANEL[2], rtol=1e-6)


def test_baseline_changes_arguments_of_the_treated_series_in_the_event(model):
    _, average = average_effect(model, campaign=CAMPAIGN)
    _, without = average_effect(model, campaign=CAMPAIGN, baseline={"campaign": 0})
    assert (without - average).sel(reading="mean").mean().item() == pytest.approx(LIFT, abs=1e-3)
    _, halved = average_effect(model, campaign=CAMPAIGN, baseline={"campaign": lambda x: x / 2})
    assert (halved - average).sel(reading="mean").mean().item() == pytest.approx(LIFT / 2, abs=1e-3)
    with pytest.raises(ValueError, match=r"with a value for each step of a series.*: 'X', 'campaign'; got 'lift'"):
        average_effect(model, campaign=CAMPAIGN, baseline={"lift": 0.0})


def test_fit_has_the_outcomes_of_the_other_series_in_the_event():
    X, hidden = np.zeros((S, T)), PANEL.copy()
    hidden[2, START:] = np.nan
    options = {"num_steps": 2, "num_samples": 10, "progress": False}
    with pytest.warns(aimz.FitWarning):
        model = new_model(factors).fit_on_batch(X, hidden, **options)
    asked = {"end": None, "by": None, **{name: EVENT[name] for name in ("period", "start", "unit", "treated")}}
    model._check_fitted_before(model._read_design(X, PANEL, {}, asked))
    other = PANEL.copy()
    other[0, -1] += 1.0
    with pytest.raises(ValueError, match=r"40 steps of each series until the end of the event, with NaN .* \(`y` diff"):
        model.estimate_impact(X, other, **EVENT)


def test_kernel_without_a_mask_for_missing_outcomes_raises():
    with pytest.raises(ValueError, match=r"values of `y` are not finite numbers.*") as caught:
        new_model(unmasked).estimate_impact(np.zeros((S, T)), PANEL, **EVENT)
    assert "Mask them in the kernel" in caught.value.__notes__[0]


def test_placebos_in_space_hide_the_event_of_the_treated_series():
    model = new_model(factors)
    names = pd.Index(NAMES, name="state")
    X, y = pd.DataFrame(np.zeros((S, T)), index=names), PANEL
    asked = {
        "start": 33,
        "end": 36,
        "period": np.arange(T),
        "by": None,
        "unit": None,
        "treated": np.array(NAMES) == "c",
    }
    design = model._read_design(X, y, {}, asked)
    found = placebo_designs(design, model._engine, "space", None)
    assert list(found) == ["a", "b", "d", "e", "f"]
    fitted = found["b"].known(found["b"].fitted).observed
    missing = np.argwhere(np.isnan(fitted))
    assert missing.tolist() == [[row, step] for row in (1, 2) for step in range(33, 37)]
    np.testing.assert_array_equal(found["b"].values(found["b"].held), PANEL[[1], 33:37].astype(np.float32))
    assert list(placebo_designs(design, model._engine, "time", [20])) == [20]
    earlier = placebo_designs(design, model._engine, "time", [20])[20]
    assert np.argwhere(np.isnan(earlier.known(earlier.fitted).observed))[:, 0].tolist() == [2] * 4


def two_ways(X, y=None):
    """A level for each series, and a shock for each step."""
    shock = numpyro.sample("shock", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("series", X.shape[0]):
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))
        fn = dist.Normal(level[:, None] + shock + X, NOISE)
        if y is not None:
            fn, y = fn.mask(~jnp.isnan(y)), jnp.nan_to_num(y)
        numpyro.sample("y", fn.to_event(1), obs=y)


def expected_effect(y, hidden, row, start):
    """Return the posterior mean of the average effect on a row, with the outcomes in ``hidden`` left out."""
    n, t = y.shape
    design = np.hstack([np.repeat(np.eye(n), t, 0), np.tile(np.eye(t), (n, 1))])
    known = ~hidden.ravel()
    precision = np.eye(n + t) + design[known].T @ design[known] / NOISE**2
    mean = design @ np.linalg.solve(precision, design[known].T @ y.ravel()[known] / NOISE**2)
    return (y - mean.reshape(y.shape))[row, start:].mean()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # a level and all shocks may move together
def test_placebos_in_space_are_differences_in_differences():
    y = RNG.normal(size=(4, 1)) + RNG.normal(size=10) + RNG.normal(0.0, NOISE, (4, 10))
    y[1, 7:] += 3.0
    model = aimz.ImpactModel(two_ways, random.key(0), MCMC(NUTS(two_ways), num_warmup=300, num_samples=1000))
    event = {"period": np.arange(10), "start": 7, "treated": [False, True, False, False], "placebo": "space"}
    found = model.estimate_impact(100.0 + np.zeros((4, 10)), 100.0 + y, **event, progress=False, rng_key=random.key(1))
    hidden = np.zeros((4, 10), bool)
    hidden[1, 7:] = True
    average = found["effect"]["y"].sel(quantity="average", reading="mean").mean().item()
    assert average == pytest.approx(expected_effect(y, hidden, 1, 7), abs=0.06)
    for row in (0, 2, 3):
        also = hidden.copy()
        also[row, 7:] = True
        placebo = found["placebo"]["y"].sel(placebo=row, reading="mean").mean().item()
        assert placebo == pytest.approx(expected_effect(y, also, row, 7), abs=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": NAMES[:5]}, r"`unit` must have a label for each of the 6 rows; got 5"),
        ({"treated": "z"}, r"`treated` must name units; 'z' is not among the values of `unit`: a, b, c"),
        ({"unit": None, "treated": np.zeros(S, bool)}, r"units with the event must have rows in the event"),
        ({"y": np.where(np.arange(T) == 35, np.nan, PANEL)}, r"NaN in 1 of 10 \(the first in series 2, period 35\)"),
    ],
)
def test_wrong_units_raise(changes, message):
    given = {**EVENT, "y": PANEL, **changes}
    with pytest.raises(ValueError, match=message):
        new_model(factors).estimate_impact(np.zeros((S, T)), given.pop("y"), **given)

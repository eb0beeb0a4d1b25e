"""Placebo runs: permutations within groups, their statistics, and treatments that cannot be permuted."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from exact_inference import exact, trial
from jax import random

import aimz
from aimz import ImpactModel
from aimz.validation.fitted_data import FitRows
from aimz.validation.permutation import Permutation

pytestmark = pytest.mark.usefixtures("plain_code")

N = 40
X = np.zeros(N, np.float32)
ARM = np.float32(np.arange(N) % 2)
REGION = np.repeat(["n", "s"], N // 2)
Y = np.float32(1.5 * ARM + np.random.default_rng(0).normal(size=N))
PLACEBO = {"kind": "placebo", "effect": "arm", "permute": "arm", "progress": False, "rng_key": random.key(5)}


@pytest.fixture(scope="module")
def model():
    return ImpactModel(trial, random.key(0), exact(prior_sd=100.0)).fit(X, Y, arm=ARM, progress=False)


def test_placebo_equals_refits_to_permuted_treatments_by_hand(model):
    found = model.rehearse(**PLACEBO, within=REGION, num_simulations=20)
    table = found.summary().loc["effect[arm = 1]"]
    means = found.simulations["mean"].sel(quantity="gain").values
    # Without an intercept, the estimate is the mean outcome of the rows with the treatment, here at random.
    assert abs(table["placebo_mean"] - Y.mean()) < 0.15
    assert abs(table["placebo_mean"] - means.mean()) < 1e-5
    assert table["placebo_sd"] == pytest.approx(1 / np.sqrt(20), rel=0.1)
    spread = np.hypot(table["placebo_spread"], table["placebo_sd"])
    assert table["z"] == pytest.approx((table["estimate"] - table["placebo_mean"]) / spread)
    assert table["estimate"] == pytest.approx(float(model.posterior["gain"].mean()), abs=1e-5)
    assert table["verdict"] == "effect without treatment"
    text = repr(found)
    assert "p =" not in text
    assert "significan" not in text


def test_permutation_stays_within_groups():
    groups = np.unique(REGION, return_inverse=True)[1]
    order = Permutation(("arm",), groups, N).order([1, 2])
    assert (REGION[order] == REGION).all()
    assert sorted(order) == list(range(N))
    assert (order != np.arange(N)).any()
    frame = pd.DataFrame({"arm": ARM, "score": 2 * ARM, "x": X}, index=np.arange(N) + 7)
    moved = FitRows(frame, {"labels": [str(i) for i in range(N)]}, "X").moved(["arm", "labels", "score"], order)
    np.testing.assert_array_equal(moved.X["arm"], ARM[order])
    np.testing.assert_array_equal(moved.X["score"], 2 * moved.X["arm"])
    assert moved.arguments["labels"] == [str(i) for i in order]
    assert (moved.X.index == frame.index).all()
    assert (frame["arm"] == ARM).all()


def scored(X, arm, score, y=None):
    return trial(X, arm + 0.0 * score, y)


def test_data_computed_from_the_treatment_must_be_permuted_with_it():
    """A score of the actual treatment that stays in its row would tell the refit who was treated."""
    age = np.float32(np.random.default_rng(2).normal(50, 10, N))
    for stale in (0.2 + 0.6 * ARM, ARM * age):
        model = ImpactModel(scored, random.key(0), exact(model=scored)).fit(X, Y, arm=ARM, score=stale, progress=False)
        with pytest.raises(ValueError, match=r"`score` would keep .* permute=\['arm', 'score'\]"):
            model.rehearse(**PLACEBO, num_simulations=2)
    assert model.rehearse(**PLACEBO | {"permute": ["arm", "score"]}, num_simulations=2).kind == "placebo"


def test_few_folds_and_priors_of_one_sign_are_not_cleared(model):
    few = model.rehearse(**PLACEBO, num_simulations=4)
    assert few.ok is None
    assert "not enough to judge" in repr(few)

    def positive(X, arm, y=None):
        gain = numpyro.sample("gain", dist.HalfNormal(1.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(gain * arm, 1.0), obs=y)

    inference = exact(model=positive, transform=jnp.abs)
    found = (
        ImpactModel(positive, random.key(0), inference)
        .fit(X, Y, arm=ARM, progress=False)
        .rehearse(**PLACEBO, num_simulations=20)
    )
    assert found.summary()["verdict"].iloc[0] == "the prior allows one sign only"
    assert "no placebo can have an effect of 0" in " ".join(repr(found).split())


def assigned(X, arm, y=None):
    share = numpyro.sample("share", dist.Beta(1, 1))
    with numpyro.plate("rows", X.shape[0]):
        arm = numpyro.sample("given", dist.Bernoulli(share + 0.0 * X), obs=arm)
        numpyro.sample("y", dist.Normal(arm, 1.0), obs=y)


def test_treatments_that_cannot_be_permuted_raise(model):
    with pytest.raises(ValueError, match="breaks this dependence"):
        ImpactModel(assigned, random.key(0)).rehearse(X, Y, arm=ARM, **PLACEBO)
    for options, text in [
        ({"permute": "gain"}, "the latent site `gain`"),
        ({"permute": "mail"}, "got 'mail'. Choose from arm"),
        ({"within": "district"}, "one label for each of the 40 rows"),
        ({"within": ARM}, "constant within each group"),
    ]:
        with pytest.raises(ValueError, match=text):
            model.rehearse(**PLACEBO | options)
    with pytest.raises(TypeError, match="got no `permute`"):
        model.rehearse(**PLACEBO | {"permute": None})
    with pytest.raises(TypeError, match="needs rows") as error:
        ImpactModel(trial, random.key(0), exact()).rehearse(**PLACEBO)
    assert error.type is not aimz.NotFittedError

"""The warning about a variational fit whose loss has not settled."""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam, Minimize

from aimz import FitWarning, ImpactModel
from aimz.inference.settling import judge_losses

RNG = np.random.default_rng(5)
X = RNG.normal(size=500).astype(np.float32)
Y = (3 * X + RNG.normal(size=500)).astype(np.float32)


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


def warns(losses, **options) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        judge_losses(np.asarray(losses), **{"optimizer": None, **options}).warn("epochs")
    assert all(w.category is FitWarning for w in caught)
    return bool(caught)


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "correlated", "batches"])
@pytest.mark.parametrize("steps", [50, 400, 5000])
def test_settled_losses_do_not_warn(noise, steps):
    """At most one of 400 settled fits warns; the stated rate is one in 10,000."""
    rng = np.random.default_rng(steps)
    found = 0
    for _ in range(400):
        losses = 700 + 3 * rng.normal(size=steps)
        if noise == "heavy tails":
            losses += rng.pareto(1.5, steps)
        elif noise == "correlated":
            losses = 700 + np.convolve(rng.normal(size=steps + 4), np.full(5, 1.0), "valid")
        elif noise == "batches":
            losses += np.tile(100 * rng.normal(size=10), steps // 10)
        found += warns(losses, steps_per_epoch=10 if noise == "batches" else 1)
    assert found <= 1


def test_falling_losses_warn():
    rng = np.random.default_rng(1)
    steps = np.arange(1000)
    assert warns(1000 * np.exp(-steps / 500) + rng.normal(size=1000))
    assert warns(700 - 0.05 * steps + rng.pareto(2.0, 1000))
    assert not warns(1000 * np.exp(-steps / 50) + rng.normal(size=1000))  # settled after a third
    assert not warns(700 + 0.05 * steps)  # a rising loss is not a fit that needs more steps
    batches = 700 - 0.2 * steps + np.tile(100 * rng.normal(size=10), 100)
    assert warns(batches, steps_per_epoch=10)  # the noise of the batches cancels over epochs
    assert not warns(np.full(200, 700.0))
    assert not warns([*np.arange(100.0), np.nan])  # has a warning of its own


def test_noisy_losses_that_still_fall_warn():
    """Of 5 nats that remain, 2.5 are gained during the last fifth, where a loss has noise of 11 nats."""
    rng, steps = np.random.default_rng(2), np.arange(4000)
    approach = 5 * np.exp((4000 - steps) / 1000)
    assert sum(warns(700 + approach + 11 * rng.normal(size=4000)) for _ in range(50)) >= 40
    level = 60 * np.maximum(0, 1 - steps / 2900)  # until shortly before the last fifth
    assert sum(warns(700 + level + 11 * rng.normal(size=4000)) for _ in range(50)) <= 3


def test_fit_of_one_epoch_warns():
    """500 rows are 8 steps, after which the slope is far from 3."""
    model = ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), Adam(0.005), Trace_ELBO()))
    with pytest.warns(FitWarning, match=r"ended after 8 step\(s\), too few .* with more steps \(`epochs`\)"):
        model.fit(X, Y, epochs=1, progress=False)
    assert abs(float(model.posterior["b"].mean()) - 3.0) > 1.0
    with pytest.warns(FitWarning, match=r"before its loss has settled: the loss fell by .* \(`num_steps`\)"):
        model.fit_on_batch(X, Y, num_steps=100, progress=False)


@pytest.mark.parametrize("method", ["fit", "fit_on_batch"])
def test_settled_fit_does_not_warn(method):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 1000))
    model = ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), optimizer, Trace_ELBO()))
    options = {"epochs": 125} if method == "fit" else {"num_steps": 1000}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(model, method)(X, Y, progress=False, **options)
    assert abs(float(model.posterior["b"].mean()) - 3.0) < 0.15


def test_optimizer_that_minimizes_in_one_step_does_not_warn():
    assert not warns([700.0], optimizer=Minimize())
    assert warns([700.0], optimizer=Adam(0.1))

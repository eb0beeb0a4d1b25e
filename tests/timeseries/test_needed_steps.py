"""Forecasts of long series run over the last fitted steps only, if later steps do not depend on the others."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from aimz.engine import continuation_checks
from stream_helpers import KEY, new_model

S, T, H, N = 5, 16, 3, 2000
RNG = np.random.default_rng(0)
LEVEL = RNG.normal(size=(N, S, T)).astype(np.float32)
LEVEL[..., -1] = np.linspace(20.0, 60.0, S)
HISTORY = {"X": RNG.normal(size=(S, T)).astype(np.float32), "y": LEVEL[0]}
LATER = RNG.normal(size=(S, H)).astype(np.float32)
OPTIONS = {"history": HISTORY, "progress": False, "store": "memory", "rng_key": KEY}


@pytest.fixture(autouse=True)
def _tested_for_few_values(monkeypatch):
    monkeypatch.setattr(continuation_checks, "_FEW_VALUES", 0)


def by_scan(X, y=None):
    def step(level, given):
        x, seen = given if y is not None else (given, None)
        with numpyro.plate("series", X.shape[0]):
            level = numpyro.sample("level", dist.Normal(level, 1.0))
            numpyro.sample("y", dist.Normal(level + x, 0.5), obs=seen)
        return level, None

    scan(step, jnp.zeros(X.shape[0]), X.T if y is None else (X.T, y.T))


def walk(X, y, mean):
    with numpyro.plate("series", X.shape[0]):
        level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[1]))
        numpyro.sample("y", dist.Normal(level + mean, 0.5).to_event(1), obs=y)
    return level


def lagged(X, y=None):
    walk(X, y, jnp.pad(X, ((0, 0), (3, 0)))[:, : X.shape[1]])


def trending(X, y=None):
    walk(X, y, 1e-4 * jnp.arange(X.shape[1]))


def adding(X, y=None):
    numpyro.deterministic("total", walk(X, y, X).sum(1))


def autoregressive(X, y=None):
    def step(before, given):
        x, seen = given if y is not None else (given, None)
        with numpyro.plate("series", X.shape[0]):
            now = numpyro.sample("y", dist.Normal(0.5 * before[0] + 0.3 * before[1] + x, 0.5), obs=seen)
        return (now, before[0]), None

    scan(step, (jnp.zeros(X.shape[0]),) * 2, X.T if y is None else (X.T, y.T))


def summed(X, y=None):
    with numpyro.plate("series", X.shape[0]):
        shock = numpyro.sample("level", dist.Normal().expand([X.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.cumsum(shock, -1), 0.5).to_event(1), obs=y)


SLOW = pytest.mark.slow
NEEDED = [
    (trending, T),
    pytest.param(lagged, 4, marks=SLOW),  # three steps before the first later one; powers of two are tried
    pytest.param(adding, T, marks=SLOW),
    pytest.param(autoregressive, 2, marks=SLOW),
    pytest.param(summed, T, marks=SLOW),
]


@pytest.mark.parametrize(("kernel", "n_steps"), NEEDED)
def test_steps_are_skipped_unless_later_ones_depend_on_them(kernel, n_steps):
    model = new_model(kernel, {"level": LEVEL[:3]})
    request = model._prepare_forecast(LATER, {}, None, history=HISTORY)
    found = request.first.settings.fitted_steps
    assert (found.n_steps, found.n_skipped) == (n_steps, T - n_steps)
    read = [value.shape[2] for name, value in request.first.draws.items() if name == "fitted/level"]
    assert read == ([] if kernel is autoregressive else [n_steps])


def test_a_walk_continues_from_its_last_state():
    """In closed form: the last state plus the later input, with variance k + 0.25 after k steps."""
    model = new_model(by_scan, {"level": LEVEL.transpose(0, 2, 1)})
    tree = model.forecast(LATER, **OPTIONS)
    found = tree["predictions"]["y"].values[0]  # (draw, step, series)
    assert found.shape == (N, H, S)
    assert list(tree["predictions"]["y_dim_0"]) == list(range(T, T + H))
    mean, sd = LEVEL[0, :, -1] + LATER.T, np.sqrt(1 + np.arange(H) + 0.25)[:, None]
    assert (np.abs(found.mean(0) - mean) < 4.5 * sd / np.sqrt(N)).all()
    assert (np.abs(found.std(0) / sd - 1) < 4.5 / np.sqrt(2 * N)).all()


@pytest.mark.slow
def test_effects_of_interventions_have_common_noise():
    model = new_model(by_scan, {"level": LEVEL.transpose(0, 2, 1)})
    plain = model.forecast(LATER, **OPTIONS)["predictions"]["y"].values
    moved = model.forecast(LATER, intervention={"X": LATER + 1}, **OPTIONS)["predictions"]["y"].values
    np.testing.assert_allclose(moved - plain, 1.0, atol=2e-5)

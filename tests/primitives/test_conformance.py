"""Tests of primitives in small kernels through the whole workflow of a model: fit, predict, score, save.

They cover primitives that the kernel catalogue lacks: networks, masks, nested and subsampled plates.

In all kernels `a` is added to the location of a Normal output, so that the effect of setting it is known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cloudpickle
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr
from flax import linen, nnx
from jax import random
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer import log_likelihood as numpyro_log_likelihood
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam
from numpyro.primitives import Messenger

import aimz
from aimz import ImpactModel
from aimz.primitives import (
    deterministic,
    factor,
    get_mask,
    module,
    mutable,
    param,
    plate,
    plate_stack,
    prng_key,
    random_eqx_module,
    random_flax_module,
    random_nnx_module,
    sample,
    subsample,
    validate_model,
)
from slow_cases import slow_except

N_OBS, N_DRAWS = 8, 3
X = np.asarray(random.normal(random.key(1), (N_OBS, 2)))
Y = np.asarray(random.normal(random.key(2), (N_OBS,)))
SEEN = np.arange(N_OBS) % 3 > 0

pytestmark = pytest.mark.usefixtures("quiet_local_latents")


def observe(mu, y, sd=1.0):
    with plate("obs", mu.shape[0]):
        sample("y", dist.Normal(mu, sd), obs=y)


def sample_options(X, y=None):
    a = sample("a", dist.Normal(), infer={"is_auxiliary": True})
    b = sample("b", dist.Normal(), sample_shape=(2,))
    with plate_stack("stack", [2, 3]):
        w = sample("w", dist.Normal())
    observe(deterministic("mu", a + X @ (b + w.sum(-1))), y)


def params(X, y=None):
    a = sample("a", dist.Normal())
    sd = param("sd", 1.0, constraint=constraints.positive)
    weights = param("weights", jnp.ones(2) / 2, constraint=constraints.simplex)
    with plate("features", X.shape[1]):
        w = param("w", lambda key: 0.1 * random.normal(key, (2,)), event_dim=0)
    observe(a + X @ (weights + w), y, sd)


def factor_by_row(X, y=None):
    a = sample("a", dist.Normal())
    with plate("obs", X.shape[0]):
        if y is None:
            sample("y", dist.Normal(a + X[:, 0]))
        else:
            factor("score", dist.Normal(a + X[:, 0]).log_prob(y))


def subsampled_data(X, y=None):
    a = sample("a", dist.Normal())
    with plate("obs", X.shape[0], subsample_size=max(1, X.shape[0] // 2)):
        x = subsample(X, event_dim=1)
        sample("y", dist.Normal(a + x[:, 0]), obs=None if y is None else subsample(y, event_dim=0))


def mutable_state(X, y=None):
    a = sample("a", dist.Normal())
    state = mutable("state", {"mean": jnp.zeros(())})
    if y is not None:
        state["mean"] = 0.5 * state["mean"] + 0.5 * y.mean()
    observe(a + X[:, 0] + jax.lax.stop_gradient(state["mean"]), y)


_HAIKU = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([2, 1])(x)))


def _init_haiku(key, shape):
    return (*shape[:-1], 1), _HAIKU.init(key, jnp.ones(shape))


def module_haiku(X, y=None):
    a = sample("a", dist.Normal())
    net = module("net", (_init_haiku, _HAIKU.apply), input_shape=(1, X.shape[1]))
    observe(a + net(X)[:, 0], y)


def with_prng_key(X, y=None):
    a = sample("a", dist.Normal())
    key = prng_key()
    noise = 0.0 if key is None else 0.1 * random.normal(key, (2,))
    observe(a + X @ (1 + noise * jnp.ones(2)), y)


def with_get_mask(X, seen, y=None):
    a = sample("a", dist.Normal())
    with handlers.mask(mask=seen), plate("obs", X.shape[0]):
        deterministic("counts", 1.0 * get_mask())
        sample("y", dist.Normal(a + X[:, 0]), obs=y)


class Dotted(Messenger):
    """`random_flax_module` has no `scope_divider`, and a name in a result must not hold a '/'."""

    def process_message(self, msg):
        if msg.get("name") is not None:
            msg["name"] = msg["name"].replace("/", ".")


def random_networks(X, y=None):
    a = sample("a", dist.Normal())
    with Dotted():
        flax = random_flax_module("flax", linen.Dense(1), dist.Normal(), input_shape=(1, X.shape[1]))
    by_nnx = random_nnx_module("nnx", nnx.Linear(2, 1, rngs=nnx.Rngs(0)), dist.Normal(), scope_divider=".")
    linear = eqx.nn.Linear(2, 1, key=random.key(0))
    equinox = random_eqx_module("equinox", linear, dist.Normal(), scope_divider=".")
    observe(a + (flax(X) + by_nnx(X) + jax.vmap(equinox)(X))[:, 0], y)


@dataclass(frozen=True)
class Use:
    """A kernel, and how its workflow differs from the default."""

    kernel: Callable[..., Any]
    y: Any = field(default_factory=lambda: Y)
    extra: Mapping[str, Any] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    minibatches: bool = False
    """Whether the kernel is fitted in minibatches instead of all rows at once."""
    witness: bool = True
    """Whether NumPyro's own `log_likelihood` can score it with all rows in order, with the same numbers."""
    scored: bool = True
    """Whether the kernel has a density for each row."""
    warned: tuple[str, ...] = ()
    """Kinds of the warnings of `validate_model`."""


USES = [
    Use(sample_options),
    Use(params, minibatches=True, params=("sd", "weights", "w")),
    Use(factor_by_row, minibatches=True, scored=False),
    Use(subsampled_data, witness=False, warned=("subsampled",)),
    Use(mutable_state, minibatches=True, witness=False),
    Use(module_haiku, params=("net$params",)),
    Use(with_prng_key, witness=False, warned=("rows",)),
    Use(with_get_mask, minibatches=True, extra={"seen": SEEN}),
    Use(random_networks),
]
EACH = pytest.mark.parametrize(
    "use", slow_except(USES, *(u for u in USES if u.kernel is not random_networks)), ids=lambda use: use.kernel.__name__
)


def new_model(use):
    kernel = use.kernel
    return ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), Adam(0.05), Trace_ELBO()))


@cache
def fitted(name):
    """Return a model after two steps, in minibatches if the kernel allows them."""
    use = next(use for use in USES if use.kernel.__name__ == name)
    model = new_model(use)
    given = {"num_samples": N_DRAWS, "progress": False, **use.extra}
    if use.minibatches:
        model.fit(X, use.y, batch_size=N_OBS // 2, epochs=1, **given)
    else:
        model.fit_on_batch(X, use.y, num_steps=2, **given)
    return model


def trace(use):
    return handlers.trace(handlers.seed(use.kernel, 0)).get_trace(jnp.asarray(X), **use.extra)


def predict(model, use, act, key=5):
    found = model.predict_on_batch(
        X, intervention=act, rng_key=random.key(key), return_sites="y", return_datatree=False, **use.extra
    )
    return np.asarray(found["y"])


@EACH
def test_fits_and_predicts(use):
    model = fitted(use.kernel.__name__)
    drawn = predict(model, use, None)
    assert drawn.shape[-use.y.ndim - 1 :] == (N_DRAWS, *use.y.shape)
    assert np.isfinite(drawn).all()
    # The location is that of the posterior, and the noise that of a standard Normal.
    other = predict(model, use, None, key=6)
    assert 0.2 < np.std(drawn - other) / np.sqrt(2) < 2.5
    # What is optimised is there, and as large as NumPyro makes it.
    start = jax.eval_shape(lambda: {n: s["value"] for n, s in trace(use).items() if n in use.params})
    assert set(start) == set(use.params)
    for name in use.params:
        assert jax.tree.map(jnp.shape, model.vi_result.params[name]) == jax.tree.map(jnp.shape, start[name])


@EACH
def test_intervention_on_a_site(use):
    model = fitted(use.kernel.__name__)
    low, high = (predict(model, use, {"a": value}) for value in (0.0, 2.0))
    np.testing.assert_allclose(high - low, 2.0, atol=1e-5)


@EACH
def test_scores_equal_numpyro(use):
    model = fitted(use.kernel.__name__)
    if not use.scored:
        with pytest.raises(ValueError, match="by a factor"):
            model.log_likelihood(X, use.y, progress=False, store="memory", **use.extra)
        return
    tree = model.log_likelihood(X, use.y, progress=False, store="memory", **use.extra)
    ours = tree["log_likelihood"]["y"].to_numpy().astype(float).reshape(N_DRAWS, *use.y.shape)
    if use.witness:
        kernel = handlers.substitute(use.kernel, data={name: model.vi_result.params[name] for name in use.params})
        theirs = numpyro_log_likelihood(kernel, model.posterior, jnp.asarray(X), y=jnp.asarray(use.y), **use.extra)
        np.testing.assert_allclose(ours, theirs["y"], rtol=1e-5, atol=1e-5)
    elif use.kernel is subsampled_data:
        # All rows in order, unscaled; NumPyro's would be those of one subsample.
        mu = np.asarray(model.posterior["a"])[:, None] + X[:, 0]
        np.testing.assert_allclose(ours, dist.Normal(mu).log_prob(use.y), rtol=1e-5, atol=1e-5)
    else:
        assert np.isfinite(ours).all()


@pytest.mark.parametrize(
    "use",
    [use for use in USES if use.kernel in (params, mutable_state, module_haiku, random_networks)],
    ids=lambda use: use.kernel.__name__,
)
def test_pickle_and_save(use, tmp_path):
    model = fitted(use.kernel.__name__)
    loaded = cloudpickle.loads(cloudpickle.dumps(model))
    np.testing.assert_array_equal(predict(loaded, use, None), predict(model, use, None))

    stream = {"store": "persistent", "output_dir": tmp_path, "progress": False, "rng_key": random.key(5)}
    tree = model.predict(X, return_sites="y", **stream, **use.extra)
    path = next(p.parent for p in tmp_path.rglob("posterior_predictive") if p.is_dir())
    reopened = aimz.open_result(path)
    assert isinstance(reopened, xr.DataTree)
    kept = reopened["posterior_predictive"]["y"]
    np.testing.assert_array_equal(kept, tree["posterior_predictive"]["y"])
    np.testing.assert_allclose(
        kept.to_numpy().reshape(N_DRAWS, *use.y.shape),
        predict(model, use, None).reshape(N_DRAWS, *use.y.shape),
        rtol=1e-5,
        atol=1e-5,
    )


@EACH
def test_is_valid(use):
    result = validate_model(use.kernel, X, y=use.y, **use.extra)
    assert result.is_valid, result
    assert tuple(warning.kind for warning in result.warnings) == use.warned


def test_weights_with_a_slash_in_their_name():
    def kernel(X, y=None):
        net = random_flax_module("net", linen.Dense(1), dist.Normal(), input_shape=(1, X.shape[1]))
        observe(net(X)[:, 0], y)

    errors = validate_model(kernel, X).errors
    assert [error.kind for error in errors] == ["names", "names"]
    assert "'net/kernel'" in errors[-1]


def test_effect_on_a_network_equals_effect_of_its_input():
    """Intervening on the input of a network equals passing another input."""
    use = next(use for use in USES if use.kernel is module_haiku)
    model = fitted("module_haiku")
    given = {"rng_key": random.key(5), "return_sites": "y", "return_datatree": False}
    set_, passed = (
        model.predict_on_batch(X, intervention={"X": 0.5}, **given),
        model.predict_on_batch(X * 0 + 0.5, **given),
    )
    np.testing.assert_allclose(set_["y"], passed["y"], atol=1e-6)
    assert np.abs(set_["y"] - predict(model, use, None)).max() > 1e-3


def test_prng_key_warns_and_prevents_blocks():
    """A key that belongs to no site gives the same numbers in every block, so there is one block only."""
    use = next(use for use in USES if use.kernel is with_prng_key)
    long = np.concatenate([X] * 700)
    with pytest.warns(UserWarning, match="outside of any site"):
        tree = fitted("with_prng_key").predict(long, progress=False, store="memory", return_sites="y", in_sample=False)
    assert tree["predictions"]["y"].shape == (1, N_DRAWS, len(long))
    assert use.warned == ("rows",)

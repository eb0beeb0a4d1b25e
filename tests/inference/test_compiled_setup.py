"""The initial state of a variational fit against NumPyro's own ``SVI.init``."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import block
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)

from aimz.inference.compiled_setup import initial_state

X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
DATA = {"X": jnp.asarray(X), "y": jnp.asarray(X.sum(1))}


def kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal().expand([2]).to_event(1))
    limit = numpyro.sample("limit", dist.Uniform(-1, jnp.abs(X).max()))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ a + limit, 1.0), obs=y)


def guide_list(kernel):
    guides = AutoGuideList(kernel)
    guides.append(AutoDelta(block(kernel, hide=["limit"])))
    guides.append(AutoNormal(block(kernel, hide=["a"])))
    return guides


def make_svi(make_guide, kernel=kernel):
    return SVI(kernel, make_guide(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())


SLOW = [pytest.param(guide, marks=pytest.mark.slow) for guide in (AutoMultivariateNormal, AutoLaplaceApproximation)]


@pytest.mark.parametrize("make_guide", [AutoNormal, guide_list, *SLOW])
def test_state_and_draws_are_those_of_numpyro(make_guide, compilations):
    key, found = jax.random.key(1), []
    for init in (lambda svi: svi.init(key, **DATA), lambda svi: initial_state(svi, key, DATA, {})):
        svi, before = make_svi(make_guide), len(compilations)
        state = init(svi)
        n_compilations = len(compilations) - before
        state, loss = jax.jit(svi.update)(state, **DATA)
        draws = svi.guide.sample_posterior(key, svi.get_params(state), sample_shape=(3,))
        found.append((svi.get_params(state), loss, draws))
    assert n_compilations < 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)


def test_model_that_needs_numbers_is_set_up_with_numbers():
    def needs_numbers(X, y=None):
        kernel(X * float(X.max()) / float(X.max()), y)

    state = initial_state(make_svi(AutoNormal, needs_numbers), jax.random.key(1), DATA, {})
    expected = make_svi(AutoNormal).init(jax.random.key(1), **DATA)
    jax.tree.map(np.testing.assert_allclose, state.optim_state, expected.optim_state)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_guide_is_set_up_again_after_an_error(error):
    errors = [error, error]

    def fails_at_first(X, y=None):
        kernel(X, y)
        if errors:
            raise errors.pop()

    svi = make_svi(AutoNormal, fails_at_first)
    with pytest.raises(error):
        initial_state(svi, jax.random.key(1), DATA, {})
    errors.clear()
    initial_state(svi, jax.random.key(1), DATA, {})
    assert set(svi.guide._init_locs) == {"a", "limit"}
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(svi.guide._init_locs))

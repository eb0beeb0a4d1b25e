"""Order of the sum over sites in the loss of a fit."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz.inference.ordered_elbo import in_order_of_sites


def test_sum_has_the_order_of_the_sites():
    """NumPyro's order is that of a set of strings, so the last digits of a fit differed between processes."""
    values = (10 ** np.random.default_rng(0).uniform(-3, 3, 40)).astype(np.float32)

    def model():
        for i, value in enumerate(values):
            numpyro.factor(f"site {i}", value)

    total = np.float32(0)
    for value in values:
        total += value
    svi = in_order_of_sites(SVI(model, lambda: None, numpyro.optim.Adam(0.1), Trace_ELBO()))
    assert svi.loss.loss(random.key(0), {}, svi.model, svi.guide) == -total


@pytest.mark.parametrize("num_particles", [1, 3])
def test_loss_and_gradient_are_numpyros(num_particles):
    def model(y):
        sd = numpyro.sample("sd", dist.HalfNormal())
        with numpyro.plate("obs", len(y)):
            numpyro.sample("y", dist.Normal(numpyro.sample("local", dist.Normal()), sd), obs=y)

    y = np.arange(5.0)
    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.1), Trace_ELBO(num_particles=num_particles))
    params = svi.get_params(svi.init(random.key(0), y))

    def loss(svi):
        return jax.value_and_grad(
            lambda params: svi.loss.loss(random.key(1), svi.constrain_fn(params), svi.model, svi.guide, y)
        )(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), loss(in_order_of_sites(svi)), loss(svi))


def test_other_losses_are_numpyros():
    def model():
        numpyro.sample("a", dist.Normal())

    for loss in (TraceMeanField_ELBO(), Trace_ELBO(multi_sample_guide=True)):
        svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.1), loss)
        assert in_order_of_sites(svi) is svi

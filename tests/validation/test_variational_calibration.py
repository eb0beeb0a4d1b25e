"""Calibration of a fit by SVI agrees with NumPyro's own diagnostic."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.calibration import vsbc_diagnostic

from aimz import ImpactModel

RNG = np.random.default_rng(0)
MAIL = np.float32(RNG.uniform(size=150) < 0.8)
X = np.float32(RNG.normal(size=150))


def kernel(X, mail, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    gain = numpyro.sample("gain", dist.Normal(0.0, 0.5))
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + b * X + gain * mail, 1.0), obs=y)


@pytest.mark.slow
def test_ranks_are_as_dispersed_as_in_vsbc():
    """A guide of independent normals is too narrow for correlated parameters, and right for the other."""
    optimizer, loss = numpyro.optim.Adam(0.01), Trace_ELBO()
    theirs = vsbc_diagnostic(
        random.PRNGKey(0),
        kernel,
        AutoNormal(kernel),
        optimizer,
        loss,
        jnp.asarray(X),
        jnp.asarray(MAIL),
        observed_sites=["y"],
        num_simulations=200,
        num_svi_steps=2000,
    )
    model = ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), optimizer, loss))
    found = model.rehearse(
        X, mail=MAIL, kind="sbc", num_simulations=200, fit_options={"num_steps": 2000}, progress=False
    )
    for name in ("a", "b", "gain"):
        pit = found.simulations["pit"].sel(quantity=name).values
        other = np.ravel(theirs.probabilities[name])
        # The mean square of 12 times the distance from 1/2 is 1 if ranks are uniform, with an error of 0.06.
        ours, numpyros = (12 * ((values - 0.5) ** 2).mean() for values in (pit, other))
        assert abs(ours - numpyros) < 0.4
        assert (ours > 1.4) == (name != "b")
    assert found.summary()["verdict"].to_dict() | {"b": ""} == {
        "a": "intervals too narrow",
        "b": "",
        "gain": "intervals too narrow",
    }

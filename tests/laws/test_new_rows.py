"""The warning that rows are computed together describes what this means for rows that are not the fitted ones."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel, PerformanceWarning

X = np.linspace(0.0, 1.0, 1100, dtype=np.float32)


def trend(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * jnp.arange(X.shape[0]) + X, 1.0), obs=y)


def centred(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * (X - X.mean()), 1.0), obs=y)


def walk(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * jnp.cumsum(X), 1.0), obs=y)


@pytest.mark.parametrize(
    ("kernel", "advice"),
    [
        (trend, "numbered from 0 again. Pass the number or the time of each row"),
        (centred, "Means are computed over the rows of this call. Pass the means"),
        (walk, "A recursion starts again at the first of them. Pass the last state"),
    ],
)
def test_warning_describes_new_rows(kernel, advice):
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"b": np.ones(3)})
    for in_sample in (True, False):
        with pytest.warns(PerformanceWarning, match="computed together") as caught:
            model.predict(X, in_sample=in_sample, store="memory", progress=False)
        assert [advice in str(w.message) for w in caught] == [not in_sample]

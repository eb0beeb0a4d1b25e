"""An exact sampler of a conjugate model, for rehearsals whose ranks are exactly uniform."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel

State = namedtuple("State", ["z", "rng_key"])
PRIOR_SD = 0.5


def trial(X, arm, y=None):
    """Two arms with known noise: the effect has a normal prior."""
    gain = numpyro.sample("gain", dist.Normal(0.0, PRIOR_SD))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(gain * arm + 0.0 * X, 1.0), obs=y)


class Exact(MCMCKernel):
    """Independent draws from the posterior of `trial`, whose standard deviation may be made wrong."""

    sample_field = "z"

    def __init__(self, prior_sd=PRIOR_SD, factor=1.0, model=trial, transform=lambda x: x):
        self._model, self._prior_sd, self._factor, self._transform = model, prior_sd, factor, transform

    @property
    def model(self):
        return self._model

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        return State({"gain": jnp.zeros(())}, rng_key)

    def sample(self, state, model_args, model_kwargs):
        key, own = random.split(state.rng_key)
        arm, y = model_kwargs["arm"], model_kwargs["y"]
        precision = (arm**2).sum() + 1 / self._prior_sd**2
        draw = (arm * y).sum() / precision + self._factor * random.normal(own) / jnp.sqrt(precision)
        return State({"gain": self._transform(draw)}, key)


def exact(num_samples=200, **options):
    """Return an MCMC object with the exact sampler."""
    return MCMC(Exact(**options), num_warmup=0, num_samples=num_samples, progress_bar=False)


def count_compilations():
    """Return a list to which the duration of each later compilation is added."""
    found = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: found.append(seconds) if name.endswith("backend_compile_duration") else None
    )
    return found

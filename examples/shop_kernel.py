"""The kernel of `serve.py`, in a separate module, so that the server can import it by name."""

import jax
import numpyro
import numpyro.distributions as dist


def shop(X: jax.Array, mail: jax.Array, y: jax.Array | None = None) -> None:
    """Model the spending of a customer, given the columns of ``X`` and whether they received an email."""
    level = numpyro.sample("level", dist.Normal(20.0, 10.0))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    gain = numpyro.sample("gain", dist.Normal(0.0, 5.0))
    noise = numpyro.sample("noise", dist.HalfNormal(10.0))
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + X @ slopes + mail * gain, noise), obs=y)

"""How estimates are held against references: in standard errors; and where the reference data are."""

import json
from pathlib import Path

import arviz_stats as az
import numpy as np
import numpyro
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the reference data sets are not beside the repository")


def close(what, estimate, truth, se, *, z=4.0):
    """Assert that each estimate is within ``z`` standard errors of the truth; name the one furthest off."""
    estimate, truth, se = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (estimate, truth, se)))
    # Written so that a NaN fails, and a standard error of zero unless the estimate is exact.
    off = np.where(estimate == truth, 0.0, np.inf)
    off = np.divide(np.abs(estimate - truth), se, out=off, where=(se > 0.0) & np.isfinite(estimate))
    bad = ~(off <= z) | ~np.isfinite(se)
    worst = np.unravel_index(np.argmax(np.where(bad, off, -1.0)), off.shape)
    where = "".join(f"[{i}]" for i in worst)
    assert not bad.any(), (
        f"{what}{where}: {estimate[worst]:.6g}, should be {truth[worst]:.6g}; {off[worst]:.1f} standard errors "
        f"({se[worst]:.3g}) off, {z} allowed; {bad.sum()} of {bad.size} beyond that"
    )


def moments(what, draws, mean, sd, *, z=4.0, reference_size=np.inf):
    """Assert mean and sd of draws of shape ``(chain, draw, ...)``; the reference may be draws itself."""
    draws, sd = np.asarray(draws, dtype=np.float64), np.asarray(sd)
    with np.errstate(invalid="ignore"):  # where all draws are the same; `close` refuses that
        mcse_mean, mcse_sd = az.mcse(draws, method="mean"), az.mcse(draws, method="sd")
    se_mean = np.hypot(mcse_mean, sd / np.sqrt(reference_size))
    se_sd = np.hypot(mcse_sd, sd / np.sqrt(2 * reference_size))
    close(f"mean of {what}", draws.mean((0, 1)), mean, se_mean, z=z)
    close(f"sd of {what}", draws.std((0, 1), ddof=1), sd, se_sd, z=z)


def by_mcmc(kernel, key, X, y, *, num_warmup=500, num_samples=1500, target_accept_prob=0.8, **kwargs):
    """Fit by NUTS with two chains."""
    sampler = NUTS(kernel, target_accept_prob=target_accept_prob)
    mcmc = MCMC(
        sampler,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    return ImpactModel(kernel, random.key(key), mcmc).fit_on_batch(X, y, progress=False, **kwargs)


def by_hand(kernel, samples, **kwargs):
    """Make a model of draws made elsewhere; nothing is fitted."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi).set_posterior_sample(samples, **kwargs)


def chains(model, name):
    """Return the posterior draws of a site by chain."""
    draws = np.asarray(model.posterior[name])
    return draws.reshape(2, -1, *draws.shape[1:])


def read(path):
    return json.loads((DATA / path).read_text())


def reference(path, model, names):
    """Return means and sds of posteriordb's or our own reference for parameters ``names``."""
    params = read(f"posteriordb/{path}.reference.json")["posteriors"][model]["params"]
    return [np.asarray([params[name][moment] for name in names]) for moment in ("mean", "sd")]

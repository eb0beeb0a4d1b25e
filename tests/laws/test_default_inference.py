"""The chosen inference has the posterior of a long run of NUTS, or reports that it has not settled."""

import numpy as np
import pytest
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from kernels import BY_NAME

NAMES = (
    "linear",
    "logistic",
    "poisson",
    "hierarchical",
    "local_latents",
    "chain",
    "state_space",
    "mixture",
    "horseshoe",
)
RATIO, SHIFT = 1.15, 0.15


@pytest.fixture(scope="module", params=NAMES)
def reference(request):
    """Return a kernel of the catalogue, with mean and standard deviation of each latent value."""
    case = BY_NAME[request.param]
    sampler = NUTS(case.kernel, target_accept_prob=0.95)
    mcmc = MCMC(sampler, num_warmup=1000, num_samples=5000, num_chains=4, chain_method="vectorized", progress_bar=False)
    model = ImpactModel(case.kernel, 7, mcmc).fit_on_batch(case.X, case.y, progress=False, **case.extra)
    return case, {name: (np.mean(draws, 0), np.std(draws, 0)) for name, draws in model.posterior.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings(
    "ignore:Intervals may be", "ignore:Means and intervals", "ignore:The posterior is not reliable"
)
@pytest.mark.parametrize("inference", [None, "svi"])
def test_posterior_is_that_of_nuts_or_the_fit_has_not_settled(reference, inference):
    case, moments = reference
    model = ImpactModel(case.kernel, 0, inference).fit(case.X, case.y, progress=False, **case.extra)
    if not model.describe(as_dict=True)["settled"]:
        return
    for name, (mean, sd) in moments.items():
        draws = np.asarray(model.posterior[name], np.float64)
        np.testing.assert_allclose(np.log(draws.std(0) / sd), 0, atol=np.log(RATIO), err_msg=name)
        np.testing.assert_allclose((draws.mean(0) - mean) / sd, 0, atol=SHIFT, err_msg=name)

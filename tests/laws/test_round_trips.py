"""Law 7: a pickled or saved model keeps posterior, spec and the next prediction; a pickle traces nothing on load."""

import pickle

import cloudpickle
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from kernels import BY_NAME, QUICK_CASES, each_kernel, fitted_model

pytestmark = pytest.mark.usefixtures("quiet_local_latents")


def pickled(model, path):
    return cloudpickle.loads(cloudpickle.dumps(model))


def saved(model, path):
    model.save(path)
    ImpactModel.load(path, model.kernel, model.inference)  # can be read; fits go on in `tests/persistence`
    return ImpactModel.load(path, model.kernel)


@pytest.mark.parametrize("through", [pickled, saved])
@each_kernel(QUICK_CASES)
def test_round_trip(case, through, tmp_path):
    model = fitted_model(case)
    model.predict_on_batch(**case.arguments())
    loaded = through(model, tmp_path / "model")

    assert loaded.kernel_spec == model.kernel_spec
    assert loaded.posterior.keys() == model.posterior.keys()
    for name in model.posterior:
        np.testing.assert_array_equal(loaded.posterior[name], model.posterior[name])
    before, after = (
        m.predict_on_batch(**case.arguments(), return_datatree=False) for m in (model, loaded)
    )  # each with its own key, which must be the same
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


def test_pickle_of_a_module_level_kernel_and_mcmc():
    case = BY_NAME["linear"]
    mcmc = MCMC(NUTS(case.kernel), num_warmup=5, num_samples=5, num_chains=2, chain_method="vectorized")
    model = ImpactModel(case.kernel, random.key(0), mcmc)
    model.fit_on_batch(case.X, case.y, progress=False)
    loaded = pickle.loads(pickle.dumps(model))
    tree = loaded.predict_on_batch(case.X)
    assert tree["posterior"].sizes["chain"] == 2
    assert "diverging" in tree["sample_stats"]
    # The chains go on from where they were.
    ours, theirs = (
        m.sample(num_samples=3, rng_key=random.key(1), X=case.X, y=case.y, return_datatree=False)
        for m in (loaded, model)
    )
    np.testing.assert_array_equal(ours["b"], theirs["b"])


def test_nothing_is_traced_on_load_and_fitting_goes_on():
    case = BY_NAME["param_site"]
    model = fitted_model(case)
    model.fit_on_batch(case.X, case.y, num_steps=20, num_samples=5, progress=False)
    model.predict_on_batch(case.X)
    loaded = cloudpickle.loads(cloudpickle.dumps(model))
    assert loaded.kernel_spec is not None
    assert loaded.kernel_spec.traced
    for m in (model, loaded):
        m.fit_on_batch(case.X, case.y, num_steps=20, num_samples=5, progress=False, rng_key=random.key(3))
    np.testing.assert_array_equal(loaded.vi_result.losses, model.vi_result.losses)
    np.testing.assert_array_equal(loaded.posterior["b"], model.posterior["b"])

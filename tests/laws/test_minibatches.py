"""The losses of an epoch of minibatches are those of the whole data, for every kernel a batch can stand for.

With a guide that draws nothing and an optimizer that moves nothing, the mean of the losses of an epoch, weighted by the
rows of each batch, is exactly NumPyro's loss of all rows: priors count once, rows once each.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

from aimz import ImpactModel
from kernels import BY_NAME, CASES, each_kernel, long, on_device

N_OBS = 44

REFUSED = {
    "local_latents": "`AutoDelta` has a value of `z` for each row",
    "chain": "`AutoDelta` has a value of `m` for each row",
    "gaussian_process": "rows of site `y` have one joint distribution",
    "state_space": "it takes one number of rows only|`AutoDelta` has a value of `level` for each row",
    "nested_plates": "`AutoDelta` has a value of `e` for each row",
    "factor_only": "it reduces over rows",
    "masked": "`AutoDelta` has a value of `y_unobserved` for each row",
}
"""What a batch cannot stand for, and the reason that is given."""


def model_at_rest(kernel):
    """A model whose guide draws nothing and whose optimizer moves nothing."""
    return ImpactModel(kernel, random.key(0), SVI(kernel, AutoDelta(kernel), numpyro.optim.SGD(0.0), Trace_ELBO()))


@each_kernel([case for case in CASES if case.name not in {*REFUSED, "subsampled"} and not case.fixed_size])
def test_an_epoch_has_the_loss_of_all_rows(case):
    case, batch_size = long(case, N_OBS), 16
    model = model_at_rest(case.kernel)
    kwargs = {name: value for name, value in case.arguments().items() if name != "X"}
    model.fit(case.X, case.y, epochs=1, batch_size=batch_size, num_samples=2, progress=False, **kwargs)
    svi, losses = model.inference, model.vi_result.losses
    rows = np.array([batch_size] * (N_OBS // batch_size) + [N_OBS % batch_size] * (N_OBS % batch_size > 0))
    assert losses.shape == rows.shape
    arguments = on_device(case) | {"y": jnp.asarray(case.y)}
    expected = svi.evaluate(model.vi_state, **arguments)
    np.testing.assert_allclose((losses * rows).sum() / N_OBS, expected, rtol=2e-5)
    assert np.ptp(losses) > 1e-3 * abs(float(expected))  # the batches are not alike


def test_a_plate_that_takes_a_sample_of_the_batch_is_right_on_average():
    """Its losses vary with what it picks; 5 standard errors, over 2,000 epochs of 3 batches."""
    case = long(BY_NAME["subsampled"], N_OBS)
    model = model_at_rest(case.kernel)
    model.fit(case.X, case.y, batch_size=16, epochs=2000, num_samples=2, progress=False)
    epochs = (model.vi_result.losses.reshape(-1, 3) * np.array([16, 16, 12])).sum(1) / N_OBS
    held = {"b": model.vi_result.params["b_auto_loc"]}
    expected = -log_density(case.numpyro_kernel, (), on_device(case) | {"y": jnp.asarray(case.y)}, held)[0]
    assert abs(epochs.mean() - expected) < 5 * epochs.std() / np.sqrt(len(epochs))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_batch_cannot_stand_for_is_refused_before_the_first_step(name):
    case = long(BY_NAME[name], N_OBS)
    model = model_at_rest(case.kernel)
    kwargs = {name: value for name, value in case.arguments().items() if name != "X"}
    with pytest.raises(ValueError, match=REFUSED[name]) as refusal:
        model.fit(case.X, case.y, epochs=1, batch_size=11, progress=False, **kwargs)
    assert "fit_on_batch" in str(refusal.value)
    assert model.vi_state is None
    assert not model.is_fitted()
    assert (random.key_data(model.rng_key) == random.key_data(random.key(0))).all()

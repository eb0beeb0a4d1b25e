"""Values of the output are checked before a fit or a score; fits that cannot be right warn."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import FitWarning, ImpactModel, KernelValidationError

N = 300
QUIET = {"progress": False}
X = np.linspace(-1, 1, N, dtype=np.float32)


def kernel_of(distribution, transform=lambda y: y, mask=None):
    """A kernel whose output has a distribution of its input and one latent site."""

    def kernel(X, y=None, *, n=None):
        a = numpyro.sample("a", dist.Normal())
        fn = distribution(a + 0 * X) if n is None else distribution(a + 0 * X, n)
        if mask is not None and y is not None:
            fn = fn.mask(mask(y))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", fn, obs=None if y is None else transform(y))

    return kernel


def new(kernel):
    """A model that is never run: values are checked before."""
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False))


def with_value(base, value, row=7):
    y = np.array(base)
    y[row] = value
    return y


NORMAL = kernel_of(lambda a: dist.Normal(a, 1))
LABELS = np.where(np.arange(N) < 3, 1, 2)
BAD = {
    "labels 1 and 2": (
        kernel_of(lambda a: dist.Bernoulli(logits=a)),
        LABELS,
        r"297 of 300 values of `y` are not 0 or 1; got 1, 2, first in row 3\..*pass `y - 1`",
    ),
    "NaN": (NORMAL, with_value(X, np.nan), r"1 of 300 values of `y` are not finite numbers; got nan, first in row 7"),
    "infinity": (NORMAL, with_value(X, np.inf), "1 of 300 values of `y` are not finite numbers; got inf"),
    "zeros": (
        kernel_of(lambda a: dist.Gamma(jnp.exp(a), 1)),
        with_value(X**2 + 1, 0),
        "1 of 300 values of `y` are not positive numbers; got 0, first in row 7",
    ),
    "three classes": (
        kernel_of(lambda a: dist.Categorical(logits=jnp.stack([a, a, a], -1))),
        np.arange(N) % 3 + 1,
        "100 of 300 values of `y` are not whole numbers from 0 to 2; got 1, 2, 3, first in row 2",
    ),
    "parts of counts": (
        kernel_of(lambda a: dist.Poisson(jnp.exp(a))),
        with_value(np.ones(N), 0.5),
        "1 of 300 values of `y` are not whole numbers of at least 0; got 0.5",
    ),
    "vectors": (
        kernel_of(lambda a: dist.Normal(jnp.stack([a, a], 1), 1).to_event(1)),
        with_value(np.ones((N, 2)), np.nan),
        "1 of 300 values of `y` are not finite numbers; got nan",
    ),
    "bound of the kernel": (
        kernel_of(lambda a: dist.Uniform(0.0, 10.0 * jnp.ones_like(a))),
        with_value(X**2, 11),
        "1 of 300 values of `y`",
    ),
    "transformed": (
        kernel_of(lambda a: dist.Bernoulli(logits=a), lambda y: y - 1),
        with_value(LABELS, 3),
        "1 of 300 values of `y` are not 0 or 1; got 1, 2, 3, first in row 7",
    ),
    "ordinal": (
        kernel_of(lambda a: dist.OrderedLogistic(a, jnp.asarray([-1.0, 1.0]))),
        with_value(np.ones(N), 2.5),
        "1 of 300 values of `y` are not whole numbers from 0 to 2; got",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_values_outside_support_raise_error_before_fits_and_scores(name):
    kernel, y, match = BAD[name]
    model = new(kernel)
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
    by_svi = ImpactModel(kernel, random.key(0), svi)
    calls = [
        lambda: model.fit_on_batch(X, y, **QUIET),
        lambda: by_svi.fit(X, y, epochs=1, batch_size=50, **QUIET),
        lambda: by_svi.train_on_batch(X, y),
    ]
    scores = new(kernel).set_posterior_sample({"a": np.zeros(5)})
    if np.isnan(y).any():  # the score of a missing value is missing
        found = scores.log_likelihood(X, y, store="memory", **QUIET)["log_likelihood"]["y"].values[0]
        np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(np.isnan(y.reshape(N, -1)).any(1), found.shape))
        calls.append(lambda: scores.loo(X, y, **QUIET))
    else:
        calls.append(lambda: scores.log_likelihood(X, y, **QUIET))
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call()
    assert not model.is_fitted()


def test_values_of_iterables_raise_error_with_number_of_row():
    svi = SVI(NORMAL, AutoNormal(NORMAL), numpyro.optim.Adam(0.1), Trace_ELBO())
    y = with_value(X, np.nan, row=120)
    batches = [{"X": X[i : i + 50], "y": y[i : i + 50]} for i in range(0, N, 50)]
    with pytest.raises(ValueError, match=r"values of `y` in rows .* first in row 120"):
        ImpactModel(NORMAL, random.key(0), svi).fit(batches, **QUIET)


def test_more_successes_than_trials_raise_error():
    kernel = kernel_of(lambda a, n: dist.Binomial(n, logits=a))
    n = np.full(N, 5)
    with pytest.raises(ValueError, match=r"2 of 300 values of `y` are not whole numbers.*first in row 4"):
        new(kernel).fit_on_batch(X, with_value(with_value(n, 6, 4), 7, 9), n=n, **QUIET)


@pytest.mark.parametrize(
    ("kernel", "y"),
    [
        (kernel_of(lambda a: dist.Normal(a, 1), mask=lambda y: ~jnp.isnan(y)), with_value(X, np.nan)),
        (kernel_of(lambda a: dist.VonMises(a, 1)), X + 6),
        (kernel_of(lambda a: dist.Uniform(0, jnp.exp(a))), X + 50),  # the bound is latent
    ],
)
def test_masked_values_and_unknown_bounds_are_accepted(kernel, y):
    tree = new(kernel).set_posterior_sample({"a": np.zeros(3)}).log_likelihood(X, y, store="memory", **QUIET)
    assert tree["log_likelihood"]["y"].shape == (1, 3, N)


def test_whole_floats_are_cast_for_kernels_of_integers():
    kernel = kernel_of(lambda a: dist.OrderedLogistic(a, jnp.asarray([-1.0, 1.0])))
    model, y = new(kernel).set_posterior_sample({"a": np.zeros(3)}), np.arange(N) % 3
    of_floats, of_integers = (
        model.log_likelihood(X, given, store="memory", **QUIET)["log_likelihood"]["y"].values
        for given in (y.astype(np.float64), y)
    )
    np.testing.assert_array_equal(of_floats, of_integers)


def test_factor_with_name_of_output_and_multinomial_raise_error():
    def factor(X, y=None):
        fn = dist.Normal(numpyro.sample("a", dist.Normal()) + 0 * X, 1)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", fn) if y is None else numpyro.factor("y", fn.log_prob(y))

    with pytest.raises(KernelValidationError, match="Factor `y` of kernel `factor` has the name of the output"):
        new(factor).fit_on_batch(X, X, **QUIET)
    multinomial = kernel_of(lambda a, n: dist.Multinomial(n, logits=jnp.stack([a, 0 * a], -1)))
    with pytest.raises(KernelValidationError, match="Pass `total_count_max=`"):
        new(multinomial).fit_on_batch(X, np.full((N, 2), 3), n=np.full(N, 6), **QUIET)


def test_callable_interventions_that_fail_raise_error():
    model = new(NORMAL).set_posterior_sample({"a": np.zeros(3)})
    for function, match in ((lambda x: x.at[0].set(1), "as a NumPy array"), (lambda _: None, "returned None")):
        for predict in (model.predict_on_batch, model.predict):
            with pytest.raises(TypeError, match=match):
                predict(X, intervention={"X": function}, in_sample=False)


def test_mcmc_of_parameters_warns():
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + X, numpyro.param("scale", 1.0)), obs=y)

    with pytest.warns(FitWarning, match=r"MCMC does not optimize parameters: `scale`"):
        new(kernel).fit_on_batch(X[:5], X[:5], **QUIET)


@pytest.mark.filterwarnings("ignore:The loss")
def test_fit_that_stops_at_bad_row_is_not_fitted():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X, 1, validate_args=False), obs=y)

    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi)
    with pytest.warns(FitWarning, match=r"not finite, first in row 199 of `X`, so the model is not fitted"):
        model.fit(with_value(X, np.inf, row=199), X, epochs=1, batch_size=50, **QUIET)
    assert not model.is_fitted()

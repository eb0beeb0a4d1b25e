"""Values recomputed with their own noise, against quantiles of SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from jax import random
from numpyro.distributions import transforms

from aimz.kernel.abduction import Abduction, abduction_of, recompute

KEY = random.key(0)


@jax.jit
def recomputed(old, value, new):
    return recompute(old, value, new, KEY)


def sd(family, *args, **kwargs):
    """Return a distribution of SciPy."""
    return family(*args, **kwargs)


def pareto(scale, alpha):
    return st.pareto(alpha, scale=scale)


CONTINUOUS = {
    "normal": (dist.Normal, (1.0, 2.0), (-3.0, 0.5), st.norm),
    "cauchy": (dist.Cauchy, (1.0, 2.0), (-3.0, 0.5), st.cauchy),
    "laplace": (dist.Laplace, (1.0, 2.0), (-3.0, 0.5), st.laplace),
    "logistic": (dist.Logistic, (1.0, 2.0), (-3.0, 0.5), st.logistic),
    "gumbel": (dist.Gumbel, (1.0, 2.0), (-3.0, 0.5), st.gumbel_r),
    "half-normal": (dist.HalfNormal, (2.0,), (0.5,), lambda s: st.halfnorm(scale=s)),
    "half-cauchy": (dist.HalfCauchy, (2.0,), (0.5,), lambda s: st.halfcauchy(scale=s)),
    "exponential": (dist.Exponential, (2.0,), (0.5,), lambda r: st.expon(scale=1 / r)),
    "uniform": (dist.Uniform, (-1.0, 3.0), (5.0, 6.0), lambda a, b: st.uniform(a, b - a)),
    "weibull": (dist.Weibull, (2.0, 1.5), (0.5, 3.0), lambda s, c: st.weibull_min(c, scale=s)),
    "gompertz": (dist.Gompertz, (0.5, 2.0), (0.1, 0.7), lambda c, r: st.gompertz(c, scale=1 / r)),
    "log-normal": (dist.LogNormal, (0.5, 0.7), (-1.0, 0.3), lambda m, s: st.lognorm(s, scale=np.exp(m))),
    "pareto": (dist.Pareto, (2.0, 3.0), (1.0, 1.5), pareto),
    "gamma, other shape": (dist.Gamma, (2.0, 3.0), (5.0, 0.5), lambda a, r: st.gamma(a, scale=1 / r)),
    "gamma, same shape": (dist.Gamma, (2.0, 3.0), (2.0, 0.5), lambda a, r: st.gamma(a, scale=1 / r)),
    "inverse gamma": (dist.InverseGamma, (2.0, 3.0), (4.0, 0.5), lambda a, r: st.invgamma(a, scale=r)),
    "beta": (dist.Beta, (2.0, 3.0), (0.7, 5.0), st.beta),
    "student t, other df": (dist.StudentT, (4.0, 1.0, 2.0), (9.0, 0.0, 1.0), st.t),
    "student t, same df": (dist.StudentT, (4.0, 1.0, 2.0), (4.0, 0.0, 3.0), st.t),
    "truncated": (
        lambda m, s: dist.TruncatedNormal(m, s, low=0.0),
        (1.0, 2.0),
        (-3.0, 1.0),
        lambda m, s: st.truncnorm(-m / s, np.inf, loc=m, scale=s),
    ),
}
UPPER = np.array([0.9, 0.5, 0.1, 1e-3, 1e-6])
"""Probabilities above the values; 1 minus the probability below the last value is 0 in single precision."""


SLOW = (
    *("beta", "inverse gamma", "student t, other df", "student t, same df", "truncated"),
    *("binomial", "negative binomial", "zero-inflated"),
)
"""Families whose distribution functions compile slowly."""


def each(names):
    """Return parameters with the families that compile slowly marked."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=(pytest.mark.slow,) if name in SLOW else ()) for name in names]
    )


@each(CONTINUOUS)
def test_continuous_value_has_the_same_probability(name):
    family, old, new, witness = CONTINUOUS[name]
    before, after = witness(*old), witness(*new)
    value = np.concatenate([before.isf(UPPER), before.ppf(UPPER)])
    expected = np.concatenate([after.isf(UPPER), after.ppf(UPPER)])
    found = recomputed(family(*old), jnp.asarray(value), family(*new))
    np.testing.assert_allclose(found.value, expected, rtol=2e-4, atol=1e-6)
    assert found.possible.all()
    # Bit for bit the same value if nothing changes, with the program that is compiled already.
    np.testing.assert_array_equal(recomputed(family(*old), found.value, family(*old)).value, found.value)


def test_far_tail_of_normal_is_finite():
    z = jnp.array([5.5, 8.0, 12.0, -12.0])
    found = recomputed(dist.Normal(0.0, 1.0), z, dist.Normal(1.0, 2.0))
    np.testing.assert_allclose(found.value, 1 + 2 * z, rtol=1e-6)


def test_mixture_is_inverted_in_both_tails():
    old = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.array([-2.0, 1.0]), 1.0))
    new = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.array([0.0, 4.0]), 2.0))
    value = jnp.array([-5.0, -1.0, 0.0, 3.0, 6.0])
    found = np.asarray(recomputed(old, value, new).value, float)

    def above(loc, scale, x):
        return 0.3 * st.norm(loc[0], scale).sf(x) + 0.7 * st.norm(loc[1], scale).sf(x)

    np.testing.assert_allclose(above((0, 4), 2, found), above((-2, 1), 1, np.asarray(value)), rtol=2e-4)
    assert abduction_of(old) is Abduction.INVERTED


def test_transformed_and_masked_and_event_wrappers():
    shift = dist.TransformedDistribution(dist.Normal(0.0, 1.0), transforms.AffineTransform(2.0, -3.0))
    other = dist.TransformedDistribution(dist.Normal(1.0, 1.0), transforms.AffineTransform(2.0, -3.0))
    np.testing.assert_allclose(recomputed(shift, jnp.array([0.0, 5.0]), other).value, [-3.0, 2.0], atol=1e-5)
    old = dist.Normal(jnp.zeros(3), 1.0).expand([2, 3]).to_event(1).mask(False)
    new = dist.Normal(jnp.arange(3.0), 2.0).expand([2, 3]).to_event(1).mask(False)
    value = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(recomputed(old, value, new).value, np.arange(3.0) + 2 * value)


def test_multivariate_normal_keeps_its_standard_normal_vector():
    rng = np.random.default_rng(0)
    lower = [np.linalg.cholesky(a @ a.T + np.eye(3)) for a in rng.normal(size=(2, 3, 3))]
    z = rng.normal(size=(5, 3))
    old = dist.MultivariateNormal(jnp.ones(3), scale_tril=jnp.asarray(lower[0]))
    new = dist.MultivariateNormal(jnp.zeros(3), scale_tril=jnp.asarray(lower[1]))
    found = recomputed(old, jnp.asarray(1 + z @ lower[0].T), new)
    np.testing.assert_allclose(found.value, z @ lower[1].T, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(recomputed(old, found.value, old).value, found.value)


DISCRETE = {
    "bernoulli": (lambda p: dist.Bernoulli(probs=p), 0.3, 0.5, st.bernoulli),
    "poisson": (dist.Poisson, 2.5, 6.0, st.poisson),
    "poisson, large": (dist.Poisson, 300.0, 350.0, st.poisson),
    "binomial": (lambda p: dist.Binomial(20, probs=p), 0.3, 0.5, lambda p: st.binom(20, p)),
    "geometric": (lambda p: dist.Geometric(probs=p), 0.3, 0.1, lambda p: st.geom(p, loc=-1)),
    "negative binomial": (
        lambda m: dist.NegativeBinomial2(m, 3.0),
        4.0,
        9.0,
        lambda m: st.nbinom(3.0, 3.0 / (3.0 + m)),
    ),
    "zero-inflated": (lambda r: dist.ZeroInflatedPoisson(0.2, r), 2.5, 6.0, None),
}


@each(DISCRETE)
def test_monotone_coupling_of_counts(name):
    family, old, new, witness = DISCRETE[name]
    n = 20_000
    value = family(jnp.full(n, old)).sample(random.key(1))
    found = recomputed(family(jnp.full(n, old)), value, family(jnp.full(n, new)))
    assert found.possible.all()
    assert found.value.dtype == value.dtype
    step = np.sign(new - old) * (-1 if name == "geometric" else 1)
    assert (step * (np.asarray(found.value) - np.asarray(value)) >= 0).all()
    if witness is not None:
        # The coupling pairs equal probabilities, so that u of the new value must be in the interval of the old one.
        x, y = np.asarray(value, float), np.asarray(found.value, float)
        before, after = witness(old), witness(new)
        assert (after.cdf(y - 1) <= before.cdf(x) + 1e-4).all()
        assert (after.cdf(y) >= before.cdf(x - 1) - 1e-4).all()
        counts = np.bincount(y.astype(int))
        expected = n * after.pmf(np.arange(len(counts)))
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected + 10)).all()
    same = recomputed(family(jnp.full(n, old)), value, family(jnp.full(n, old)))
    np.testing.assert_array_equal(same.value, value)


def test_categorical_codes_are_coupled_in_their_order():
    old, new = jnp.array([0.2, 0.3, 0.5]), jnp.array([0.5, 0.3, 0.2])
    value = jnp.repeat(jnp.arange(3), 10_000)
    found = np.asarray(recomputed(dist.Categorical(old), value, dist.Categorical(new)).value)
    assert (found <= value).all()
    assert set(found[value == 0]) == {0}
    np.testing.assert_allclose((found[value == 2] == 2).mean(), 0.4, atol=0.02)


def test_impossible_observations_are_marked():
    found = recomputed(dist.Uniform(0.0, 1.0), jnp.array([0.5, 2.0, jnp.nan]), dist.Uniform(0.0, 2.0))
    assert found.possible.tolist() == [True, False, True]
    assert np.isnan(found.value[2])
    counts = recomputed(dist.DiscreteUniform(0, 2), jnp.array([1, 5]), dist.DiscreteUniform(0, 4))
    assert counts.possible.tolist() == [True, False]


@pytest.mark.parametrize(
    ("fn", "how"),
    [
        (dist.Normal(0, 1).expand([2]).to_event(1), Abduction.EXACT),
        (dist.LogNormal(0, 1), Abduction.EXACT),
        (dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), Abduction.EXACT),
        (dist.Gamma(1.0, 1.0), Abduction.INVERTED),
        (dist.OrderedLogistic(0.0, jnp.array([0.0, 1.0])), Abduction.MONOTONE),
        (dist.ZeroInflatedPoisson(0.1, 1.0), Abduction.MONOTONE),
        (dist.VonMises(0.0, 1.0), None),
        (dist.Dirichlet(jnp.ones(3)), None),
        (dist.BetaBinomial(1.0, 1.0, 3), None),
        (dist.HurdleGamma(0.1, 1.0, 1.0), None),
        (dist.GaussianRandomWalk(1.0, 4), None),
        (dist.TransformedDistribution(dist.Normal(jnp.zeros(2), 1), transforms.StickBreakingTransform()), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, dist.Distribution) else "",
)
def test_way_of_inferring_the_noise(fn, how):
    assert abduction_of(fn) is how

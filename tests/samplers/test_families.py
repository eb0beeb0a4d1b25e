"""Draws of the samplers against SciPy's distributions and NumPyro's shapes and types.

A p-value below 1e-6 fails, for about 70 pairs of family and parameters: fewer than 1 in 10,000 sets of keys would.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats

from aimz.samplers import draw
from aimz.samplers.counts import categorical, poisson

pytestmark = pytest.mark.usefixtures("plain_code")

P_VALUE = 1e-6
N_DRAWS = 100_000

CONTINUOUS = {
    "normal": (dist.Normal, stats.norm, [(0, 1), (3, 1e-2), (-1e4, 1e3)]),
    "half-normal": (dist.HalfNormal, lambda scale: stats.halfnorm(scale=scale), [1e-3, 2]),
    "log-normal": (lambda s: dist.LogNormal(0.5, s), lambda s: stats.lognorm(s, scale=np.exp(0.5)), [0.1, 2]),
    "gamma": (
        lambda a: dist.Gamma(a, 2.0),
        lambda a: stats.gamma(a, scale=0.5),
        [0.1, 0.5, 1, 1.99, 2, 5, 30, 1e3, 1e6],
    ),
    "chi-squared": (dist.Chi2, stats.chi2, [0.5, 1, 3, 40]),
    "inverse gamma": (lambda a: dist.InverseGamma(a, 2.0), lambda a: stats.invgamma(a, scale=2), [0.5, 3]),
    "beta": (dist.Beta, stats.beta, [(0.5, 0.5), (2, 3), (50, 1), (1e3, 2e3), (1e5, 1e5)]),
    "Student's t": (dist.StudentT, stats.t, [0.5, 1, 4, 30, 1e4]),
    "gamma, transformed": (
        lambda a: dist.TransformedDistribution(dist.Gamma(a, 1.0), dist.transforms.AffineTransform(1.0, 2.0)),
        lambda a: stats.gamma(a, loc=1, scale=2),
        [0.7, 4],
    ),
}
COUNTS = {
    "Poisson": (dist.Poisson, stats.poisson, [1e-4, 0.01, 0.5, 2, 3.99, 4, 5, 12, 100, 1e4, 1e6, 1e9]),
    "negative binomial": (
        dist.NegativeBinomial2,
        lambda mean, c: stats.nbinom(c, c / (mean + c)),
        [(2, 3), (0.1, 0.5), (50, 5), (1e4, 0.7), (1e9, 1e6)],
    ),
    "binomial": (
        lambda n, p: dist.Binomial(n.astype(int), p),
        stats.binom,
        [
            (1, 0.3),
            (10, 0.3),
            (10, 0.97),
            (16, 0.5),
            (20, 0.5),
            (40, 0.4),
            (1e3, 0.01),
            (1e3, 0.7),
            (1e6, 0.2),
            (1e6, 1e-5),
        ],
    ),
    "binomial, few trials": (
        lambda n, p: dist.Binomial(n.astype(int), p),
        stats.binom,
        [(1, 0.3), (10, 0.97), (20, 0.5), (32, 0.4), (32, 0.999)],
    ),
    "binomial, logits": (
        lambda n, z: dist.Binomial(n.astype(int), logits=z),
        lambda n, z: stats.binom(n, 1 / (1 + np.exp(-z))),
        [(30, -2), (30, 2), (1e6, -12)],
    ),
    "beta-binomial": (
        lambda n, a, b: dist.BetaBinomial(a, b, n.astype(int)),
        stats.betabinom,
        [(20, 2, 3), (100, 0.3, 5)],
    ),
    "geometric": (dist.GeometricProbs, lambda p: stats.geom(p, loc=-1), [0.01, 0.2, 0.9]),
    "geometric, logits": (
        dist.GeometricLogits,
        lambda z: stats.geom(1 / (1 + np.exp(-z)), loc=-1),
        [-4, 1],
    ),
    "Poisson without 0": (
        lambda rate: dist.HurdlePoisson(jnp.full_like(rate, 0.0), rate),
        lambda rate: _Truncated(stats.poisson(rate)),
        [0.01, 2, 30],
    ),
    "zero-inflated Poisson": (
        lambda rate: dist.ZeroInflatedPoisson(0.3, rate),
        lambda rate: _Inflated(stats.poisson(rate), 0.3),
        [0.5, 20],
    ),
}


class _Truncated:
    """Distribution of a count given that it is not 0."""

    def __init__(self, base):
        self.base, self.none = base, base.cdf(0)

    def cdf(self, k):
        return np.maximum(self.base.cdf(k) - self.none, 0) / (1 - self.none)

    def ppf(self, q):
        return self.base.ppf(self.none + q * (1 - self.none))

    def isf(self, q):
        return self.base.isf(q * (1 - self.none))


class _Inflated:
    """Distribution of a count with additional zeros."""

    def __init__(self, base, gate):
        self.base, self.gate = base, gate

    def cdf(self, k):
        return self.gate * (np.asarray(k) >= 0) + (1 - self.gate) * self.base.cdf(k)

    def ppf(self, q):
        return self.base.ppf(max(0, (q - self.gate) / (1 - self.gate)))

    def isf(self, q):
        return self.base.isf(q / (1 - self.gate))


def drawn(make, corners, n_draws, key=0):
    """Return draws of each corner, with the parameters as the sampler has them."""
    corners = np.array(corners, np.float32)
    parameters = np.atleast_2d(corners.T)[..., None]
    fn = make(*map(jnp.asarray, parameters))
    values = jax.jit(lambda key: draw(fn, key, (len(corners), n_draws)))(random.key(key))
    return parameters[..., 0].T.astype(float), np.asarray(values, float)


def p_value_of_counts(values, expected):
    """Return the p-value of a chi-square test; cells have an expected count of at least 20."""
    low, high = expected.ppf(1e-5), expected.isf(1e-5)
    edges = np.unique(np.linspace(low - 1, high, int(min(high - low + 2, 300))).astype(np.int64))
    edges = edges[edges >= 0]
    cells = np.diff(np.concatenate([[0], expected.cdf(edges), [1]])) * len(values)
    found = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(cells))
    merged, rest = [], np.zeros(2)
    for cell in zip(found, cells, strict=True):
        rest = rest + cell
        if rest[1] >= 20:
            merged, rest = [*merged, rest], np.zeros(2)
    merged[-1] = merged[-1] + rest
    found, cells = np.array(merged).T
    if len(cells) == 1:
        return 1.0
    return stats.chi2.sf(((found - cells) ** 2 / cells).sum(), len(cells) - 1)


def check(table, name, p_value, n_draws):
    make, expected, corners = table[name]
    parameters, values = drawn(make, corners, n_draws)
    p_values = {tuple(row): p_value(each, expected(*row)) for row, each in zip(parameters, values, strict=True)}
    assert min(p_values.values()) > P_VALUE, p_values


def p_value_of_numbers(values, expected):
    return stats.kstest(values, expected.cdf).pvalue


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_draws_have_the_distribution_of_scipy(name):
    check(CONTINUOUS, name, p_value_of_numbers, N_DRAWS)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_have_the_distribution_of_scipy(name):
    check(COUNTS, name, p_value_of_counts, N_DRAWS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("table", "name"), [(t, n) for t in (CONTINUOUS, COUNTS) for n in t])
def test_many_draws_have_the_distribution_of_scipy(table, name):
    check(table, name, p_value_of_numbers if table is CONTINUOUS else p_value_of_counts, 10_000_000)


@pytest.mark.parametrize("shape", [1e-3, 1e-2])
def test_gamma_draws_of_tiny_shapes_have_the_tail_probabilities_of_scipy(shape):
    """Most draws are below the smallest float32, so probabilities above thresholds are compared."""
    (_,), (values,) = drawn(lambda a: dist.Gamma(a, 1.0), [shape], N_DRAWS)
    limits = np.array([1e-30, 1e-10, 1e-3, 0.1])
    expected = stats.gamma.sf(limits, np.float32(shape))
    errors = np.sqrt(expected * (1 - expected) / N_DRAWS)
    assert (np.abs((values[:, None] > limits).mean(0) - expected) < 5 * errors).all()


@pytest.mark.parametrize("n_categories", [3, 40])
def test_categories_have_their_probabilities(n_categories):
    probs = np.arange(1, n_categories + 1) / (n_categories * (n_categories + 1) / 2)
    for fn in (dist.Categorical(probs), dist.Categorical(logits=np.log(probs) + 3)):
        codes = np.asarray(jax.jit(lambda key, fn=fn: draw(fn, key, (N_DRAWS,)))(random.key(1)))
        expected = stats.rv_discrete(values=(np.arange(n_categories), probs))
        assert p_value_of_counts(codes, expected) > P_VALUE


def test_multinomial_counts_have_the_moments_of_the_distribution():
    probs, n = np.array([0.2, 0.0, 0.3, 0.5]), 20
    for fn in (dist.Multinomial(n, probs), dist.Multinomial(np.full(N_DRAWS, n), probs, total_count_max=n)):
        counts = np.asarray(jax.jit(lambda key, fn=fn: draw(fn, key, (N_DRAWS,)))(random.key(2)))
        assert (counts.sum(-1) == n).all()
        assert (counts[:, 1] == 0).all()
        errors = np.sqrt(n * probs * (1 - probs) / N_DRAWS)
        assert (np.abs(counts.mean(0) - n * probs) <= 5 * errors).all()
        covariance = n * (np.diag(probs) - np.outer(probs, probs))
        np.testing.assert_allclose(np.cov(counts.T), covariance, atol=0.1)


def test_dirichlet_components_are_beta_distributed():
    concentration = np.array([0.5, 2.0, 3.0], np.float32)
    values = np.asarray(draw(dist.Dirichlet(concentration), random.key(3), (N_DRAWS,)), float)
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-6)
    for i, each in enumerate(concentration):
        assert stats.kstest(values[:, i], stats.beta(each, concentration.sum() - each).cdf).pvalue > P_VALUE


def test_mixtures_of_slow_families_are_drawn_by_component():
    mixing = dist.Categorical(np.array([0.25, 0.75]))
    same = dist.MixtureSameFamily(mixing, dist.Gamma(np.array([2.0, 20.0]), 1.0))
    general = dist.MixtureGeneral(mixing, [dist.Gamma(2.0, 1.0), dist.Gamma(20.0, 1.0)])
    for fn in (same, general):
        values = np.asarray(draw(fn, random.key(4), (N_DRAWS,)), float)
        cdf = lambda x: 0.25 * stats.gamma(2).cdf(x) + 0.75 * stats.gamma(20).cdf(x)  # noqa: E731
        assert stats.kstest(values, cdf).pvalue > P_VALUE


def test_large_counts_and_rare_events_do_not_overflow():
    rates = jnp.array([0.0, 1e-30, 2.1e9, 1e12, jnp.inf], jnp.float32)
    counts = np.asarray(poisson(random.key(0), rates))
    assert counts[:2].tolist() == [0, 0]
    assert abs(counts[2] - 2.1e9) < 6.5 * 2.1e9**0.5
    assert (counts[3:] == np.iinfo(np.int32).max).all()
    certain = dist.Binomial(np.array([0, 5, 5]), np.array([0.5, 0.0, 1.0]))
    assert np.asarray(draw(certain, random.key(0))).tolist() == [0, 0, 5]


def test_count_does_not_depend_on_whether_the_number_of_trials_is_known():
    """With up to 15 trials all means are small."""
    logits, n = jnp.linspace(-5, 5, 2000), jnp.arange(2000) % 16
    known = draw(dist.Binomial(np.asarray(n), logits=logits), random.key(7))
    unknown = jax.jit(lambda n: draw(dist.Binomial(n, logits=logits), random.key(7)))(n)
    assert np.asarray(known).tolist() == np.asarray(unknown).tolist()


MONOTONE = {
    "Poisson": lambda x: dist.Poisson(jnp.exp(x)),
    "binomial": lambda x: dist.Binomial(50, logits=x),
    "binomial, few trials": lambda x: dist.Binomial(20, logits=x),
    "geometric": lambda x: dist.Geometric(logits=-x),
    "negative binomial": lambda x: dist.NegativeBinomial2(jnp.exp(x), 3.0),
    "Bernoulli": lambda x: dist.Bernoulli(logits=x),
    "ordered categories": lambda x: dist.OrderedLogistic(x, jnp.array([-2.0, 0.0, 3.0])),
}


@pytest.mark.parametrize("name", MONOTONE)
def test_counts_with_a_common_key_are_ordered_as_their_parameters(name):
    steps = jnp.linspace(-4, 9, 40)[:, None]
    values = jax.vmap(lambda x: draw(MONOTONE[name](jnp.broadcast_to(x, (5000,))), random.key(5)))(steps[:, 0])
    assert (np.diff(np.asarray(values), axis=0) >= 0).all()


def test_draw_of_a_row_depends_on_its_own_parameters_only():
    rates = jnp.linspace(0.1, 60, 64)
    for make in (dist.Poisson, lambda r: dist.Gamma(r, 1.0), lambda r: dist.Binomial(200, r / 61)):
        before = np.asarray(draw(make(rates), random.key(6)))
        after = np.asarray(draw(make(rates.at[::2].set(3.0)), random.key(6)))
        assert (before[1::2] == after[1::2]).all()


ROWS = jnp.ones(6)
PROBS = jnp.full((6, 4), 0.25)
SHAPES = {
    "expanded": dist.Poisson(2.0).expand([6]),
    "expanded within": dist.Gamma(2 * ROWS[:, None], 1.0).expand([6, 3]),
    "expanded events": dist.Gamma(2.0, 1.0).expand([6, 3]).to_event(1),
    "independent": dist.StudentT(4 * PROBS, 0.0, 1.0).to_event(1),
    "masked": dist.Poisson(2.0).mask(jnp.ones(6, bool)),
    "transformed to events": dist.TransformedDistribution(
        dist.Gamma(jnp.ones((6, 3)), 1.0), dist.transforms.StickBreakingTransform()
    ),
    "parameters of a transform": dist.TransformedDistribution(
        dist.Gamma(2.0, 1.0), dist.transforms.AffineTransform(ROWS, 2.0)
    ),
    "integers": dist.Gamma(2, 3).expand([6]),
    "half precision": dist.Poisson(ROWS.astype(jnp.float16)),
    "geometric": dist.Geometric(0.3 * ROWS),
    "multinomial": dist.Multinomial(10, PROBS),
    "multinomial, one total": dist.Multinomial(10, PROBS[0]),
    "Dirichlet-multinomial": dist.DirichletMultinomial(PROBS, 10),
    "mixture of events": dist.MixtureSameFamily(dist.Categorical(PROBS), dist.Dirichlet(jnp.ones((6, 4, 3)))),
    "general mixture": dist.MixtureGeneral(
        dist.Categorical(2 * PROBS[:, :2]), [dist.Gamma(ROWS, 1.0), dist.LogNormal(ROWS)]
    ),
    "zero-inflated": dist.ZeroInflatedNegativeBinomial2(2 * ROWS, 3.0, gate=0.3),
    "hurdle": dist.HurdleNegativeBinomial2(0.3 * ROWS, 2 * ROWS, 3.0),
    "ordered": dist.OrderedLogistic(ROWS, jnp.arange(3.0)),
    "beta of a proportion": dist.BetaProportion(0.3 * ROWS, 5.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_and_type_are_those_of_numpyro(name):
    fn = SHAPES[name]
    expected = jax.eval_shape(fn.sample, random.key(0))
    found = jax.eval_shape(lambda key: draw(fn, key), random.key(0))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    several = jax.eval_shape(lambda key: draw(fn, key, (5, *fn.batch_shape)), random.key(0))
    assert several.shape == (5, *expected.shape)


def test_other_families_and_own_samplers_are_those_of_numpyro():
    class Twice(dist.Poisson):
        def sample(self, key, sample_shape=()):
            return 2 * super().sample(key, sample_shape)

    key = random.key(7)
    for fn in (dist.Cauchy(ROWS, 2.0), dist.Uniform().expand([6, 2]).to_event(1), Twice(3 * ROWS), dist.Laplace(ROWS)):
        np.testing.assert_array_equal(draw(fn, key), fn.sample(key))


def test_normal_variates_are_those_of_numpyro_up_to_rounding():
    key = random.key(9)
    x = random.uniform(key, (N_DRAWS,), jnp.float32, float(np.nextafter(np.float32(-1), np.float32(0))), 1.0)
    x = np.asarray(x, np.float64)
    exact = np.sign(x) * stats.norm.isf((1 - np.abs(x)) / 2)
    np.testing.assert_allclose(draw(dist.Normal(), key, (N_DRAWS,)), exact, atol=1e-6)
    for fn in (
        dist.Normal(ROWS, 2.0),
        dist.Normal().expand([6, 2]).to_event(1),
        dist.Normal(ROWS[:, None], 1.0).expand([6, 3]),
        dist.HalfNormal(2 * ROWS),
        dist.LogNormal(ROWS),
        dist.Normal(ROWS.astype(jnp.float16), 1.0),
    ):
        found, expected = draw(fn, key), fn.sample(key)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(draw(dist.Normal(), key, (9,)), dist.Normal().sample(key, (9,)))


def test_codes_are_valid_where_probabilities_do_not_sum_to_one():
    codes = np.asarray(categorical(random.key(8), jnp.array([0.2, 0.2]) * jnp.ones((10_000, 1))))
    assert set(codes.tolist()) == {0, 1}

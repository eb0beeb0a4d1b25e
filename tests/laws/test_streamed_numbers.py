"""Law 2 for streams: the numbers are NumPyro's own, or those of a closed form, in every block of rows."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer import Predictive
from scipy import stats

from aimz.utils.data import ArrayDataset, ArrayLoader
from kernels import BY_NAME, CASES, each_kernel, fitted_params, long, long_draws
from stream_helpers import KEY, MEMORY, D, N, arrays, assert_equal, new_model, padded_batches, shared

pytestmark = pytest.mark.usefixtures("quiet_local_latents")
# About 11,000 two-sided comparisons at 5 standard errors in the tests below: a false alarm in one of 160 sets of keys.
Z = 5.0
B = {"b": np.linspace(0.5, 1.5, D, dtype=np.float32)}


# ------------------------------------------------------------------------------------------- law 2


@each_kernel([case for case in CASES if case.scored])
def test_scores_are_numpyros(case):
    """Over several blocks, local latents cut with their rows."""
    case, model = shared(case.name)
    scores = arrays(model.log_likelihood(**case.arguments(), y=case.y, store="memory", progress=False))
    asked = handlers.substitute(case.numpyro_kernel, data=fitted_params(BY_NAME[case.name]))
    given = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in case.arguments().items()}
    draws = {name: jnp.asarray(value) for name, value in model.posterior.items()}
    theirs = numpyro.infer.log_likelihood(asked, draws, **given, y=jnp.asarray(case.y))
    theirs = np.asarray(theirs.get("y", theirs.get("y_observed")))
    np.testing.assert_allclose(scores["y"][0], theirs, rtol=2e-5, atol=2e-5)


def mean_error(x: np.ndarray, mean: float, sd: float) -> float:
    """Return the distance of the mean of independent numbers from theirs, in standard errors."""
    return abs(x.mean() - mean) / (sd / np.sqrt(x.size))


def correlation_error(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of two samples in standard errors of that of independent ones."""
    return abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) * np.sqrt(x.size)


def test_noise_is_normal_and_nothing_shares_it():
    """Of every row, block, draw, site and call."""

    def kernel(X, y=None):
        numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("e", dist.Normal())
            numpyro.sample("y", dist.Normal(X, 2.0), obs=y)

    X = np.linspace(-9, 9, 3072, dtype=np.float32)
    model = new_model(kernel, {"b": np.zeros(8, np.float32)})
    options = {**MEMORY, "in_sample": False, "return_sites": ["y", "e"]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`e`, which are not in the posterior", category=UserWarning)
        found = arrays(model.predict(X, **options))
        other = arrays(model.predict(X, **{**options, "rng_key": random.key(22)}))
    y, e = (found["y"][0] - X) / 2, found["e"][0]
    for noise in (y, e):
        assert mean_error(noise, 0, 1) < Z
        assert mean_error(noise**2, 1, np.sqrt(2)) < Z
        assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-6
        blocks = noise.reshape(8, 3, 1024)
        for one, two in ((0, 1), (0, 2), (1, 2)):
            assert correlation_error(blocks[:, one], blocks[:, two]) < Z
        assert correlation_error(noise[:, 1:], noise[:, :-1]) < Z
        assert correlation_error(noise[1:], noise[:-1]) < Z
        # A block of one draw is no block of another.
        assert correlation_error(blocks[1:, 0], blocks[:-1, 1]) < Z
    assert correlation_error(y, e) < Z
    assert correlation_error(y, (other["y"][0] - X) / 2) < Z


@pytest.mark.parametrize("name", ["linear", "local_latents"])
def test_mean_and_sd_are_those_of_predictive(name):
    """One posterior draw many times over, so that only the noise differs; of local latents, drawn anew."""
    n_obs, n_draws = 1100, 1000
    case = long(BY_NAME[name], n_obs)
    draws = long_draws(BY_NAME[name], n_obs, 1)
    draws = {site: np.repeat(value, n_draws, 0) for site, value in draws.items() if site not in case.local}
    model = new_model(case.kernel, draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # local latents are not in the posterior
        ours = arrays(model.predict(**case.arguments(), **MEMORY, in_sample=False, return_sites="y"))["y"][0]
    predictive = Predictive(case.kernel, draws, return_sites=["y"], batch_ndims=1)
    given = {key: jnp.asarray(value) for key, value in case.arguments().items()}
    theirs = np.asarray(predictive(random.key(5), **given)["y"])
    error = np.sqrt(ours.var(0) / n_draws + theirs.var(0) / n_draws)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < Z * error).all()
    fourth = [((x - x.mean(0)) ** 4).mean(0) for x in (ours, theirs)]
    error = np.sqrt(sum((m4 - x.var(0) ** 2) / n_draws for m4, x in zip(fourth, (ours, theirs), strict=True)))
    assert (np.abs(ours.var(0) - theirs.var(0)) < Z * error).all()


def test_frequencies_of_discrete_outputs():
    """Over all rows and draws, beside the probabilities themselves."""
    case, model = shared("logistic")
    y = arrays(model.predict(**case.arguments(), **MEMORY))["y"][0]
    p = 1 / (1 + np.exp(-case.X @ np.asarray(model.posterior["b"]).T.astype(float))).T
    for rows in (slice(0, 1024), slice(1024, 2048), slice(2048, N)):
        error = np.sqrt((p * (1 - p))[:, rows].sum())
        assert abs((y - p)[:, rows].sum()) < Z * error
    case, model = shared("categorical")
    y = arrays(model.predict(**case.arguments(), **MEMORY))["y"][0]
    logits = np.einsum("nk,dkc->dnc", case.X, np.asarray(model.posterior["W"], float))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for kind in range(4):
        error = np.sqrt((p[..., kind] * (1 - p[..., kind])).sum())
        assert abs(((y == kind) - p[..., kind]).sum()) < Z * error


# ------------------------------------------------------------------------------------------- what is drawn once


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_a_global_site_is_drawn_once_for_all_rows(shard_axis):
    """The prior of a regression: the coefficients returned are those of every block."""
    case, model = shared("linear")
    options = {**MEMORY, "num_samples": 5, "shard_axis": shard_axis}
    found = arrays(
        model.sample_prior_predictive(case.X, **options, return_sites=["a", "b", "sigma", "mu", "y"], batch_size=1024)
    )
    a, b, sigma, mu, y = (found[name][0] for name in ("a", "b", "sigma", "mu", "y"))
    assert (a.shape, b.shape, sigma.shape, mu.shape) == ((5,), (5, 3), (5,), (5, N))
    assert len(np.unique(a)) == 5
    np.testing.assert_allclose(mu, a[:, None] + b @ case.X.T, rtol=1e-5, atol=1e-5)
    # 2,500 residuals of each draw: their sd is the one drawn, to 5 standard errors.
    np.testing.assert_allclose((y - mu).std(1) / sigma, 1, atol=Z / np.sqrt(2 * N))
    if shard_axis == "obs":  # whether or not they are returned
        alone = arrays(model.sample_prior_predictive(case.X, **options, return_sites="y"))
        np.testing.assert_array_equal(alone["y"][0], y)


def descent(X, y=None):
    """`g` descends from `a` and is of no row."""
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("groups", 4):
        g = numpyro.sample("g", dist.Normal(a))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(g[0]))
        mu = numpyro.deterministic("mu", g[1] * X + z)
        numpyro.sample("y", dist.Normal(mu, 0.1), obs=y)


DESCENT = {"a": np.zeros(D), "g": np.arange(4.0 * D).reshape(D, 4), "z": np.zeros((D, N))}


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_a_global_descendant_of_an_intervention_is_drawn_once_for_all_rows(shard_axis):
    X = np.linspace(1, 2, N, dtype=np.float32)
    model = new_model(descent, DESCENT)
    options = {**MEMORY, "intervention": {"a": 50.0}, "shard_axis": shard_axis, "return_sites": ["g", "mu", "z"]}
    found = arrays(model.predict(X, **options))
    g, mu, z = (found[name][0].astype(float) for name in ("g", "mu", "z"))
    # Four draws of `g` around 50, and a latent of each row around the first of them.
    assert g.shape == (D, 4)
    assert (np.abs(g - 50) < 6).all()
    assert len(np.unique(g)) == 4 * D
    np.testing.assert_allclose((mu - z) / X, np.broadcast_to(g[:, 1:2], mu.shape), rtol=1e-5)
    assert (np.abs(z.mean(1) - g[:, 0]) < Z / np.sqrt(N)).all()
    for start in (0, 1024, 2048):
        part = z[:, start : start + 1024]
        assert (np.abs(part.mean(1) - g[:, 0]) < Z / np.sqrt(part.shape[1])).all()
    assert correlation_error(z[:, :1024] - g[:, :1], z[:, 1024:2048] - g[:, :1]) < Z


def test_local_latents_travel_with_their_rows():
    """In sample they are those of the posterior, row by row and to the bit; for other rows they are drawn."""
    X = np.linspace(1, 2, N, dtype=np.float32)
    posterior = {**DESCENT, "z": np.arange(float(D * N)).reshape(D, N)}
    model = new_model(descent, posterior)
    ways = {
        "array": lambda: X,
        "memmap or loader": lambda: ArrayLoader(ArrayDataset(X=X), random.key(0), batch_size=100),
        "iterable": lambda: padded_batches({"X": X}),
    }
    model.describe(X)
    for way, given in ways.items():
        found = arrays(model.predict(given(), **MEMORY, return_sites=["z", "mu"]))
        np.testing.assert_array_equal(found["z"][0], posterior["z"], err_msg=way)
        expected = posterior["g"][:, 1:2] * X + posterior["z"]
        np.testing.assert_allclose(found["mu"][0], expected, rtol=1e-6, err_msg=way)
    found = arrays(model.sample_posterior_predictive(X, **MEMORY, return_sites="z", shard_axis="draw"))
    np.testing.assert_array_equal(found["z"][0], posterior["z"])
    z = arrays(model.predict(X, **MEMORY, return_sites="z", in_sample=False))["z"][0]
    assert (np.abs(z.mean(1) - posterior["g"][:, 0]) < Z / np.sqrt(N)).all()


def test_fitted_parameters_reach_every_block():
    for name in ("flax_net", "param_site", "stax_net"):
        case, model = shared(name)
        found = arrays(model.predict(**case.arguments(), **MEMORY))
        if name == "flax_net":
            whole = model.predict_on_batch(**case.arguments(), rng_key=KEY, return_datatree=False, return_sites="mu")
            np.testing.assert_allclose(found["mu"][0], whole["mu"], rtol=2e-5, atol=2e-6)
        if name == "param_site":  # the sd is 1.75, where it started at 1
            rest = found["y"][0] - np.asarray(model.posterior["b"]) @ case.X.T
            sd = fitted_params(BY_NAME[name])["s"]
            assert abs(rest.std() / sd - 1) < Z / np.sqrt(2 * rest.size)


# ------------------------------------------------------------------------------------------- interventions


def dose(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal())
        mu = numpyro.deterministic("mu", X[:, 0] + b * t + m)
        numpyro.deterministic("after", 2 * mu)
        numpyro.sample("y", dist.Normal(mu), obs=y)


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_interventions(shard_axis):
    """A value for each row is cut with them; a scalar is for all; a function sees what it replaces."""
    X = np.asarray(random.normal(random.key(2), (N, 2)))
    t = np.linspace(0, 1, N, dtype=np.float32)
    rows = np.asarray(random.normal(random.key(3), (N,)))
    m = np.asarray(random.normal(random.key(4), (D, N)))
    model = new_model(dose, {**B, "m": m})
    b, x = B["b"][:, None], X[:, 0]
    factual = x + b * t + m
    for intervention, expected in (
        ({}, factual),
        ({"t": rows}, x + b * rows + m),
        ({"t": 3.0}, x + 3 * b + m),
        ({"t": lambda t: t**2}, x + b * t**2 + m),
        ({"X": lambda X: np.asarray(X) + np.float32([1, 0])}, factual + 1),
        ({"X": rows[:, None]}, rows + b * t + m),
        ({"m": rows}, x + b * t + rows),
        ({"m": 2.0}, x + b * t + 2),
        ({"m": lambda m: m + 1}, factual + 1),
        ({"b": -1.0}, x - t + m),
        ({"b": lambda b: 2 * b}, x + 2 * b * t + m),
        ({"t": rows, "m": lambda m: 0 * m}, x + b * rows),
    ):
        found = arrays(
            model.predict(
                X, t=t, **MEMORY, intervention=intervention, shard_axis=shard_axis, return_sites=["mu", "after"]
            )
        )
        np.testing.assert_allclose(found["mu"][0], expected, rtol=1e-5, atol=1e-5, err_msg=str(intervention))
        np.testing.assert_array_equal(found["after"], 2 * found["mu"])
    for value in (rows, 5.0, lambda mu: 3 * mu):
        options = {**MEMORY, "intervention": {"mu": value}, "return_sites": ["mu", "after"]}
        found = arrays(model.predict(X, t=t, **options, shard_axis=shard_axis))
        np.testing.assert_array_equal(found["after"], 2 * found["mu"])
        wanted = 3 * factual if callable(value) else np.broadcast_to(value, (D, N))
        np.testing.assert_allclose(found["mu"][0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["memmap", "loader", "iterable"])
def test_interventions_where_rows_come_in_parts(kind, tmp_path):
    X = np.asarray(random.normal(random.key(2), (N, 2)))
    t = np.linspace(0, 1, N, dtype=np.float32)
    m = np.asarray(random.normal(random.key(4), (D, N)))
    model = new_model(dose, {**B, "m": m})
    model.describe(X, t=t)
    mapped = np.memmap(tmp_path / "t", t.dtype, "w+", shape=t.shape)
    mapped[:] = t

    def given() -> dict[str, Any]:
        return {
            "memmap": {"X": X, "t": mapped},
            "loader": {"X": ArrayLoader(ArrayDataset(X=X, t=t), random.key(0), batch_size=123)},
            "iterable": {"X": padded_batches({"X": X, "t": t})},
        }[kind]

    for intervention in ({"t": lambda t: t**2 + 1}, {"t": 2.0, "m": 1.0}):
        whole = arrays(model.predict(X, t=t, **MEMORY, intervention=intervention))
        assert_equal(arrays(model.predict(**given(), **MEMORY, intervention=intervention)), whole, str(intervention))
    if kind != "loader":
        with pytest.raises(ValueError, match="must act on each row alone"):
            model.predict(**given(), **MEMORY, intervention={"t": lambda t: t - t.mean()})


# ------------------------------------------------------------------------------------------- row numbers


SERIES = jnp.sqrt(jnp.arange(50_000.0))


def indexed(X, whole, y=None):
    """The plate hands out row numbers, and `whole` says what they look into."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", 50_000, subsample_size=X.shape[0]) as index:
        if whole == "within":
            mu = b * X[index]
        elif whole == "beyond":
            mu = b * SERIES[index] + X
        elif whole == "trend":
            mu = b * index + X
        elif whole == "both":
            mu = b * SERIES[index] + X[index]
        else:
            mu = b * X
        numpyro.deterministic("mu", mu)
        numpyro.sample("y", dist.Normal(mu), obs=y)


@pytest.mark.parametrize("whole", ["within", "beyond", "trend", "both", "unused"])
def test_row_numbers(whole):
    """Blocks after the first have row numbers of their own, and gather their own rows; padding does neither."""
    X = np.linspace(-1, 1, N, dtype=np.float32)
    b, number = B["b"][:, None], np.arange(N)
    series = np.sqrt(number)
    expected = {
        "within": b * X,
        "beyond": b * series + X,
        "trend": b * number + X,
        "both": b * series + X,
        "unused": b * X,
    }[whole]
    model = new_model(indexed, B)
    for options in ({}, {"batch_size": 1}, {"shard_axis": "draw"}, {"store": "persistent"}):
        found = arrays(model.predict(X, whole=whole, return_sites="mu", **{**MEMORY, **options}))
        np.testing.assert_allclose(found["mu"][0], expected, rtol=1e-5, atol=1e-5, err_msg=str(options))
    found = arrays(model.predict(padded_batches({"X": X}), whole=whole, return_sites="mu", **MEMORY))
    np.testing.assert_allclose(found["mu"][0], expected, rtol=1e-5, atol=1e-5)

"""Laws 1 and 2 for streams: the numbers do not depend on how rows travel, and they are NumPyro's own."""

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import dask.array
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zarr
from jax import random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Predictive
from scipy import stats

from aimz import ImpactModel
from aimz.utils.data import ArrayDataset, ArrayLoader
from kernels import BY_NAME, CASES, Case, fitted_params, long, long_draws, long_model

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

N = 2500  # Two whole blocks and a part of one; two steps.
D = 3
KEY = random.key(21)
MIXING = ("gaussian_process", "state_space")
MEMORY = {"store": "memory", "progress": False, "rng_key": KEY}
# About 11,000 two-sided comparisons at 5 standard errors in the tests below: a false alarm in one of 160 sets of keys.
Z = 5.0


def n_rows(case: Case) -> int:
    """How many rows to try a kernel with: few where each sees all others."""
    return len(case.X) if case.fixed_size else 60 if case.name in MIXING else N


@cache
def shared(name: str) -> tuple[Case, ImpactModel]:
    """One model per kernel for the whole file, so that each program is compiled once."""
    case = BY_NAME[name]
    return long(case, n_rows(case)), long_model(case, n_rows(case), n_draws=D)


def arrays(tree) -> dict[str, np.ndarray]:
    """Return the predictions in a tree."""
    group = next(tree[g] for g in tree.children if g not in ("posterior", "observed_data", "constant_data"))
    return {name: array.values for name, array in group.items()}


def assert_equal(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], what: str = "") -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{name} {what}")


def new_model(kernel, posterior: Mapping[str, Any], **options) -> ImpactModel:
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    return ImpactModel(kernel, random.key(0), mcmc).set_posterior_sample(posterior, **options)


def padded_batches(data: Mapping[str, np.ndarray], size: int = 333) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield batches of which the last has rows to be dropped."""
    n_obs = len(data["X"])
    for start in range(0, n_obs, size):
        batch = {name: array[start : start + size] for name, array in data.items()}
        n_pad = 7 if start + size >= n_obs else 0
        yield {name: np.concatenate([array, *[array[-1:]] * n_pad]) for name, array in batch.items()}, n_pad


# ------------------------------------------------------------------------------------------- law 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_iterable_of_unknown_length_gives_the_same_numbers(case):
    case, model = shared(case.name)
    arguments = case.arguments()
    whole = arrays(model.predict(**arguments, **MEMORY))
    assert {name: array.shape[:3] for name, array in whole.items()} == dict.fromkeys(case.returns, (1, D, len(case.X)))
    by_row = {name: value for name, value in arguments.items() if hasattr(value, "shape")}
    rest = {name: value for name, value in arguments.items() if name not in by_row}
    assert_equal(arrays(model.predict(padded_batches(by_row), **rest, **MEMORY)), whole)


# Kernels whose programs compile fast, of every kind there is.
CHEAP = ("linear", "hierarchical", "local_latents", "masked", "subsampled", "factor_only", "param_site", "state_space")


@pytest.mark.parametrize("name", CHEAP)
def test_batch_size_and_store_do_not_show(name, tmp_path):
    case, model = shared(name)
    arguments = case.arguments()
    whole = arrays(model.predict(**arguments, **MEMORY))
    for batch_size in (1, 1500, 2048, 10**6):
        assert_equal(arrays(model.predict(**arguments, **MEMORY, batch_size=batch_size)), whole, f"{batch_size}")
    stored = {**MEMORY, "store": "persistent"}
    assert_equal(arrays(model.predict(**arguments, **stored, output_dir=tmp_path, batch_size=700)), whole, "stored")
    assert_equal(arrays(model.predict(**arguments, **stored)), whole, "stored")


@pytest.mark.parametrize("name", ["local_latents", "masked", "subsampled", "flax_net", "nested_plates", "state_space"])
def test_draws_cut_instead_of_rows(name, tmp_path):
    """Where another number of draws is computed side by side, the last bits of sums and products may differ.

    A step of one group of draws is compiled without a loop, and with nested plates that too shows in a last bit.
    """
    case, model = shared(name)
    arguments = case.arguments()
    rows = arrays(model.predict(**arguments, **MEMORY))
    draws = arrays(model.predict(**arguments, **MEMORY, shard_axis="draw"))
    for site in rows:
        np.testing.assert_allclose(draws[site], rows[site], rtol=2e-6, atol=2e-6, err_msg=site)
    options = {**MEMORY, "shard_axis": "draw", "store": "persistent", "output_dir": tmp_path}
    for batch_size in (None, 2):
        found = arrays(model.predict(**arguments, **options, batch_size=batch_size))
        if name == "nested_plates":
            np.testing.assert_allclose(found["y"], draws["y"], rtol=2e-6, atol=2e-6)
        else:
            assert_equal(found, draws, f"{batch_size}")


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_every_kind_of_input_gives_the_same_numbers(shard_axis, tmp_path):
    case, model = shared("linear")
    X = np.asarray(case.X)
    options = {**MEMORY, "shard_axis": shard_axis}
    whole = arrays(model.predict(X, **options))
    mapped = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    stored = zarr.create_array(str(tmp_path / "X.zarr"), shape=X.shape, chunks=(300, 2), dtype=X.dtype)
    stored[:] = X
    dataset = ArrayDataset(X=X, y=np.asarray(case.y))
    device = jax.devices()[0]
    given = {
        "list": X.tolist(),
        "JAX array": jnp.asarray(X),
        "float64": X.astype(float),
        "column-major": np.asfortranarray(X),
        "memmap": np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape),
        "zarr": stored,
        "dask": dask.array.from_array(X, chunks=(300, -1)),
        "loader": ArrayLoader(dataset, random.key(0), batch_size=77),
        "loader on a device": ArrayLoader(dataset, random.key(0), batch_size=1001, device=device),
        "loader of JAX arrays": ArrayLoader(ArrayDataset(to_jax=True, X=X), random.key(0), batch_size=5000),
        "tuples": ((X[i : i + 77], case.y[i : i + 77]) for i in range(0, N, 77)),
        "tuples of one": ((X[i : i + 2049],) for i in range(0, N, 2049)),
        "arrays": (X[i : i + 1024] for i in range(0, N, 1024)),
        "mappings": ({"X": X[i : i + 999], "y": case.y[i : i + 999]} for i in range(0, N, 999)),
        "mappings of lists": ({"X": X[i : i + 1000].tolist()} for i in range(0, N, 1000)),
        "padded": padded_batches({"X": X}, 1250),
        "one row at a time": ({"X": row[None]} for row in X),
        "empty ones among them": ({"X": X[i : i + 500]} for i in (0, N, 500, 1000, 1500, 2000, N)),
    }
    for kind, value in given.items():
        with warnings.catch_warnings():
            # Rows that come from an iterable are not cut along their draws, and a warning says so.
            warnings.filterwarnings("ignore", message="Kernel .* cannot be split", category=UserWarning)
            assert_equal(arrays(model.predict(value, **options)), whole, kind)


def test_scores_of_every_kind_of_input(tmp_path):
    case, model = shared("linear")
    X, y = np.asarray(case.X), np.asarray(case.y)
    options = {name: value for name, value in MEMORY.items() if name != "rng_key"}
    whole = arrays(model.log_likelihood(X, y, **options))
    mapped = np.memmap(tmp_path / "y", y.dtype, "w+", shape=y.shape)
    mapped[:] = y
    for kind, given in {
        "memmap": (X, mapped),
        "lists": (X.tolist(), y.tolist()),
        "dask": (dask.array.from_array(X, chunks=(400, -1)), dask.array.from_array(y, chunks=999)),
        "loader": (ArrayLoader(ArrayDataset(X=X, y=y), random.key(0), batch_size=99),),
        "tuples": (((X[i : i + 99], y[i : i + 99]) for i in range(0, N, 99)),),
        "padded": (padded_batches({"X": X, "y": y}),),
    }.items():
        assert_equal(arrays(model.log_likelihood(*given, **options)), whole, kind)
    for batch_size in (1, 1500, 10**6):
        assert_equal(arrays(model.log_likelihood(X, y, **options, batch_size=batch_size)), whole)


def test_rows_of_further_arguments_travel_with_a_loader():
    case, model = shared("poisson")
    whole = arrays(model.predict(**case.arguments(), **MEMORY))
    dataset = ArrayDataset(**case.arguments())
    assert_equal(arrays(model.predict(ArrayLoader(dataset, random.key(0), batch_size=77), **MEMORY)), whole)


def test_a_shuffling_loader_says_that_rows_come_in_its_order():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("y", b * X)

    X = np.arange(N, dtype=np.float32)
    model = new_model(kernel, {"b": np.ones(2, np.float32)})
    loader = ArrayLoader(ArrayDataset(X=X), random.key(4), batch_size=300, shuffle=True)
    with pytest.warns(UserWarning, match="shuffles its rows; they come out in its order"):
        found = arrays(model.predict(loader, **MEMORY))["y"]
    again = ArrayLoader(ArrayDataset(X=X), random.key(4), batch_size=300, shuffle=True)
    expected = np.concatenate([np.asarray(batch["X"]) for batch, _ in again])
    np.testing.assert_array_equal(found[0, 1], expected)
    assert not np.array_equal(expected, X)
    np.testing.assert_array_equal(np.sort(expected), X)


def regression(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


def rows_last(X, y=None):
    """Two outputs for each row, and the rows are the second axis."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("outputs", 2, dim=-2), numpyro.plate("obs", X.shape[0], dim=-1):
        e = numpyro.sample("e", dist.Normal())
        mu = numpyro.deterministic("mu", b * X.T[:2])
        numpyro.sample("y", dist.Normal(mu + e, 0.5), obs=y)


def rows_between(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("outputs", 2, dim=-2), numpyro.plate("obs", X.shape[0], dim=-1):
        loc = numpyro.deterministic("mu", b * jnp.stack([X, -X]))
        numpyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=y)


def counts(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Multinomial(5, probs=jax.nn.softmax(b * X)), obs=y)


B = {"b": np.linspace(0.5, 1.5, D, dtype=np.float32)}


@pytest.mark.parametrize("n_obs", [5, 100])
@pytest.mark.parametrize("kernel", [regression, rows_last, counts])
def test_a_length_that_is_not_known_in_advance_does_not_show(kernel, n_obs):
    """Not for few rows either, nor where rows are not the first axis of a site, so that noise runs across them."""
    X = np.asarray(random.normal(random.key(2), (n_obs, 3)))
    model = new_model(kernel, B)
    options = {**MEMORY, "return_sites": "y"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not in the posterior", category=UserWarning)
        whole = arrays(model.predict(X, **options))
        assert_equal(arrays(model.predict(padded_batches({"X": X}, 33), **options)), whole)


def test_rows_need_not_be_the_first_axis(tmp_path):
    """Every path, for sites of which they are the second."""
    X = np.asarray(random.normal(random.key(2), (N, 3)))
    e = np.asarray(random.normal(random.key(3), (D, 2, N)))
    for kernel, posterior in ((rows_last, {**B, "e": e}), (rows_between, B)):
        model = new_model(kernel, posterior)
        sites = ["y", "mu", "e"] if "e" in posterior else ["y", "mu"]
        options = {**MEMORY, "return_sites": sites}
        whole = arrays(model.predict(X, **options))
        flat = np.stack([X, -X]) if kernel is rows_between else X.T[:2]
        np.testing.assert_allclose(whole["mu"][0], B["b"].reshape(-1, *[1] * flat.ndim) * flat, rtol=1e-6)
        if "e" in posterior:
            np.testing.assert_array_equal(whole["e"][0], e)
            assert np.abs(whole["y"][0] - whole["mu"][0] - e).std() < 0.35  # the noise alone has sd 0.5
        if kernel is rows_between:
            continue
        assert_equal(arrays(model.predict(X, **{**options, "store": "persistent"}, batch_size=900)), whole)
        draws = arrays(model.predict(X, **{**options, "store": "persistent"}, shard_axis="draw"))
        for site in sites:
            np.testing.assert_allclose(draws[site], whole[site], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_chains_are_the_draws_in_order(shard_axis):
    """Two chains of five draws: steps of draws do not divide them evenly."""
    X = np.asarray(random.normal(random.key(2), (N, 2)))
    e = np.asarray(random.normal(random.key(3), (10, 2, N)))
    posterior = {"b": np.linspace(0, 1, 10, dtype=np.float32), "e": e}
    options = {**MEMORY, "shard_axis": shard_axis, "return_sites": ["y", "e"]}
    one = arrays(new_model(rows_last, posterior).predict(X, **options))
    model = new_model(rows_last, posterior, num_chains=2)
    ways = [("memory", None), ("persistent", None)]
    if shard_axis == "draw":
        ways += [("memory", 2), ("persistent", 2), ("persistent", 3)]
    for store, batch_size in ways:
        two = arrays(model.predict(X, **{**options, "store": store}, batch_size=batch_size))
        for name, value in one.items():
            assert two[name].shape == (2, 5, *value.shape[2:])
            # A step holds draws of one chain, so that other draws are computed side by side.
            np.testing.assert_allclose(
                two[name].reshape(value.shape), value, rtol=2e-6, atol=2e-6, err_msg=f"{name} {store} {batch_size}"
            )


def test_chains_of_a_kernel_whose_rows_stay_together():
    """Its draws are cut, and stored, whatever was asked for; no step mixes chains."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("y", b * jnp.cumsum(X))

    X, b = np.linspace(0, 1, 40, dtype=np.float32), np.arange(1.0, 43.0, dtype=np.float32)
    model = new_model(kernel, {"b": b}, num_chains=3)
    for store in ("memory", "persistent"):
        found = arrays(model.predict(X, **{**MEMORY, "store": store}, shard_axis="draw", batch_size=6))["y"]
        np.testing.assert_allclose(found.reshape(42, 40), b[:, None] * X.cumsum(), rtol=1e-5, err_msg=store)


# ------------------------------------------------------------------------------------------- sizes and types


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_padding_never_shows(shard_axis):
    """At any number of rows, beside plain NumPy; the local latents are those of the rows."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal())
            numpyro.deterministic("y", b * X + z)

    for n_obs in (1, 2, 3, 1023, 1024, 1025, 2049):
        X = np.arange(n_obs, dtype=np.float32)
        z = (1000 * np.arange(D)[:, None] + np.linspace(0, 1, n_obs)).astype(np.float32)
        model = new_model(kernel, {"b": np.arange(D, dtype=np.float32), "z": z})
        expected = np.arange(D, dtype=np.float32)[:, None] * X + z
        found = arrays(model.predict(X, **MEMORY, shard_axis=shard_axis))["y"][0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=str(n_obs))
        batches = ({"X": X[i : i + 500]} for i in range(0, n_obs, 500))
        if shard_axis == "obs":
            np.testing.assert_array_equal(arrays(model.predict(batches, **MEMORY))["y"][0], found)


@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_types_and_shapes_of_outputs(store, shard_axis):
    """Booleans and integers stay what they are; narrow floats become 32-bit ones, whose values they are."""

    def kernel(X, k, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("y", b * X)
        numpyro.deterministic("flag", b * X[:, 0] > 0.5)
        numpyro.deterministic("count", k + b.astype(int))
        numpyro.deterministic("small", k.astype(jnp.int8))
        numpyro.deterministic("half", (b * X[:, 0]).astype(jnp.float16))
        numpyro.deterministic("brain", (b * X[:, 0]).astype(jnp.bfloat16))
        numpyro.deterministic("cube", b * X[:, :, None, None] * jnp.ones((1, 2)))
        numpyro.deterministic("slope", 2 * b)
        numpyro.deterministic("constant", 7.0)

    X = np.asarray(random.normal(random.key(2), (N, 3)))
    k = np.arange(N) % 100
    b = B["b"]
    model = new_model(kernel, B)
    found = arrays(model.predict(X, k=k, **{**MEMORY, "store": store}, shard_axis=shard_axis))
    product = b[:, None] * X[:, 0]
    expected = {
        "y": b[:, None, None] * X,
        "flag": product > 0.5,
        "count": k.astype(np.int32) + b.astype(np.int32)[:, None],
        "small": np.broadcast_to(k.astype(np.int8), (D, N)),
        "half": product.astype(np.float16).astype(np.float32),
        "brain": np.asarray(jnp.asarray(product).astype(jnp.bfloat16).astype(jnp.float32)),
        "cube": np.broadcast_to((b[:, None, None] * X)[..., None, None], (D, N, 3, 1, 2)),
        "slope": 2 * b,
        "constant": np.full(D, 7.0, np.float32),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == (1, *value.shape), name
        np.testing.assert_array_equal(found[name][0], value, err_msg=name)


# ------------------------------------------------------------------------------------------- law 2


@pytest.mark.parametrize("case", [case for case in CASES if case.scored], ids=lambda case: case.name)
def test_scores_are_numpyros(case):
    """Over several blocks, local latents cut with their rows."""
    case, model = shared(case.name)
    scores = arrays(model.log_likelihood(**case.arguments(), y=case.y, store="memory", progress=False))
    asked = handlers.substitute(case.asked, data=fitted_params(BY_NAME[case.name]))
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
        warnings.filterwarnings("ignore", message=".*`e` are not in the posterior", category=UserWarning)
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

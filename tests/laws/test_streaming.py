"""Law 1 for streams: the numbers do not depend on how rows travel, nor types and shapes."""

import subprocess
import sys
import warnings

import dask.array
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zarr
from jax import random

from aimz.utils.data import ArrayDataset, ArrayLoader
from kernels import QUICK_CASES, each_kernel
from stream_helpers import MEMORY, D, N, arrays, assert_equal, new_model, padded_batches, shared

pytestmark = pytest.mark.usefixtures("quiet_local_latents")


# ------------------------------------------------------------------------------------------- law 1


@each_kernel(QUICK_CASES)
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
        "data set": dataset,
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
    with pytest.warns(UserWarning, match="shuffles its rows; results are in the loader's order"):
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


@pytest.mark.parametrize("given", ["loader", "mapping", "model"])
def test_what_is_no_array_is_named_where_arrays_are_wanted(given):
    case, model = shared("linear")
    value = {"loader": ArrayLoader(ArrayDataset(X=case.X), random.key(0)), "mapping": {"X": case.X}, "model": model}[
        given
    ]
    got = {"mapping": "or a table; got a mapping with 'X'", "loader": "got an object of type `ArrayLoader`"}
    with pytest.raises(
        TypeError, match=f"`X` must be an array.*{got.get(given, 'got an object of type `ImpactModel`')}"
    ):
        model.predict_on_batch(value)


def test_a_process_that_ends_at_once_says_nothing():
    """Packages that a result needs are imported beside the work; the end of the process may come first."""
    code = "from aimz._imports import begin_imports; begin_imports()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")

"""Indices that a kernel computes from its arguments must be inside of its tables, in every method."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel

pytestmark = pytest.mark.usefixtures("plain_code")

MEANS = np.array([0.0, 10.0, 100.0])
DRAWS = {"a": np.tile(MEANS, (4, 1))}


def look_up(lookup: Callable[[Any, Any], Any]) -> Callable[..., None]:
    """Return a kernel whose output has the mean ``lookup(a, X)``, where ``a`` has three entries."""

    def kernel(X, y=None):
        with numpyro.plate("groups", 3):
            a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(lookup(a, X), 1e-3), obs=y)

    return kernel


plain = look_up(lambda a, X: a[X])


def with_covariate(X, group, y=None):
    with numpyro.plate("groups", 3):
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    code = numpyro.deterministic("code", group)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[code] + X, 1e-3), obs=y)


def model_of(kernel: Callable[..., None]) -> ImpactModel:
    """Return a model with a posterior that is fixed at ``MEANS``."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi).set_posterior_sample(DRAWS)


CODES = np.array([0, 1, 2, -1, 3, -1])
MATRIX = np.stack([CODES, np.ones(6)], axis=1).astype(np.float32)
BAD = {
    "x[i]": (lambda a, X: a[X], CODES, 3, 3, -1),
    "take": (jnp.take, CODES, 3, 3, -1),
    "take with clip": (lambda a, X: jnp.take(a, X, mode="clip"), CODES, 3, 3, -1),
    "take with fill": (lambda a, X: jnp.take(a, X, mode="fill", fill_value=0.0), CODES, 3, 3, -1),
    "at": (lambda a, X: a.at[X].get(mode="promise_in_bounds"), CODES, 3, 3, -1),
    "vmap": (lambda a, X: jax.vmap(lambda i: a[i])(X), CODES, 3, 3, -1),
    "first code 1": (lambda a, X: a[X - 1], np.array([1, 2, 3, 3, 0, 1]), 1, 4, -1),
    "column of floats": (lambda a, X: a[X[:, 0].astype(int)], MATRIX, 3, 3, -1),
    "bytes": (lambda a, X: a[X], np.array([0, 1, 2, 5], np.uint8), 1, 3, 5),
    "short integers": (lambda a, X: a[X], CODES.astype(np.int8), 3, 3, -1),
    "scattered": (lambda a, X: jnp.zeros(3).at[X].add(1.0)[0] + a[0] + 0 * X, CODES, 3, 3, -1),
    "two indices": (lambda a, X: jnp.stack([a, a])[0 * X, X], CODES, 3, 3, -1),
    "one hot": (lambda a, X: jax.nn.one_hot(X, 3) @ a, CODES, 1, 4, 3),
    "where": (lambda a, X: jnp.where(X >= 0, a[X], 0.0), CODES, 1, 4, 3),
    "bins": (lambda a, X: a[jnp.digitize(X, jnp.array([0.5, 1.5, 2.5]))], np.array([0.0, 1.0, 2.0, 3.0]), 1, 3, 3),
    "scan over rows": (
        lambda a, X: jax.lax.scan(lambda s, i: (s + a[i], a[i]), 0.0, X)[1],
        CODES,
        3,
        3,
        -1,
    ),
    "map": (lambda a, X: jax.lax.map(lambda i: a[i], X), CODES, 3, 3, -1),
    "scan over columns": (
        lambda a, X: jax.lax.scan(lambda s, i: (s + a[i.astype(int)], None), jnp.zeros(X.shape[0]), X.T)[0],
        MATRIX,
        3,
        3,
        -1,
    ),
    "branch": (lambda a, X: jax.lax.cond(jnp.bool_(True), lambda: a[X], lambda: 0.0 * X), CODES, 3, 3, -1),
    "branch for some rows": (
        lambda a, X: jax.lax.cond(jnp.any(X > 0), lambda: a[X], lambda: 0.0 * X),
        CODES,
        3,
        3,
        -1,
    ),
    "branch of each row": (
        lambda a, X: jax.vmap(lambda i: jax.lax.cond(i >= 0, lambda: a[i], lambda: 0.0))(X),
        CODES,
        1,
        4,
        3,
    ),
    "switch": (
        lambda a, X: jax.lax.switch(jnp.int32(2), [lambda: 0.0 * X, lambda: a[0 * X], lambda: a[X]]),
        CODES,
        3,
        3,
        -1,
    ),
    "branch in a branch": (
        lambda a, X: jax.lax.cond(
            jnp.bool_(True),
            lambda: jax.lax.cond(jnp.bool_(False), lambda: 0.0 * X, lambda: a[X]),
            lambda: 0.0 * X,
        ),
        CODES,
        3,
        3,
        -1,
    ),
    "loop": (
        lambda a, X: jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + a[X]), (0, 0.0 * X))[1],
        CODES,
        3,
        3,
        -1,
    ),
    "loop of each row": (
        lambda a, X: jax.vmap(
            lambda i: jax.lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 4, s[1] + a[s[0]]), (i, 0.0))[1]
        )(X),
        CODES,
        1,
        4,
        3,
    ),
    "index from a branch": (
        lambda a, X: a[jax.lax.cond(jnp.bool_(True), lambda: X, lambda: 0 * X)],
        CODES,
        3,
        3,
        -1,
    ),
    "closed-over table": (lambda a, X: jnp.asarray(MEANS)[X] + a[0], CODES, 3, 3, -1),
}


@pytest.mark.parametrize("name", BAD)
def test_index_outside_of_table_is_an_error(name):
    lookup, X, n_rows, first, value = BAD[name]
    expected = rf"^{n_rows} of {len(X)} rows have an index .* the first is row {first} with {value}, computed from `X"
    with pytest.raises(ValueError, match=expected):
        model_of(look_up(lookup)).predict_on_batch(X, in_sample=False)


GOOD = {
    "clip": (lambda a, X: a[jnp.clip(X, 0, 2)], [0, 10, 100, 0, 100, 0]),
    "modulo": (lambda a, X: a[X % 3], [0, 10, 100, 100, 0, 100]),
    "where": (lambda a, X: jnp.where((X >= 0) & (X < 3), 1 + a[X], 7.0), [1, 11, 101, 7, 7, 7]),
    "reference category": (lambda a, X: jax.nn.one_hot(X % 3 - 1, 2) @ a[1:], [0, 10, 100, 100, 0, 100]),
    "constant": (lambda a, X: a[-1] + 0 * X, [100] * 6),
    "loop counter": (lambda a, X: jax.lax.fori_loop(0, 3, lambda i, s: s + a[i], 0.0 * X), [110] * 6),
    "branch that is not taken": (
        lambda a, X: jax.lax.cond(jnp.bool_(False), lambda: a[X], lambda: 7.0 + 0 * X),
        [7] * 6,
    ),
    "branch that depends on the posterior": (
        lambda a, X: jax.lax.cond(a[0] > 5.0, lambda: a[X], lambda: 7.0 + 0 * X),
        [7] * 6,
    ),
    "branch that depends on all rows": (
        lambda a, X: jax.lax.cond(jnp.all(X >= 0), lambda: a[X], lambda: 7.0 + 0 * X),
        [7] * 6,
    ),
    "branch of another platform": (
        lambda a, X: jax.lax.platform_dependent(X, tpu=lambda X: a[X], default=lambda X: 7.0 + 0 * X),
        [7] * 6,
    ),
    "loop without iterations": (
        lambda a, X: jax.lax.while_loop(lambda s: s[0] < 0, lambda s: (s[0], s[1] + a[X]), (0, 7.0 + 0 * X))[1],
        [7] * 6,
    ),
    "rows of the input": (lambda a, X: X[::-1][jnp.arange(X.shape[0])] + a[0], [-1, 3, -1, 2, 1, 0]),
}


@pytest.mark.filterwarnings("ignore:Rows depend on one another")
@pytest.mark.parametrize("name", GOOD)
def test_index_that_the_kernel_keeps_inside_is_no_error(name):
    lookup, expected = GOOD[name]
    y = model_of(look_up(lookup)).predict_on_batch(CODES, in_sample=False, return_datatree=False)["y"]
    np.testing.assert_allclose(y.mean(0), expected, atol=0.01)


def test_constant_index_outside_of_table_is_an_error():
    with pytest.raises(ValueError, match=r"which has 3 entries along plate `groups`; .* 7, computed from a number in"):
        model_of(look_up(lambda a, X: a[7] + 0 * X)).predict_on_batch(CODES, in_sample=False)


METHODS = {
    "predict": lambda m, X: m.predict(X, in_sample=False, progress=False),
    "predict by draws": lambda m, X: m.predict(X, in_sample=False, progress=False, shard_axis="draw"),
    "posterior predictive": lambda m, X: m.sample_posterior_predictive_on_batch(X),
    "prior predictive": lambda m, X: m.sample_prior_predictive(X, num_samples=3, progress=False),
    "log_likelihood": lambda m, X: m.log_likelihood(X, np.zeros(len(X)), progress=False),
    "effect": lambda m, X: m.estimate_effect(args_baseline={"X": np.zeros(len(X), int)}, args_intervention={"X": X}),
    "comparison": lambda m, X: m.compare_scenarios({"a": {}, "b": {"X": X}}, baseline="a", X=0 * X, progress=False),
    "intervention": lambda m, X: m.predict_on_batch(0 * X, intervention={"X": X}),
    "callable": lambda m, X: m.predict_on_batch(0 * X, intervention={"X": lambda zeros: zeros + X}),
    "fit_on_batch": lambda m, X: m.fit_on_batch(X, np.zeros(len(X)), num_steps=1, progress=False),
    "fit": lambda m, X: m.fit(X, np.zeros(len(X)), epochs=1, batch_size=2, progress=False),
    "train_on_batch": lambda m, X: m.train_on_batch(X, np.zeros(len(X))),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_reject_bad_indices_in_the_same_words(method):
    model = model_of(plain)
    with pytest.raises(
        ValueError,
        match=r"3 of 6 rows have an index outside of site `a`, which has 3 entries along plate `groups`; the first is "
        r"row 3 with -1, computed from `X`. Valid are 0 to 2.",
    ):
        METHODS[method](model, CODES)
    assert model.vi_state is None


N_ROWS = 3000
LATE = np.zeros(N_ROWS, np.int32)
LATE[2500:2502] = 3


def memory_map(path: Any) -> np.ndarray:
    """Return ``LATE`` as an array on disk."""
    np.save(path / "codes.npy", LATE)
    return np.load(path / "codes.npy", mmap_mode="r")


STREAMS = {
    "array": (lambda m, path: m.predict(LATE, in_sample=False, progress=False), "2 of 3,000 rows"),
    "memory map": (lambda m, path: m.predict(memory_map(path), in_sample=False, progress=False), "2 of rows"),
    "batches": (
        lambda m, path: m.predict(({"X": part} for part in np.split(LATE, 6)), in_sample=False, progress=False),
        "2 of rows",
    ),
    "callable on a memory map": (
        lambda m, path: m.predict(
            memory_map(path), intervention={"X": lambda x: x + 2}, in_sample=False, progress=False
        ),
        "2 of rows",
    ),
    "by draws": (
        lambda m, path: m.predict(memory_map(path), in_sample=False, progress=False, shard_axis="draw"),
        "2 of rows 0 to 2,999",
    ),
    "scenarios": (
        lambda m, path: m.compare_scenarios(
            {"a": {}, "b": {"intervention": {"X": lambda x: x}}}, baseline="a", X=memory_map(path), progress=False
        ),
        "2 of rows",
    ),
    "fit of a memory map": (
        lambda m, path: m.fit(memory_map(path), np.zeros(N_ROWS), epochs=1, batch_size=500, progress=False),
        "2 of 3,000 rows",
    ),
    "fit of batches": (
        lambda m, path: m.fit([{"X": part, "y": 0.0 * part} for part in np.split(LATE, 6)], progress=False),
        "2 of rows",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_rows_that_are_read_lazily_are_checked_while_they_are_read(name, tmp_path):
    call, rows = STREAMS[name]
    value = 5 if "callable" in name else 3
    with pytest.raises(ValueError, match=rf"^{rows}.* the first is row 2,500 with {value}, computed from `X`"):
        call(model_of(plain), tmp_path)


def test_intervention_on_a_site_that_is_an_index_is_checked():
    model = model_of(with_covariate)
    X, group = np.zeros(4), np.array([0, 1, 2, 2])
    y = model.predict_on_batch(X, group=group, intervention={"code": 1}, return_datatree=False)["y"]
    np.testing.assert_allclose(y.mean(0), [10.0] * 4, atol=0.01)
    with pytest.raises(ValueError, match=r"4 of 4 rows .* row 0 with 3, computed from `code`"):
        model.predict_on_batch(X, group=group, intervention={"code": 3})
    with pytest.raises(ValueError, match=r"2 of 4 rows .* row 2 with 3, computed from `group`"):
        model.predict_on_batch(X, group=group, intervention={"code": lambda code: code + 1})


def test_index_in_an_argument_without_rows_is_checked():
    def kernel(X, region, y=None):
        with numpyro.plate("groups", 3):
            a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a[region][X], 1e-3), obs=y)

    model = model_of(kernel)
    y = model.predict_on_batch(CODES % 2, region=np.array([2, 1]), in_sample=False, return_datatree=False)["y"]
    np.testing.assert_allclose(y.mean(0), [100, 10, 100, 10, 10, 10], atol=0.01)
    with pytest.raises(ValueError, match=r"site `a`, which has 3 entries .* with -1, computed from `region`"):
        model.predict_on_batch(CODES % 2, region=np.array([2, -1]), in_sample=False)
    with pytest.raises(ValueError, match=r"3 of 6 rows .* site `a`, which has 2 entries; .* row 2 with 2, "):
        model.predict(CODES % 3, region=np.array([2, 1]), in_sample=False, progress=False)


def test_message_names_the_column_of_a_data_frame():
    def kernel(X, y=None):
        with numpyro.plate("groups", 3):
            a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a[X[:, 1].astype(int)] + X[:, 0], 1.0), obs=y)

    known = pd.CategoricalDtype(["north", "south", "west"])
    region = pd.Series(["north", "east"]).where(lambda s: s.isin(known.categories)).astype(known)
    table = pd.DataFrame({"price": [1.0, 2.0], "region": region.cat.codes})
    with pytest.raises(ValueError, match=r"1 of 2 rows .* row 1 with -1, computed from column `region`"):
        model_of(kernel).predict_on_batch(table, in_sample=False)


def test_missing_code_is_an_error():
    X = np.array([[0.0], [np.nan], [np.inf]])
    with pytest.raises(ValueError, match=r"2 of 3 rows .* row 1 with NaN, computed from `X`"):
        model_of(look_up(lambda a, X: a[X[:, 0].astype(int)])).predict_on_batch(X, in_sample=False)


def test_index_drawn_by_the_kernel_is_not_checked():
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("y", dist.Normal(a[z] + X, 1.0), obs=y)

    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({**DRAWS, "z": np.zeros((4, 3), int)})
    with pytest.warns(UserWarning, match="local latent"):
        model.predict_on_batch(np.zeros(3), in_sample=False)

"""Tests of whether the rows of a kernel may be computed in blocks.

A kernel in which a row depends on other rows, on their number or on its position must be computed for all rows
together, with a warning, and gives the numbers of ``predict_on_batch``. Every other kernel must be computed in blocks
without a warning, and its values without noise must equal those computed for all rows at once.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen
from jax import lax, random
from jax.scipy.sparse.linalg import cg
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import flax_module
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import LocScaleReparam

from aimz import ImpactModel, PerformanceWarning
from slow_cases import slow_except

pytestmark = pytest.mark.usefixtures("plain_code")

N = 2500  # Two whole blocks and a part of one.
D = 2
KEY = random.key(8)
X = np.array(random.normal(random.key(5), (N, 6)))
X[:, 5] = 1.0
B = {"b": np.linspace(0.5, 1.5, D, dtype=np.float32)}


def new_model(kernel, posterior: Mapping[str, Any] | None) -> ImpactModel:
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(kernel, random.key(0), mcmc)
    return model if posterior is None else model.set_posterior_sample(posterior)


def streamed(model: ImpactModel, *args, method="predict", **options) -> tuple[bool, dict[str, np.ndarray]]:
    """Return whether all rows were computed together, and the result."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"rng_key": KEY, "store": "memory", "progress": False, **options}
        tree = getattr(model, method)(*args, **options)
    warned = [w for w in caught if "cannot be split along its rows" in str(w.message)]
    assert all(w.category is PerformanceWarning for w in warned)
    assert len(warned) <= 1
    group = next(tree[g] for g in tree.children if g not in ("posterior", "observed_data", "constant_data"))
    return bool(warned), {name: array.values.reshape(-1, *array.shape[2:]) for name, array in group.items()}


def at_once(model: ImpactModel, *args, method="predict", **options) -> dict[str, np.ndarray]:
    """Return the result of the method for all rows at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"rng_key": KEY, "return_datatree": False, **options}
        found = getattr(model, f"{method}_on_batch")(*args, **options)
    return {name: np.asarray(value) for name, value in found.items()}


def assert_same(ours: np.ndarray, theirs: np.ndarray, what: str = "") -> None:
    """Check equality up to the rounding of sums in another order."""
    assert ours.shape == theirs.shape, what
    if ours.dtype.kind == "f":
        scale = np.nanmax(np.abs(theirs), initial=1.0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale, err_msg=what)
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=what)


def computing(function: Callable[..., Any]):
    """A kernel whose output is `function` of the input and one posterior draw."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("y", function(X, b))

    return kernel


SERIES = jnp.sin(jnp.arange(5000.0))
"""An array that a kernel closes over, longer than the data."""
KNOTS = jnp.linspace(-3, 3, 20)
TOGETHER: dict[str, Callable[..., Any]] = {
    # Rows see others.
    "batch mean": lambda X, b: b * (X[:, 0] - X[:, 0].mean()),
    "batch mean of a constant column": lambda X, b: b * X[:, 0] / X[:, 5].mean(),
    "batch sd": lambda X, b: b * X[:, 0] / X[:, 0].std(),
    "total": lambda X, b: b * X[:, 0] + X[:, 1].sum(),
    "norm": lambda X, b: b * X[:, 0] / jnp.linalg.norm(X[:, 0]),
    "least": lambda X, b: b * (X[:, 0] - X[:, 0].min()),
    "greatest": lambda X, b: b * (X[:, 0] - X[:, 0].max()),
    "greatest of negative numbers": lambda X, b: b * (X[:, 0] - (-jnp.abs(X[:, 1])).max()),
    "least of positive numbers": lambda X, b: b * (X[:, 0] - jnp.abs(X[:, 1]).min()),
    "whether any is large": lambda X, b: b * X[:, 0] + jnp.any(X[:, 0] > 2.0),
    "whether all are small": lambda X, b: b * X[:, 0] + jnp.all(X[:, 0] < 2.0),
    "median": lambda X, b: b * (X[:, 0] - jnp.median(X[:, 0])),
    "rank": lambda X, b: b * jnp.argsort(jnp.argsort(X[:, 0])),
    "sorted": lambda X, b: b * jnp.sort(X[:, 0]),
    "softmax over rows": lambda X, b: jax.nn.softmax(b * X[:, 0]),
    "weights that sum to one": lambda X, b: b * X[:, 0] / jnp.abs(X[:, 1]).sum(),
    "attention over rows": lambda X, b: (jax.nn.softmax(X @ X.T) @ X)[:, 0] * b,
    "inverse of X'X": lambda X, b: (X @ jnp.linalg.inv(X.T @ X))[:, 0] * b,
    "group means": lambda X, b: jax.ops.segment_sum(X[:, 0], _group(X), 4)[_group(X)] * b,
    "group sizes": lambda X, b: jnp.bincount(_group(X), length=4)[_group(X)] * b,
    "argmax": lambda X, b: b * X[jnp.argmax(X[:, 0]), 1] + X[:, 0],
    "cumulative sum": lambda X, b: b * jnp.cumsum(X[:, 0]),
    "cumulative sum of a constant column": lambda X, b: b * jnp.cumsum(X[:, 5]),
    "cumulative maximum": lambda X, b: b * lax.cummax(X[:, 0]),
    "associative scan": lambda X, b: lax.associative_scan(jnp.add, X[:, 0]) * b,
    "lag 1": lambda X, b: b * X[:, 0] + jnp.pad(X[:-1, 1], (1, 0)),
    "lag 2": lambda X, b: b * X[:, 0] + jnp.pad(X[:-2, 1], (2, 0)),
    "lag 12": lambda X, b: b * X[:, 0] + jnp.concatenate([jnp.zeros(12), X[:-12, 1]]),
    "lead 4": lambda X, b: b * X[:, 0] + jnp.concatenate([X[4:, 1], jnp.zeros(4)]),
    "roll by 2": lambda X, b: b * jnp.roll(X[:, 0], 2),
    "difference": lambda X, b: b * jnp.diff(X[:, 0], prepend=X[:1, 0]),
    "moving average": lambda X, b: b * jnp.convolve(X[:, 0], jnp.ones(3) / 3, mode="same"),
    "causal filter": lambda X, b: lax.scan(lambda c, x: (c / 2 + b * x, c / 2 + b * x), 0.0, X[:, 0])[1],
    "fourier": lambda X, b: jnp.fft.ifft(b * jnp.fft.fft(X[:, 0])).real,
    "reversed": lambda X, b: b * X[::-1, 0],
    "since the first": lambda X, b: b * (X[:, 0] - X[0, 0]),
    "until the last": lambda X, b: b * (X[:, 0] - X[-1, 0]),
    "if the first": lambda X, b: lax.cond(X[0, 0] > 0, lambda: b * X[:, 0], lambda: -b * X[:, 0]),
    "first row set": lambda X, b: b * X.at[0].set(9.0)[:, 0],
    "first of four stretches": lambda X, b: b * X[:, 0] - jnp.repeat(X[:, 0].reshape(4, -1)[:, 0], X.shape[0] // 4),
    "while the total": lambda X, b: (
        b * X[:, 0] + lax.while_loop(lambda a: a < X[:, 1].sum() + 99, lambda a: a + 9, 0.0)
    ),
    # Rows see how many they are.
    "divided by their number": lambda X, b: b * X[:, 0] / X.shape[0],
    "divided by len": lambda X, b: b * X[:, 0] / len(X),
    "divided by size": lambda X, b: b * X[:, 0] / jnp.size(X),
    "root of their number": lambda X, b: b * X[:, 0] / np.sqrt(X.shape[0]),
    "to the power of their number": lambda X, b: X[:, 0] * (1 - b / 1000) ** X.shape[0],
    "their number as an array": lambda X, b: b * X[:, 0] / jnp.array(X.shape[0], float),
    "sum of ones": lambda X, b: b * X[:, 0] / jnp.ones(X.shape[0]).sum(),
    "sum of ones like X": lambda X, b: b * X[:, 0] / jnp.ones_like(X[:, 0]).sum(),
    "product of ones": lambda X, b: b * X[:, 0] / jnp.dot(jnp.ones(X.shape[0]), jnp.ones(X.shape[0])),
    "how many are finite": lambda X, b: b * X[:, 0] / jnp.isfinite(X[:, 0]).sum(),
    "softmax of zeros": lambda X, b: b * X[:, 0] + 100 * jax.nn.softmax(jnp.zeros(X.shape[0])),
    "trace of the identity": lambda X, b: b * X[:, 0] + jnp.trace(jnp.eye(X.shape[0])),
    "added to integers": lambda X, b: b * (_group(X) + X.shape[0]),
    "compared with integers": lambda X, b: b * ((X[:, 0] * 1000).astype(int) < X.shape[0]),
    "chosen among integers": lambda X, b: b * jnp.where(X[:, 0] > 0, X.shape[0], _group(X)),
    "clipped integers": lambda X, b: b * jnp.clip((X[:, 0] * 2000).astype(int), 0, X.shape[0]),
    "looked up by their number": lambda X, b: b * X[:, 0] + SERIES[X.shape[0] - 1],
    "many or few": lambda X, b: b * X[:, 0] * (2.0 if X.shape[0] > 2200 else 1.0),
    "order of magnitude": lambda X, b: b * X[:, 0] * 10.0 ** int(np.log10(X.shape[0] / 2.2)),
    "a loop as long": lambda X, b: b * X[:, 0] + lax.fori_loop(0, X.shape[0], lambda i, a: a + 0.5, 0.0),
    "their number, chosen": lambda X, b: b * X[:, 0] * lax.cond(b > 1, lambda: X.shape[0] * 1.0, lambda: 0.0),
    "their number, out of a function": lambda X, b: b * X[:, 0] * jax.jit(lambda X: (X, X.shape[0]))(X)[1],
    "their number, out of a loop": lambda X, b: X[:, 0] * lax.scan(lambda c, x: (c, X.shape[0] * b), 0, KNOTS)[1].sum(),
    # Rows see where they stand.
    "counted": lambda X, b: b * X[:, 0] + jnp.arange(X.shape[0]),
    "counted by numpy": lambda X, b: b * X[:, 0] + np.arange(X.shape[0]),
    "linspace": lambda X, b: b * X[:, 0] + jnp.linspace(0, 1, X.shape[0]),
    "linspace of numpy": lambda X, b: b * X[:, 0] + np.linspace(0, 1, X.shape[0], dtype=np.float32),
    "cumulative sum of ones": lambda X, b: b * X[:, 0] + jnp.cumsum(jnp.ones(X.shape[0])),
    "tiled days of the week": lambda X, b: X[:, 0] + jnp.tile(b * jnp.arange(7.0), X.shape[0] // 7 + 1)[: X.shape[0]],
    "resized": lambda X, b: b * X[:, 0] + jnp.resize(jnp.arange(7.0), X.shape[0]),
    "four stretches": lambda X, b: X[:, 0] + jnp.repeat(b * jnp.arange(4.0), X.shape[0] // 4),
    "two halves": lambda X, b: b * X[:, 0] + jnp.concatenate([jnp.zeros(len(X) // 2), jnp.ones(len(X) - len(X) // 2)]),
    "a start": lambda X, b: b * X[:, 0] + jnp.zeros(X.shape[0]).at[0].set(1.0),
    "an end": lambda X, b: b * X[:, 0] + jnp.zeros(X.shape[0]).at[-1].set(1.0),
    "head of a series": lambda X, b: b * X[:, 0] + SERIES[: X.shape[0]],
    "slice of a series": lambda X, b: b * X[:, 0] + lax.dynamic_slice(SERIES, (0,), (X.shape[0],)),
    "lower triangle": lambda X, b: b * X[:, 0] + jnp.tril(jnp.ones((X.shape[0], X.shape[0]))).sum(1),
    # Noise that no site draws would be the same in every block.
    "noise of a fixed key": lambda X, b: b * X[:, 0] + random.normal(random.key(3), (X.shape[0],)),
    "noise of a key closed over": lambda X, b: b * X[:, 0] + random.normal(KEY, (X.shape[0],)),
    "noise of a fixed key, sampled": lambda X, b: b * random.gamma(random.key(3), jnp.exp(X[:, 0])),
    # Other.
    "their number as the output": lambda X, b: jnp.asarray(X.shape[0]),
}


def _group(X):
    return (X[:, 1] > 0) * 2 + (X[:, 2] > 0)


@pytest.mark.parametrize("name", TOGETHER)
def test_interacting_rows_are_computed_together(name):
    model = new_model(computing(TOGETHER[name]), B)
    together, ours = streamed(model, X)
    assert together, "the kernel was cut"
    assert_same(ours["y"], at_once(model, X)["y"], name)


EFFECTS = jnp.sin(jnp.arange(20.0))
APART: dict[str, Callable[..., Any]] = {
    "products": lambda X, b: X @ (b * jnp.ones(6)),
    "einsum": lambda X, b: b * jnp.einsum("nk,kj->nj", X, jnp.ones((6, 2))),
    "transposed": lambda X, b: (b * X.T).sum(0),
    "intercept": lambda X, b: jnp.concatenate([jnp.ones((X.shape[0], 1)), X], 1) @ (b * jnp.ones(7)),
    "intercept of numpy": lambda X, b: (
        jnp.concatenate([np.ones((X.shape[0], 1), np.float32), X], 1) @ (b * jnp.ones(7))
    ),
    "zeros as long": lambda X, b: b * X[:, 0] + jnp.zeros(X.shape[0]),
    "zeros of numpy": lambda X, b: b * X[:, 0] + np.zeros(X.shape[0], np.float32),
    "as long as the rows": lambda X, b: jnp.broadcast_to(b, (len(X),)),
    "unused input": lambda X, b: jnp.broadcast_to(b, X.shape),
    "last column": lambda X, b: b * X[:, -1],
    "columns reversed": lambda X, b: b * X[:, ::-1][:, 0],
    "folded columns": lambda X, b: b * X.reshape(-1, 2, 3).sum((1, 2)),
    "rows and all the rest": lambda X, b: b * X.reshape(X.shape[0], -1).sum(1),
    "one column at a time": lambda X, b: sum(b * column for column in X.T),
    "column set": lambda X, b: X.at[:, 0].set(b).sum(1),
    "where": lambda X, b: b * jnp.where(X[:, 0] > 0, X[:, 1], X[:, 2]),
    "nan to zero": lambda X, b: b * jnp.nan_to_num(X[:, 0]),
    "effects of a group": lambda X, b: (b * jnp.arange(4.0))[_group(X)],
    "effects of a group, taken": lambda X, b: jnp.take(b * jnp.arange(4.0), _group(X)),
    "one-hot": lambda X, b: jax.nn.one_hot(_group(X), 4) @ (b * jnp.arange(4.0)),
    "column chosen by row": lambda X, b: b * jnp.take_along_axis(X, jnp.argmax(X, 1)[:, None], 1)[:, 0],
    "column chosen by the draw": lambda X, b: X[:, jnp.argmax(b * jnp.ones(6))],
    "interpolated": lambda X, b: b * jnp.interp(X[:, 0], KNOTS, EFFECTS),
    "searched": lambda X, b: b * jnp.searchsorted(KNOTS, X[:, 0]),
    "powers": lambda X, b: jnp.vander(X[:, 0], 4) @ (b * jnp.ones(4)),
    "error function": lambda X, b: jax.scipy.special.erf(b * X[:, 0]),
    "cumulative sum within rows": lambda X, b: b * jnp.cumsum(X, 1),
    "sorted within rows": lambda X, b: b * jnp.sort(X, 1),
    "median within rows": lambda X, b: b * jnp.median(X, 1),
    "quantile within rows": lambda X, b: b * jnp.quantile(X, 0.3, axis=1),
    "softmax within rows": lambda X, b: jax.nn.softmax(b * X, 1),
    "normalised within rows": lambda X, b: b * (X - X.mean(1, keepdims=True)) / X.std(1, keepdims=True),
    "lag within rows": lambda X, b: b * jnp.pad(X[:, :-2], ((0, 0), (2, 0))),
    "filter within rows": lambda X, b: jax.vmap(lambda x: jnp.convolve(x, jnp.ones(3), mode="same"))(X) * b,
    "fourier within rows": lambda X, b: b * jnp.fft.rfft(X, axis=1).real,
    "attention within rows": lambda X, b: jnp.einsum("nij,nkj->nik", *[b * X.reshape(-1, 2, 3)] * 2).sum((1, 2)),
    "time within rows": lambda X, b: lax.scan(lambda c, x: (jnp.tanh(c + b * x), None), jnp.zeros(len(X)), X.T)[0],
    "loop over columns": lambda X, b: lax.fori_loop(0, 6, lambda i, a: a + b * X[:, i], jnp.zeros(len(X))),
    "while, row by row": lambda X, b: (
        jax.vmap(lambda x: lax.while_loop(lambda c: c < 3, lambda c: c + 1 + x**2, x))(X[:, 0]) * b
    ),
    "cond on the draw": lambda X, b: lax.cond(b > 1, lambda x: x, lambda x: -x, X[:, 0]),
    "solved within rows": lambda X, b: jnp.linalg.solve(jnp.eye(6) * (1 + b), X[:, :, None])[:, :, 0],
    "factors within rows": lambda X, b: jnp.linalg.cholesky(2 * jnp.eye(6) + b * X[:, :, None] * X[:, None])[:, 1, 1],
    "slopes within rows": lambda X, b: jax.vmap(jax.grad(lambda x: jnp.sum(jnp.sin(b * x))))(X),
    "compiled": lambda X, b: jax.jit(lambda X: b * X.sum(1))(X),
    "rematerialised": lambda X, b: jax.checkpoint(lambda X: jnp.tanh(b * X.sum(1)))(X),
    "noise of a key for each row": lambda X, b: jax.vmap(
        lambda x: b * random.normal(random.fold_in(random.key(1), (1000 * x).astype(int)))
    )(X[:, 0]),
    "booleans": lambda X, b: b * X[:, 0] > 0,
    "integers": lambda X, b: (10 * b * X[:, 0]).astype(int),
}


@pytest.mark.parametrize("name", APART)
def test_independent_rows_are_computed_in_blocks(name):
    model = new_model(computing(APART[name]), B)
    together, ours = streamed(model, X)
    assert not together
    assert_same(ours["y"], at_once(model, X)["y"], name)


# ------------------------------------------------------------------------------------------- whole kernels


@dataclass(frozen=True)
class Kernel:
    """A kernel, and the call to make."""

    function: Callable[..., Any]
    posterior: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    prior: bool = False

    @property
    def call_options(self) -> dict[str, Any]:
        """Options of the call, and the method if it is not `predict`."""
        prior = {"method": "sample_prior_predictive", "num_samples": D} if self.prior else {}
        return {**self.options, **prior}

    def stream(self) -> tuple[bool, dict[str, np.ndarray], ImpactModel]:
        """Return whether all rows were computed together, the result, and the model."""
        model = new_model(self.function, self.posterior)
        return *streamed(model, X, **self.call_options), model


def drawing(function: Callable[..., Any]):
    """A kernel whose output is drawn around `function` of the input, a draw and a latent of each row."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.HalfNormal())
        with numpyro.plate("rows", X.shape[0]):
            e = numpyro.sample("e", dist.Normal())
        mu = numpyro.deterministic("mu", function(X, b, e))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mu), obs=y)

    return kernel


E = {**B, "e": np.asarray(random.normal(random.key(6), (D, N)))}
LATENTS_MIX = {
    "random walk": lambda X, b, e: b * jnp.cumsum(e) + X[:, 0],
    "moving average": lambda X, b, e: e + b * jnp.roll(e, 1) + X[:, 0],
    "season": lambda X, b, e: e + b * jnp.pad(e[:-12], (12, 0)) + X[:, 0],
    "sorted": lambda X, b, e: b * jnp.sort(e) + X[:, 0],
    "total": lambda X, b, e: b * e.sum() + X[:, 0],
    "greatest": lambda X, b, e: b * e.max() + X[:, 0],
    "centred": lambda X, b, e: b * (e - e.mean()) + X[:, 0],
    "first": lambda X, b, e: b * e[0] + X[:, 0],
    "until all have converged": lambda X, b, e: lax.while_loop(
        lambda c: jnp.any(c < 3), lambda c: c + 1 + b * c * c, e
    ),
    "solved by conjugate gradients": lambda X, b, e: cg(lambda v: 3 * v + jnp.roll(v, 1) + jnp.roll(v, -1), b * e)[0],
    "sorted by the host": lambda X, b, e: jax.pure_callback(
        lambda v: np.sort(v, -1), jax.ShapeDtypeStruct(e.shape, e.dtype), b * e, vmap_method="expand_dims"
    ),
    "looked up": lambda X, b, e: b * e[jnp.clip((300 * X[:, 0] + 600).astype(int), 0, 999)],
    "noise of a fixed key added in a loop": lambda X, b, e: lax.scan(
        lambda c, key: (c + random.normal(key, (X.shape[0],)), None), b * e, random.split(random.key(1), 3)
    )[0],
    "autoregression": lambda X, b, e: lax.scan(lambda c, x: (0.5 * c + x, 0.5 * c + x), 0.0, e)[1] + X[:, 0],
}


@pytest.mark.parametrize(
    ("name", "how"),
    [(n, how) for n in LATENTS_MIX for how in ("in sample", "resampled")] + [("random walk", "prior")],
)
def test_interacting_rows_of_latents_are_computed_together(name, how):
    """The latents of the rows are posterior draws or resampled."""
    kernel = drawing(LATENTS_MIX[name])
    asked = {
        "in sample": Kernel(kernel, E, {"return_sites": "mu"}),
        "resampled": Kernel(kernel, E, {"return_sites": "mu", "in_sample": False}),
        "prior": Kernel(kernel, prior=True, options={"return_sites": ["mu", "e", "b"]}),
    }[how]
    together, ours, model = asked.stream()
    assert together, "the kernel was cut"
    theirs = at_once(model, X, **asked.call_options)
    for site in ours:
        assert_same(ours[site], theirs[site], site)


def gaussian_process(X, y=None):
    scale = numpyro.sample("b", dist.HalfNormal())
    distance = (X[:, None, 0] - X[None, :, 0]) ** 2
    covariance = scale * jnp.exp(-0.5 * distance) + jnp.eye(X.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(X.shape[0]), covariance), obs=y)


def walk_distribution(X, y=None):
    level = numpyro.sample("level", dist.GaussianRandomWalk(0.1, num_steps=X.shape[0]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + X[:, 0]), obs=y)


def joint(distribution):
    """A kernel in which the rows of a latent have one joint distribution."""

    def kernel(X, y=None):
        w = numpyro.sample("w", distribution(X))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X[:, 0] + w), obs=y)

    return kernel


def scan_over_rows(X, y=None):
    drift = numpyro.sample("b", dist.Normal())

    def step(level, x):
        level = numpyro.sample("level", dist.Normal(level + drift, 0.1))
        return level, level + x

    _, mean = scan(step, 0.0, X[:, 0])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)


def global_in_scan(X, y=None):
    """One level for each column, the same for all rows; drawn inside the loop."""

    def step(level, x):
        level = numpyro.sample("level", dist.Normal(level, 0.1))
        return level, level * x

    _, parts = scan(step, 0.0, X.T)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(parts.sum(0), 0.1), obs=y)


def own_noise(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    key = numpyro.prng_key()
    noise = random.normal(random.key(0) if key is None else key, (X.shape[0],))
    numpyro.deterministic("y", b * X[:, 0] + noise)


def own_key(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        e = numpyro.sample("e", dist.Normal(), rng_key=random.key(3))
        numpyro.sample("y", dist.Normal(b * X[:, 0] + e), obs=y)


def own_seed(X, y=None):
    numpyro.sample("b", dist.Normal())
    with handlers.seed(rng_seed=3), numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X[:, 0]), obs=y)


def scale_of_data(X, y=None):
    """A resampled prior whose scale depends on all rows, through a site in between."""
    s = numpyro.deterministic("s", X[:, 0].std())
    b = numpyro.sample("b", dist.Normal(0, 1 / s))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


def start_of_data(X, y=None):
    s = numpyro.deterministic("s", X[0, 0])
    b = numpyro.sample("b", dist.Normal(s))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


def with_total(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", b * X[:, 0])
    numpyro.deterministic("total", mu.sum())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def groups_by_number(X, y=None):
    """A group for every hundred rows."""
    with numpyro.plate("groups", X.shape[0] // 100):
        a = numpyro.sample("a", dist.Normal())
    mu = numpyro.deterministic("mu", a[_group(X)])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def one_of_the_rows(X, y=None):
    numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=jnp.zeros(X.shape[0])), obs=y)


def trials_by_number(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Geometric(probs=jax.nn.sigmoid(b * X[:, 0]) / X.shape[0]), obs=y)


def state_longer_than_rows(X, y=None):
    e = numpyro.sample("e", dist.Normal().expand([X.shape[0] + 1]))
    mu = numpyro.deterministic("mu", X[:, 0] + e[1:] - e[:-1])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def head_of_latents(X, y=None):
    """One level for each day there may be; the rows are the first of them."""
    with numpyro.plate("days", 5000):
        level = numpyro.sample("level", dist.Normal())
    mu = numpyro.deterministic("mu", level[: X.shape[0]] + X[:, 0])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def one_draw(X, y=None):
    """A regression for interventions."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        e = numpyro.sample("e", dist.Normal())
        mu = numpyro.deterministic("mu", b * X[:, 0] + e)
        numpyro.sample("y", dist.Normal(mu), obs=y)


def numbered(size, function):
    """A kernel that uses the row numbers of a plate."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        options = {} if size is None else {"subsample_size": X.shape[0]}
        with numpyro.plate("obs", size or X.shape[0], **options) as index:
            mu = numpyro.deterministic("mu", function(X, b, index))
            numpyro.sample("y", dist.Normal(mu), obs=y)

    return kernel


@jax.jit
def _look_up(array, index):
    return array[index]


def looking_up_twice(X, y=None):
    """Labels of a function's input in one call do not hold in the next call."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", 9999, subsample_size=X.shape[0]) as index:
        e = numpyro.sample("e", dist.Normal())
        other = jnp.clip((300 * X[:, 0] + 600).astype(int), 0, 999)
        numpyro.deterministic("mu", b * _look_up(e, index) + _look_up(e, other))
        numpyro.sample("y", dist.Normal(X[:, 0]), obs=y)


MU = {"return_sites": "mu"}
WHOLE = {
    "Gaussian process": Kernel(gaussian_process, {"b": np.ones(1, np.float32)}),
    "walk as a distribution": Kernel(walk_distribution, prior=True, options={"return_sites": ["level", "y"]}),
    "weights of all rows": Kernel(joint(lambda X: dist.Dirichlet(jnp.ones(X.shape[0]))), prior=True),
    "latents that sum to zero": Kernel(joint(lambda X: dist.ZeroSumNormal(1.0, (X.shape[0],))), prior=True),
    "scan over rows": Kernel(scan_over_rows, B),
    "global drawn in a scan": Kernel(global_in_scan, prior=True, options={"return_sites": ["level", "y"]}),
    "noise of `prng_key`": Kernel(own_noise, B),
    "a key of its own": Kernel(own_key, prior=True, options={"return_sites": ["e", "y"]}),
    "a seed of its own": Kernel(own_seed, B),
    "prior scale from the rows": Kernel(scale_of_data, prior=True, options={"return_sites": ["b", "y"]}),
    "prior mean from the first row": Kernel(start_of_data, prior=True, options={"return_sites": ["b", "y"]}),
    "total returned": Kernel(with_total, B),
    "a group for every hundred rows": Kernel(groups_by_number, prior=True, options={"return_sites": ["a", "mu"]}),
    "one of the rows": Kernel(one_of_the_rows, B),
    "probability by number": Kernel(trials_by_number, B),
    "a state more than rows": Kernel(
        state_longer_than_rows, {"e": np.ones((D, N + 1)).cumsum(1, dtype=np.float32)}, options=MU
    ),
    "head of the latents": Kernel(head_of_latents, {"level": np.asarray(SERIES)[None]}, options=MU),
    "intervention that centres": Kernel(one_draw, E, options={"intervention": {"mu": lambda v: v - v.mean()}} | MU),
    "intervention that sorts": Kernel(one_draw, E, options={"intervention": {"mu": jnp.sort}} | MU),
    "intervention that lags": Kernel(one_draw, E, options={"intervention": {"mu": lambda v: jnp.roll(v, 4)}} | MU),
    "intervention that adds up noise": Kernel(
        one_draw, E, options={"intervention": {"e": jnp.cumsum}, "in_sample": False} | MU
    ),
    "intervention that centres the output": Kernel(one_draw, E, options={"intervention": {"y": lambda v: v - v.max()}}),
    "row numbers within and beyond": Kernel(numbered(9999, lambda X, b, i: b * SERIES[i] + X[i, 0]), B, options=MU),
    "row numbers scattered": Kernel(
        numbered(9999, lambda X, b, i: b * jnp.zeros(X.shape[0]).at[i].set(X[:, 0])), B, options=MU
    ),
    "row numbers one-hot": Kernel(
        numbered(9999, lambda X, b, i: b * jax.nn.one_hot(i, X.shape[0]) @ X[:, 0]), B, options=MU
    ),
    "row numbers looked up": Kernel(
        numbered(9999, lambda X, b, i: b * i[jnp.clip((300 * X[:, 0] + 600).astype(int), 0, 999)]), B, options=MU
    ),
    "own rows and others, by one function": Kernel(looking_up_twice, E, options={"in_sample": False} | MU),
    "row numbers of a whole plate": Kernel(numbered(None, lambda X, b, i: b * i + X[:, 0]), B, options=MU),
    "row numbers of a whole plate, looked up": Kernel(
        numbered(None, lambda X, b, i: b * SERIES[i] + X[:, 0]), B, options=MU
    ),
}


@pytest.mark.parametrize("name", slow_except(WHOLE, *(WHOLE.keys() - {"Gaussian process"})))
def test_interacting_kernels_are_computed_together(name):
    together, ours, model = WHOLE[name].stream()
    assert together, "the kernel was cut"
    theirs = at_once(model, X, **WHOLE[name].call_options)
    assert ours.keys() == theirs.keys()
    for site in ours:
        assert_same(ours[site], theirs[site], site)


def hierarchical(X, y=None):
    a = numpyro.sample("b", dist.Normal())
    with numpyro.plate("groups", 4):
        effect = numpyro.sample("effect", dist.Normal(a))
    mu = numpyro.deterministic("mu", effect[_group(X)] + X[:, 0])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def event_of_rows(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", b * X[:, 0])
    numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)


def panel(X, y=None):
    """Time runs within a row."""
    b = numpyro.sample("b", dist.HalfNormal())

    def step(level, x):
        with numpyro.plate("obs", X.shape[0]):
            level = numpyro.sample("level", dist.Normal(level + x, b))
        return level, level

    _, levels = scan(step, jnp.zeros(X.shape[0]), X.T)
    mu = numpyro.deterministic("mu", X.sum(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(levels[-1] + mu), obs=y)


def subsampled(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0], subsample_size=max(1, X.shape[0] // 3)) as index:
        mu = numpyro.deterministic("mu", b * X[index, 0])
        numpyro.sample("y", dist.Normal(mu), obs=None if y is None else y[index])


def nested(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("items", 3, dim=-2), numpyro.plate("obs", X.shape[0], dim=-1):
        e = numpyro.sample("e", dist.Normal())
        numpyro.deterministic("mu", b * X[:, :3].T)
        numpyro.sample("y", dist.Normal(b * X[:, 0] + e), obs=y)


def reparametrised(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        with handlers.reparam(config={"z": LocScaleReparam(0)}):
            z = numpyro.sample("z", dist.Normal(X[:, 0], 2.0))
        numpyro.deterministic("mu", b * X[:, 0])
        numpyro.sample("y", dist.Normal(z + b), obs=y)


def masked(X, y=None):
    """A total in the joint density only is not part of a prediction."""
    b = numpyro.sample("b", dist.Normal())
    numpyro.factor("penalty", -(X**2).sum() / X.shape[0])
    mu = numpyro.deterministic("mu", b * X[:, 0])
    with numpyro.plate("obs", X.shape[0]), handlers.mask(mask=X[:, 1] > 0), handlers.scale(scale=10 / X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


class _Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.LayerNorm()(linen.Dense(3)(x))
        x = linen.BatchNorm(use_running_average=True)(x)
        return linen.Dense(1)(linen.Dropout(0.5, deterministic=True)(x))[..., 0]


def network(X, y=None):
    numpyro.sample("b", dist.Normal())
    net = flax_module("net", _Net(), input_shape=(1, X.shape[1]), mutable=["batch_stats"])
    mu = numpyro.deterministic("mu", net(X))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def family(distribution):
    """A kernel with this distribution of the output around a linear predictor."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        eta = numpyro.deterministic("mu", b * X[:, 0])
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", distribution(eta, X), obs=y)

    return kernel


def _two(eta):
    return jnp.stack([eta, -eta], -1)


CUT = {
    "hierarchy": Kernel(hierarchical, {**B, "effect": np.arange(8, dtype=np.float32).reshape(2, 4)}),
    "hierarchy, prior": Kernel(hierarchical, prior=True, options={"return_sites": ["b", "effect", "mu"]}),
    "event of rows": Kernel(event_of_rows, B),
    "time within a row": Kernel(panel, B),
    "subsampled plate": Kernel(subsampled, B),
    "nested plates": Kernel(nested, B),
    "reparametrised": Kernel(reparametrised, B),
    "factors, masks and scales": Kernel(masked, B),
    "total not returned": Kernel(with_total, B, options={"return_sites": ["mu", "y"]}),
    "weights of all rows, in sample": Kernel(
        joint(lambda X: dist.Dirichlet(jnp.ones(X.shape[0]))), {"w": np.full((D, N), 1 / N, np.float32)}
    ),
    "row numbers within": Kernel(numbered(9999, lambda X, b, i: b * X[i, 0]), B),
    "row numbers within, taken": Kernel(numbered(9999, lambda X, b, i: b * jnp.take(X[:, 0], i)), B),
    "row numbers within, of a whole plate": Kernel(numbered(None, lambda X, b, i: b * X[i, 0]), B),
    "row numbers beyond": Kernel(numbered(9999, lambda X, b, i: b * SERIES[i] + X[:, 0]), B),
    "row numbers as a trend": Kernel(numbered(9999, lambda X, b, i: b * i / 1000 + X[:, 0]), B),
    "row numbers as a season": Kernel(numbered(9999, lambda X, b, i: b * SERIES[i % 12] + X[:, 0]), B),
    "intervention row by row": Kernel(one_draw, E, options={"intervention": {"mu": lambda v: 2 * v + 1}}),
    "categorical": Kernel(family(lambda eta, X: dist.Categorical(logits=_two(eta))), B),
    "mixture": Kernel(
        family(lambda eta, X: dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(_two(eta), 1.0))), B
    ),
    "Gamma": Kernel(family(lambda eta, X: dist.Gamma(jnp.exp(eta), 2.0)), B),
    "vector Normal": Kernel(family(lambda eta, X: dist.MultivariateNormal(_two(eta), jnp.eye(2))), B),
    "multinomial": Kernel(family(lambda eta, X: dist.Multinomial(9, probs=jax.nn.softmax(_two(eta)))), B),
    # Samplers whose loops run until the last row has found its number.
    "Poisson of large rates": Kernel(family(lambda eta, X: dist.Poisson(30 * jnp.exp(0.3 * eta))), B),
    "binomial": Kernel(family(lambda eta, X: dist.Binomial(20, logits=eta)), B),
    "binomial, trials by row": Kernel(family(lambda eta, X: dist.Binomial(20 + _group(X), logits=eta)), B),
}


@pytest.mark.parametrize("name", CUT)
def test_independent_kernels_are_computed_in_blocks(name):
    asked = CUT[name]
    together, ours, model = asked.stream()
    assert not together
    # Noise has the key of its block; what has none is the same, and so is what is drawn for all rows.
    compared = sorted(ours.keys() - {"y", "z"})
    if compared:
        theirs = at_once(model, X, **{**asked.call_options, "return_sites": compared})
        for site in compared:
            assert_same(ours[site], theirs[site], site)


def test_network_with_stored_averages_is_computed_in_blocks():
    """A layer that normalises with stored averages depends on its own row only."""
    from types import SimpleNamespace

    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    trace = handlers.trace(handlers.seed(network, 0)).get_trace(jnp.asarray(X[:3]))
    params = {name: site["value"] for name, site in trace.items() if site["type"] in ("param", "mutable")}
    svi = SVI(network, AutoNormal(network), numpyro.optim.Adam(0.1), Trace_ELBO())
    model = ImpactModel(network, random.key(0), svi)
    model.vi_result = SimpleNamespace(params=params, losses=[])
    model.set_posterior_sample(B)
    together, ours = streamed(model, X, return_sites="mu")
    assert not together
    assert_same(ours["mu"], at_once(model, X, return_sites="mu")["mu"])


@pytest.mark.parametrize("n_obs", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["vector Normal", "multinomial", "categorical", "nested plates", "event of rows"])
def test_few_rows_are_computed_in_blocks(name, n_obs):
    """A program for one row differs from one for two rows even if its rows are independent."""
    asked = CUT[name]
    model = new_model(asked.function, asked.posterior)
    together, ours = streamed(model, X[:n_obs], return_sites="mu", **asked.options)
    assert not together
    assert_same(ours["mu"], at_once(model, X[:n_obs], return_sites="mu", **asked.options)["mu"])


# ------------------------------------------------------------------------------------------- what a verdict is of


def spill_over(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", X[:, 0] + b * jnp.cumsum(X[:, 1]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def assert_right(model, X, **options) -> None:
    """Values without noise are right in blocks and for all rows together."""
    _, ours = streamed(model, X, return_sites="mu", **options)
    assert_same(ours["mu"], at_once(model, X, return_sites="mu", **options)["mu"])


def test_new_posterior_is_checked_again():
    """The effect of other rows may be zero in one posterior and not in the next."""
    model = new_model(spill_over, {"b": np.zeros(D, np.float32)})
    assert_right(model, X)
    assert_right(model.set_posterior_sample(B), X)


def test_new_intervention_is_checked_again():
    model = new_model(spill_over, B)
    assert_right(model, X, intervention={"b": 0.0})
    assert_right(model, X, intervention={"b": 1.0})


def test_new_data_are_checked_again():
    def kernel(X, y=None):
        numpyro.sample("b", dist.Normal())
        numpyro.deterministic("mu", X[:, 0] * jnp.maximum(X[:, 1].sum(), 0.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(), obs=y)

    model = new_model(kernel, B)
    assert_right(model, X - 20.0)
    assert_right(model, X + 20.0)


def test_few_rows_do_not_decide_for_many():
    """One block contains all rows of a small data set, so its result is right even if rows interact."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("mu", b * X[:, 0] + jnp.any(X[:, 1] > 3.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(), obs=y)

    few = np.zeros((700, 2), np.float32)
    many = np.zeros((N, 2), np.float32)
    few[::2, 1] = many[2::1000, 1] = 9.0
    model = new_model(kernel, B)
    assert_right(model, few)
    assert_right(model, many)


# ------------------------------------------------------------------------------------------- scoring


def scored(kernel, posterior):
    """Return whether all rows were computed together, the scores, and NumPyro's scores."""
    model = new_model(kernel, posterior)
    y = np.asarray(random.normal(random.key(9), (N,)))
    together, ours = streamed(model, X, y, method="log_likelihood")
    posterior = {name: jnp.asarray(value) for name, value in posterior.items()}
    theirs = numpyro.infer.log_likelihood(kernel, posterior, jnp.asarray(X), y=jnp.asarray(y))
    return together, ours["y"], np.asarray(theirs["y"])


def seasonal(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * jnp.pad(X[:-12, 0], (12, 0))), obs=y)


def given_the_last(X, y=None):
    """The output of a row depends on that of the row before it."""
    b = numpyro.sample("b", dist.Normal())
    before = 0.0 if y is None else jnp.pad(y[:-1], (1, 0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * before + X[:, 0]), obs=y)


@pytest.mark.parametrize("kernel", [seasonal, given_the_last, event_of_rows])
def test_scores_of_interacting_rows(kernel):
    together, ours, theirs = scored(kernel, B)
    assert together
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kernel", [masked, hierarchical])
def test_scores_of_independent_rows(kernel):
    posterior = {**B, "effect": np.arange(8, dtype=np.float32).reshape(2, 4)} if kernel is hierarchical else B
    together, ours, theirs = scored(kernel, posterior)
    assert not together
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_warning_contains_kernel_and_reason():
    """The warning contains the kernel and the reason, and is issued once, if the rows are more than one block."""
    rows = np.resize(X, (1100, *X.shape[1:]))
    model = new_model(gaussian_process, {"b": np.ones(2, np.float32)})
    with pytest.warns(UserWarning, match="`gaussian_process` cannot be split along its rows .*one joint distribution"):
        model.predict(rows, store="memory", progress=False)
    model = new_model(computing(lambda X, b: b * X[:, 0] / X.shape[0]), B)
    with pytest.warns(UserWarning, match=r"cannot be split along its rows \(it computes with the number of rows"):
        model.predict(rows, store="memory", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(X[:20], store="memory", progress=False)

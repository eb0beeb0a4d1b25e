"""The kernel catalogue: one kernel of each common kind, with data and expected properties.

The laws are tested on all of it. A case contains the properties that a test cannot derive from the kernel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from jax import random
from jax.example_libraries import stax
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import eqx_module, flax_module, nnx_module
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel

N_OBS = 12
N_DRAWS = 6


@dataclass(frozen=True)
class Case:
    """A kernel with data and expected properties."""

    kernel: Callable[..., Any]
    y: Any
    X: Any
    extra: Mapping[str, Any] = field(default_factory=dict)
    row_sites: tuple[str, ...] = ("y",)
    """Sites with a row axis."""
    local: tuple[str, ...] = ()
    """Latent sites with a row axis."""
    params: tuple[str, ...] = ()
    returns: tuple[str, ...] = ("y",)
    """Sites that predictive methods return by default."""
    intervention: Mapping[str, Any] = field(default_factory=dict)
    """An intervention that changes the output."""
    scored: bool = True
    """Whether `log_likelihood` applies."""
    has_mean: bool = True
    """Whether the output has a mean and an sd to compare."""
    reference: Callable[..., Any] | None = None
    """Kernel to run with NumPyro's functions, if these would permute the rows of `kernel`."""
    fixed_size: bool = False
    improper: bool = False
    """Whether a prior is improper, so that there is no prior predictive."""

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def numpyro_kernel(self) -> Callable[..., Any]:
        """The kernel to run with NumPyro's functions."""
        return self.reference or self.kernel

    def arguments(self, rows: slice = slice(None)) -> dict[str, Any]:
        """Return the input and further arguments for some of the rows."""
        cut = {k: v[rows] if hasattr(v, "shape") else v for k, v in self.extra.items()}
        return {"X": self.X[rows], **cut}


_keys = iter(random.split(random.key(20), 64))


def _normal(*shape: int) -> np.ndarray:
    return np.asarray(random.normal(next(_keys), shape))


def _integers(high: int, *shape: int) -> np.ndarray:
    return np.asarray(random.randint(next(_keys), shape, 0, high))


X = _normal(N_OBS, 3)
Y = _normal(N_OBS)
GROUP = np.array([0, 1, 2, 3] * (N_OBS // 4))


def linear(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", a + X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def logistic(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def poisson(X, exposure, y=None):
    b = numpyro.sample("b", dist.Normal(0, 0.3).expand([X.shape[1]]))
    rate = numpyro.deterministic("rate", exposure * jnp.exp(X @ b))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def negative_binomial(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 0.3).expand([X.shape[1]]))
    concentration = numpyro.sample("concentration", dist.Gamma(10, 2))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(X @ b), concentration), obs=y)


def multi_output(X, y=None):
    W = numpyro.sample("W", dist.Normal().expand([X.shape[1], 2]).to_event(2))
    mu = numpyro.deterministic("mu", X @ W)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)


def categorical(X, y=None):
    W = numpyro.sample("W", dist.Normal().expand([X.shape[1], 4]).to_event(2))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=X @ W), obs=y)


def image(X, y=None):
    w = numpyro.sample("w", dist.Normal().expand(list(X.shape[1:])).to_event(len(X.shape) - 1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.einsum("nhwc,hwc->n", X, w)), obs=y)


def hierarchical(X, group, n_groups, y=None):
    mu = numpyro.sample("mu", dist.Normal())
    tau = numpyro.sample("tau", dist.HalfNormal())
    with numpyro.plate("groups", n_groups):
        alpha = numpyro.sample("alpha", dist.Normal(mu, tau))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(alpha[group] + X[:, 0]), obs=y)


def local_latents(X, y=None):
    mu = numpyro.sample("mu", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(z + X[:, 0], 0.5), obs=y)


def chain(X, t, y=None):
    """Treatment z, mediator m, outcome y."""
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1), obs=t)
        m = numpyro.sample("m", dist.Normal(3 * z, 0.1))
        numpyro.sample("y", dist.Normal(m, 0.1), obs=y)


def param_site(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
    s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, s), obs=y)


class _MLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(linen.tanh(linen.Dense(4)(x)))[..., 0]


def flax_net(X, y=None):
    net = flax_module("nn", _MLP(), input_shape=(1, X.shape[1]))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    mu = numpyro.deterministic("mu", net(X))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


class _NNX(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)[..., 0]


def nnx_net(X, y=None):
    net = nnx_module("nn", _NNX(nnx.Rngs(0)))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(net(X), sigma), obs=y)


def equinox_net(X, y=None):
    net = eqx_module("nn", eqx.nn.Linear(3, 1, key=random.key(0)))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(jax.vmap(net)(X)[..., 0], sigma), obs=y)


def stax_net(X, y=None):
    net = numpyro.module("nn", stax.serial(stax.Dense(4), stax.Tanh, stax.Dense(1)), input_shape=(X.shape[1],))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(net(X)[..., 0], sigma), obs=y)


def mixture(X, y=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        loc = numpyro.sample("loc", dist.Normal(0, 3))
    with numpyro.plate("obs", X.shape[0]):
        components = dist.Normal(loc, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)


def horseshoe(X, y=None):
    tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
    with numpyro.plate("features", X.shape[1]):
        lam = numpyro.sample("lam", dist.HalfCauchy(1))
        b = numpyro.sample("b", dist.Normal(0, tau * lam))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b), obs=y)


def gaussian_process(X, y=None):
    """Rows interact through their covariance."""
    scale = numpyro.sample("scale", dist.HalfNormal())
    distance = jnp.sum((X[:, None] - X[None]) ** 2, -1)
    covariance = scale * jnp.exp(-0.5 * distance) + jnp.eye(X.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(X.shape[0]), covariance), obs=y)


def state_space(X, y=None):
    """Rows interact: a random walk in time."""
    drift = numpyro.sample("drift", dist.Normal())

    def step(level, x):
        level = numpyro.sample("level", dist.Normal(level + drift, 0.1))
        return level, level + x

    _, mean = scan(step, 0.0, X[:, 0])
    numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)


def factor_only(X, y=None):
    """A custom likelihood: the data are in a factor, and predictions are drawn."""
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", b * X[:, 0])
    if y is None:
        numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1))
    else:
        numpyro.factor("likelihood", dist.Normal(mu, 1.0).log_prob(y).sum())


def subsampled(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
    with numpyro.plate("obs", X.shape[0], subsample_size=max(1, X.shape[0] // 3)) as idx:
        numpyro.sample("y", dist.Normal(X[idx] @ b), obs=None if y is None else y[idx])


def _subsampled_whole(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b), obs=y)


def nested_plates(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("items", 2, dim=-1):
        c = numpyro.sample("c", dist.Normal())
        with numpyro.plate("obs", X.shape[0], dim=-2):
            e = numpyro.sample("e", dist.Normal(0, 0.5))
            numpyro.sample("y", dist.Normal(b * X[:, :1] + c + e, 0.5), obs=y)


def masked(X, seen, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y, obs_mask=seen)


def closed_over(X, y=None):
    """Closes over an array as long as the data, so it accepts no other number of rows."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", N_OBS):
        numpyro.sample("y", dist.Normal(b * X[:, 0] + OFFSET), obs=y)


OFFSET = np.linspace(0, 1, N_OBS, dtype=np.float32)


def improper(X, y=None):
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), event_shape=()))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


CASES = [
    Case(linear, Y, X, row_sites=("mu", "y"), returns=("y", "mu"), intervention={"a": 2.0}),
    Case(logistic, _integers(2, N_OBS), X, intervention={"b": [3.0, 0.0, 0.0]}),
    Case(
        poisson,
        _integers(5, N_OBS),
        X,
        {"exposure": np.abs(_normal(N_OBS)) + 1},
        row_sites=("rate", "y"),
        returns=("y", "rate"),
        intervention={"exposure": lambda exposure: 2 * exposure},
    ),
    Case(negative_binomial, _integers(5, N_OBS), X, intervention={"b": 0.0}),
    Case(multi_output, _normal(N_OBS, 2), X, row_sites=("mu", "y"), returns=("y", "mu"), intervention={"mu": 1.0}),
    Case(categorical, _integers(4, N_OBS), X, intervention={"W": 0.0}, has_mean=False),
    Case(image, Y, _normal(N_OBS, 3, 3, 2), intervention={"X": 0.0}),
    Case(hierarchical, Y, X, {"group": GROUP, "n_groups": 4}, intervention={"group": 0}),
    Case(local_latents, Y, X, row_sites=("z", "y"), local=("z",), intervention={"mu": 3.0}),
    Case(chain, Y, X, {"t": _normal(N_OBS)}, row_sites=("z", "m", "y"), local=("m",), intervention={"z": 0.0}),
    Case(param_site, Y, X, params=("s",), intervention={"b": 1.0}),
    Case(flax_net, Y, X, row_sites=("mu", "y"), returns=("y", "mu"), params=("nn$params",), intervention={"mu": 0.0}),
    Case(nnx_net, Y, X, params=("nn$params",), intervention={"X": 0.0}),
    Case(equinox_net, Y, X, params=("nn$params",), intervention={"X": 0.0}),
    Case(stax_net, Y, X, params=("nn$params",), intervention={"X": 0.0}),
    Case(mixture, Y, X, intervention={"loc": 1.0}),
    Case(horseshoe, Y, X, intervention={"b": 1.0}),
    Case(gaussian_process, Y, X, intervention={"scale": 4.0}),
    Case(state_space, Y, X, row_sites=("level", "y"), local=("level",), intervention={"X": 1.0}),
    Case(factor_only, Y, X, row_sites=("mu", "y"), returns=("y", "mu"), intervention={"b": 1.0}, scored=False),
    Case(subsampled, Y, X, intervention={"b": 1.0}, reference=_subsampled_whole),
    Case(nested_plates, _normal(N_OBS, 2), X, row_sites=("e", "y"), local=("e",), intervention={"c": 1.0}),
    Case(
        masked,
        Y,
        X,
        {"seen": np.arange(N_OBS) % 3 > 0},
        row_sites=("y_observed", "y_unobserved", "y"),
        local=("y_unobserved",),
        intervention={"b": 1.0},
    ),
    Case(closed_over, Y, X, intervention={"b": 1.0}, fixed_size=True),
    Case(improper, Y, X, intervention={"b": 1.0}, improper=True),
]
QUICK_CASES = [case for case in CASES if case.name != "negative_binomial"]
"""The catalogue without the kernel that compiles longest, for laws in which the Poisson kernel replaces it."""

BY_NAME = {case.name: case for case in CASES}

REPRESENTATIVES = ("linear", "logistic", "hierarchical", "local_latents", "gaussian_process", "flax_net")
"""One kernel of each structure class: independent rows, discrete outputs, groups, local latents, interacting rows, and
fitted parameters.  `make test` checks the laws for these, `make test-all` for the whole catalogue."""


def each_kernel(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrize a test by kernel; kernels that are not representatives are marked slow."""
    marks = {case.name: () if case.name in REPRESENTATIVES else pytest.mark.slow for case in cases}
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=marks[case.name]) for case in cases])


def on_device(case: Case) -> dict[str, Any]:
    """Return the arguments as JAX arrays, for NumPyro's functions."""
    return {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in case.arguments().items()}


def latent_names(case: Case) -> list[str]:
    """Return the latent sites according to a NumPyro trace."""
    model = handlers.substitute(handlers.seed(case.numpyro_kernel, 0), substitute_fn=init_to_uniform)
    trace = handlers.trace(model).get_trace(**on_device(case), y=jnp.asarray(case.y))
    return [name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]


def posterior_draws(case: Case, n_draws: int = N_DRAWS) -> dict[str, np.ndarray]:
    """Return draws used as a posterior: NumPyro's prior draws, or values around 1 for an improper prior."""
    names = latent_names(case)
    if case.improper:
        return {name: 1 + 0.1 * np.asarray(random.normal(random.key(3), (n_draws,))) for name in names}
    predictive = Predictive(case.numpyro_kernel, params=fitted_params(case), num_samples=n_draws)
    drawn = predictive(random.key(7), **on_device(case), y=jnp.asarray(case.y))
    return {name: np.asarray(drawn[name]) for name in names}


def fitted_params(case: Case) -> dict[str, Any]:
    """Return parameter values that differ from the initial ones."""
    if not case.params:
        return {}
    trace = handlers.trace(handlers.seed(case.kernel, 11)).get_trace(**on_device(case))
    return {name: jax.tree.map(lambda leaf: leaf * 1.5 + 0.25, trace[name]["value"]) for name in case.params}


def new_model(case: Case, key: int = 1) -> ImpactModel:
    """Return an unfitted model."""
    if case.params:
        guide = AutoNormal(case.kernel)
        return ImpactModel(
            case.kernel, random.key(key), SVI(case.kernel, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
        )
    mcmc = MCMC(NUTS(case.kernel), num_warmup=2, num_samples=2, progress_bar=False)
    return ImpactModel(case.kernel, random.key(key), mcmc)


def fitted_model(case: Case, key: int = 1, n_draws: int = N_DRAWS) -> ImpactModel:
    """Return a model with the draws and parameters above."""
    model = new_model(case, key)
    if case.params:
        model.vi_result = SimpleNamespace(params=fitted_params(case), losses=[])
    return model.set_posterior_sample(posterior_draws(case, n_draws))


def long(case: Case, n_obs: int) -> Case:
    """Return the case with `n_obs` rows: its rows repeated, with different values for floats."""

    def tiled(array: Any) -> Any:
        if not hasattr(array, "shape"):
            return array
        array = np.concatenate([np.asarray(array)] * -(-n_obs // N_OBS))[:n_obs]
        if array.dtype.kind == "f":
            array = array + np.linspace(0, 0.5, n_obs, dtype=array.dtype).reshape(-1, *[1] * (array.ndim - 1))
        return array

    extra = {name: tiled(value) for name, value in case.extra.items()}
    return replace(case, X=tiled(case.X), y=tiled(case.y), extra=extra)


def long_draws(case: Case, n_obs: int, n_draws: int = N_DRAWS) -> dict[str, np.ndarray]:
    """Return draws for `n_obs` rows; draws of local latents differ between rows."""
    draws = posterior_draws(case, n_draws)
    for name in case.local:
        if name in draws:
            rows = np.concatenate([draws[name]] * -(-n_obs // N_OBS), 1)[:, :n_obs]
            draws[name] = rows + np.linspace(0, 1, n_obs, dtype=rows.dtype).reshape(1, -1, *[1] * (rows.ndim - 2))
    return draws


def long_model(case: Case, n_obs: int, key: int = 1, n_draws: int = N_DRAWS) -> ImpactModel:
    """Return a model with the draws above and the fitted parameters."""
    model = new_model(case, key)
    if case.params:
        model.vi_result = SimpleNamespace(params=fitted_params(case), losses=[])
    return model.set_posterior_sample(long_draws(case, n_obs, n_draws))

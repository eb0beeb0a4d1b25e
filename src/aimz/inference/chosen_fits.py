"""Fits by a chosen inference, which start from a normal approximation of the posterior."""

__all__ = ["ChosenNUTS", "ChosenSVI", "DeferredFit", "build_fit", "fit_for_data", "restored_fit"]

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, Never, override

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from numpyro.handlers import block, seed, substitute
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO, init_to_uniform
from numpyro.infer.svi import SVIState
from numpyro.infer.util import potential_energy

from aimz.data import KernelArguments, Posterior
from aimz.inference.base import Fit, KernelContext, check_fitted
from aimz.inference.choice import CYCLE, Choice, choose_inference
from aimz.inference.curvature import Approximation, approximate_by_normal, approximate_scales
from aimz.inference.loaded import PosteriorOnly
from aimz.inference.mcmc import MCMCFit
from aimz.inference.minibatch_scaling import RowScale
from aimz.inference.scaled_guides import CENTER, FACTOR, ScaledLowRankNormal, ScaledNormal
from aimz.inference.settling import Moments
from aimz.inference.svi import SVIFit
from aimz.kernel import KernelSpec, LRUCache, freeze, isolated
from aimz.types import Kernel

_CHAINS, _WARMUP, _DRAWS = 4, 500, 500
_TARGET = 0.9
"""Target acceptance probability, above NumPyro's default of 0.8, which lets more steps diverge."""
_RATES = 0.05, 0.0005
"""Learning rates at the start and the end of each cycle, in standard deviations of the posterior."""
_START = init_to_uniform(radius=0.0)


class DeferredFit(Fit):
    """A fit whose inference is chosen when the data are known."""

    inference = None
    kind = "deferred"

    def __init__(self, kernel: Kernel, requested: str | None) -> None:
        self._kernel = kernel
        self.requested = requested

    @property
    def params(self) -> dict[str, Any]:
        """Empty: nothing is fitted."""
        return {}

    def choose(self, call: KernelArguments, spec: KernelSpec, *, in_batches: bool, cycle: int) -> Fit:
        """Return a fit by the inference that suits the data."""
        choice = choose_inference(self._kernel, self.requested, call, spec, in_batches=in_batches, cycle=cycle)
        return build_fit(self._kernel, choice, spec)

    def check_run(self, *_: Any, **__: Any) -> Never:
        """Raise NotFittedError."""
        check_fitted(None)
        raise AssertionError

    run = sample = check_run

    @override
    def check_sample(self, call: KernelArguments | None) -> None:
        """Raise NotFittedError."""
        check_fitted(None)

    @override
    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the request as JSON."""
        return {"kind": self.kind, "requested": self.requested}

    @override
    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], context: KernelContext) -> None:
        """Return without an effect: there is no state."""


def fit_for_data(fit: Fit, call: KernelArguments, spec: KernelSpec, *, in_batches: bool, cycle: int = CYCLE) -> Fit:
    """Return the fit to run on data, whose inference is chosen now if it was not before."""
    return fit.choose(call, spec, in_batches=in_batches, cycle=cycle) if isinstance(fit, DeferredFit) else fit


def restored_fit(kernel: Kernel, node: Mapping[str, Any], spec: KernelSpec | None) -> Fit:
    """Return the fit for a saved state without an inference object: the chosen one, or none."""
    if node["kind"] == DeferredFit.kind:
        return DeferredFit(kernel, node["requested"])
    return build_fit(kernel, Choice.read(node["choice"]), spec) if "choice" in node else PosteriorOnly()


def build_fit(kernel: Kernel, choice: Choice, spec: KernelSpec | None) -> "ChosenNUTS | ChosenSVI":
    """Return an unfitted fit by the chosen inference."""
    discrete = [] if spec is None else list(spec.discrete_latents)
    if choice.method == "nuts":
        sampler = NUTS(kernel, target_accept_prob=_TARGET, init_strategy=_START if not discrete else init_to_uniform)
        return ChosenNUTS(_chains(sampler, _DRAWS), choice)
    guided: Any = block(kernel, hide=discrete) if discrete else kernel
    guide: Any = _no_sites
    if choice.rank is None:
        guide = ScaledNormal(guided, init_loc_fn=_START)
    elif choice.rank:
        guide = ScaledLowRankNormal(guided, init_loc_fn=_START, rank=choice.rank)
    model: Any = kernel
    if discrete:
        from numpyro.contrib.funsor import config_enumerate

        model = config_enumerate(kernel)
    loss = TraceEnum_ELBO() if discrete else Trace_ELBO()
    return ChosenSVI(SVI(model, guide, numpyro.optim.Adam(partial(_rate, choice.cycle)), loss), choice)


def _chains(sampler: NUTS, n_draws: int) -> MCMC:
    """Return vectorized chains with ``n_draws`` draws each."""
    return MCMC(
        sampler,
        num_warmup=_WARMUP,
        num_samples=n_draws,
        num_chains=_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )


def _no_sites(*_: Any, **__: Any) -> None:
    """Sample nothing: the guide of a kernel without latent sites."""


def _rate(cycle: int, step: Any) -> Any:
    """Return the learning rate of a step, which decays within each cycle."""
    first, last = _RATES
    return first * (last / first) ** ((step % cycle) / cycle)


def _approximate(
    model: Kernel,
    unpack: Callable[[Any], Mapping[str, Any]],
    start: jax.Array,
    key: jax.Array,
    call: KernelArguments,
    *,
    params: Mapping[str, Any],
    scale: tuple[frozenset[str], float],
    full_rank: bool,
    programs: LRUCache[Any],
) -> Approximation:
    """Return a normal approximation of the posterior of the unconstrained latent values, in one compiled program."""
    static, (names, factor) = dict(call.static), scale
    method = approximate_by_normal if full_rank else approximate_scales

    @isolated
    def run(start: jax.Array, key: jax.Array, arrays: Mapping[str, Any], params: Mapping[str, Any]) -> Approximation:
        def potential(latents: jax.Array) -> jax.Array:
            seeded = seed(substitute(model, data=dict(params)), key)
            with RowScale(names, factor):
                energy: jax.Array = potential_energy(seeded, (), {**arrays, **static}, dict(unpack(latents)))
            return energy

        return method(potential, start, key)

    arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
    compiled = programs.get(("approximation", freeze(static), scale, full_rank), lambda: jax.jit(run))
    found: Approximation = compiled(start, key, arrays, params)
    return found


def _unconstrained(kernel: Kernel, call: KernelArguments) -> tuple[jax.Array, Callable[[Any], Any]]:
    """Return initial unconstrained latent values as a vector, and the function that takes such a vector apart."""
    guide = ScaledNormal(kernel, init_loc_fn=_START)
    arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
    isolated(seed(guide, jax.random.key(0)))(**arrays, **call.static)
    return ravel_pytree(guide._init_locs)


class ChosenSVI(SVIFit):
    """SVI whose guide has the units of a normal approximation of the posterior."""

    choice: Choice

    def __init__(self, inference: SVI, choice: Choice) -> None:
        super().__init__(inference)
        self.choice = choice

    @override
    def set_units(
        self, state: SVIState, call: KernelArguments, key: jax.Array, names: frozenset[str], scale: float
    ) -> SVIState:
        """Return an initial state in the units of a normal approximation; the sites ``names`` are scaled."""
        guide = self.inference.guide
        enumerated = isinstance(self.inference.loss, TraceEnum_ELBO)
        if enumerated or not isinstance(guide, ScaledNormal | ScaledLowRankNormal):
            return state
        optimizer = self.inference.optim
        params = optimizer.get_params(state.optim_state)
        known = {**self.inference.get_params(state), **(state.mutable_state or {})}
        try:
            found = _approximate(
                self.inference.model,
                guide._unpack_latent,
                guide._init_latent,
                jax.random.fold_in(key, 1),
                call,
                params={name: value for name, value in known.items() if not name.startswith("auto_")},
                scale=(names, scale),
                full_rank=isinstance(guide, ScaledNormal),
                programs=self.programs,
            )
        except (TypeError, NotImplementedError):  # an operation of the kernel has no second derivative
            return state
        if np.isfinite(found.loss):
            params = {**params, CENTER: found.loc, FACTOR: found.scale}
        return state._replace(optim_state=optimizer.init(params))

    @override
    def moments(self, state: SVIState) -> Moments:
        """Return means and standard deviations of the guide, of the unconstrained latent values."""
        guide = self.inference.guide
        if not isinstance(guide, ScaledNormal | ScaledLowRankNormal):
            return np.zeros(0), np.ones(0)
        normal = guide.get_posterior(self.inference.get_params(state))
        return np.asarray(normal.mean), np.sqrt(np.asarray(normal.variance))

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the state and the choice as JSON and add arrays to ``arrays``."""
        return {**super().write(arrays), "choice": self.choice.write()}


class ChosenNUTS(MCMCFit):
    """NUTS whose chains start from a normal approximation of the posterior, and use its covariance."""

    choice: Choice

    def __init__(self, inference: MCMC, choice: Choice) -> None:
        super().__init__(inference)
        self.choice = choice

    @override
    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int) -> None:
        """Raise if a fit would be wrong; set the number of draws of each chain."""
        draws = _DRAWS if num_samples == 1000 else -(-num_samples // _CHAINS)
        if draws != self.inference.num_samples:  # NumPyro reads the number when the object is made
            self.inference = _chains(self.inference.sampler, draws)
        super().check_run(call, spec, num_samples=draws)

    @override
    def run(self, call: KernelArguments, spec: KernelSpec, key: jax.Array, **options: Any) -> Posterior:
        """Run chains from draws of the approximation; the warm-up adapts the step size only."""
        self._restored = None
        self._start = None
        kernel = self.inference.sampler.model
        sampler = NUTS(kernel, target_accept_prob=_TARGET)
        if not spec.discrete_latents:
            start, unpack = self.programs.get(("latents", freeze(call.static)), lambda: _unconstrained(kernel, call))
            key_units = jax.random.fold_in(key, 1)
            try:
                found = _approximate(
                    kernel,
                    unpack,
                    start,
                    key_units,
                    call,
                    params={},
                    scale=(frozenset(), 1.0),
                    full_rank=True,
                    programs=self.programs,
                )
            except (TypeError, NotImplementedError):  # an operation of the kernel has no second derivative
                found = Approximation(start, jnp.eye(len(start)), jnp.asarray(jnp.inf))
            if np.isfinite(found.loss):
                sampler = NUTS(
                    kernel,
                    target_accept_prob=_TARGET,
                    dense_mass=True,
                    inverse_mass_matrix=found.scale @ found.scale.T,
                    adapt_mass_matrix=False,
                )
                noise = jax.random.normal(jax.random.fold_in(key, 2), (_CHAINS, len(start)))
                self._start = jax.vmap(unpack)(found.loc + noise @ found.scale.T)
        self.inference.sampler, self._sampler = sampler, copy(sampler)
        try:
            return super().run(call, spec, key, **options)
        finally:
            self._start = None

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the state and the choice as JSON and add arrays to ``arrays``."""
        return {**super().write(arrays), "choice": self.choice.write()}

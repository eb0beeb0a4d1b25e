"""Markov chain Monte Carlo: separate chains, and sampler statistics under ArviZ's names."""

__all__ = ["MCMCFit"]

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import partial
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import infer
from numpyro.infer import HMC, MCMC, NUTS, DiscreteHMCGibbs, HMCGibbs, MixedHMC

from aimz.data import KernelArguments, Posterior
from aimz.errors import FitWarning, SavedModelError, warn
from aimz.inference.base import Fit, KernelContext, check_fitted
from aimz.inference.chain_bar import chain_bar
from aimz.inference.compiled_chains import compile_chains, metric_of
from aimz.inference.compiled_setup import initial_chains
from aimz.inference.enumeration import check_enumerable, check_values, draw_discrete, enumeration_marks
from aimz.kernel import KernelSpec, Role, freeze, isolated
from aimz.persistence import TreeMismatchError, needs_template, read_tree, write_tree

_HMC_FIELDS = ("potential_energy", "energy", "num_steps", "accept_prob", "adapt_state.step_size")
_DEFAULT_NUM_SAMPLES = 1000
_DISCRETE_SAMPLERS = (DiscreteHMCGibbs, MixedHMC)
"""Samplers that draw the discrete sites that are not marked for enumeration."""
_BLOCK_SAMPLERS = tuple(getattr(infer, name) for name in ("Gibbs",) if hasattr(infer, name))


class MCMCFit(Fit):
    """An :class:`numpyro.infer.MCMC` object; each run warms up, and :meth:`sample` continues the chains."""

    inference: MCMC
    kind = "MCMC"

    def __init__(self, inference: MCMC) -> None:
        self.inference = inference
        # NumPyro 0.22 vectorises a sampler's functions again in each `init`, so that the second call fails with
        # `chain_method="vectorized"`; each run gets a sampler that has not been initialised.
        self._sampler = copy(inference.sampler)
        self._restored: Any = None
        """Last state of the chains, if read from a file."""
        self._start: Any = None
        """Unconstrained values from which each chain starts; None for the sampler's own strategy."""

    @property
    def _last_state(self) -> Any:
        return self.inference.last_state if self._restored is None else self._restored

    @property
    def params(self) -> dict[str, Any]:
        """Empty: MCMC optimises no parameters."""
        return {}

    def restorer(self) -> Callable[[], None]:
        """Return a function that restores the draws and the state of the MCMC object."""
        before = dict(vars(self.inference))

        def restore() -> None:
            vars(self.inference).clear()
            vars(self.inference).update(before)

        return restore

    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int) -> None:
        """Raise if a discrete site can be neither enumerated nor sampled; warn if ``num_samples`` is ignored."""
        self._check_discrete(call, spec)
        params = spec.names(Role.PARAM)
        if params:
            warn(
                f"MCMC does not optimize parameters: {', '.join(f'`{name}`' for name in params)} keep(s) the initial "
                "value. Fit the model by SVI, or make parameters `sample` sites.",
                FitWarning,
            )
        if num_samples not in (_DEFAULT_NUM_SAMPLES, self.inference.num_samples):
            warn(
                f"`num_samples={num_samples}` was ignored: this MCMC object draws {self.inference.num_samples} per "
                "chain. Set `num_samples` there.",
                FitWarning,
            )

    @override
    def run(
        self,
        call: KernelArguments,
        spec: KernelSpec,
        key: jax.Array,
        *,
        num_steps: int | None,
        num_samples: int,
        progress: bool,
    ) -> Posterior:
        """Run warm-up and sampling with the settings of the MCMC object."""
        return self._run(call, spec, key, latents=spec.latent_sites, progress=progress, init_params=self._start)

    def check_sample(self, call: KernelArguments | None) -> None:
        """Raise if there are no chains to continue, or no data."""
        check_fitted(self._last_state is not None)
        if call is None:
            msg = (
                "MCMC continues its chains on the data, and got none. Call `sample(X=X, y=y, ...)` with the data of "
                "the fit, under the kernel's argument names."
            )
            raise TypeError(msg)

    def sample(
        self,
        call: KernelArguments | None,
        spec: KernelSpec | None,
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Draw ``num_samples`` more per chain, after thinning, without warming up again."""
        assert call is not None  # by `check_sample`
        assert spec is not None
        self._check_discrete(call, spec)
        mcmc = self.inference
        before = mcmc.num_samples, mcmc.post_warmup_state
        mcmc.num_samples, mcmc.post_warmup_state = num_samples * mcmc.thinning, self._last_state
        try:
            latents = spec.latent_sites if return_sites is None else return_sites
            return self._run(call, spec, key, latents=latents, progress=False)
        finally:
            mcmc.num_samples, mcmc.post_warmup_state = before

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the last state of the chains as JSON and add its arrays to ``arrays``."""
        mcmc, added = self.inference, dict[str, np.ndarray]()
        state = None if self._last_state is None else write_tree(self._last_state, "last_state", added)
        if needs_template(state):
            warn(
                f"The state of `{type(mcmc.sampler).__name__}` contains objects that cannot be saved; it is left out, "
                "so that `sample` cannot continue the chains of a loaded model. The draws are saved.",
                FitWarning,
            )
            state, added = None, {}
        arrays.update(added)
        return {
            "kind": self.kind,
            "sampler": type(mcmc.sampler).__name__,
            "num_chains": mcmc.num_chains,
            "last_state": state,
        }

    @override
    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], context: KernelContext) -> None:
        """Restore the last state of the chains."""
        mcmc, state = self.inference, node["last_state"]
        if state is None:
            self._restored = None
            return
        for what, here in (("sampler", type(mcmc.sampler).__name__), ("num_chains", mcmc.num_chains)):
            if node[what] != here:
                msg = (
                    f"The model was saved with another `{what}`: {node[what]}; got {here}. Pass an MCMC object like "
                    "that of the fit, or none to predict only."
                )
                raise SavedModelError(msg)
        try:
            self._restored = read_tree(state, arrays)
        except TreeMismatchError as error:
            msg = (
                f"The saved chains have a state that this version of NumPyro does not have: {error}. Install the "
                "version the model was saved with, or pass no inference to predict only."
            )
            raise SavedModelError(msg) from error

    def _run(
        self,
        call: KernelArguments,
        spec: KernelSpec,
        key: jax.Array,
        *,
        latents: Iterable[str],
        progress: bool,
        init_params: Any = None,
    ) -> Posterior:
        mcmc = self.inference
        # Deterministic sites are recomputed by predictions; with a row axis their draws would exhaust the memory.
        fields = [f"~{mcmc.sampler.sample_field}.{name}" for name in spec.deterministic_sites]
        if isinstance(mcmc.sampler, HMC):
            fields += _HMC_FIELDS
        samples, stats = self._collect(call, key, tuple(fields), init_params=init_params, progress=progress)
        latents = tuple(latents)
        draws = {
            # Through host memory: draws of parallel chains are on several devices.
            name: jnp.asarray(np.asarray(samples[name]).reshape(-1, *samples[name].shape[2:]))
            for name in (*latents, *spec.latent_sites)
            if name in samples
        }
        enumerated = tuple(name for name in spec.discrete_latents if name not in draws)
        if not set(latents).isdisjoint(enumerated):
            n_draws = mcmc.num_chains * (mcmc.num_samples // mcmc.thinning)
            model = mcmc.sampler.model
            draws |= draw_discrete(model, call, spec, enumerated, key, draws, {}, n_draws=n_draws, keep_scale=True)
        draws = {name: draws[name] for name in latents if name in draws}
        return Posterior(draws, num_chains=mcmc.num_chains, sample_stats=_sample_stats(mcmc, stats))

    def _collect(
        self, call: KernelArguments, key: jax.Array, fields: tuple[str, ...], *, init_params: Any, progress: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run the chains; return draws and fields of the sampler, grouped by chain."""
        mcmc = self.inference
        arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
        if self.shared_programs is not None:
            kept = freeze(call.static), fields, init_params is None, mcmc.num_samples, type(self._sampler)
            metric = metric_of(self._sampler)
            program = self.programs.get(
                ("chains", *kept, metric is None), lambda: compile_chains(mcmc, self._sampler, fields, call.static)
            )
            found: tuple[dict[str, Any], dict[str, Any]] = program(key, init_params, metric, arrays)
            return found
        mcmc.sampler = _isolated_sampler(copy(self._sampler))
        before, mcmc.progress_bar = mcmc.progress_bar, progress
        try:
            with chain_bar():
                mcmc.run(key, extra_fields=fields, init_params=init_params, **arrays, **call.static)
            self._restored = None
        finally:
            mcmc.progress_bar, mcmc.sampler = before, copy(self._sampler)
        return mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)

    def _check_discrete(self, call: KernelArguments, spec: KernelSpec) -> None:
        """Raise if a discrete site can be neither sampled nor enumerated."""
        if not spec.discrete_latents:
            return
        sampler = self._sampler
        if isinstance(sampler, HMCGibbs):
            remaining = [name for name in spec.discrete_latents if name not in sampler._gibbs_sites]
        elif type(sampler) in _BLOCK_SAMPLERS:
            remaining = []  # NumPyro checks which block samples which site
        else:
            remaining = list(spec.discrete_latents)
        for name in remaining:
            check_values(spec, name)
        if isinstance(sampler, _DISCRETE_SAMPLERS):
            marks = enumeration_marks(sampler.model, call.arrays, call.static)
            remaining = [name for name in remaining if marks.get(name) == "parallel"]
        check_enumerable(spec, remaining)


def _isolated_sampler(sampler: Any) -> Any:
    """Return ``sampler`` with its methods that run the model isolated."""
    postprocess_fn = sampler.postprocess_fn
    sampler.init, sampler.sample = partial(initial_chains, sampler), isolated(sampler.sample)
    sampler.postprocess_fn = lambda args, kwargs: isolated(isolated(postprocess_fn)(args, kwargs))
    return sampler


def _sample_stats(mcmc: MCMC, fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the sampler's fields under ArviZ's names, each of shape ``(n_chains, n_draws / n_chains)``."""
    names = {
        "diverging": "diverging",
        "energy": "energy",
        "num_steps": "n_steps",
        "accept_prob": "acceptance_rate",
        "adapt_state.step_size": "step_size",
    }
    stats = {names[field]: np.asarray(value) for field, value in fields.items() if field in names}
    if "potential_energy" in fields:
        stats["lp"] = -np.asarray(fields["potential_energy"])
    if "n_steps" in stats and isinstance(mcmc.sampler, NUTS):
        stats["tree_depth"] = np.floor(np.log2(np.maximum(stats["n_steps"], 1))).astype(np.int32) + 1
    return stats

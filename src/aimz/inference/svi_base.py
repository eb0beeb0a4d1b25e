"""State of a variational fit: parameters, losses, draws, saving."""

__all__ = ["SVIBase"]

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, override

import jax
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIRunResult, SVIState

from aimz.data import KernelArguments, Posterior
from aimz.errors import FitWarning, warn
from aimz.inference.base import Fit, KernelContext, VIResult, check_fitted
from aimz.inference.choice import CYCLE
from aimz.inference.compiled_setup import forget_data
from aimz.inference.enumeration import draw_discrete, enumerated_sites
from aimz.inference.settling import Moments
from aimz.inference.svi_checkpoint import (
    component_names,
    reset_for_new_data,
    restore_state,
)
from aimz.inference.svi_steps import SVIPrograms
from aimz.kernel import KernelSpec, LRUCache, freeze, quote_list
from aimz.persistence import write_tree

_MAX_DISCRETE_BYTES = 2**30
"""Largest size of draws of discrete local latents after a fit in minibatches."""


class _Steps(NamedTuple):
    """Result of a fit, and the losses of single steps that are not in it yet."""

    result: VIResult | None
    losses: list[jax.Array]
    """Losses of single steps; copies of a fit append to the same list."""
    n_steps: int
    """Number of losses that belong to this fit."""


class SVIBase(Fit):
    """An :class:`numpyro.infer.SVI` object, its state and its compiled programs."""

    inference: SVI
    kind = "SVI"

    def __init__(self, inference: SVI) -> None:
        self.inference = inference
        self._n_obs: int | None = None
        self.steps_per_epoch = 1
        """Number of steps of an epoch of the last fit in minibatches."""
        self._arguments = frozenset[str]()
        """Arrays needed to set up the guide after a load."""
        self.stopped = False
        """Whether a step of the last fit in minibatches was not finite, so that the fit ended early."""
        self._steps = _Steps(None, [], 0)
        self._reset_caches()

    def _reset_caches(self) -> None:
        self._programs = SVIPrograms(self.inference)
        self.scalings = LRUCache[frozenset[str]]()
        """Scaled sites by shapes of the batch."""
        self._enumerated_by_shape = LRUCache[tuple[str, ...]]()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without compiled programs."""
        caches = ("_programs", "scalings", "_enumerated_by_shape")
        steps = _Steps(self.vi_result, [], 0)
        return {key: value for key, value in self.__dict__.items() if key not in caches} | {"_steps": steps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without compiled programs."""
        self.__dict__ |= state
        self._reset_caches()

    def _enumerated(self, spec: KernelSpec, arrays: Mapping[str, Any], static: Mapping[str, object]) -> tuple[str, ...]:
        """Return the discrete latents that the ELBO enumerates, cached by shapes and static arguments."""
        shapes = tuple((name, tuple(array.shape), str(array.dtype)) for name, array in sorted(arrays.items()))
        return self._enumerated_by_shape.get(
            (shapes, freeze(static)), lambda: enumerated_sites(self.inference, spec, arrays, static)
        )

    @property
    def vi_result(self) -> VIResult | None:
        """Parameters of the last state and losses of all steps, unless set by the user since."""
        result, losses, n_steps = self._steps
        if n_steps and self.vi_state is not None:
            result = self._result_after(self.vi_state, result, np.asarray(losses[:n_steps]))
            self._steps = _Steps(result, [], 0)
        return result

    @vi_result.setter
    def vi_result(self, result: VIResult | None) -> None:
        self._steps = _Steps(result, [], 0)

    def _set_state(self, state: SVIState, losses: np.ndarray) -> None:
        """Set the state, and append the losses of the steps that led to it."""
        result = self._result_after(state, self.vi_result, losses)
        self.vi_state, self.vi_result = state, result

    def _result_after(self, state: SVIState, before: VIResult | None, losses: np.ndarray) -> VIResult:
        """Return the result with the parameters of ``state`` and the losses of the steps that led to it."""
        earlier = np.zeros(0) if before is None else np.asarray(before.losses)
        every = np.concatenate([earlier, losses])
        result: VIResult = SVIRunResult(self.inference.get_params(state), state, every)
        return result

    def restorer(self) -> Callable[[], None]:
        """Return a function that resets guide and constraints, unless they were set up before."""
        was_set_up = self.inference.constrain_fn is not None
        return lambda: None if was_set_up else forget_data(self.inference)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters and mutable state of the last state."""
        params = {} if self.vi_result is None else dict(self.vi_result.params)
        mutable = None if self.vi_state is None else self.vi_state.mutable_state
        return {**params, **(mutable or {})}

    @override
    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int = 1) -> None:
        """Raise if a discrete site can be neither enumerated nor drawn, or the guide has values for other rows."""
        enumerated = self._enumerated(spec, call.arrays, call.static)
        local = [name for name in spec.local_sites if name not in enumerated]
        is_auto = isinstance(self.inference.guide, AutoGuide)
        if is_auto and local and self.vi_state is not None and self._n_obs != call.n_obs:
            msg = (
                f"The fit continues from its state, in which the guide has values of `{local[0]}` for "
                f"{self._n_obs} observations; got {call.n_obs}. Create a new ImpactModel, with a new guide, for other "
                "data."
            )
            raise ValueError(msg)

    def _begin(
        self, call: KernelArguments, key: jax.Array, names: frozenset[str] = frozenset(), scale: float = 1.0
    ) -> SVIState:
        """Return the current state with a new key, or an initial one for data whose sites ``names`` are scaled."""
        state = self._programs.begin(self.vi_state, call, key)
        return state if self.vi_state is not None else self.set_units(state, call, key, names, scale)

    def set_units(
        self,
        state: SVIState,
        call: KernelArguments,  # noqa: ARG002
        key: jax.Array,  # noqa: ARG002
        names: frozenset[str],  # noqa: ARG002
        scale: float,  # noqa: ARG002
    ) -> SVIState:
        """Return an initial state; optimizers of users keep their own units."""
        return state

    @property
    def cycle(self) -> int:
        """Number of steps of a round, after which a fit without a number of steps tests whether it has settled."""
        if self.choice is None:
            return CYCLE
        # A short fit before may have set a short cycle of the learning rate.
        return self.choice.cycle * -(-CYCLE // self.choice.cycle)

    moments: Callable[[SVIState], Moments] | None = None
    """Function that returns the moments of the guide in a state, if rounds compare them."""

    def step(
        self,
        call: KernelArguments,
        names: frozenset[str],
        key: jax.Array | None,
        scale: float,
    ) -> tuple[SVIState, jax.Array]:
        """Run one step; ``key`` is needed if there is no state, and otherwise replaces that of the state."""
        if self.vi_state is None:
            assert key is not None
            state = self._begin(call, key, names, scale)
        else:
            self.set_up(call)
            state = self.vi_state if key is None else self.vi_state._replace(rng_key=key)
        state, loss, _ = self._programs.one_step(call.static, names)(state, call.arrays, np.float32(scale))
        result, losses, n_steps = self._steps
        if len(losses) != n_steps:  # a copy of this fit has taken further steps
            losses = losses[:n_steps]
        losses.append(loss)
        self.vi_state, self._steps = state, _Steps(result, losses, n_steps + 1)
        self._n_obs = call.n_obs
        return state, loss

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return parameters, losses and state as JSON and add their arrays to ``arrays``."""
        result, state = self.vi_result, self.vi_state
        if result is not None and result.losses is not None:
            arrays["losses"] = np.asarray(result.losses)
        return {
            "kind": self.kind,
            **component_names(self.inference),
            "n_obs": self._n_obs,
            "params": None if result is None else write_tree(dict(result.params), "params", arrays),
            "losses": None if result is None or result.losses is None else "losses",
            "state": None if state is None else write_tree(state, "state", arrays),
        }

    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], context: KernelContext) -> None:
        """Restore a state that belongs to this guide and optimizer."""
        self.inference, self._n_obs = reset_for_new_data(self.inference), node["n_obs"]
        self._programs = SVIPrograms(self.inference)
        if node["params"] is not None:
            params, self.vi_state = restore_state(self.inference, node, arrays, context)
            losses = None if node["losses"] is None else np.array(arrays[node["losses"]])
            self.vi_result = SVIRunResult(params, self.vi_state, losses)
        if context.example is not None:
            self._arguments = frozenset(context.example.arrays)

    def set_up(self, call: KernelArguments) -> None:
        """Set up the guide of a loaded model, keeping its parameters."""
        self._programs.set_up(call)

    def check_sample(self, call: KernelArguments | None) -> None:
        """Raise if there are no parameters, or the guide of a loaded model needs data to be set up."""
        check_fitted(self.vi_result is not None)
        guide = self.inference.guide
        missing = self._arguments - set(() if call is None else call.arrays)
        if missing and isinstance(guide, AutoGuide) and guide.prototype_trace is None:
            names = quote_list(sorted(missing))
            msg = (
                f"`{type(guide).__name__}` has seen no data since the model was loaded, and must be set up with data "
                f"before drawing from it; missing: {names}. Pass the data of the fit by name: `sample(X=X, y=y)`."
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
        """Draw from the guide, and enumerated sites from their distribution given the data and the other draws."""
        params = {} if self.vi_result is None else self.vi_result.params
        if call is not None and self.vi_state is not None:
            self.set_up(call)
        sites = None if return_sites is None else tuple(return_sites)
        discrete = [] if spec is None else [n for n in spec.discrete_latents if sites is None or n in sites]
        if spec is None or not discrete:
            draws = self._programs.draw(params, key, num_samples=num_samples, latents=sites, call=call)
            return Posterior(draws, params=self.params)
        drawn = self._programs.draw(params, key, num_samples=num_samples, latents=spec.latent_sites, call=call)
        missing = tuple(name for name in spec.discrete_latents if name not in drawn)
        if missing and (call is None or spec.param_output not in call.arrays):
            names = quote_list(missing)
            warn(
                f"Discrete latent site(s) {names} are left out: they are drawn given the data, and got none. Pass all "
                f"the data by name, including `{spec.param_input}` and `{spec.param_output}`, as `sample(X=X, y=y)`.",
                FitWarning,
            )
        elif missing and call is not None:
            call = replace(call, static={**call.static, **self.inference.static_kwargs})
            drawn |= draw_discrete(
                self.inference.model,
                call,
                spec,
                missing,
                key,
                drawn,
                self.params,
                n_draws=num_samples,
                keep_scale=False,
            )
        sites = spec.latent_sites if sites is None else sites
        return Posterior({name: drawn[name] for name in sites if name in drawn}, params=self.params)

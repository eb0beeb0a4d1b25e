"""One inference object and the state it has reached: SVI and MCMC behind the same few verbs."""

__all__ = ["Fit", "VIResult", "read_inference"]

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from numpyro.infer import MCMC, SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIRunResult, SVIState

from aimz.errors import NotFittedError, warn
from aimz.inference.mcmc import continue_chains, run_chains
from aimz.inference.posterior import Posterior
from aimz.inference.svi import StepLoop, draw_from_guide
from aimz.kernel import KernelSpec, kernel_name
from aimz.types import Kernel
from aimz.utils.data import Call


class VIResult(Protocol):
    """What the result of a variational fit has to have."""

    params: Any
    losses: Any


def read_inference(kernel: Kernel, inference: object, svi: object) -> SVI | MCMC:
    """Return the one inference object given.

    Raises
    ------
    TypeError
        If neither or both are given, or it is neither SVI nor MCMC, or MCMC has no model.
    """
    if (inference is None) == (svi is None):
        given = "neither" if inference is None else "both"
        msg = f"Exactly one of `inference` and `svi` must be given; got {given}. They are the same argument."
        raise TypeError(msg)
    chosen = svi if inference is None else inference
    if not isinstance(chosen, SVI | MCMC):
        msg = f"Unsupported inference object: `{type(chosen).__name__}`. Expected `SVI` or `MCMC` from `numpyro.infer`."
        raise TypeError(msg)
    model = chosen.model if isinstance(chosen, SVI) else getattr(chosen.sampler, "model", None)
    if model is None:
        msg = "The MCMC object must sample a model; got one made from a `potential_fn`, which has no sites."
        raise TypeError(msg)
    if model is not kernel:
        warn(
            f"The inference object fits `{kernel_name(model)}`, which is not the object `{kernel_name(kernel)}` "
            "that predicts. Their sites must agree."
        )
    return chosen


class Fit:
    """The inference object of a model, and how far it has come."""

    def __init__(self, inference: SVI | MCMC) -> None:
        self.inference = inference
        self.vi_state: SVIState | None = None
        self.vi_result: VIResult | None = None
        self._n_obs: int | None = None
        self._steps = StepLoop(inference) if isinstance(inference, SVI) else None

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled programs out of a pickle."""
        return {key: value for key, value in self.__dict__.items() if key != "_steps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with no compiled programs."""
        self.__dict__ |= state
        self._steps = StepLoop(self.inference) if isinstance(self.inference, SVI) else None

    @property
    def params(self) -> dict[str, Any]:
        """Name to fitted value: the parameters optimised, and the mutable state."""
        params = {} if self.vi_result is None else dict(self.vi_result.params)
        mutable = None if self.vi_state is None else self.vi_state.mutable_state
        return {**params, **(mutable or {})}

    def check_continues(self, spec: KernelSpec, call: Call) -> None:
        """Refuse to continue with other observations where the guide has a value for each of them."""
        if (
            isinstance(self.inference, SVI)
            and isinstance(self.inference.guide, AutoGuide)
            and spec.local_sites
            and self.vi_state is not None
            and self._n_obs != call.n_obs
        ):
            msg = (
                f"The fit continues from its state, in which the guide has values of {spec.local_sites[0]!r} for "
                f"{self._n_obs} observations; got {call.n_obs}. Make a new ImpactModel, with a new guide, for "
                "other data."
            )
            raise ValueError(msg)

    def run(
        self,
        call: Call,
        spec: KernelSpec,
        key: jax.Array,
        *,
        num_steps: int,
        num_samples: int,
        progress: bool,
    ) -> Posterior:
        """Fit to the data of ``call`` and return draws of the latent sites."""
        if isinstance(self.inference, MCMC):
            return run_chains(
                self.inference,
                call,
                key,
                latents=spec.latent_sites,
                others=spec.deterministic_sites,
                progress=progress,
            )
        if self._steps is None:  # pragma: no cover (an SVI object always has its loop)
            raise AssertionError
        key_steps, key_draws = jax.random.split(key)
        state, losses = self._steps.run(self.vi_state, call, num_steps=num_steps, key=key_steps, progress=progress)
        before = np.zeros(0) if self.vi_result is None else np.asarray(self.vi_result.losses)
        self.vi_state = state
        self.vi_result = SVIRunResult(self.inference.get_params(state), state, np.concatenate([before, losses]))
        self._n_obs = call.n_obs
        return self._from_guide(key_draws, num_samples, spec.latent_sites, call)

    def sample(
        self,
        call: Call | None,
        spec: KernelSpec | None,
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Draw afresh: from the guide, or by continuing the chains on the data of ``call``."""
        latents = () if spec is None else spec.latent_sites
        wanted = tuple(latents if return_sites is None else return_sites)
        if isinstance(self.inference, SVI):
            return self._from_guide(key, num_samples, wanted, call)
        if call is None or spec is None:
            msg = (
                "MCMC continues its chains on the data, and got none. Call `sample(X=X, y=y, ...)` with the data of "
                "the fit, under the names the kernel has for them."
            )
            raise TypeError(msg)
        return continue_chains(
            self.inference,
            call,
            key,
            num_samples=num_samples,
            latents=wanted,
            others=spec.deterministic_sites,
            progress=False,
        )

    def check_can_sample(self) -> None:
        """Refuse to draw before anything was fitted."""
        if isinstance(self.inference, MCMC):
            fitted = self.inference.last_state is not None
        else:
            fitted = self.vi_result is not None
        if not fitted:
            msg = (
                "There is no inference result to sample from. Call `fit_on_batch(X, y)`, or set `vi_result` after a "
                "loop of your own."
            )
            raise NotFittedError(msg)

    def _from_guide(self, key: jax.Array, num_samples: int, latents: Iterable[str], call: Call | None) -> Posterior:
        params: Mapping[str, Any] = {} if self.vi_result is None else self.vi_result.params
        drawn = draw_from_guide(self.inference, params, key, num_samples=num_samples, latents=tuple(latents), call=call)
        return Posterior(drawn)

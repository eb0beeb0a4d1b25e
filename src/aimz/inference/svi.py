"""Stochastic variational inference."""

__all__ = ["SVIFit"]

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIRunResult

from aimz.data import Call
from aimz.inference.fit import Fit
from aimz.inference.posterior import Posterior
from aimz.inference.programs import SVIPrograms
from aimz.kernel import KernelSpec


class SVIFit(Fit):
    """An :class:`numpyro.infer.SVI` object; a run continues from the state the last one left."""

    inference: SVI

    def __init__(self, inference: SVI) -> None:
        self.inference = inference
        self._programs = SVIPrograms(inference)
        self._n_obs: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled programs out of a pickle."""
        return {key: value for key, value in self.__dict__.items() if key != "_programs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with no compiled programs."""
        self.__dict__ |= state
        self._programs = SVIPrograms(self.inference)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the last state, and the mutable state beside them."""
        params = {} if self.vi_result is None else dict(self.vi_result.params)
        mutable = None if self.vi_state is None else self.vi_state.mutable_state
        return {**params, **(mutable or {})}

    def check_run(self, call: Call, spec: KernelSpec, *, num_samples: int) -> None:  # noqa: ARG002
        """Refuse to continue with other observations where the guide has a value for each of them."""
        if (
            isinstance(self.inference.guide, AutoGuide)
            and spec.local_sites
            and self.vi_state is not None
            and self._n_obs != call.n_obs
        ):
            msg = (
                f"The fit continues from its state, in which the guide has values of `{spec.local_sites[0]}` for "
                f"{self._n_obs} observations; got {call.n_obs}. Make a new ImpactModel, with a new guide, for other "
                "data."
            )
            raise ValueError(msg)

    def run(
        self, call: Call, spec: KernelSpec, key: jax.Array, *, num_steps: int, num_samples: int, progress: bool
    ) -> Posterior:
        """Take ``num_steps`` steps, then ``num_samples`` draws from the guide."""
        key_steps, key_draws = jax.random.split(key)
        state, losses = self._programs.run(self.vi_state, call, num_steps=num_steps, key=key_steps, progress=progress)
        before = np.zeros(0) if self.vi_result is None else np.asarray(self.vi_result.losses)
        self.vi_state = state
        self.vi_result = SVIRunResult(self.inference.get_params(state), state, np.concatenate([before, losses]))
        self._n_obs = call.n_obs
        return self.sample(call, spec, key_draws, num_samples=num_samples, return_sites=spec.latent_sites)

    def check_sample(self, call: Call | None) -> None:  # noqa: ARG002
        """Refuse to draw before there are parameters."""
        self._refuse_unless(self.vi_result is not None)

    def sample(
        self,
        call: Call | None,
        spec: KernelSpec | None,  # noqa: ARG002
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Draw from the guide; one written by hand may read the data of ``call``."""
        params = {} if self.vi_result is None else self.vi_result.params
        return Posterior(self._programs.draw(params, key, num_samples=num_samples, latents=return_sites, call=call))

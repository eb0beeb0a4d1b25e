"""What every way of fitting can do."""

__all__ = ["Fit", "VIResult"]

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

import jax
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import Call
from aimz.errors import NotFittedError
from aimz.inference.posterior import Posterior
from aimz.kernel import KernelSpec


class VIResult(Protocol):
    """What the result of a variational fit has to have."""

    params: Any
    losses: Any


class Fit(ABC):
    """An inference object and how far it has come."""

    inference: SVI | MCMC
    vi_state: SVIState | None = None
    vi_result: VIResult | None = None

    @property
    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Name to fitted value: the parameters optimised, and the mutable state."""

    @abstractmethod
    def check_run(self, call: Call, spec: KernelSpec, *, num_samples: int) -> None:
        """Refuse a run that cannot be right, before any work."""

    @abstractmethod
    def run(
        self, call: Call, spec: KernelSpec, key: jax.Array, *, num_steps: int, num_samples: int, progress: bool
    ) -> Posterior:
        """Fit to the data of ``call`` and return draws of the latent sites."""

    @abstractmethod
    def check_sample(self, call: Call | None) -> None:
        """Refuse to draw before anything was fitted, or without the data it takes."""

    @abstractmethod
    def sample(
        self,
        call: Call | None,
        spec: KernelSpec | None,
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Draw afresh from what was fitted: ``return_sites``, or all sites there are."""

    @staticmethod
    def _refuse_unless(fitted: bool) -> None:  # noqa: FBT001 (reads as a sentence where it is called)
        if not fitted:
            msg = (
                "There is no inference result to sample from. Call `fit_on_batch(X, y)`, or set `vi_result` after a "
                "loop of your own."
            )
            raise NotFittedError(msg)

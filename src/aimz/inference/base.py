"""What every way of fitting can do."""

__all__ = ["Fit", "Known", "VIResult"]

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import KernelArguments, Posterior
from aimz.errors import NotFittedError
from aimz.kernel import AbstractCall, KernelSpec


class VIResult(Protocol):
    """What the result of a variational fit has to have."""

    params: Any
    losses: Any


@dataclass(frozen=True)
class Known:
    """What is known of a kernel when a fit of it is read from a file."""

    example: AbstractCall | None
    """A call of the kernel; that of the fit, if there was one."""
    static: Mapping[str, Any]
    """Its arguments that are no arrays."""
    params: Mapping[str, Any]
    """Name to the tree of shapes of each parameter the kernel itself has."""


class Fit(ABC):
    """An inference object and how far it has come."""

    inference: SVI | MCMC | None
    kind: str
    """What it was fitted by: "SVI" or "MCMC"."""
    vi_state: SVIState | None = None
    vi_result: VIResult | None = None

    @property
    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Name to fitted value: the parameters optimised, and the mutable state."""

    @abstractmethod
    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int) -> None:
        """Refuse a run that cannot be right, before any work."""

    @abstractmethod
    def run(
        self,
        call: KernelArguments,
        spec: KernelSpec,
        key: jax.Array,
        *,
        num_steps: int,
        num_samples: int,
        progress: bool,
    ) -> Posterior:
        """Fit to the data of ``call`` and return draws of the latent sites."""

    @abstractmethod
    def check_sample(self, call: KernelArguments | None) -> None:
        """Refuse to draw before anything was fitted, or without the data it takes."""

    @abstractmethod
    def sample(
        self,
        call: KernelArguments | None,
        spec: KernelSpec | None,
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Draw afresh from what was fitted: ``return_sites``, or all sites there are."""

    @abstractmethod
    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return as JSON how far the fit has come; its arrays are added to ``arrays``."""

    @abstractmethod
    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], known: Known) -> None:
        """Go on from what :meth:`write` wrote.

        Raises
        ------
        SavedModelError
            If that was another guide, optimizer or sampler.
        """

    @staticmethod
    def _refuse_unless(fitted: bool) -> None:  # noqa: FBT001 (reads as a sentence where it is called)
        if not fitted:
            msg = (
                "There is no inference result to sample from. Call `fit_on_batch(X, y)`, or set `vi_result` after a "
                "loop of your own."
            )
            raise NotFittedError(msg)
